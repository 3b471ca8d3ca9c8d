"Chapter 03: every accepted shape of ILSVRC gives the same set, an interruption anywhere is mended, archives stay inside, nothing is done twice."
import io
import json
import os
import random
import re
import signal
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from hashlib import md5
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from lca_md.cli import app
from lca_md.core import DataError, LcaError
from lca_md.data import load_cub, open_split
from lca_md.prepare import ARCHIVES, TRUTH, download, find_ilsvrc, prepare_cub, prepare_ilsvrc, unpack

WNIDS = ("n01440764", "n01443537", "n01484850")
WORDS = ("tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark, white shark")


class Stop(BaseException): "What an interruption raises; nothing may catch it."


def jpeg(k, i, mode="RGB", kind="JPEG"):
    im = Image.new("RGB", (60 + i, 40 + k), "gray")
    ImageDraw.Draw(im).rectangle((10, 8, 29, 27), fill=("red", "green", "blue")[k])
    im.convert(mode).save(out := io.BytesIO(), kind)
    return out.getvalue()


def voc(name, wnid, size, boxes):
    "XML as ILSVRC's official files have it."
    objects = "".join(f"\t<object>\n\t\t<name>{wnid}</name>\n\t\t<pose>Unspecified</pose>\n"
                      "\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>\n"
                      + "".join(f"\t\t\t<{t}>{v}</{t}>\n" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), b)) + "\t\t</bndbox>\n\t</object>\n"
                              for b in boxes)
    return (f"<annotation>\n\t<folder>val</folder>\n\t<filename>{name}</filename>\n\t<source>\n"
            "\t\t<database>ILSVRC_2012</database>\n\t</source>\n\t<size>\n"
            f"\t\t<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n"
            f"\t\t<depth>3</depth>\n\t</size>\n\t<segmented>0</segmented>\n{objects}</annotation>\n").encode()


TRAIN = {f"{w}/{w}_{10 * i + k}.JPEG": jpeg(k, i) for k, w in enumerate(WNIDS) for i in range(4)}
CLASS = [2, 0, 1, 0, 2, 1]  # of the validation pictures: not sorted
VAL = {f"ILSVRC2012_val_{n + 1:08d}.JPEG": jpeg(k, n) for n, k in enumerate(CLASS)}
VAL_XML = {f"ILSVRC2012_val_{n + 1:08d}.xml": voc(f"ILSVRC2012_val_{n + 1:08d}", WNIDS[k], (60 + n, 40 + k), [(10, 8, 30, 28), (1, 2, 9,
        9)][:1 + n % 2])
           for n, k in enumerate(CLASS)}
TRAIN_XML = {f"{w}/{w}_{k}.xml": voc(f"{w}_{k}", w, (60, 40 + k), [(10, 8, 30, 28)]) for k, w in enumerate(WNIDS)}


def pack(path, files, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            m = tarfile.TarInfo(name)
            m.size = len(data)
            tar.addfile(m, io.BytesIO(data))
    return path


def packed(files):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode="w") as tar:
        for name, data in files.items():
            m = tarfile.TarInfo(name)
            m.size = len(data)
            tar.addfile(m, io.BytesIO(data))
    return out.getvalue()


def write(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def below(folder, files): return {f"{folder}/{n}": d for n, d in files.items()}


def archives(root):
    pack(root / ARCHIVES["train"], {f"{w}.tar": packed({Path(n).name: d for n, d in TRAIN.items() if n.startswith(w)}) for w in WNIDS})
    pack(root / ARCHIVES["val"], VAL)
    pack(root / ARCHIVES["boxes_val"], below("val", VAL_XML), "w:gz")
    pack(root / ARCHIVES["boxes_train"], TRAIN_XML, "w:gz")
    numbers = "".join(f"{(449, 2, 77)[k]}\n" for k in CLASS)  # the devkit's own numbering
    pack(root / ARCHIVES["devkit"], {"ILSVRC2012_devkit_t12/readme.txt": b"x", f"ILSVRC2012_devkit_t12/data/{TRUTH}": numbers.encode()}, "w:gz")
    return root


def kaggle(root):
    solution = "ImageId,PredictionString\n" + "".join(f"ILSVRC2012_val_{n + 1:08d},{WNIDS[k]} 10 8 30 28 \n" for n, k in enumerate(CLASS))
    words = "".join(f"{w} {t}\n" for w, t in zip(WNIDS, WORDS))
    return write(root, below("ILSVRC/Data/CLS-LOC/train", TRAIN) | below("ILSVRC/Data/CLS-LOC/val", VAL) | below("ILSVRC/Annotations/CLS-LOC/val",
            VAL_XML)
                 | below("ILSVRC/Annotations/CLS-LOC/train", TRAIN_XML) | {"LOC_val_solution.csv": solution.encode(),
                         "LOC_synset_mapping.txt": words.encode()})


def class_folders(root):
    val = {f"val/{WNIDS[CLASS[n]]}/{f}": d for n, (f, d) in enumerate(VAL.items())}
    return write(root, below("train", TRAIN) | val | below("Annotations/val", VAL_XML) | below("Annotations/train", TRAIN_XML))


def flat_val(root): return write(root, below("train", TRAIN) | below("val", VAL) | below("bbox_val", VAL_XML) | below("bbox_train", TRAIN_XML))


def mixed(root):
    "Training folders, but the validation set still packed."
    pack(root / ARCHIVES["val"], VAL)
    pack(root / ARCHIVES["boxes_val"], below("val", VAL_XML), "w:gz")
    return write(root, below("train", TRAIN) | below("xml/train", TRAIN_XML))


SHAPES = dict(archives=archives, kaggle=kaggle, class_folders=class_folders, flat_val=flat_val, mixed=mixed)


def records(out):
    "All that a prepared set says, and the pictures' bytes."
    return {s: [(r.name, r.label, r.size, r.boxes.tolist(), md5(Path(r.path).read_bytes()).hexdigest()) for r in open_split(out, s,
            val_per_class=1)[0]]
            for s in ("train", "val", "test")}


def snapshot(folder):
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    "The archives, and what an undisturbed run makes of them."
    home = tmp_path_factory.mktemp("ilsvrc")
    prepare_ilsvrc(archives(home / "archives"), home / "out")
    return home / "archives", home / "out"


# ---- one set, many shapes

def test_what_was_packed(whole):
    got = records(whole[1])
    assert [len(got[s]) for s in ("train", "val", "test")] == [9, 3, 6]
    assert [r[0] for r in got["test"]] == [f"val/{n}" for n in VAL] and [r[1] for r in got["test"]] == CLASS
    assert [r[3] for r in got["test"][:2]] == [[[10, 8, 30, 28]], [[10, 8, 30, 28], [1, 2, 9, 9]]]
    assert all(len(r[3]) for r in got["val"]), "val has to measure boxes, so it takes the training pictures that have some"
    assert [r[4] for r in got["test"]] == [md5(d).hexdigest() for d in VAL.values()]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same(shape, whole, tmp_path):
    report = prepare_ilsvrc(SHAPES[shape](tmp_path / "in"), tmp_path / "out")
    assert records(tmp_path / "out") == records(whole[1])
    assert report.state == "usable, not complete" and not report.handled and not report.stops
    assert report.splits["test"]["boxes"] == 9 and report.splits["train"]["boxed"] == 3
    for f in ("train", "test"):
        for name in ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt"):
            assert (tmp_path / "out/metadata" / f / name).read_bytes() == (whole[1] / "metadata" / f / name).read_bytes()


def test_kaggle_from_the_inner_folder(whole, tmp_path):
    prepare_ilsvrc(kaggle(tmp_path / "in") / "ILSVRC", tmp_path / "out")
    assert records(tmp_path / "out") == records(whole[1])
    assert (tmp_path / "out/metadata/words.txt").read_text().startswith("n01440764 tench, Tinca tinca\n")


def test_archives_beside_the_prepared_folder(whole, tmp_path):
    "Archives in the very folder that is prepared, stopped between two classes: the half-unpacked train/ is no source of its own."
    out = archives(tmp_path / "ILSVRC")
    with pytest.raises(Stop): prepare_ilsvrc(None, out, step=stop_at(6))
    assert (out / "train" / WNIDS[0]).is_dir() and not (out / "train" / WNIDS[2]).exists()
    prepare_ilsvrc(None, out)
    assert records(out) == records(whole[1])
    assert prepare_ilsvrc(None, out).done == []


def test_verified_not_redone(whole):
    before = snapshot(whole[1])
    assert prepare_ilsvrc(whole[0], whole[1]).done == [] and prepare_ilsvrc(None, whole[1]).done == []
    assert snapshot(whole[1]) == before


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no ILSVRC pictures: looked for .*never downloaded"): find_ilsvrc(tmp_path)
    with pytest.raises(DataError, match="no CUB-200-2011: looked for images.txt.*--download"): prepare_cub(tmp_path)


def test_sources_that_moved_away(tmp_path):
    prepare_ilsvrc(kaggle(tmp_path / "in"), tmp_path / "out")
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is gone; run again with --from"): prepare_ilsvrc(None, tmp_path / "out")
    prepare_ilsvrc(tmp_path / "elsewhere", tmp_path / "out")
    assert len(records(tmp_path / "out")["test"]) == 6


# ---- interrupted at any point

def stop_at(n, how=None):
    count = [0]

    def step(what):
        count[0] += 1
        if count[0] == n:
            if how: os.kill(os.getpid(), how)
            raise Stop
    return step


def steps_of(f):
    count = [0]
    f(lambda what: count.__setitem__(0, count[0] + 1))
    return count[0]


@pytest.fixture(scope="session")
def n_steps(whole, tmp_path_factory):
    return steps_of(lambda step: prepare_ilsvrc(whole[0], tmp_path_factory.mktemp("count") / "out", step=step))


@pytest.mark.parametrize("tenth", range(10))
def test_killed(whole, n_steps, tenth, tmp_path):
    "SIGKILL at ten points spread over the whole run, in a process of its own; the second run mends it, the third finds nothing to do."
    at = 1 + tenth * (n_steps - 1) // 9
    if (child := os.fork()) == 0:  # no exec: a new interpreter would spend its time on imports
        try: prepare_ilsvrc(whole[0], tmp_path / "out", step=stop_at(at, signal.SIGKILL))
        finally: os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    prepare_ilsvrc(whole[0], tmp_path / "out")
    assert records(tmp_path / "out") == records(whole[1])
    assert {n: d for n, (d, _) in snapshot(tmp_path / "out/metadata").items()} == {n: d for n, (d, _) in snapshot(whole[1] / "metadata").items()}
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.endswith((".part", ".unpacking", ".tmp")) and p.parent.name != ".prepare"]
    assert prepare_ilsvrc(whole[0], tmp_path / "out").done == []


@pytest.mark.parametrize("seed", range(10))
def test_rename_or_write_that_fails(whole, seed, tmp_path, monkeypatch):
    "The same, when one of the renames that make things visible does not happen."
    real, left = os.replace, [random.Random(seed).randint(1, 45)]

    def replace(a, b):
        left[0] -= 1
        if not left[0]: raise Stop
        real(a, b)
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Stop): prepare_ilsvrc(whole[0], tmp_path / "out")
    prepare_ilsvrc(whole[0], tmp_path / "out")
    assert records(tmp_path / "out") == records(whole[1])


def test_damaged_notes_are_made_again(whole, tmp_path):
    prepare_ilsvrc(whole[0], tmp_path / "out")
    for f in (tmp_path / "out/.prepare").rglob("*.json"): f.write_bytes(f.read_bytes()[:20])
    prepare_ilsvrc(whole[0], tmp_path / "out")
    assert records(tmp_path / "out") == records(whole[1])
    (tmp_path / "out/prepare.json").write_text("{}")
    with pytest.raises(DataError, match="prepare.json is damaged; run"): prepare_ilsvrc(None, tmp_path / "out")


def test_cut_lists_are_written_again(whole, tmp_path):
    prepare_ilsvrc(whole[0], tmp_path / "out")
    (tmp_path / "out/metadata/test/localization.txt").write_text("val/ILSVRC")
    assert prepare_ilsvrc(None, tmp_path / "out").done == ["wrote test/localization.txt"]
    assert records(tmp_path / "out") == records(whole[1])


def test_lost_and_changed_pictures(whole, tmp_path):
    prepare_ilsvrc(whole[0], tmp_path / "out")
    victim = tmp_path / "out/val/ILSVRC2012_val_00000003.JPEG"
    victim.write_bytes(victim.read_bytes()[:-60])
    (tmp_path / "out/train" / WNIDS[1] / f"{WNIDS[1]}_1.JPEG").unlink()
    report = prepare_ilsvrc(None, tmp_path / "out")
    assert report.splits["test"]["pictures"] == 5 and report.splits["train"]["pictures"] == 11
    assert any("val/ILSVRC2012_val_00000003.JPEG (" in m and "truncated" in m for m in report.missing)


# ---- archives that stay inside

def evil_tar(path, name, type=tarfile.REGTYPE, link="", mode="w"):
    with tarfile.open(path, mode) as tar:
        good = tarfile.TarInfo("a.txt")
        good.size = 3
        tar.addfile(good, io.BytesIO(b"one"))
        m = tarfile.TarInfo(name)
        m.type, m.linkname = type, link
        m.size = 5 if type == tarfile.REGTYPE else 0
        tar.addfile(m, io.BytesIO(b"stolen"[:m.size]))
        if link: tar.addfile(inside := tarfile.TarInfo(f"{name}/b.txt"), io.BytesIO(b"")); assert inside
    return path


EVIL = [("../b.txt", tarfile.REGTYPE, ""), ("x/../../b.txt", tarfile.REGTYPE, ""), ("/b.txt", tarfile.REGTYPE, ""), ("C:\\b.txt", tarfile.REGTYPE,
        ""),
        ("..\\b.txt", tarfile.REGTYPE, ""), ("link", tarfile.SYMTYPE, "/"), ("link", tarfile.SYMTYPE, "../.."), ("link", tarfile.LNKTYPE, "../a.txt"),
        ("dev", tarfile.CHRTYPE, ""), ("pipe", tarfile.FIFOTYPE, "")]


@pytest.mark.parametrize("name,type,link", EVIL)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_evil_archive_is_refused(name, type, link, mode, tmp_path):
    (tmp_path / "deep/er").mkdir(parents=True)
    evil = evil_tar(tmp_path / "evil.tar", name, type, link, mode)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match="evil.tar: member .* (leads out|is a link|is no plain file)"): unpack(evil, tmp_path / "deep/er/out")
    assert snapshot(tmp_path) == before and not list((tmp_path / "deep/er").iterdir())


def test_evil_inside_the_training_archive(tmp_path):
    "In the outer archive nothing is written at all; in a class archive, nothing of that class."
    data = evil_tar(tmp_path / "inner.tar", "../../../b.txt").read_bytes()
    pack(tmp_path / "in" / ARCHIVES["train"], {f"{WNIDS[0]}.tar": packed({"a.JPEG": TRAIN[f"{WNIDS[0]}/{WNIDS[0]}_0.JPEG"]}),
            f"{WNIDS[1]}.tar": data})
    with pytest.raises(DataError, match=rf"{ARCHIVES['train']}:{WNIDS[1]}.tar: member"): prepare_ilsvrc(tmp_path / "in", tmp_path / "out")
    assert not list(tmp_path.rglob("b.txt")) and not list((tmp_path / "out").rglob(f"*{WNIDS[1]}*"))
    pack(tmp_path / "in2" / ARCHIVES["train"], {f"{WNIDS[0]}.tar": packed({"a.JPEG": b"x"}), "../evil.tar": data})
    with pytest.raises(DataError, match="leads out of the folder"): prepare_ilsvrc(tmp_path / "in2", tmp_path / "out2")
    assert not (tmp_path / "out2").exists() and not (tmp_path / "evil.tar").exists()


@pytest.mark.parametrize("keep", [0, 100, 600, 1024, 1500, 3000, -700])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_cut_archive(keep, mode, tmp_path):
    path = pack(tmp_path / "cut.tar", {"a/b.bin": random.Random(0).randbytes(2500), "a/c.bin": random.Random(1).randbytes(1500)}, mode)
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep >= 0 else data[:max(0, len(data) + keep - 8000 * (mode == "w"))])
    with pytest.raises(DataError, match="cut.tar is damaged or cut .*download it again"): unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_line_says_one_sentence(tmp_path):
    pack(tmp_path / ARCHIVES["val"], {"../../x.JPEG": b"x"})
    r = CliRunner().invoke(app, ["prepare", "ilsvrc", "--from", str(tmp_path), "--out", str(tmp_path / "out")])
    assert isinstance(r.exception, LcaError) and "leads out" in str(r.exception) and "\n" not in str(r.exception)


# ---- what the report says

def test_labels_must_agree(tmp_path):
    root = kaggle(tmp_path / "in")
    text = (root / "LOC_val_solution.csv").read_text().replace(f"00000001,{WNIDS[2]}", f"00000001,{WNIDS[0]}")
    (root / "LOC_val_solution.csv").write_text(text)
    report = prepare_ilsvrc(root, tmp_path / "out")
    assert report.state == "not usable" and "labels from XML files contradict the others for 1 pictures: ILSVRC2012_val_00000001" in report.stops[0]
    r = CliRunner().invoke(app, ["prepare", "ilsvrc", "--out", str(tmp_path / "out")])
    assert r.exit_code == 1 and "not usable" in r.stdout


def test_devkit_fills_in_what_xml_does_not_say(tmp_path):
    root = archives(tmp_path / "in")
    some = {n: d for n, d in VAL_XML.items() if not n.endswith(("4.xml", "6.xml"))}  # one of class 0 and one of class 1 lost
    pack(root / ARCHIVES["boxes_val"], below("val", some), "w:gz")
    report = prepare_ilsvrc(root, tmp_path / "out")
    labels = dict(line.split(",") for line in (tmp_path / "out/metadata/test/class_labels.txt").read_text().split())
    assert list(labels.values()) == [str(k) for k in CLASS]
    assert any("2 test pictures have no box: val/ILSVRC2012_val_00000004.JPEG" in m for m in report.missing)


def test_labels_missing(tmp_path):
    root = flat_val(tmp_path / "in")
    (root / "bbox_val/ILSVRC2012_val_00000002.xml").unlink()
    report = prepare_ilsvrc(root, tmp_path / "out")
    assert any("1 validation pictures have no label: ILSVRC2012_val_00000002" in m for m in report.missing)
    assert report.splits["test"]["pictures"] == 5


def test_odd_pictures_and_boxes_are_counted(tmp_path):
    root = flat_val(tmp_path / "in")
    name = "ILSVRC2012_val_0000000{}"
    (root / f"val/{name.format(1)}.JPEG").write_bytes(jpeg(2, 0, "CMYK"))
    (root / f"val/{name.format(2)}.JPEG").write_bytes(jpeg(0, 1, "L"))
    (root / f"val/{name.format(3)}.JPEG").write_bytes(jpeg(1, 2, kind="PNG"))
    (root / f"val/{name.format(4)}.JPEG").write_bytes(b"nothing")
    (root / f"bbox_val/{name.format(5)}.xml").write_bytes(voc(name.format(5), WNIDS[2], (64, 42), [(50, 8, 90, 28), (70, 8, 90, 28)]))
    (root / f"bbox_val/{name.format(6)}.xml").write_bytes(VAL_XML[f"{name.format(6)}.xml"][:90])
    report = prepare_ilsvrc(root, tmp_path / "out")
    text = str(report)
    for says in ("not RGB: 1 CMYK, 1 L; converted", "no JPEG, whatever their name says: 1 PNG",
            f"1 pictures cannot be read: val/{name.format(4)}.JPEG (", f"{name.format(5)}",
                 "test: boxes that reach more than a pixel beyond their picture, clipped: 1",
                         "test: boxes without area inside their picture, left out: 1",
                 "test: 1 annotations cannot be read: "):
        assert says in text, (says, text)
    assert re.search(rf"{name.format(6)}.xml, line [0-9]+: not valid XML", text)
    boxes = {r[0]: r[3] for r in records(tmp_path / "out")["test"]}
    assert boxes[f"val/{name.format(5)}.JPEG"] == [[50, 8, 64, 28]]
    assert len(text.splitlines()) < 50, "one page"


def test_full_decodes(tmp_path):
    root = flat_val(tmp_path / "in")
    data = jpeg(2, 0, kind="PNG")
    (root / "val/ILSVRC2012_val_00000001.JPEG").write_bytes(data[:len(data) - 40])  # no JPEG: its end says nothing
    assert prepare_ilsvrc(root, tmp_path / "out").splits["test"]["pictures"] == 6
    assert prepare_ilsvrc(root, tmp_path / "out", full=True).splits["test"]["pictures"] == 5
    assert prepare_ilsvrc(root, tmp_path / "out", full=True).done == [] == prepare_ilsvrc(root, tmp_path / "out").done


# ---- CUB

def cub_files():
    lists = {f: "" for f in ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")}
    files, id = {}, 0
    for k, c in enumerate(("001.Red", "002.Green", "003.Blue")):
        lists["classes.txt"] += f"{k + 1} {c}\n"
        for i in range(4):
            id += 1
            files[f"images/{c}/{c[4:]}_{i}.jpg"] = jpeg(k, i)
            lists["images.txt"] += f"{id} {c}/{c[4:]}_{i}.jpg\n"
            lists["image_class_labels.txt"] += f"{id} {k + 1}\n"
            lists["train_test_split.txt"] += f"{id} {int(i < 3)}\n"
            lists["bounding_boxes.txt"] += f"{id} 10.0 8.0 20.0 20.0\n"
    return files | {f: t.encode() for f, t in lists.items()}


def cub_archive(path): return pack(path, below("CUB_200_2011", cub_files()) | {"attributes.txt": b"1 has_bill\n"}, "w:gz")


class Server(ThreadingHTTPServer):
    "Serves one file; closes after `per_request` bytes; `ranges=False` sends all of it whatever was asked."
    def __init__(self, content, per_request=10**9, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.per_request, self.ranges, self.asked = content, per_request, ranges, []
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/CUB_200_2011.tgz"

    def __exit__(self, *args): self.shutdown(); super().__exit__(*args)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        s, wanted = self.server, self.headers["Range"]
        s.asked.append(wanted)
        if not self.path.endswith("CUB_200_2011.tgz"): return self.send_error(404)
        begin = int(wanted[6:-1]) if wanted and s.ranges else 0
        if begin >= len(s.content): return self.send_error(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(s.content) - begin))
        if begin: self.send_header("Content-Range", f"bytes {begin}-{len(s.content) - 1}/{len(s.content)}")
        self.end_headers()
        self.wfile.write(s.content[begin:begin + s.per_request])

    def log_message(self, *args): pass


def test_cub_from_the_net(tmp_path):
    data = cub_archive(tmp_path / "made/x.tgz").read_bytes()
    with Server(data, len(data) // 3 + 1) as server:
        get = lambda: prepare_cub(None, tmp_path / "data/cub", fetch=True, url=server.url, md5=md5(data).hexdigest())
        for _ in range(2):
            with pytest.raises(DataError, match="broke off .*the same command continues it"): get()
        report = get()
        assert [a and int(a[6:-1]) for a in server.asked] == [None, len(data) // 3 + 1, 2 * (len(data) // 3 + 1)]
        assert report.splits["train"]["pictures"] == 9 and [len(r) for r in load_cub(tmp_path / "data/cub")[:2]] == [9, 3]
        assert get().done == [] and len(server.asked) == 3


def test_download_without_ranges_starts_again(tmp_path):
    with Server(bytes(range(256)) * 20, ranges=False) as server:
        (tmp_path / "f.part").write_bytes(b"wrong beginning")
        assert download(server.url, tmp_path / "f", md5(server.content).hexdigest()).read_bytes() == server.content


def test_download_complete_part(tmp_path):
    "Killed between the last byte and the rename: the server has no more to give."
    with Server(b"all of it") as server:
        (tmp_path / "f.part").write_bytes(b"all of it")
        assert download(server.url, tmp_path / "f", md5(b"all of it").hexdigest()).read_bytes() == b"all of it"


def test_download_wrong_file(tmp_path):
    with Server(b"something else") as server:
        with pytest.raises(DataError, match="gave a file with MD5 .*it was deleted"): download(server.url, tmp_path / "f", "0" * 32)
        assert not list(tmp_path.iterdir())
        with pytest.raises(DataError, match="answered 404"): download(server.url.replace("CUB", "cub"), tmp_path / "f", "0" * 32)


def test_nothing_is_downloaded_unasked(tmp_path):
    with Server(b"x") as server:
        with pytest.raises(DataError, match="--download"): prepare_cub(None, tmp_path / "cub", url=server.url)
        assert server.asked == []


@pytest.mark.parametrize("tenth", range(5))
def test_cub_interrupted(tenth, tmp_path):
    archive = cub_archive(tmp_path / "CUB_200_2011.tgz")
    at = 1 + tenth * (steps_of(lambda step: prepare_cub(archive, tmp_path / "count", step=step)) - 1) // 4
    with pytest.raises(Stop): prepare_cub(archive, tmp_path / "out", step=stop_at(at))
    prepare_cub(archive, tmp_path / "out")
    same = lambda d: {n: b for n, (b, _) in snapshot(tmp_path / d).items() if not n.startswith("report")}
    assert same("out") == same("count")
    assert prepare_cub(archive, tmp_path / "out").done == []


def test_cub_folder_stays_where_it_is(tmp_path):
    root = write(tmp_path / "mine/CUB_200_2011", cub_files())
    report = prepare_cub(tmp_path / "mine", tmp_path / "out")
    assert report.folder == str(root) and not (tmp_path / "out").exists()
    assert json.loads((root / "report.json").read_text())["state"] == "usable, not complete"
    assert len(load_cub(root)[0]) == 9


def test_cub_read_only_folder_is_left_alone(tmp_path):
    root = write(tmp_path / "cub", cub_files())
    root.chmod(0o555)
    before = snapshot(root)
    report = prepare_cub(root)
    root.chmod(0o755)
    assert snapshot(root) == before and any("cannot be written" in h for h in report.handled)


def test_cub_wrong_sizes_and_boxes(tmp_path):
    root = write(tmp_path / "cub", cub_files() | {"image_sizes.txt": "".join(f"{i} {60 + (i - 1) % 4 + (i == 5)} {40 + (i - 1) // 4}\n"
            for i in range(1, 13)).encode()})
    text = (root / "bounding_boxes.txt").read_text().replace("\n3 10.0", "\n3 500.0").replace("\n4 10.0", "\n4 50.0")
    (root / "bounding_boxes.txt").write_text(text)
    report = prepare_cub(root)
    assert "image_sizes.txt, line 5: 1 sizes are not those of the files" in report.stops[0]
    assert "bounding_boxes.txt, line 3: the box 500 8 20 20 lies outside" in report.stops[1]
    assert any("clipped: 1, ids 4" in h for h in report.handled)


# ---- found by a bug hunt

def test_a_damaged_tgz_is_noticed_and_its_members_are_not_kept(tmp_path):
    text = b"".join(b"%d birds in a bush\n" % i for i in range(4000))
    write(tmp_path / "in/CUB", {f"{i}.txt": text[i:] for i in range(5)})
    with tarfile.open(tmp_path / "good.tgz", "w:gz") as tar: tar.add(tmp_path / "in/CUB", "CUB")
    data = bytearray((tmp_path / "good.tgz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.tgz").write_bytes(data)
    with pytest.raises(DataError, match="bad.tgz"): unpack(tmp_path / "bad.tgz", tmp_path / "out")
    unpack(tmp_path / "good.tgz", tmp_path / "out")
    got = sorted(p.read_bytes() for p in (tmp_path / "out").rglob("*.txt"))
    assert got == sorted(text[i:] for i in range(5))


def test_a_repaired_picture_is_seen_to_be_whole(tmp_path):
    root = write(tmp_path / "CUB_200_2011", cub_files())
    first = sorted((root / "images").rglob("*.jpg"))[0]
    good = first.read_bytes()
    first.write_bytes(bytes(200) + good[200:])
    assert "cannot" in prepare_cub(root).stops[0]
    first.write_bytes(good)
    assert not prepare_cub(root).stops
