"Chapter 02: what happens with damaged data, exact box numbers, and training batches that can be repeated."
import io
import json
import pickle
import random
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchvision import transforms as T
from typer.testing import CliRunner

from lca_md.cli import app
from lca_md.core import Config, ConfigError, DataError, LcaError
from lca_md.data import (CUB_LISTS, RECIPES, Draw, ImageError, Record, WSOLDataset, cub_boxes, cub_transform, eval_transform, find_layout,
        ilsvrc_boxes,
                         image_size, load_cub, load_folder, load_metadata, make_loader, open_image, open_split, read_coco, read_pixels, read_voc,
                                 split_val,
                         tensor_steps, to_picture, train_transform)
from lca_md.prepare import prepare_cub, read_solution, read_truth, read_words
from lca_md.splits import open_parts

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


# ---- folders of classes, with boxes as four tools write them

BOXES = {f"{c}_{i}": [(10 + i, 8, 30 + i, 28)] + [(1, 1, 9, 9)] * (i == 1) for c in ("owl", "wren") for i in range(5)}


def picture(folder, name, size=(60, 40), **save):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    im = Image.new("RGB", size, "gray")
    ImageDraw.Draw(im).rectangle((10, 8, 29, 27), fill="red")
    im.save(folder / name, **save)


@pytest.fixture
def folder(tmp_path):
    "train/ with 4 and test/ with 1 picture of each of two classes."
    for n in BOXES: picture(tmp_path / "own", f"{'test' if n.endswith('4') else 'train'}/{n[:-2]}/{n}.jpg")
    return tmp_path / "own"


def voc_text(boxes, label="wren", size=(60, 40)):
    objects = "".join(f"<object>\n<name>{label}</name>\n<part><name>beak</name>"
                      "<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>1</xmax><ymax>1</ymax></bndbox></part>\n<bndbox>\n"
                      + "".join(f"<{k}>{v}</{k}>\n" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), b)) + "</bndbox>\n</object>\n" for b in boxes)
    return f"<annotation>\n<size><width>{size[0]}</width><height>{size[1]}</height></size>\n{objects}</annotation>\n"


def write_boxes(root, kind):
    for n, boxes in BOXES.items():
        where = f"{'test' if n.endswith('4') else 'train'}/{n[:-2]}"
        if kind == "voc": put_file(root / "Annotations" / where / f"{n}.xml", voc_text(boxes, n[:-2]))
        if kind == "voc beside": put_file(root / where / f"{n}.xml", voc_text(boxes, n[:-2]))
        if kind == "yolo": put_file(root / "labels" / f"{n}.txt",
                "".join(f"{'wren owl'.split().index(n[:-2])} {(a + c) / 120} {(b + d) / 80} {(c - a) / 60} {(d - b) / 40}\n"
                                                                       for a, b, c, d in boxes))
    if kind == "yolo": put_file(root / "classes.txt", "wren\nowl\n")
    if kind == "coco":
        images = [dict(id=f"i{k}", file_name=f"{n}.jpg", width=60, height=40) for k, n in enumerate(BOXES)]
        notes = [dict(id=1, image_id=f"i{k}", category_id="wren owl".split().index(n[:-2]), bbox=[a, b, c - a, d - b]) for k, (n,
                bs) in enumerate(BOXES.items()) for a, b, c, d in bs]
        put_file(root / "annotations/instances.json", json.dumps(dict(images=images, annotations=notes, categories=[dict(id=0, name="wren"),
                dict(id=1, name="owl")]), indent=1))
    if kind == "cub":
        names = [f"{'test' if n.endswith('4') else 'train'}/{n[:-2]}/{n}.jpg" for n in BOXES]
        put_file(root / "images.txt", "".join(f"{k} {n}\n" for k, n in enumerate(names)))
        put_file(root / "bounding_boxes.txt", "".join(f"{k} {b[0][0]} {b[0][1]} 20 20\n" for k, b in enumerate(BOXES.values())))


def put_file(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize("kind", ["voc", "voc beside", "yolo", "coco", "cub"])
def test_boxes_of_every_tool(folder, kind):
    write_boxes(folder, kind)
    assert find_layout(folder) == "folder"
    parts, names = load_folder(folder)
    assert names == ["owl", "wren"] and [len(parts[s]) for s in ("train", "test")] == [8, 2]
    for r in parts["train"] + parts["test"]:
        np.testing.assert_allclose(r.boxes, BOXES[Path(r.name).stem][:1 if kind == "cub" else 2], atol=1e-6)
        assert r.label == names.index(Path(r.name).parent.name) and r.upright
    ds = WSOLDataset.open(folder, "test", 64)
    np.testing.assert_array_equal(ds.boxes(0), ilsvrc_boxes([[14, 8, 34, 28]], (60, 40), 64))
    assert ds.has_boxes and open_split(folder, "val")[0]


def test_folder_without_boxes(folder):
    assert not WSOLDataset.open(folder, "test").has_boxes
    assert [len(open_split(folder, s)[0]) for s in ("train", "val")] == [6, 2]


def test_flat_class_folder_and_own_val(tmp_path):
    for c in ("a", "b"):
        for i in range(4): picture(tmp_path, f"flat/{c}/{i}.png"); picture(tmp_path, f"split/train/{c}/{i}.png"); picture(tmp_path,
                f"split/valid/{c}/{i}.png")
    assert [len(open_split(tmp_path / "flat", s)[0]) for s in ("train", "val")] == [6, 2]
    with pytest.raises(DataError, match="test split .* is empty; make a test folder"): open_split(tmp_path / "flat", "test")
    assert [len(open_split(tmp_path / "split", s)[0]) for s in ("train", "val")] == [8, 8]
    picture(tmp_path, "split/valid/bb/0.png")
    with pytest.raises(DataError, match="class bb has no training pictures; the nearest with some is 'b'"): open_split(tmp_path / "split", "val")


def test_val_prefers_pictures_with_boxes(folder):
    for n in ("owl_2", "wren_0"): put_file(folder / "xml" / f"{n}.xml", voc_text(BOXES[n], "bird"))
    with pytest.raises(DataError, match="test split"): (folder / "test").rename(folder.parent / "t") and open_split(folder, "test")
    assert sorted(Path(r.name).stem for r in open_split(folder, "val")[0]) == ["owl_2", "wren_0"]


def test_pictures_without_box_are_left_out_of_the_measure(folder):
    put_file(folder / "xml/owl_4.xml", voc_text(BOXES["owl_4"], "owl"))
    with pytest.warns(UserWarning, match="1 of 2 pictures have no box"): records = open_split(folder, "test")[0]
    assert [Path(r.name).stem for r in records] == ["owl_4"]


def test_boxes_of_other_classes_do_not_count(folder):
    put_file(folder / "xml/wren_0.xml", voc_text([(1, 2, 9, 9)], "wren").replace("</annotation>", voc_text([(30, 2, 40, 9)],
            "owl").split("</size>")[1]))
    r = next(r for r in load_folder(folder)[0]["train"] if r.name.endswith("wren_0.jpg"))
    np.testing.assert_array_equal(r.boxes, [[1, 2, 9, 9]])


@pytest.mark.parametrize("edit,says", [
    (lambda t: t.replace("<xmax>34", "<xmax>5"), "line 9: the box is empty"), (lambda t: t.replace("<ymax>28", "<ymax>x"), "line 9: .*'x'"),
    (lambda t: t.replace("<width>60", "<width>61"), "line 9: drawn on 61 x 40 pixels, but .*wren_4.jpg has 60 x 40"),
    (lambda t: t.replace("<xmin>14</xmin>\n<ymin>8", "<xmin>70</xmin>\n<ymin>8").replace("<xmax>34", "<xmax>80"),
            "line 9: the box 70 8 80 28 lies outside"),
    (lambda t: t[:150], "line [0-9]+: not valid XML"), (lambda t: "<!DOCTYPE x [<!ENTITY a 'b'>]>" + t,
            "line 1: not valid XML .document types are not allowed")])
def test_wrong_voc(folder, edit, says):
    text = voc_text(BOXES["wren_4"])
    assert text.split("\n")[8] == "<xmax>34</xmax>" or "xmin" in text.split("\n")[5]
    put_file(folder / "xml/wren_4.xml", edit(text))
    with pytest.raises(DataError, match=r"wren_4.xml, " + says.replace("line 9", "line [0-9]+")): load_folder(folder)


def test_two_kinds_of_boxes_are_ambiguous(folder):
    write_boxes(folder, "voc"), write_boxes(folder, "coco")
    with pytest.raises(ConfigError, match="boxes as voc and coco; choose one with boxes_from"): load_folder(folder)
    assert load_folder(folder, "coco")[0]["test"][0].boxes.tolist() == load_folder(folder, "voc")[0]["test"][0].boxes.tolist()
    assert not len(load_folder(folder, "none")[0]["test"][0].boxes)


def test_coco_that_fits_nothing(folder):
    put_file(folder / "c.json", json.dumps(dict(images=[dict(id=1, file_name="x.jpg")], annotations=[], categories=[])))
    with pytest.raises(DataError, match="c.json: no file_name is one of the 10 pictures"): load_folder(folder)


def test_coco_same_name_in_two_classes(tmp_path):
    for c in ("a", "b"): picture(tmp_path, f"train/{c}/0.jpg")
    coco = lambda name: put_file(tmp_path / "c.json", json.dumps(dict(images=[dict(id=1, file_name=name)], categories=[dict(id=1, name="x")],
                                                                      annotations=[dict(image_id=1, category_id=1, bbox=[1, 2, 3, 4])])))
    coco("0.jpg")
    with pytest.raises(DataError, match="'0.jpg' could be train/a/0.jpg or train/b/0.jpg"): load_folder(tmp_path)
    coco("b/0.jpg")
    assert [len(r.boxes) for r in load_folder(tmp_path)[0]["train"]] == [0, 1]


def test_turned_photograph(tmp_path):
    "Own photographs stand upright: size, pixels and boxes agree, in the plain and in the fast way."
    exif = Image.Exif()
    exif[0x0112] = 6
    for c in ("a", "b"):
        for i in range(2): picture(tmp_path, f"train/{c}/{i}.jpg", exif=exif)
    put_file(tmp_path / "x/0.xml", "")
    (tmp_path / "x/0.xml").unlink()
    put_file(tmp_path / "a/0.xml", voc_text([(12, 10, 32, 30)], size=(40, 60)))
    r = load_folder(tmp_path)[0]["train"][0]
    assert r.size == (40, 60) and r.boxes.tolist() == [[12, 10, 32, 30]]
    assert image_size(r.path) == (60, 40) and open_image(r.path).size == (60, 40)
    upright = np.asarray(open_image(r.path, r.size, upright=True))
    np.testing.assert_array_equal(upright, np.rot90(np.asarray(Image.open(r.path)), -1))
    np.testing.assert_array_equal(read_pixels(r.path, r.size, upright=True), upright)
    put_file(tmp_path / "a/0.xml", voc_text([(10, 8, 30, 28)]))  # drawn on the stored pixels
    with pytest.raises(DataError, match="drawn on 60 x 40 pixels, but .* has 40 x 60; annotate the same file, upright"): load_folder(tmp_path)


def test_subsets(folder):
    few = [{r.name for r in open_split(folder, "train", 0, per_class=n)[0]} for n in (1, 2)]
    assert [len(f) for f in few] == [2, 4] and few[0] < few[1]
    records, names = open_split(folder, "train", classes=["wren"])
    assert names == ["wren"] and {r.label for r in records} == {0}
    with pytest.raises(DataError, match="no class 'wern'; the nearest is 'wren'"): open_split(folder, "train", classes=["wern"])


# ---- lists by path

@pytest.fixture
def lists(tree, tmp_path):
    "The rectangles as Choe et al. write data sets, the first test picture with two boxes."
    train, test, names = load_cub(tree)
    root = tmp_path / "lists"
    for split, records in dict(train=train, test=test).items():
        d = root / "metadata" / split
        put_file(d / "image_ids.txt", "".join(f"{r.name}\n" for r in records))
        put_file(d / "class_labels.txt", "".join(f"{r.name},{r.label}\n" for r in records))
        put_file(d / "image_sizes.txt", "".join(f"{r.name},{r.size[0]},{r.size[1]}\n" for r in records))
        put_file(d / "localization.txt", "".join(f"{r.name},{b[0]},{b[1]},{b[2]},{b[3]}\n" for n, r in enumerate(records)
                for b in [r.boxes[0]] * (1 + (n == 0))))
    shutil.copytree(tree / "images", root / "images")
    return root


def test_metadata(lists, tree):
    train, test, names = load_cub(tree)
    parts, got = load_metadata(lists)
    assert got == list(names) and find_layout(lists) == "metadata"
    assert [(r.name, r.label, r.size) for r in parts["train"]] == [(r.name, r.label, r.size) for r in train]
    assert [len(r.boxes) for r in parts["test"]] == [2, 1, 1, 1, 1, 1]
    assert [len(open_split(lists, s)[0]) for s in ("train", "val", "test")] == [9, 3, 6]


@pytest.mark.parametrize("file,line,text,says", [
    ("class_labels.txt", 2, "a.jpg", "a path and 1 value are expected"), ("class_labels.txt", 2, "001.Red/pic 5.jpg,x", "'x'"), ("class_labels.txt",
            1, "../a.jpg,1", "leads out"),
    ("image_sizes.txt", 3, "001.Red/pic 5.jpg,0,4", "above 0"), ("localization.txt", 2, "001.Red/pic 4.jpg,5,5,4,9", "the box is empty"),
    ("localization.txt", 2, "001.Red/pic 4.jpg,500,5,600,9", "lies outside"), ("localization.txt", 2, "001.Red/pic 4.jpg,1,nan,4,9", "finite")])
def test_malformed_metadata(lists, file, line, text, says):
    put(lists, f"metadata/test/{file}", line, text)
    with pytest.raises(DataError) as e: load_metadata(lists)
    assert f"{file}, line {line}: " in str(e.value) and says in str(e.value)


def test_cubv2_as_val(broken):
    "CUBV2: val pictures of their own in a CUB folder."
    for c in CLASSES: picture(broken / "CUBV2", f"{c}/v.jpg")
    d = broken / "metadata/val"
    put_file(d / "image_ids.txt", "".join(f"{c}/v.jpg\n" for c in CLASSES))
    put_file(d / "class_labels.txt", "".join(f"{c}/v.jpg,{k}\n" for k, c in enumerate(CLASSES)))
    put_file(d / "localization.txt", "".join(f"{c}/v.jpg,10,8,30,28\n" for c in CLASSES))
    assert [len(open_split(broken, s)[0]) for s in ("train", "val", "test")] == [12, 3, 6]
    records, names = open_split(broken, "val", classes=["003.Green", "007.Blue"])
    assert [r.label for r in records] == [0, 1] and records[0].path.endswith("CUBV2/003.Green/v.jpg") and records[0].size == (60, 40)


# ---- kinds of pictures

def saved(im, kind, **kw):
    im.save(out := io.BytesIO(), kind, **kw)
    return out.getvalue()


BASE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1))
KINDS = dict(rgb=(BASE, "JPEG"), grey=(BASE.convert("L"), "JPEG"), cmyk=(BASE.convert("CMYK"), "JPEG"), palette=(BASE.quantize(16), "PNG"),
        bits=(BASE.convert("1"), "PNG"),
             deep=(Image.fromarray((np.arange(64 * 48).reshape(48, 64) * 20).astype(np.uint16)), "PNG"), deep_tiff=(Image.fromarray(np.full((9, 9),
                     51400, np.uint16)), "TIFF"),
             ints=(Image.fromarray(np.full((9, 9), 51400, np.int32)), "TIFF"), ghost=(Image.merge("RGBA", [*BASE.split(), Image.new("L", BASE.size,
                     0)]), "PNG"),
             grey_ghost=(Image.merge("LA", [BASE.convert("L"), Image.new("L", BASE.size, 0)]), "PNG"), gif=(BASE.quantize(8), "GIF"), webp=(BASE,
                     "WEBP"), bmp=(BASE, "BMP"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb(kind, tmp_path):
    im, how = KINDS[kind]
    (tmp_path / "x.jpg").write_bytes(saved(im, how))
    got, fast = open_image(tmp_path / "x.jpg"), read_pixels(tmp_path / "x.jpg")
    assert got.mode == "RGB" and got.size == im.size
    np.testing.assert_array_equal(np.asarray(got), fast)
    if kind == "deep": np.testing.assert_array_equal(fast[..., 1], np.asarray(im) >> 8)
    if kind in ("deep_tiff", "ints"): assert (fast == 51400 >> 8).all()
    if kind in ("ghost", "grey_ghost"): assert (fast == 255).all()


def png_header(w, h):
    chunk = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND",
            b"")


def test_refused_pictures(tmp_path):
    for name, data in dict(float=saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), bomb=png_header(60000, 60000), text=b"hello", empty=b"",
                           cut=saved(BASE, "JPEG")[:-50], cut_png=saved(BASE, "PNG")[:-50]).items():
        (tmp_path / name).write_bytes(data)
        for read in (open_image, read_pixels):
            with pytest.raises(ImageError, match=f"{name} is not a readable image"): read(tmp_path / name)


def test_first_frame(tmp_path):
    BASE.save(tmp_path / "x.gif", save_all=True, append_images=[Image.new("RGB", BASE.size)])
    assert np.asarray(open_image(tmp_path / "x.gif")).max() > 200


def test_large_jpegs_are_decoded_smaller(tmp_path):
    "The batches differ by little, and boxes and crops stay in place."
    a = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((100, 100, 1), np.uint8))
    Image.fromarray(a).save(tmp_path / "x.jpg", quality=95)
    ds = WSOLDataset([Record("x.jpg", str(tmp_path / "x.jpg"), 0, np.zeros((0, 4)), (800, 600))], ["a"], train_transform(64, "light"), 64)
    asked = []
    real = ds.pixels
    ds.pixels = lambda i, k=1: asked.append(k) or real(i, k)
    for e in range(12):
        small = ds[Draw(0, e, 0)]["image"]
        ds.pixels = lambda i, k=1: real(i, 1)
        assert (small - ds[Draw(0, e, 0)]["image"]).abs().mean() < .12
        ds.pixels = lambda i, k=1: asked.append(k) or real(i, k)
    assert set(asked) >= {4, 8}


# ---- speed must not change what is seen

@pytest.mark.parametrize("recipe", RECIPES)
def test_cache_changes_nothing(tree, recipe, tmp_path):
    train, _, names = load_cub(tree)
    make = lambda **kw: WSOLDataset(train, names, train_transform(32, recipe), 32, **kw)
    for _ in range(2):
        for i in range(3): assert torch.equal(make(cache=tmp_path / "c")[Draw(1, 2, i)]["image"], make()[Draw(1, 2, i)]["image"])
    assert len(list((tmp_path / "c").iterdir())) == 3
    batches = [list(make_loader(make(cache=tmp_path / "c"), 4, train=True, seed=3, workers=w)) for w in (0, 2)]
    assert same(*batches)


def test_cache_notices_a_new_file(broken, tmp_path):
    train, _, names = load_cub(broken)
    make = lambda: WSOLDataset(train[:1], names, train_transform(32, "ilsvrc"), 32, cache=tmp_path / "c")[Draw(0, 0, 0)]["image"]
    before = make()
    Image.new("RGB", train[0].size, "white").save(train[0].path)
    assert not torch.equal(make(), before)


def test_ilsvrc_recipe_is_torchvisions(tree):
    "The same luck gives torchvision's own pictures, to a rounding of the resize."
    plain = T.Compose([T.Resize((36, 36)), T.RandomCrop(32), T.RandomHorizontalFlip(), *tensor_steps()])
    im = open_image(load_cub(tree)[0][0].path)
    for seed in range(10):
        torch.manual_seed(seed)
        a = to_picture(plain(im)).astype(int)
        torch.manual_seed(seed)
        assert abs(to_picture(train_transform(32, "ilsvrc")(im)).astype(int) - a).max() <= 1


def test_workers_leave_no_trace_in_the_main_process(ds):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    want = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    run(ds, workers=2), run(ds)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == want


# ---- fuzz: what people's disks, scripts and editors do to files

TOKENS = [b"nan", b"-1", b"1e999", b"\x00", b"\xff\xfe", b"", b"\n", b" ", b"9" * 30, b"<", b">", b"{", b"}", b"[", b"]", b'"', b",", b"../", b"/",
        b"null", b"true", b"1_0", b"\r\n"]


def mutate(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        a = rng.randrange(len(data) + 1)
        b = min(len(data), a + rng.choice((0, 1, 1, 2, 5, 40)))
        what = rng.random()
        if what < .3: data[a:b] = rng.choice(TOKENS)
        elif what < .5: data[a:b] = bytes(rng.randrange(256) for _ in range(b - a))
        elif what < .65: del data[a:b]
        elif what < .75: data[a:a] = data[a:b] * 2
        elif what < .85: data = data[:a]
        else: data[a:a] = data[rng.randrange(len(data) + 1):][:rng.randrange(60)]
        data = data or bytearray(b" ")
    return bytes(data)


def clean(f, where):
    "`f` works, or raises an error of ours that is one sentence and names a file below `where` and, if there is a line to blame, the line."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try: return f()
        except LcaError as e: said = str(e)
    files = [str(p.relative_to(where)) for p in where.rglob("*") if p.is_file()]
    assert "\n" not in said and (any(Path(f).name in said for f in files) or str(where) in said), said
    no_line = ("cannot be read as text", "has no line for", "has no class", "not a readable image", "no file_name is one of", "must count from 0",
            "could be", "both could belong",
               "has no readable list", "has no boxes as", "pixels but", "not on disk", "is in none of", "the split")
    assert "line " in said or any(w in said for w in no_line), said


@pytest.mark.parametrize("kind", ["cub", "metadata", "voc", "coco", "yolo", "lists of ilsvrc"])
def test_fuzzed_annotations(kind, tree, lists, folder, tmp_path):
    "50 mutated files of each kind, 300 in all."
    rng = random.Random(kind)
    if kind == "cub": root, files, load = Path(shutil.copytree(tree, tmp_path / "cub")), CUB_LISTS, lambda: load_cub(root)
    elif kind == "metadata":
        root, load = lists, lambda: load_metadata(root)
        files = [f"metadata/test/{f}" for f in ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")]
    elif kind == "lists of ilsvrc":
        root = tmp_path / "k"
        put_file(root / "LOC_val_solution.csv", "ImageId,PredictionString\nILSVRC2012_val_00000001,n01751748 111 108 441 193 "
                "\nILSVRC2012_val_00000002,n01751748 1 2 3 4 \n")
        put_file(root / "ILSVRC2012_validation_ground_truth.txt", "490\n361\n171\n")
        put_file(root / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish\n")
        files = [p.name for p in root.iterdir()]
        load = lambda: [f(root / n) for f, n in ((read_solution, "LOC_val_solution.csv"), (read_truth, "ILSVRC2012_validation_ground_truth.txt"),
                (read_words, "LOC_synset_mapping.txt"))]
    else:
        write_boxes(folder, kind)
        root, load = folder, lambda: load_folder(root, kind)
        end = dict(voc=".xml", coco=".json", yolo=".txt")[kind]
        files = sorted(str(p.relative_to(root)) for p in root.rglob(f"*{end}"))
    failed = 0
    for i in range(50):
        file = root / files[i % len(files)]
        good = file.read_bytes()
        file.write_bytes(mutate(good, rng))
        failed += clean(load, root) is None
        file.write_bytes(good)
    assert load() is not None and 5 <= failed <= 50, f"{failed} of 50 were refused: the fuzzing is too weak or the good file is not good"


@pytest.mark.parametrize("kind", ["rgb", "palette", "gif", "webp", "deep_tiff"])
def test_fuzzed_images(kind, tmp_path):
    "40 mutated pictures of each kind, 200 in all: a picture, or an error that names the file. The fast way refuses nothing that Pillow reads."
    rng, good = random.Random(kind), saved(*KINDS[kind])
    path, refused, lenient = tmp_path / "x.jpg", 0, 0
    for _ in range(40):
        path.write_bytes(mutate(good, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try: plain = np.asarray(open_image(path, upright=True))
            except ImageError as e: plain, refused = None, refused + (f"{path} is not a readable image" in str(e))
            try: fast = read_pixels(path, upright=True)
            except ImageError as e: assert str(path) in str(e) and "\n" not in str(e) and plain is None; continue
        assert fast.shape[2] == 3 and (plain is None or plain.shape == fast.shape)
        lenient += plain is None
    assert lenient <= 4, "too many damaged files that Pillow refuses are read"
    assert 3 <= refused <= 40


def test_fuzzed_folder_through_the_command_line(tree, tmp_path):
    "`lca-md prepare cub` on damaged lists and pictures: a report or one sentence, never another exception."
    root, rng = Path(shutil.copytree(tree, tmp_path / "cub")), random.Random(0)
    pictures = sorted((root / "images").rglob("*.jpg"))
    for i in range(20):
        file = root / CUB_LISTS[i % 5] if i % 2 else rng.choice(pictures)
        good = file.read_bytes()
        file.write_bytes(mutate(good, rng))
        r = CliRunner().invoke(app, ["prepare", "cub", "--from", str(root)])
        assert r.exception is None or isinstance(r.exception, (SystemExit, LcaError)), r.exception
        assert "CUB in" in r.stdout or isinstance(r.exception, LcaError)
        file.write_bytes(good)
    assert prepare_cub(root).state == "usable, not complete"


def test_readers_of_missing_files(tmp_path):
    for read in (read_voc, read_coco):
        with pytest.raises(DataError, match="none.x cannot be read"): read(tmp_path / "none.x")


# ---- one module for nine chapters

ALL_NAMES = """
    CUB_LISTS TURNED SIDEWAYS METADATA PICTURES SPLIT_FOLDERS NO_CLASSES VOC_KEYS KINDS SPLITS LAYOUTS LOOKED_FOR MEAN STD WARPS RECIPES
    JPEG_BEGIN JPEG_END SMALLER parse_floats parse_int parse_flag parse_size parse_box parse_name Line parse_line read_lines read_list
    read_dials read_cub check_ids check_unique check_classes choose_classes ImageError decoding opened to_rgb image_size open_image
    check_size Record clip_corners clip_box find_mask cub_record warn_clipped load_cub parse_corners read_paths picture_finder class_list
    metadata_records clip_all load_metadata is_picture class_folders find_splits Drawn VocReader read_voc parse_yolo read_yolo yolo_names
    entry_line read_coco check_choice Tree look_around choose_kind own_file plain_name own_boxes coco_tables cub_tables box_source
    folder_record load_folder ilsvrc_boxes cub_boxes draw_lots val_quota split_val find_layout open_parts keep_classes few_of_each
    measurable open_split squeeze tensor_steps planes Normalize eval_transform to_picture posterize guard_posterize resize_array reduction
    Region stand_in RandomRegion Recipe Flip Crop OnPicture warp rotation warp_rotate warp_shear_x warp_shear_y warp_shift_x warp_shift_y
    sharpen cub_transform ilsvrc_transform Tint light_transform train_transform Draw seeded WSOLDataset jpeg_header read_pixels kept
    EpochSampler Loader calm_worker make_loader
"""


def test_every_name_can_be_imported_from_data():
    "What `lca_md.data` held before it was divided is still there, also for `from lca_md.data import *`."
    import lca_md.data as data
    names = ALL_NAMES.split()
    assert not [n for n in names if not hasattr(data, n)]
    assert not set(names) - set(data.__all__)


def test_too_many_pixels_are_refused_on_both_roads(tmp_path, monkeypatch):
    "A small file can unpack to fill the memory; the training loop's way to the pixels refuses it as Pillow's does."
    Image.new("RGB", (60, 40)).save(tmp_path / "bomb.jpg")
    assert read_pixels(tmp_path / "bomb.jpg", k=8).shape[2] == 3
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (lambda: read_pixels(tmp_path / "bomb.jpg", k=8), lambda: open_image(tmp_path / "bomb.jpg")):
        with pytest.raises(ImageError, match="bomb.jpg"): read()


# ---- found by a bug hunt

def put_yolo(root, *names, label=()):
    for n in names:
        (root / n).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 80)).save(root / n)
    for n in label: (root / n).with_suffix(".txt").write_text(f"{int('dog' in n)} .5 .5 .2 .2\n")
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


@pytest.mark.parametrize("names, label", [(("cat/1.jpg", "dog/1.jpg"), "dog/1.jpg"), (("train/cat/1.jpg", "test/cat/1.jpg"), "test/cat/1.jpg")])
def test_a_namesake_s_boxes_are_not_taken(names, label, tmp_path):
    parts, _ = load_folder(put_yolo(tmp_path, *names, label=[label]), "yolo")
    boxed = {r.name: len(r.boxes) for part in parts.values() for r in part}
    assert sorted(boxed.values()) == [0, 1] and next(n for n, k in boxed.items() if k).endswith(label)


def test_linked_folders_have_their_boxes(tmp_path):
    put_yolo(tmp_path / "real", "cat/1.jpg", "dog/2.jpg", label=["cat/1.jpg", "dog/2.jpg"])
    (tmp_path / "linked").mkdir()
    for n in ("cat", "dog"): (tmp_path / "linked" / n).symlink_to(tmp_path / "real" / n)
    (tmp_path / "linked" / "dog" / "round").symlink_to(tmp_path / "linked")
    (tmp_path / "linked" / "classes.txt").write_text("cat\ndog\n")
    boxes = lambda root: sorted(len(r.boxes) for r in load_folder(tmp_path / root, "yolo")[0]["train"] if "round" not in r.name)
    assert boxes("linked") == boxes("real") == [1, 1]


def test_val_lists_beside_cub_count_classes_by_id(tree, tmp_path):
    root = Path(shutil.copytree(tree, tmp_path / "cub"))
    lines = (root / "classes.txt").read_text().splitlines()
    train = load_cub(root)[0]
    (root / "metadata/val").mkdir(parents=True)
    (root / "metadata/val/image_ids.txt").write_text(f"{train[0].name}\n")
    (root / "metadata/val/class_labels.txt").write_text(f"{train[0].name},{train[0].label}\n")
    (root / "classes.txt").write_text("\n".join(lines[::-1]) + "\n")
    parts, names = open_parts(root)
    assert parts["val"][0].label == train[0].label and names == load_cub(root)[2]


def test_two_classes_of_one_name_cannot_be_chosen(lists):
    (lists / "metadata").mkdir(exist_ok=True)
    old = (lists / "metadata/classes.txt").read_text() if (lists / "metadata/classes.txt").is_file() else None
    n = len(load_metadata(lists)[1])
    (lists / "metadata/classes.txt").write_text("".join(f"{k} crane\n" for k in range(n)))
    try:
        with pytest.raises(DataError, match="several classes 'crane'"): open_split(lists, "test", classes=["crane"])
    finally:
        if old is None: (lists / "metadata/classes.txt").unlink()
        else: (lists / "metadata/classes.txt").write_text(old)


def test_cache_tells_upright_from_stored(tmp_path):
    a = np.zeros((64, 64, 3), np.uint8)
    a[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(a).save(tmp_path / "a.jpg", exif=exif, quality=95)
    def left(upright):
        r = Record("a.jpg", str(tmp_path / "a.jpg"), 0, np.zeros((0, 4)), (64, 64), upright=upright)
        return WSOLDataset([r], ["a"], train_transform(32, "cub"), 32, cache=tmp_path / "cache").pixels(0)[:, :8].mean()
    assert [left(True) > 128, left(False) > 128] == [False, True]


@pytest.mark.parametrize("bad, said", [(dict(lr_steps=[0]), "lr_steps"), (dict(lr_steps="abc"), "lr_steps"), (dict(lr=10**400), "lr: expected float"),
                                       (dict(seed=2**64), "seed"), (dict(epochs="inf"), "epochs: expected int"), (dict(delta=5), "delta")])
def test_bad_settings_are_named(bad, said):
    with pytest.raises(ConfigError, match=said): Config(**bad)
