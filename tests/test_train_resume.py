"A training run that dies in many ways, and goes on as if nothing had happened."
import json, os, re, resource, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch

import conftest
from conftest import ROOT, plain_env, run_python
from lca_md.core import CheckpointError, Config
from lca_md.states import Stopped, Stopper, file_digest
from lca_md.synth import write_synthbirds
from lca_md.train import NotFinite, Run, fit


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return write_synthbirds(tmp_path_factory.mktemp("data")/"birds", n_train=40, n_test=8, size=64, seed=5, workers=0)


def toy(birds, out, **over): return conftest.toy(birds, out, **dict(img_size=64, epochs=3) | over)


def states(folder): return sorted((Path(folder)/"states").glob("step-*.pt"), key=lambda p: p.name)


def equal(a, b): return a.history == b.history and all(torch.equal(x, y) for x, y in zip(a.net.state_dict().values(), b.net.state_dict().values()))


@pytest.fixture(scope="module")
def whole(birds, tmp_path_factory): return fit(Config(**toy(birds, tmp_path_factory.mktemp("whole")/"run")), None)


@pytest.mark.parametrize("processes, kills", [(1, 3), (2, 1)])
def test_killed_at_random_moments(processes, kills):
    r = run_python(ROOT/"tools/kill_runs.py", "--kills", kills, "--processes", processes, PYTHONPATH=str(ROOT))
    assert r.returncode == 0 and f"{kills} kills" in r.stdout, r.stdout + r.stderr[-3000:]
    if processes == 1: assert "largest difference of any weight 0.0;" in r.stdout


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_damaged_newest_state(birds, tmp_path, whole, damage):
    """The newest state is damaged: a warning, the one before, and in the end the uninterrupted run's weights."""
    conf = toy(birds, tmp_path/"run", epochs=2)
    fit(Config(**conf), None)
    newest, said = states(tmp_path/"run")[-1], []
    data = bytearray(newest.read_bytes())
    if damage == "bit": data[len(data)*2//3] ^= 4
    newest.write_bytes({"cut": data[:len(data)//2], "bit": data, "empty": b""}[damage])
    again = fit(Config(**{**conf, "epochs": 3, "resume": True}), said.append)
    assert any("warning" in s and "damaged" in s for s in said) and equal(whole, again)
    assert newest.with_name(newest.name + ".damaged").is_file()
    assert all(file_digest(p) == p.name.split(".")[1] for p in states(tmp_path/"run"))


def test_all_states_damaged(birds, tmp_path):
    conf = toy(birds, tmp_path/"run", epochs=2)
    fit(Config(**conf), None)
    for p in states(tmp_path/"run"): p.write_bytes(p.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="all 2 saved states are damaged"): fit(Config(**conf, resume=True), None)


def test_any_flipped_bit_is_noticed(birds, tmp_path, whole):
    file = states(whole.folder)[-1]
    good = file.read_bytes()
    for at in torch.randint(len(good)*8, (40,), generator=torch.Generator().manual_seed(0)).tolist():
        data = bytearray(good)
        data[at//8] ^= 1 << at % 8
        copy = tmp_path/file.name
        copy.write_bytes(data)
        assert whole.store.read(copy)[0] is None, f"bit {at}"


def test_full_disk(birds, tmp_path, whole):
    """No file may grow beyond half a state: one sentence, no half file, the earlier state intact."""
    conf = toy(birds, tmp_path/"run", epochs=1)
    fit(Config(**conf), None)
    before = {p.name: p.read_bytes() for p in states(tmp_path/"run")}
    size, limits = states(tmp_path/"run")[0].stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    conf.update(epochs=3, resume=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size//2, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written \(File too large\); step-00000004\.\w+\.pt is intact"):
            fit(Config(**conf), None)
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p.name: p.read_bytes() for p in states(tmp_path/"run")} == before
    assert not list((tmp_path/"run").rglob(".*.tmp"))
    assert equal(whole, fit(Config(**conf), None))


def test_stop_in_the_middle_of_an_epoch(birds, tmp_path, whole, monkeypatch):
    calls = []
    monkeypatch.setattr(Stopper, "__call__", lambda self: "SIGTERM" if calls.append(1) or len(calls) == 6 else "")
    conf = toy(birds, tmp_path/"run")
    with pytest.raises(Stopped, match=r"stopped \(SIGTERM\) in epoch 2 after step 5; the state is saved. Continue with: lca-md train --resume .*run"):
        fit(Config(**conf), None)
    monkeypatch.undo()
    assert equal(whole, fit(Config(**conf, resume=True), None))


def test_signal_to_the_command(birds, tmp_path):
    """`lca-md train` is told to stop: exit code 0 and a command; that command ends the run with the uninterrupted run's weights."""
    conf = toy(birds, tmp_path/"run", epochs=60, max_steps=60)
    params = [v for k, x in conf.items() if k != "out" for v in ("-p", f"{k}={x}")]
    how = dict(cwd=tmp_path, env=plain_env(PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p = subprocess.Popen([sys.executable, "-m", "lca_md", "train", *params, "--out", str(tmp_path/"run")], **how)
    for _ in range(1200):
        if states(tmp_path/"run") or p.poll() is not None: break
        time.sleep(.1)
    p.send_signal(signal.SIGTERM)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0, err[-3000:]
    command = re.search(r"Continue with: lca-md (train --resume \S+)", out)[1].split()
    assert "stopped (stop file) in epoch" in out and (tmp_path/"run"/"train.html").is_file()
    stopped_at = torch.load(states(tmp_path/"run")[-1], weights_only=True)["steps"]
    assert 0 < stopped_at < 60
    r = run_python("-m", "lca_md", *command, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert r.returncode == 0 and "best epoch" in r.stdout, r.stderr[-3000:]
    one = fit(Config(**{**conf, "out": str(tmp_path/"one")}), None)
    end = torch.load(states(tmp_path/"run")[-1], weights_only=True)
    assert end["history"] == one.history and all(torch.equal(v, end["model"][k]) for k, v in one.net.state_dict().items())


def test_not_finite_names_images_and_place(birds, tmp_path):
    """A learning rate of 1e30 ends the run; the report names step, images and the place; a mended run goes on from the state before."""
    conf = toy(birds, tmp_path/"run", lr=1e30, opt="sgd")
    with pytest.raises(NotFinite, match=r"epoch 1, step \d+: .* not finite; .*images: \S+\.jpg") as e: fit(Config(**conf), None)
    assert f"lca-md train --resume {tmp_path/'run'}" in str(e.value)
    report = json.loads((tmp_path/"run"/"not_finite.json").read_text())
    assert len(report["images"]) == 8 and report["diagnosis"]
    kept = torch.load(states(tmp_path/"run")[-1], weights_only=True)
    assert all(torch.isfinite(v).all() for v in kept["model"].values())
    conf.update(lr=1e-3, resume=True, epochs=1)
    start = Run(Config(**conf))
    start.restore()
    assert start.steps == kept["steps"]


def test_a_spoilt_weight_is_named(birds, tmp_path):
    run = Run(Config(**toy(birds, tmp_path/"run")))
    with torch.no_grad(): run.net.head.bias[2] = float("inf")
    with pytest.raises(NotFinite, match=r"epoch 1, step 1: .*; weights: head.bias: 1 of 8 not finite; images:"): run.train_epoch()


def test_other_settings_are_refused_and_named(birds, tmp_path, whole):
    conf = toy(birds, whole.folder, resume=True, epochs=4, drop_path=.2)
    with pytest.raises(CheckpointError, match=r"made with other settings \(drop_path: 0.1, now 0.2\)"): fit(Config(**conf), None)


def test_options_survive_a_stop(birds, tmp_path, monkeypatch):
    """EMA, cosine, clipping, accumulation and the position inside an epoch: all are part of the state."""
    conf = toy(birds, tmp_path/"a", ema=.9, schedule="cosine", warmup_epochs=1, clip_grad=.5, accumulate=2, batch_size=4, save_every=1)
    one = fit(Config(**conf), None)
    conf["out"], calls = str(tmp_path/"b"), []
    monkeypatch.setattr(Stopper, "__call__", lambda self: "SIGTERM" if calls.append(1) or len(calls) in (3, 8) else "")
    for resume in (False, True):
        with pytest.raises(Stopped): fit(Config(**conf, resume=resume), None)
    monkeypatch.undo()
    two = fit(Config(**conf, resume=True), None)
    assert equal(one, two)
    assert all(torch.equal(x, y) for x, y in zip(one.ema.module.state_dict().values(), two.ema.module.state_dict().values()))
    assert os.path.getsize(tmp_path/"a"/"best.safetensors") == os.path.getsize(tmp_path/"b"/"best.safetensors")
