"Chapter 02: what happens with damaged data, exact box numbers, and training batches that can be repeated."
import pickle
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lca_md.core import ConfigError, DataError
from lca_md.data import (CUB_LISTS, Draw, ImageError, Record, WSOLDataset, cub_boxes, cub_transform, eval_transform, ilsvrc_boxes, load_cub,
                         make_loader, open_split, split_val, to_picture, train_transform)

GOLDEN = np.load(Path(__file__).parent / "golden" / "boxes.npz")
CLASSES, PER_CLASS = ("001.Red", "003.Green", "007.Blue"), 6
IDS = [10 * k + i + 1 for k in range(len(CLASSES)) for i in range(PER_CLASS)]  # with gaps, as in a subset of CUB


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    "Eighteen rectangles in CUB's layout: ids and class ids with gaps, no image_sizes.txt, one grey file."
    root = tmp_path_factory.mktemp("cub")
    lists = {f: [] for f in CUB_LISTS}
    for k, (c, colour) in enumerate(zip(CLASSES, ("red", "green", "blue"))):
        (root / "images" / c).mkdir(parents=True)
        lists["classes.txt"].append(f"{int(c[:3])} {c}")
        for i in range(PER_CLASS):
            id, name, im = 10 * k + i + 1, f"{c}/pic {i}.jpg", Image.new("RGB", (60 + i, 40), "gray")
            ImageDraw.Draw(im).rectangle((10, 8, 29, 27), fill=colour)
            (im.convert("L") if id == 12 else im).save(root / "images" / name, quality=95)
            lists["images.txt"].append(f"{id} {name}")
            lists["image_class_labels.txt"].append(f"{id} {int(c[:3])}")
            lists["train_test_split.txt"].append(f"{id} {int(i < 4)}")
            lists["bounding_boxes.txt"].append(f"{id} 10.0 8.0 20.0 20.0")
    for f, lines in lists.items(): (root / f).write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def broken(tree, tmp_path):
    "A copy to break."
    return Path(shutil.copytree(tree, tmp_path / "cub"))


def put(root, file, n, text):
    "Replace line `n` of a list; n = 0 appends."
    lines = (root / file).read_text().splitlines()
    lines[(n or len(lines) + 1) - 1:n or None] = [text]
    (root / file).write_text("\n".join(lines) + "\n")


def refuses(root, *says, exc=DataError, **kw):
    "`load_cub` raises one `DataError`, which is short and holds all of `says`."
    with pytest.raises(exc) as e: load_cub(root, **kw)
    for s in says: assert s in str(e.value), f"{s!r} is not in {str(e.value)!r}"
    assert "\n" not in str(e.value) and ";" in str(e.value)  # one sentence, with a remedy


# ---- box conversion: the released numbers

def test_cub_boxes_golden():
    got = np.concatenate([cub_boxes(b, s) for b, s in zip(GOLDEN["cub_xywh"], GOLDEN["image_sizes"])])
    np.testing.assert_array_equal(got, GOLDEN["cub_gt224"])


def test_ilsvrc_boxes_golden():
    for b, s, want in zip(GOLDEN["ilsvrc_xyxy"], GOLDEN["image_sizes"], GOLDEN["ilsvrc_gt224"]):
        there = ~np.isnan(b[:, 0])
        np.testing.assert_array_equal(ilsvrc_boxes(b[there], s), want[there])


def test_dataset_boxes_golden():
    "Through a Record and the data set, corners and all."
    for b, s, want in zip(GOLDEN["cub_xywh"], GOLDEN["image_sizes"], GOLDEN["cub_gt224"]):
        r = Record("a", "a", 0, np.zeros((1, 4)), tuple(s), xywh=b[None])
        np.testing.assert_array_equal(WSOLDataset([r], ["a"], None).boxes(0), want[None])


def test_boxes_other_size():
    np.testing.assert_array_equal(cub_boxes([[0, 0, 100, 50]], (100, 50), 96), [[0, 0, 95, 95]])


# ---- a good tree

def test_load(tree):
    train, test, names = load_cub(tree)
    assert (len(train), len(test), tuple(names)) == (12, 6, CLASSES)
    assert sorted({r.label for r in train}) == [0, 1, 2]
    assert [r.id for r in train + test] == sorted(r.id for r in train) + sorted(r.id for r in test)
    assert train[1].size == (61, 40) and train[0].mask is None and train[0].dials is None
    np.testing.assert_array_equal(train[0].boxes, [[10, 8, 30, 28]])


def test_sizes_list_and_order_do_not_matter(broken, tree):
    sizes = {r.id: r.size for r in sum(load_cub(tree)[:2], [])}
    (broken / "image_sizes.txt").write_text("".join(f"{i} {w} {h}\n" for i, (w, h) in sizes.items()))
    for f in CUB_LISTS: (broken / f).write_text("\r\n".join(reversed((broken / f).read_text().splitlines())))
    plain = lambda part: [(r.name, r.label, r.size, r.id, r.boxes.tolist()) for r in part]
    assert [plain(p) for p in load_cub(broken)[:2]] == [plain(p) for p in load_cub(tree)[:2]]


def test_subset(tree):
    train, test, names = load_cub(tree, classes=["007.Blue", "001.Red"])
    assert names == ["001.Red", "007.Blue"] and {r.label for r in train + test} == {0, 1} and len(train) == 8
    with pytest.raises(DataError, match="no class '001.Rad'.*'001.Red'"): load_cub(tree, classes=["001.Rad"])


def test_grey_becomes_rgb(tree):
    train, _, names = load_cub(tree)
    ds = WSOLDataset(train, names, eval_transform(32), 32)
    i = [r.id for r in train].index(12)
    assert Image.open(train[i].path).mode == "L"
    x = ds.raw(i)
    assert x.shape == (32, 32, 3) and (x[..., 0] == x[..., 2]).all() and ds[i]["image"].shape == (3, 32, 32)


def test_eval_item_is_raw(tree):
    _, test, names = load_cub(tree)
    ds = WSOLDataset(test, names, eval_transform(48), 48)
    for i in range(len(ds)): np.testing.assert_array_equal(to_picture(ds[i]["image"]), ds.raw(i))


def test_masks_and_dials(broken):
    for name in [line.split(" ", 1)[1] for line in (broken / "images.txt").read_text().splitlines()]:
        with Image.open(broken / "images" / name) as im: m = Image.new("L", im.size)
        ImageDraw.Draw(m).rectangle((10, 8, 29, 27), fill=255)
        m.point(lambda v: v).save((p := broken / "segmentations" / name).parent.mkdir(parents=True, exist_ok=True) or p.with_suffix(".png"))
    (broken / "dials.csv").write_text("id,occlusion,camouflage\n" + "".join(f"{i},0.25,{i / 100}\n" for i in IDS))
    ds = WSOLDataset(load_cub(broken)[1], CLASSES, eval_transform())
    x0, y0, x1, y1 = ds.boxes(0)[0]
    m = ds.mask(0)
    rows, cols = np.nonzero(m.any(1))[0], np.nonzero(m.any(0))[0]
    assert m.dtype == bool and m.shape == (224, 224)
    assert np.abs(np.array([cols[0], rows[0], cols[-1], rows[-1]]) - (x0, y0, x1, y1)).max() <= 3
    np.testing.assert_allclose(ds.dials["camouflage"], [r.id / 100 for r in ds.records])
    (broken / "segmentations" / "003.Green" / "pic 2.png").unlink()
    refuses(broken, "pic 2.png is missing", "segmentations")
    put(broken, "dials.csv", 5, "4,0.25,x")
    refuses(broken, "dials.csv, line 5", "'x'")


# ---- bad input: one clear message each

def test_missing_folder(tmp_path):
    refuses(tmp_path / "nowhere", "nowhere does not exist")
    with pytest.raises(DataError, match="nowhere does not exist"): open_split(tmp_path / "nowhere", "train")


def test_empty_folder_and_folder_above(tree, tmp_path):
    with pytest.raises(DataError, match="fits no layout; looked for CUB.s lists"): open_split(tmp_path, "train")
    with pytest.raises(DataError, match="did you mean .*cub"): open_split(shutil.copytree(tree, tmp_path / "cub").parent, "train")


@pytest.mark.parametrize("file", CUB_LISTS)
def test_missing_list(broken, file):
    (broken / file).unlink()
    refuses(broken, f"{file} is missing")


@pytest.mark.parametrize("file,text,says", [
    ("classes.txt", "3", "an id and a value"), ("images.txt", "x a.jpg", "not 'x'"), ("images.txt", "2 ../../a.jpg", "leads out"),
    ("image_class_labels.txt", "2 one", "not 'one'"), ("image_class_labels.txt", "2 1.5", "'1.5'"), ("train_test_split.txt", "2 2", "0 (test) or 1"),
    ("bounding_boxes.txt", "2 1 2 3", "4 numbers expected"), ("bounding_boxes.txt", "2 1 2 3 four", "'four'"),
    ("bounding_boxes.txt", "2 1 2 nan 4", "finite"), ("bounding_boxes.txt", "2 1 2 -3 4", "empty"), ("bounding_boxes.txt", "2 1 2 0 4", "empty")])
def test_malformed_line(broken, file, text, says):
    put(broken, file, 2, text)
    refuses(broken, f"{broken / file}, line 2: ", says, text)


@pytest.mark.parametrize("text", ["2 0 40", "2 60", "2 60.5 40", "2 1e400 1"])
def test_malformed_size(broken, text):
    (broken / "image_sizes.txt").write_text("1 60 40\n" + text + "\n")
    refuses(broken, "image_sizes.txt, line 2: ")


def test_binary_list(broken):
    (broken / "images.txt").write_bytes(b"\xff\xfe\x00\x01")
    refuses(broken, "images.txt cannot be read as text")


@pytest.mark.parametrize("file", [f for f in CUB_LISTS if f != "classes.txt"])
def test_duplicated_id(broken, file):
    lines = (broken / file).read_text().splitlines()
    put(broken, file, 0, lines[2])
    refuses(broken, f"{file}, line 19: id 3 is on line 3 already")


@pytest.mark.parametrize("file", ["image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"])
def test_id_missing_in_one_file(broken, file):
    put(broken, file, 4, "")
    refuses(broken, f"{file} has no line for image 4, which is in images.txt")
    put(broken, file, 5, "")
    refuses(broken, "image 4 (and 1 more)")


def test_id_unknown_to_images(broken):
    put(broken, "bounding_boxes.txt", 0, "99 1 2 3 4")
    refuses(broken, "bounding_boxes.txt, line 19: image 99 is not in images.txt")


def test_one_picture_with_two_ids(broken):
    put(broken, "images.txt", 2, (broken / "images.txt").read_text().splitlines()[0].replace("1 ", "2 ", 1))
    refuses(broken, "images.txt, line 2: 001.Red/pic 0.jpg is on line 1 already")


def test_image_not_on_disk(broken):
    (broken / "images" / "003.Green" / "pic 3.jpg").unlink()
    refuses(broken, "images.txt, line 10: ", "pic 3.jpg is not on disk")


def test_label_without_class(broken):
    put(broken, "image_class_labels.txt", 3, "3 2")
    refuses(broken, "image_class_labels.txt, line 3: class 2 is not in classes.txt")


def test_class_without_images(broken):
    put(broken, "classes.txt", 0, "9 009.Dodo")
    refuses(broken, "classes.txt, line 4: class 009.Dodo has no images")
    assert len(load_cub(broken, classes=["001.Red"])[0]) == 4  # not asked for, not needed


def test_class_without_training_images(broken):
    text = (broken / "train_test_split.txt").read_text()
    for i in range(11, 17): text = text.replace(f"\n{i} 1\n", f"\n{i} 0\n")
    (broken / "train_test_split.txt").write_text(text)
    refuses(broken, "class 003.Green has no training images")


@pytest.mark.parametrize("box", ["2 61 0 10 10", "2 0 40 5 5", "2 -30 -30 20 20"])
def test_box_wholly_outside(broken, box):
    put(broken, "bounding_boxes.txt", 2, box)
    refuses(broken, f"{broken / 'bounding_boxes.txt'}, line 2: the box", "outside its picture of 61 x 40")


def test_box_partly_outside(broken):
    put(broken, "bounding_boxes.txt", 2, "2 50 -4 30 20")
    put(broken, "bounding_boxes.txt", 3, "3 50 4 12.9 20")  # less than a pixel too far: rounding, not worth a word
    with pytest.warns(UserWarning, match=r"bounding_boxes.txt: 1 of 18 boxes .* ids 2$"): train, _, names = load_cub(broken)
    assert [r.id for r in train if r.clipped] == [2]
    np.testing.assert_array_equal(train[1].boxes, [[50, 0, 61, 16]])
    np.testing.assert_array_equal(WSOLDataset(train, names, None).boxes(1), cub_boxes([[50, -4, 30, 20]], (61, 40)))


def test_good_tree_is_silent(tree):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_cub(tree)


def test_unreadable_header(broken):
    (broken / "images" / "001.Red" / "pic 1.jpg").write_text("not a picture")
    refuses(broken, "pic 1.jpg is not a readable image", exc=ImageError)


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image(broken, workers):
    path = broken / "images" / "001.Red" / "pic 1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    train, _, names = load_cub(broken)  # the header is still fine
    ds = WSOLDataset(train, names, train_transform(32, "light"), 32)
    with pytest.raises(DataError, match="pic 1.jpg is not a readable image") as e:
        list(make_loader(ds, 4, train=True, seed=1, workers=workers))
    assert "\n" not in str(e.value) and "Traceback" not in str(e.value)


def test_image_of_another_size(broken):
    (broken / "image_sizes.txt").write_text("".join(f"{i} 500 333\n" for i in IDS))
    train, _, names = load_cub(broken)
    with pytest.raises(DataError, match="pic 0.jpg is 60 x 40 pixels but 500 x 333 in the lists"): WSOLDataset(train, names, eval_transform())[0]


def test_image_gone_later(broken):
    train, _, names = load_cub(broken)
    Path(train[2].path).unlink()
    with pytest.raises(DataError, match="is listed but is not on disk"): WSOLDataset(train, names, eval_transform())[2]


@pytest.mark.parametrize("kw,says", [(dict(split="tests"), "did you mean 'test'"), (dict(split="train", layout="cup"), "did you mean 'cub'")])
def test_unknown_choice(tree, kw, says):
    with pytest.raises(ConfigError, match=says): open_split(tree, **kw)
    with pytest.raises(ConfigError, match="did you mean 'ilsvrc'"): train_transform(recipe="ilsvrk")
    with pytest.raises(ConfigError, match="boxes is 'voc'"): WSOLDataset([], [], None, boxes="voc")


# ---- validation split

def test_split_val(tree):
    train = load_cub(tree)[0]
    left, val = split_val(train, per_class=5)
    assert sorted(r.label for r in val) == [0, 1, 2]  # a quarter of four
    assert not {r.name for r in left} & {r.name for r in val} and len(left) + len(val) == 12
    shuffled = random.Random(0).sample(train, 12)
    assert {r.name for r in split_val(shuffled, 5)[1]} == {r.name for r in val}
    assert any({r.name for r in split_val(train, 5, seed=s)[1]} != {r.name for r in val} for s in range(1, 4))
    assert split_val(train, 0)[1] == [] and [len(split_val(train[:n], 5)[1]) for n in (1, 2, 3, 4)] == [0, 1, 1, 1]


def test_open_split(tree):
    parts = {s: {r.name for r in open_split(tree, s)[0]} for s in ("train", "val", "test")}
    assert {s: len(p) for s, p in parts.items()} == {"train": 9, "val": 3, "test": 6}
    assert not parts["train"] & parts["val"] and not parts["test"] & (parts["train"] | parts["val"])
    with pytest.raises(DataError, match="val split .* is empty"): open_split(tree, "val", val_per_class=0)


# ---- batches that can be repeated

@pytest.fixture(scope="module")
def ds(tree):
    train, _, names = load_cub(tree)
    return WSOLDataset(train, names, cub_transform(32), 32)


def run(ds, epoch=0, start=0, workers=0, seed=26, prepare=lambda loader: loader):
    loader = make_loader(ds, 5, train=True, seed=seed, workers=workers)
    loader.set_epoch(epoch, start)
    return list(prepare(loader))


def same(a, b): return len(a) == len(b) and all(torch.equal(x[k], y[k]) for x, y in zip(a, b) for k in ("image", "label", "index"))


@pytest.mark.parametrize("recipe", ["cub", "ilsvrc", "light"])
def test_workers_change_nothing(ds, recipe):
    it = WSOLDataset(ds.records, ds.class_names, train_transform(32, recipe), 32)
    whole = run(it, epoch=3)
    assert same(run(it, epoch=3, workers=2), whole) and same(run(it, epoch=3), whole)
    assert not same(run(it, epoch=4), whole) and not same(run(it, epoch=3, seed=27), whole)
    assert sorted(torch.cat([b["index"] for b in whole]).tolist()) == list(range(12))


def test_resume_inside_an_epoch(ds):
    whole, rest = run(ds, epoch=2), run(ds, epoch=2, start=1)
    assert len(whole) == 3 and same(rest, whole[1:])


def test_one_loader_over_epochs(ds):
    "Persistent workers see the epoch, and `start_batch` holds for one pass only."
    loader = make_loader(ds, 5, train=True, seed=26, workers=1)
    for epoch, start in ((0, 2), (0, 0), (1, 0)):
        loader.set_epoch(epoch, start)
        assert same(list(loader), run(ds, epoch)[start:])
    loader.set_epoch(1, 1)
    assert (len(list(loader)), len(list(loader))) == (2, 3)


def test_what_ran_before_changes_nothing_and_nothing_is_left_behind(ds):
    whole = run(ds)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    assert same(run(ds), whole)
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all() and torch.equal(torch.get_rng_state(), before[2])


def test_accelerate_keeps_the_draws(ds):
    "Prepared loaders take the epoch through to the sampler; two processes share the batches out in turn."
    from accelerate.data_loader import prepare_data_loader
    assert same(run(ds, prepare=prepare_data_loader), run(ds))
    loader = prepare_data_loader(make_loader(ds, 6, train=True, seed=26))
    loader.set_epoch(7)
    whole = list(loader)
    for p in (0, 1):
        part = prepare_data_loader(make_loader(ds, 6, train=True, seed=26), num_processes=2, process_index=p)
        part.set_epoch(7)
        assert same(list(part), whole[p::2])
    assert not same(whole, list(make_loader(ds, 6, train=True, seed=26)))


def test_a_plain_index_is_random_and_a_draw_is_not(ds):
    assert not torch.equal(ds[1]["image"], ds[1]["image"])
    assert torch.equal(ds[Draw(1, 2, 3)]["image"], ds[Draw(1, 2, 3)]["image"])
    assert torch.equal(pickle.loads(pickle.dumps(ds))[Draw(1, 2, 3)]["image"], ds[Draw(1, 2, 3)]["image"])


def test_posterize_at_zero_bits(ds):
    "timm asks Pillow for 0 bits when the magnitude reaches 10; Pillow 13 refuses."
    make = lambda: cub_transform(32).transforms[2].step.ops
    ops = {op.name: op for op in make()}
    op = make()[list(ops).index("PosterizeIncreasing")]
    op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
    im = Image.new("RGB", (8, 8), (200, 100, 50))
    assert op(im).getextrema() == ((0, 0),) * 3
    op.magnitude = 9
    assert op(im).getextrema() == ((128, 128), (0, 0), (0, 0))
