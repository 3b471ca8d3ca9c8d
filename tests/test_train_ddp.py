"Two processes are one: losses, gradients and whole runs agree with a single process, in real gloo processes."
import json, socket, subprocess, sys

import pytest
import torch

from conftest import ROOT, plain_env
from lca_md.core import Config
from lca_md.synth import write_synthbirds
from lca_md.train import Run, fit

WORKER = """
import json, sys, torch
from lca_md.core import Config
from lca_md.step import leave_group
from lca_md.train import Run, fit

def gradients(settings):
    run = Run(Config(**settings))
    run.loader.set_epoch(1)
    results = []
    for b in run.loader:
        mean, n = run.backward([b])
        run.batch += 1
        results.append(dict(mean=mean, n=n, grad={k: p.grad.clone() for k, p in run.net.named_parameters() if p.grad is not None}))
    return run.rank, results

def whole_run(settings):
    run = fit(Config(**settings), None)
    return run.rank, dict(model=run.net.state_dict(), history=run.history)

torch.set_num_threads(1)
rank, results = {"gradient": gradients, "run": whole_run}[sys.argv[1]](json.loads(sys.argv[2]))
if rank == 0: torch.save(results, sys.argv[3])
leave_group()
"""


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return write_synthbirds(tmp_path_factory.mktemp("data")/"birds", n_train=41, n_test=8, size=64, seed=5, workers=0)


def settings(birds, out, arch="deit_lca_md_tiny_patch16_224", **over):
    return dict(arch=arch, model_args=dict(embed_dim=48, depth=2, num_heads=3), data=str(birds), recipe="light", img_size=64, epochs=2,
                batch_size=16, lr=1e-3, drop_path=0., val_per_class=1, device="cpu", out=str(out)) | over


def two_processes(what, conf, out, **env):
    "Run WORKER in two processes with the environment that torchrun would give them."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = plain_env(PYTHONPATH=str(ROOT), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", **env)
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, what, json.dumps(conf), str(out)], env={**base, "RANK": str(r), "LOCAL_RANK": str(r)},
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in (0, 1)]
    said = [w.communicate(timeout=300)[0] for w in workers]
    assert [w.returncode for w in workers] == [0, 0], "\n".join(said)[-4000:]
    return torch.load(out, weights_only=True)


def one_process(conf):
    run, results = Run(Config(**conf)), []
    run.loader.set_epoch(1)
    for b in run.loader:
        mean, n = run.backward([b])
        run.batch += 1
        results.append(dict(mean=mean, n=n, grad={k: p.grad.clone() for k, p in run.net.named_parameters() if p.grad is not None}))
    return results


@pytest.mark.parametrize("arch, per_process", [("deit_lca_md_tiny_patch16_224", 8), ("deit_tscam_tiny_patch16_224", 11),
                                               ("deit_sat_tiny_patch16_224", 8)])
def test_loss_and_gradients(birds, tmp_path, arch, per_process):
    """1 process x 2n images = 2 processes x n. 33 images: with n = 8 the last batch has one image, none for one process; with n = 11, 6 and 5."""
    one = one_process(settings(birds, tmp_path/"one", arch, batch_size=2*per_process))
    two = two_processes("gradient", settings(birds, tmp_path/"two", arch, batch_size=per_process), tmp_path/"two.pt")
    assert [r["n"] for r in one] == [r["n"] for r in two] == ([16, 16, 1] if per_process == 8 else [22, 11])
    for a, b in zip(one, two):
        assert list(a["grad"]) == list(b["grad"])
        for k in a["mean"]: assert b["mean"][k] == pytest.approx(a["mean"][k], rel=1e-5), k
        for k, g in a["grad"].items():
            assert (g - b["grad"][k]).norm() <= 1e-5*g.norm() + 1e-9, (k, (g - b["grad"][k]).norm(), g.norm())


def test_without_gathering_the_gradients_differ(birds, tmp_path, monkeypatch):
    """The test above can fail: with a loss over each process's own pairs, LCA-MD's gradients are others."""
    conf = settings(birds, tmp_path/"one", batch_size=16)
    whole = one_process(conf)[0]["grad"]["blocks.0.attn.qkv.weight"]
    run = Run(Config(**{**conf, "batch_size": 8, "accumulate": 2}))
    run.loader.set_epoch(1)
    loader = iter(run.loader)
    run.backward([next(loader), next(loader)])
    halves = run.net.blocks[0].attn.qkv.weight.grad
    assert (whole - halves).norm() > 1e-2*whole.norm()


def test_run_equals_one_process(birds, tmp_path):
    """A whole run of two epochs, with EMA, clipping and cosine: history and weights agree to rounding."""
    conf = dict(val_per_class=1, ema=.9, clip_grad=1., schedule="cosine", warmup_epochs=.5, opt="sgd", lr=1e-2)
    one = fit(Config(**settings(birds, tmp_path/"one", **conf, batch_size=16)), None)
    two = two_processes("run", settings(birds, tmp_path/"two", **conf, batch_size=8), tmp_path/"two.pt")
    for a, b in zip(one.history, two["history"]):
        for k in ("loss", "lr", "top1_train", "grad_norm", "gt_known", "mean_iou"): assert b[k] == pytest.approx(a[k], rel=1e-4), k
    for k, w in one.net.state_dict().items(): assert torch.allclose(w, two["model"][k], rtol=1e-4, atol=1e-6), k
    assert json.loads((tmp_path/"two"/"environment.json").read_text())["processes"] == 2
