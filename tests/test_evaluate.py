"Evaluations of chapters 21 and 30: maps from anywhere, stopped and continued, thresholds from another folder, two processes."
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, plain_env, run_python

from lca_md.core import ConfigError, DataError
from lca_md.data import WSOLDataset, open_split
from lca_md.metrics import LocalizationMetrics, MapFolder, Protocol
from lca_md.synth import species_table, write_synthbirds
from lca_md.evaluate import EvalConfig, evaluate, folder_source, read_logits, score_parts


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    "16 + 12 drawings of 4 species, noise for maps [4, 7, 7] of all of them, and logits."
    root, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    write_synthbirds(root/"data", n_train=16, n_test=12, size=64, seed=3, workers=0, table=species_table(4))
    names = []
    for split in ("val", "test"):
        for r in open_split(root/"data", split, 2)[0]:
            file = root/"maps"/Path(r.name).with_suffix(".npy")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, rng.random((4, 7, 7)).astype(np.float32))
            names.append(r.name)
    np.savez(root/"logits.npz", names=names, logits=rng.random((len(names), 4)))
    return root


def config(birds, **more):
    settings = dict(maps=str(birds/"maps"), logits=str(birds/"logits.npz"), data=str(birds/"data"), val_per_class=2, size=64, device="cpu")
    return EvalConfig(**settings | more)


def test_folder_of_maps_by_hand(birds, tmp_path):
    "The table of a folder of maps is what the metrics give when they are fed image by image."
    got = evaluate(config(birds, out=str(tmp_path/"a")))
    records, names = open_split(birds/"data", "test", 2)
    ds, m, logits = WSOLDataset(records, names, None, 64), LocalizationMetrics(64, keep=4, multi=True), read_logits(birds/"logits.npz")
    for i, r in enumerate(records):
        one = np.load(birds/"maps"/Path(r.name).with_suffix(".npy"))[None]
        m.update(one, logits[Path(r.name).with_suffix("").as_posix()][None], [r.label], [ds.boxes(i)], [ds.mask(i)])
    assert got["table"] == m.table(got["val_threshold"], None, "test") and set(got["val_threshold"]) == {"gt", "pred"}
    stored = json.loads((tmp_path/"a"/"metrics.json").read_text())
    assert {"maxboxaccv2_mean", "pxap", "pixel_iou"} <= stored["table"][0].keys() and stored["threshold_rule"].endswith("(4 images)")
    assert stored["intervals"]["pxap"][0] < stored["table"][0]["pxap"] < stored["intervals"]["pxap"][1]
    assert not (tmp_path/"a"/"parts").exists()


def test_thousand_thresholds_and_boxes_only(birds, tmp_path):
    got = evaluate(config(birds, logits="", thresholds=1000, out=str(tmp_path)))
    assert len(got["metrics"].thresholds) == 1000 and got["released"] is None and got["errors"] is None
    assert [r["protocol"][:6] for r in got["table"]] == ["gt map"] * 2 and "top1_loc" not in got["table"][0]


def test_thresholds_from_another_folder(birds, tmp_path):
    "`val_data` chooses: other val images, another threshold, the same test images."
    write_synthbirds(tmp_path/"other", n_train=16, n_test=4, size=64, seed=9, workers=0, table=species_table(4))
    for r in open_split(tmp_path/"other", "val", 2)[0]:
        file = birds/"maps"/Path(r.name).with_suffix(".npy")
        if not file.exists(): np.save(file, np.zeros((4, 7, 7)))
    got = evaluate(config(birds, val_data=str(tmp_path/"other"), out=str(tmp_path/"a")))
    plain = evaluate(config(birds, out=str(tmp_path/"b")))
    oracle = [[r for r in g["table"] if "oracle" in r["protocol"]] for g in (got, plain)]
    assert oracle[0] == oracle[1] and str(tmp_path/"other") in got["threshold_rule"]


def test_what_is_missing_is_said(birds, tmp_path):
    with pytest.raises(ConfigError, match="data=FOLDER"): evaluate(config(birds, data=""))
    with pytest.raises(DataError, match="no such folder of maps"): evaluate(config(birds, maps=str(tmp_path/"no")))
    np.save(tmp_path/"x.npy", np.zeros((7, 7)))
    with pytest.raises(DataError, match="has no map for 12 of 12 images of the test split"): evaluate(config(birds, maps=str(tmp_path)))
    np.savez(tmp_path/"few.npz", names=["a"], logits=np.zeros((1, 4)))
    with pytest.raises(DataError, match="no logits for 12 of 12 images"): evaluate(config(birds, logits=str(tmp_path/"few.npz")))
    with pytest.raises(DataError, match="expected an .npz file"): evaluate(config(birds, logits=str(tmp_path/"x.npy")))


def test_no_val_maps_no_val_rows(birds, tmp_path):
    "Maps of the test split alone: no threshold is chosen, and the result says so."
    for r in open_split(birds/"data", "test", 2)[0]: np.save(tmp_path/f"{Path(r.name).stem}.npy", np.random.default_rng(1).random((7, 7)))
    got = evaluate(config(birds, maps=str(tmp_path), out=str(tmp_path/"out")))
    assert got["val_threshold"] is None and got["threshold_rule"].startswith("no val rows") and all("oracle" in r["protocol"] for r in got["table"])


WORKER = """
import sys, numpy as np
import lca_md.evaluate as evaluation
from lca_md.evaluate import EvalConfig, evaluate
slow = evaluation._score
def lazy(*args, **how):
    import time; time.sleep(.4); return slow(*args, **how)
evaluation._score = lazy
parts = evaluation.score_parts
evaluation.score_parts = lambda *a, **k: parts(*a, **(k | dict(part=2)))
evaluate(EvalConfig.from_dict(eval(sys.argv[1])))
"""


def test_killed_and_continued(birds, tmp_path):
    "Killed after a few parts; the second start computes only the rest, and every number is that of an undisturbed evaluation."
    cfg = config(birds, out=str(tmp_path/"a"), multi=False)
    p = subprocess.Popen([sys.executable, "-c", WORKER, repr(cfg.to_dict())], cwd=ROOT, env=plain_env(PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE)
    parts, start = tmp_path/"a"/"parts", time.time()
    while len(list(parts.glob("*.npz"))) < 2 and time.time() - start < 120 and p.poll() is None: time.sleep(.02)
    p.send_signal(signal.SIGKILL)
    p.communicate()
    done = {f.name: f.stat().st_mtime_ns for f in parts.glob("*.npz")}
    assert 2 <= len(done) < 6
    import lca_md.evaluate as evaluation
    seen, original = [], evaluation._score
    def spy(source, ds, bar, **how):
        seen.extend(r.name for r in ds.records)
        return original(source, ds, bar, **how)
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(evaluation, "_score", spy)
        mp.setattr(evaluation, "score_parts", lambda *a, **k: score_parts(*a, **(k | dict(part=2))))
        got = evaluate(cfg)
    test = [r.name for r in open_split(birds/"data", "test", 2)[0]]
    assert [n for n in seen if n in set(test)] == test[2*len(done):]
    whole = evaluate(config(birds, out=str(tmp_path/"b"), multi=False))
    assert got["table"] == whole["table"] and got["intervals"] == whole["intervals"] and got["floors"] == whole["floors"]


def test_parts_of_other_maps_are_not_taken(birds, tmp_path):
    records, names = open_split(birds/"data", "test", 2)
    ds, source = WSOLDataset(records, names, None, 64), folder_source(MapFolder(birds/"maps"), 4)
    a = score_parts(source, ds, tmp_path/"parts", dict(maps="a"), 5)
    other = lambda some: ((idx, np.ones((len(idx), 1, 7, 7)), None) for idx, _, _ in source(some))
    b = score_parts(other, ds, tmp_path/"parts", dict(maps="b"), 5)
    assert b.curve().max() == 0 < a.curve().max()
    assert score_parts(source, ds, tmp_path/"parts", dict(maps="b"), 5).curve().max() == 0  # same key: the parts are taken


GLOO = """
import sys, numpy as np, torch
from lca_md.metrics import LocalizationMetrics
rank, where = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
rng = np.random.default_rng(0)
maps, logits, labels = rng.random((7, 5, 9, 9)), rng.random((7, 5)), rng.integers(0, 5, 7)
boxes, masks = [np.array([[3, 4, 20, 25]])] * 7, rng.random((7, 32, 32)) < .3
mine = slice(0, 4) if rank == 0 else slice(4, 7)
m = LocalizationMetrics(32, keep=5, multi=True)
m.update(maps[mine], logits[mine], labels[mine], boxes[mine], list(masks[mine]))
m.gather()
whole = LocalizationMetrics(32, keep=5, multi=True)
whole.update(maps, logits, labels, boxes, list(masks))
assert len(m) == 7 and m.compute() == whole.compute() and m.compute("released") == whole.compute("released")
assert all(np.array_equal(v, whole.state_dict()[k]) for k, v in m.state_dict().items())
torch.distributed.destroy_process_group()
"""


def test_gather_two_processes(tmp_path):
    "Two gloo processes with a share each: both hold the whole afterwards, in the order of the ranks."
    commands = [[sys.executable, "-c", GLOO, str(r), str(tmp_path/"meet")] for r in (0, 1)]
    both = [subprocess.Popen(c, cwd=ROOT, env=plain_env(PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE, text=True) for c in commands]
    said = [p.communicate(timeout=240)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], "\n".join(said)[-2000:]


def test_command_line_scores_maps(birds, tmp_path):
    code = "import sys; from lca_md.cli import main; sys.argv = ['lca-md', *sys.argv[1:]]; main()"
    args = ["evaluate", "--maps", birds/"maps", "--data", birds/"data", "--out", tmp_path/"out", "-p", f"logits={birds/'logits.npz'}",
            "-p", "size=64", "-p", "val_per_class=2", "-p", "device=cpu"]
    got = run_python("-c", code, *args, PYTHONPATH=str(ROOT))
    assert got.returncode == 0, got.stderr[-2000:]
    assert "gt map, threshold" in got.stdout and "thresholds of the val rows: best GT-known on the val split" in got.stdout
    assert (tmp_path/"out"/"metrics.json").is_file() and (tmp_path/"out"/"evaluate.ipynb").is_file()
    assert str(Protocol("gt", "oracle")) in got.stdout
