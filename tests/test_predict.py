"""Folders to boxes: every file format, EXIF, bad files, stopping and continuing, and pycocotools' opinion beside the metrics chapter's."""
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps
from typer.testing import CliRunner

import lca_md.predict as predict
from conftest import plain_env
from lca_md.cli import app
from lca_md.core import ConfigError, DataError, LcaError
from lca_md.data import WSOLDataset, eval_transform, load_cub, open_split
from lca_md.metrics import Protocol
from lca_md.models import build_model, localizer, save_checkpoint, shipped_weights
from lca_md.predict import LocalizeConfig, Localizer, folder_bytes, from_coco, from_voc, from_yolo, localize_folder, to_pil
from lca_md.synth import draw_bird, write_synthbirds
from lca_md.train import measure

NAMES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "A checkpoint of a toy model of four classes at 64 pixels: 4 x 4 maps."
    torch.manual_seed(0)
    args = dict(embed_dim=48, depth=2, num_heads=3)
    path = tmp_path_factory.mktemp("toy")/"toy.safetensors"
    model = build_model("deit_lca_md_tiny_patch16_224", 4, img_size=64, **args)
    save_checkpoint(model, path, dict(arch="deit_lca_md_tiny_patch16_224", num_classes=4, img_size=64, model_args=args, class_names=NAMES,
                                      threshold=dict(gt=.3, pred=.4)))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Twenty drawings of several sizes, in folders named like the toy's classes."
    root = tmp_path_factory.mktemp("photos")/"photos"
    for i in range(20):
        (file := root/NAMES[i % 4]/f"{i:02d}.{'jpg' if i % 3 else 'png'}").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_bird(i, size=80).image).resize((60 + 7*i, 150 - 5*i)).save(file)
    return root


def config(toy, photos, out, **over):
    return LocalizeConfig(**{**dict(images=str(photos), checkpoint=str(toy), out=str(out), batch_size=4, threads=1, device="cpu"), **over})


EVERYTHING = dict(labels="folder", pictures="jpg", maps=True, masks=True, max_boxes=0)


# -- one image, many images

@pytest.mark.parametrize("how", [{}, dict(flip=True), dict(max_boxes=0, min_area=0.), dict(labels="cat", threshold=.6)], ids=str)
def test_batches_and_single_images_agree(toy, photos, how):
    loc, files = Localizer.from_checkpoint(toy), sorted(photos.rglob("*.*"))
    how = dict(how)
    label = how.pop("labels", None)
    one = [loc(f, label, **how) for f in files]
    for size in (3, 20):
        many = loc.batch(files, label, batch_size=size, **how)
        assert [(a.label, a.boxes, a.size, a.given) for a in one] == [(b.label, b.boxes, b.size, b.given) for b in many]
        for a, b in zip(one, many):
            assert b.score == pytest.approx(a.score, abs=1e-5)
            np.testing.assert_allclose(b.grid, a.grid, atol=1e-6*abs(a.grid).max())


@pytest.mark.parametrize("backbone, args, grid", [("vit_small_patch14_dinov2", dict(img_size=98, embed_dim=48, depth=2, num_heads=3), (7, 7)),
                                                  ("deit_tiny_patch16_224", dict(img_size=160, embed_dim=48, depth=1, num_heads=3), (10, 10)),
                                                  ("conformer_small_patch16", dict(img_size=96, channel_ratio=.5, embed_dim=48), (6, 6))])
def test_any_grid(backbone, args, grid):
    loc = Localizer(localizer("tscam", backbone, 3, **args), dict(class_names=list("abc"), img_size=args["img_size"]))
    got = loc(Image.new("RGB", (333, 77), "red"), "b", threshold=.2)
    assert (got.grid.shape, got.map.shape, got.mask.shape) == (grid, (77, 333), (77, 333))
    assert not got.boxes or (0 <= got.box[0] <= got.box[2] < 333 and 0 <= got.box[1] <= got.box[3] < 77)


def test_the_box_is_the_metrics_box():
    "On 224 x 224 drawings the localizer's box is the very box that LocalizationMetrics scores."
    from lca_md.boxes import largest_boxes, map_levels
    loc = Localizer.from_checkpoint(shipped_weights("tscam"))
    got = loc.batch([draw_bird(i, seed=8).image for i in range(6)], max_boxes=0, min_area=0.)
    want = largest_boxes(map_levels(np.stack([g.grid for g in got]), 224), [loc.threshold("pred")])[:, 0]
    assert [g.box for g in got] == [tuple(b) for b in want.tolist()] and all(g.boxes[0] == g.box for g in got)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(toy, tmp_path, orientation):
    "However the camera was held, pixels, boxes and sizes are those of the upright picture."
    upright = Image.fromarray(draw_bird(3, size=64).image).resize((96, 64))
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # what stores the picture lying: PIL's Transpose
    stored, note = upright if back is None else upright.transpose(Image.Transpose(back)), Image.Exif()
    note[0x0112] = orientation
    stored.save(tmp_path/"phone.png", exif=note)
    assert np.array_equal(to_pil(tmp_path/"phone.png"), upright) and ImageOps.exif_transpose(stored) is not None
    result = localize_folder(config(toy, tmp_path/"phone.png", tmp_path/"out", threshold=.5))
    row = result["rows"][0]
    assert (row["width"], row["height"]) == (96, 64)
    assert [tuple(b) for b in row["found"][0]["boxes"]] == Localizer.from_checkpoint(toy)(upright, threshold=.5).boxes
    raw = localize_folder(config(toy, tmp_path/"phone.png", tmp_path/"raw", threshold=.5, upright=False))["rows"][0]
    assert (raw["width"], raw["height"]) == stored.size


# -- files

def test_every_format_says_the_same(toy, photos, tmp_path):
    result = localize_folder(config(toy, photos, tmp_path/"out", **EVERYTHING))
    out, want = tmp_path/"out", {r["image"]: (r["width"], r["height"], [tuple(b) for b in r["found"][0]["boxes"]]) for r in result["rows"]}
    assert len(want) == 20 and sum(len(b) for _, _, b in want.values()) >= 20
    coco = json.loads((out/"coco.json").read_text())
    for im in coco["images"]:
        W, H, boxes = want[im["file_name"]]
        mine = [a for a in coco["annotations"] if a["image_id"] == im["id"]]
        assert (im["width"], im["height"]) == (W, H) == Image.open(photos/im["file_name"]).size
        assert [from_coco(a["bbox"]) for a in mine] == boxes and all(a["area"] == a["bbox"][2]*a["bbox"][3] for a in mine)
        assert {coco["categories"][a["category_id"] - 1]["name"] for a in mine} <= {Path(im["file_name"]).parent.name}
        stem = Path(im["file_name"]).with_suffix("")
        lines = [line.split(" ", 1) for line in (out/"yolo"/"labels"/f"{stem}.txt").read_text().splitlines()]
        assert [from_yolo(v, (W, H)) for _, v in lines] == boxes and {NAMES[int(k)] for k, _ in lines} <= {stem.parent.name}
        xml = ElementTree.parse(out/"voc"/f"{stem}.xml").getroot()
        corners = [from_voc([int(o.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]) for o in xml.iter("object")]
        assert corners == boxes and xml.findtext("filename") == im["file_name"] and int(xml.findtext("size/width")) == W
        for x0, y0, x1, y1 in boxes: assert 0 <= x0 <= x1 < W and 0 <= y0 <= y1 < H
        assert np.load(out/"maps"/f"{stem}.npy").shape == (4, 4)
        mask = np.asarray(Image.open(out/"masks"/f"{stem}.png"))
        assert mask.shape == (H, W) and set(np.unique(mask)) <= {0, 255}
        assert Image.open(out/"pictures"/f"{stem}.jpg").size == (W, H)
    table = list(csv.DictReader((out/"boxes.csv").open()))
    assert [tuple(int(r[k]) for k in ("x0", "y0", "x1", "y1")) for r in table] == [b for _, _, boxes in want.values() for b in boxes]
    head = yaml.safe_load((out/"yolo"/"data.yaml").read_text())
    assert head["names"] == dict(enumerate(NAMES)) and (out/"yolo"/"classes.txt").read_text().split() == NAMES
    for line in (out/"yolo"/head["train"]).read_text().splitlines(): assert (out/"yolo"/line).is_file()
    assert sorted(p.name for p in out.rglob(".*")) == []


def test_top_k_fills_the_results_list(toy, photos, tmp_path):
    localize_folder(config(toy, photos, tmp_path/"out", top_k=3))
    coco, results = (json.loads((tmp_path/"out"/f).read_text()) for f in ("coco.json", "coco_results.json"))
    assert len(coco["annotations"]) == 20 and len(results) == 60
    for i in range(1, 21):
        scores = [r["score"] for r in results if r["image_id"] == i]
        assert scores == sorted(scores, reverse=True) and len({r["category_id"] for r in results if r["image_id"] == i}) == 3
    with pytest.raises(ConfigError, match="top_k is for predicted classes"):
        localize_folder(config(toy, photos, tmp_path/"x", top_k=3, labels="folder"))


def test_pycocotools_finds_what_the_metrics_find(tmp_path):
    "GT-known twice: LocalizationMetrics on the test split, and the recall of the written results at IoU 0.5 by pycocotools."
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    birds = write_synthbirds(tmp_path/"birds", n_train=8, n_test=40, seed=31, workers=0)
    loc = Localizer.from_checkpoint(shipped_weights("lca_md"))
    records, names = open_split(birds, "test")
    ds, t = WSOLDataset(records, names, eval_transform()), loc.threshold("gt")
    mine = measure(loc.model, ds, 8, keep=1).compute(Protocol("gt", "val", t))
    listed = "\n".join(r.path for r in records)
    localize_folder(config(shipped_weights("lca_md"), listed, tmp_path/"out", labels="folder"))
    found = coco.COCO(tmp_path/"out"/"coco.json")  # a valid data set, with its annotations
    assert len(found.getImgIds()) == 40 and len(found.getAnnIds()) == 40
    truth, by_name = dict(found.dataset), {r.name: ds.boxes(i)[0].tolist() for i, r in enumerate(records)}
    boxes = [predict.to_coco(by_name[found.imgs[a["image_id"]]["file_name"]]) for a in found.dataset["annotations"]]
    truth["annotations"] = [dict(id=a["id"], image_id=a["image_id"], category_id=a["category_id"], iscrowd=0, bbox=b, area=b[2]*b[3])
                            for a, b in zip(found.dataset["annotations"], boxes)]
    gt = coco.COCO()
    gt.dataset = truth
    gt.createIndex()
    for iou, key in ((.3, "maxboxacc_30"), (.5, "gt_known"), (.7, "maxboxacc_70")):
        ev = cocoeval.COCOeval(gt, gt.loadRes(str(tmp_path/"out"/"coco_results.json")), "bbox")
        ev.params.iouThrs, ev.params.maxDets, ev.params.areaRng, ev.params.areaRngLbl = np.array([iou]), [1], [[0, 1e10]], ["all"]
        ev.evaluate()
        ev.accumulate()
        per_class = ev.eval["recall"][0, :, 0, 0]  # every class has five images, so the mean over classes is the mean over images
        assert 100*per_class.mean() == pytest.approx(mine[key], abs=1e-9), key
    assert 20 < mine["gt_known"] < 95


# -- bad files

def test_bad_files_are_listed_and_skipped(toy, photos, tmp_path):
    root = tmp_path/"mixed"
    (root/"sub"/"dir.jpg").mkdir(parents=True)
    good = Image.fromarray(draw_bird(0, size=64).image)
    for name, im in dict(rgb=good, grey=good.convert("L"), palette=good.quantize(16), alpha=good.convert("RGBA"), bit=good.convert("1")).items():
        im.save(root/f"{name}.png")
    good.convert("CMYK").save(root/"cmyk.jpg")
    Image.new("RGB", (1, 1)).save(root/"dot.bmp")
    whole = (photos/"bee"/"01.jpg").read_bytes()
    bad = dict([("half.jpg", whole[:len(whole)//2]), ("empty.png", b""), ("text.gif", b"GIF89a but not really"), ("rgb.jpg", whole),
                ("new\nline.jpg", whole), (f"{'n'*246}.jpg", whole)])
    for name, data in bad.items(): (root/name).write_bytes(data)
    (root/"gone.jpg").symlink_to(root/"nowhere.jpg")
    (root/".hidden.jpg").write_bytes(whole)
    (root/"notes.txt").write_text("no image")
    r = CliRunner().invoke(app, ["localize", str(root), "--checkpoint", str(toy), "--out", str(root/"out"), "--pictures", "png", "--device", "cpu"])
    assert r.exit_code == 0 and r.exception is None, r.output
    # rgb.jpg comes before rgb.png, so the latter is the one that is left out
    said = {row["image"]: row["reason"] for row in csv.DictReader((root/"out"/"bad_files.csv").open(newline=""))}
    assert set(said) == {*bad, "gone.jpg", "rgb.png"} - {"rgb.jpg"}
    assert "truncated" in said["half.jpg"] and "suffix only" in said["rgb.png"] and "not on disk" in said["gone.jpg"]
    assert not [why for why in said.values() if str(tmp_path) in why]
    done = {i["file_name"] for i in json.loads((root/"out"/"coco.json").read_text())["images"]}
    assert done == {"rgb.jpg", "grey.png", "palette.png", "alpha.png", "bit.png", "cmyk.jpg", "dot.bmp"}
    assert "7 of 14 images localized (threshold 0.40); 7 could not be used, see " in r.output


def test_nothing_but_bad_files(toy, tmp_path):
    (tmp_path/"in").mkdir()
    for i in range(3): (tmp_path/"in"/f"{i}.jpg").write_text("no image")
    result = localize_folder(config(toy, tmp_path/"in", tmp_path/"out"))
    assert (result["images"], result["localized"], result["bad"], result["rows"]) == (3, 0, 3, [])
    assert json.loads((tmp_path/"out"/"coco.json").read_text())["annotations"] == []


def test_a_map_that_is_not_finite(toy, photos, tmp_path, monkeypatch):
    real = Localizer.scores
    def broken(self, x, flip=False):
        p, maps = real(self, x, flip)
        def spoiled(classes):
            m = maps(classes).copy()
            m[1] = np.nan
            return m
        return p, spoiled
    monkeypatch.setattr(Localizer, "scores", broken)
    result = localize_folder(config(toy, photos, tmp_path/"out"))
    assert result["bad"] == 5 and all("not finite" in why for _, why in result["bad_files"])
    with pytest.raises(DataError, match="NaN"): Localizer.from_checkpoint(toy).batch(sorted(photos.rglob("*.*"))[:2])


# -- stopping and continuing

def test_killed_and_continued(toy, photos, tmp_path):
    "kill -9 in the middle, then the same settings again: every file equals that of a run that never stopped."
    whole = config(toy, photos, tmp_path/"whole", batch_size=1, **EVERYTHING)
    localize_folder(whole)
    cut = config(toy, photos, tmp_path/"cut", batch_size=1, **EVERYTHING)
    code = ("import json, sys, time\nfrom lca_md.predict import LocalizeConfig, Localizer, localize_folder\nfind = Localizer.find\n"
            "def slow(*a): time.sleep(.1); return find(*a)\nLocalizer.find = slow\nlocalize_folder(LocalizeConfig(**json.loads(sys.argv[1])))")
    p = subprocess.Popen([sys.executable, "-c", code, json.dumps(cut.to_dict())], env=plain_env(PYTHONPATH=str(Path(predict.__file__).parent.parent)))
    journal, start = tmp_path/"cut"/"journal.jsonl", time.time()
    while (not journal.exists() or journal.read_bytes().count(b"\n") < 8) and p.poll() is None and time.time() - start < 120: time.sleep(.01)
    p.send_signal(signal.SIGKILL)
    p.wait()
    lines = journal.read_bytes().count(b"\n")
    assert 8 <= lines < 21 and not (tmp_path/"cut"/"localize.json").exists()
    localize_folder(cut)
    assert folder_bytes(tmp_path/"cut") == folder_bytes(tmp_path/"whole")


def test_stopped_anywhere(toy, photos, tmp_path):
    "The journal cut at ten random bytes (and once within its first line), half a temporary file left behind: mended each time."
    cfg = config(toy, photos, tmp_path/"out", **EVERYTHING)
    localize_folder(cfg)
    before, journal, rng = folder_bytes(tmp_path/"out"), tmp_path/"out"/"journal.jsonl", random.Random(0)
    whole = journal.read_bytes()
    for at in [10, *(rng.randrange(len(whole)) for _ in range(10))]:
        journal.write_bytes(whole[:at])
        (tmp_path/"out"/"maps"/".00.npy.tmp").write_bytes(b"half")
        (tmp_path/"out"/"localize.json").unlink()
        localize_folder(cfg)
        assert folder_bytes(tmp_path/"out") == before, at


@pytest.mark.parametrize("workers", [0, 3])
def test_workers_change_nothing(toy, photos, tmp_path, workers):
    for n in (1, workers): localize_folder(config(toy, photos, tmp_path/str(n), workers=n, **EVERYTHING))
    assert folder_bytes(tmp_path/"1") == folder_bytes(tmp_path/str(workers))


def test_full_disk(toy, photos, tmp_path, monkeypatch):
    cfg, put, calls = config(toy, photos, tmp_path/"out", **EVERYTHING), predict.put_file, []
    def full(path, data):
        calls.append(path)
        if len(calls) > 30: raise OSError(28, "No space left on device", str(path))
        put(path, data)
    monkeypatch.setattr(predict, "put_file", full)
    with pytest.raises(DataError, match="No space left on device; mend that and run again"): localize_folder(cfg)
    monkeypatch.undo()
    localize_folder(cfg)
    localize_folder(config(toy, photos, tmp_path/"other", **EVERYTHING))
    assert folder_bytes(tmp_path/"out") == folder_bytes(tmp_path/"other")


def test_too_little_memory_is_one_sentence(toy, photos, tmp_path, monkeypatch):
    def small(*a): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    monkeypatch.setattr(Localizer, "find", small)
    with pytest.raises(LcaError, match="batch_size 4 does not fit into the memory of cpu; use a smaller one"):
        localize_folder(config(toy, photos, tmp_path/"out"))
    def wrong(*a): raise RuntimeError("another mistake")
    monkeypatch.setattr(Localizer, "find", wrong)
    with pytest.raises(RuntimeError, match="another mistake"): localize_folder(config(toy, photos, tmp_path/"out"))


def test_other_settings_are_refused_and_fresh_moves_aside(toy, photos, tmp_path):
    out = tmp_path/"out"
    localize_folder(config(toy, photos, out))
    (out/"coco.json").write_text("corrected by a person")
    localize_folder(config(toy, photos, out, workers=0, threads=0))  # neither changes a number
    assert (out/"coco.json").read_text() == "corrected by a person"
    for over, said in ((dict(threshold=.7), "threshold: 0.4, now 0.7"), (dict(flip=True), "flip: False, now True"),
                       (dict(images=str(photos/"ant")), "the images")):
        with pytest.raises(ConfigError, match=said): localize_folder(config(toy, **{**dict(photos=photos, out=out), **over}))
    os.utime(photos/"ant"/"00.png")  # an image that was saved again is another image
    with pytest.raises(ConfigError, match="made otherwise .the images."): localize_folder(config(toy, photos, out))
    localize_folder(config(toy, photos, out, threshold=.7, fresh=True))
    assert (tmp_path/"out.1"/"coco.json").read_text() == "corrected by a person" and (out/"localize.json").is_file()


# -- what is in a folder

def test_listing(photos, tmp_path):
    root, names = predict.list_images(photos)
    assert root == photos and len(names) == 20 and names == sorted(names)
    assert predict.list_images([photos/"ant", photos/"bee"/"01.jpg"])[1] == sorted(n for n in names if n.startswith("ant/") or n == "bee/01.jpg")
    assert predict.list_images([photos, photos/"ant"])[1] == names  # none twice
    cub = write_synthbirds(tmp_path/"birds", n_train=8, n_test=0, size=64, workers=0)
    root, names = predict.list_images(cub)
    assert root == cub/"images" and len(names) == 8 == len(load_cub(cub)[0])  # not the masks in segmentations/
    with pytest.raises(DataError, match="photoz does not exist"): predict.list_images(str(photos.with_name("photoz")))


def test_labels_from_a_table(toy, photos, tmp_path):
    names = predict.list_images(photos)[1]
    (tmp_path/"t.csv").write_text("label,image,who\n" + "".join(f"{'cat' if i % 2 else 1},{n},me\n" for i, n in enumerate(names[:18])))
    result = localize_folder(config(toy, photos, tmp_path/"out", labels=str(tmp_path/"t.csv")))
    assert [r["found"][0]["label"] for r in result["rows"]] == ["bee", "cat"]*9 and result["threshold"] == .3
    assert [why for _, why in result["bad_files"]] == ["has no line in t.csv"]*2


# -- the command

def test_command_line(toy, photos, tmp_path):
    run = lambda *a: CliRunner().invoke(app, ["localize", *map(str, a), "--checkpoint", str(toy), "--device", "cpu"])
    r = run(photos/"ant"/"00.png", photos/"bee"/"01.jpg", "--label", "dog", "--threshold", "0.5", "--max-boxes", "0")
    got = [json.loads(line) for line in r.stdout.splitlines()]
    assert r.exit_code == 0 and [(g["image"], g["label"], g["threshold"]) for g in got] == [("ant/00.png", "dog", .5), ("bee/01.jpg", "dog", .5)]
    r = run(photos/"ant"/"00.png", "--picture", tmp_path/"p.png")
    assert r.exit_code == 0 and Image.open(tmp_path/"p.png").size[0] > 100
    (tmp_path/"bad.jpg").write_text("x")
    r = run(tmp_path/"bad.jpg")
    assert r.exit_code == 0 and "skipped: bad.jpg" in r.stderr and not r.stdout
    for args, said in ((["--label", "cow"], "no class 'cow'; did you mean"), (["--formats", "voc,yolov5"], "did you mean 'yolo'"),
                       (["-p", "batchsize=1"], "did you mean 'batch_size'"), (["--threshold", "3"], "threshold must be in"),
                       (["--labels", "none.csv"], "none.csv cannot be read"), (["--top-k", "0"], "top_k must be at least 1")):
        assert said in str(run(photos, "--out", tmp_path/"x", *args).exception), args
        assert not (tmp_path/"x").exists()
    assert "--masks, --top-k: only with --out" in str(run(photos, "--masks", "--top-k", "2").exception)
    assert "only without --out" in str(run(photos, "--picture", tmp_path/"q.png", "--out", tmp_path/"x").exception)


@pytest.mark.slow
def test_report(toy, photos, tmp_path):
    "`--report` executes the run notebook on the finished folder, whose other files stay as they are."
    args = ["localize", str(photos), "--checkpoint", str(toy), "--out", str(tmp_path/"out"), "--labels", "folder", "--device", "cpu"]
    assert CliRunner().invoke(app, args).exit_code == 0
    before = folder_bytes(tmp_path/"out")
    r = CliRunner().invoke(app, [*args, "--report"])
    assert r.exit_code == 0, r.output
    after = folder_bytes(tmp_path/"out")
    assert after.keys() - before.keys() == {"localize.ipynb", "localize.html"} and {k: after[k] for k in before} == before
    assert "share of the image" in (tmp_path/"out"/"localize.html").read_text()


# ---- found by a bug hunt

def test_fresh_does_not_move_the_photographs(tmp_path):
    photos = tmp_path/"photos"
    photos.mkdir()
    Image.fromarray(draw_bird(0).image).save(photos/"a.jpg")
    cfg = LocalizeConfig(images=str(photos), checkpoint=str(shipped_weights("lca_md")), out=str(photos), fresh=True, device="cpu")
    with pytest.raises(ConfigError, match="would move .* aside"): localize_folder(cfg)
    assert (photos/"a.jpg").is_file() and not (tmp_path/"photos.1").exists()


def test_a_command_does_not_move_its_own_input(tmp_path):
    "`--out` must not be the folder of the checkpoint that is evaluated."
    run = tmp_path/"run"
    run.mkdir()
    (run/"best.safetensors").write_bytes(shipped_weights("lca_md").read_bytes())
    said = CliRunner().invoke(app, ["evaluate", "--checkpoint", str(run/"best.safetensors"), "--data", str(tmp_path), "--out", str(run)])
    assert "would be moved aside" in str(said.exception) and (run/"best.safetensors").is_file()


def test_transparency_is_white_from_an_array_too():
    rgba = np.zeros((20, 30, 4), np.uint8)
    assert np.asarray(to_pil(rgba)).min() == 255
    for shape in ((10, 12, 1), (0, 12, 3)):
        with pytest.raises(ConfigError): to_pil(np.zeros(shape, np.uint8))
