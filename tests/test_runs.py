"""Run notebooks through papermill and the command line, and what a user sees when something is wrong."""
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from conftest import toy
from lca_md.core import CheckpointError, Config, LcaError
from lca_md.evaluate import EvalConfig, evaluate
from lca_md.runs import execute, notebook_path, script
from lca_md.synth import species_table, write_synthbirds
from lca_md.train import Run, fit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return write_synthbirds(tmp_path_factory.mktemp("data")/"birds", n_train=32, n_test=16, size=96, seed=5, workers=0)


def cli(*args, cwd=None):
    code = "import sys; from lca_md.cli import main; sys.argv = ['lca-md', *sys.argv[1:]]; main()"
    return subprocess.run([sys.executable, "-c", code, *args], cwd=cwd or ROOT, capture_output=True, text=True, timeout=300)


def test_train_then_evaluate(birds, tmp_path):
    """`lca-md train`, then `lca-md evaluate`: executed notebooks, weights, card and metrics lie in the run's folder."""
    params = [v for k, x in toy(birds, tmp_path/"run").items() if k != "out" for v in ("-p", f"{k}={x}")]
    r = cli("train", *params, "--out", str(tmp_path/"run"))
    assert r.returncode == 0, r.stderr
    assert "GT-known" in r.stdout and "threshold" in r.stdout and "val split" in r.stdout
    assert "epoch 1/2" in r.stderr  # progress reached the terminal of the command
    made = {"train.ipynb", "train.html", "best.safetensors", "best.json", "states", "config.yaml", "environment.json", "history.json", "tb"}
    assert made <= {p.name for p in (tmp_path/"run").iterdir()}
    r = cli("evaluate", "--checkpoint", str(tmp_path/"run"/"best.safetensors"))
    assert r.returncode == 0, r.stderr
    out = json.loads((tmp_path/"run"/"evaluate-test"/"metrics.json").read_text())
    card = json.loads((tmp_path/"run"/"best.json").read_text())
    val = [t for t in out["table"] if "chosen on val" in t["protocol"]]
    assert [t["threshold"] for t in val] == pytest.approx([card["threshold"]["gt"], card["threshold"]["pred"]])
    assert all(w in r.stdout for w in ("fixed", "chosen on val", "oracle", "whole image", "best centred box"))
    assert len(out["released"]) == 28 and out["images"] == 16


def test_raw_papermill(birds, tmp_path):
    """papermill with a shipped configuration and -p, as in the README; and an unknown parameter, of which papermill itself only warns."""
    conf = ROOT/"lca_md"/"configs"/"CUB"/"deit_lca_md_small_patch16_224.yaml"
    over = toy(birds, tmp_path/"run", num_classes=0, pretrained=False, epochs=1, arch="deit_tscam_tiny_patch16_224")
    (tmp_path/"over.yaml").write_text(yaml.safe_dump(over))
    base = [sys.executable, "-m", "papermill", str(notebook_path("train")), str(tmp_path/"out.ipynb"), "-f", str(conf),
            "-f", str(tmp_path/"over.yaml"), "-p", "lr", "5e-5", "-k", "python3"]
    how = dict(cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})
    r = subprocess.run(base, **how)
    assert r.returncode == 0, r.stderr[-2000:]
    assert Config.from_yaml(tmp_path/"run"/"config.yaml").lr == 5e-5
    r = subprocess.run([*base, "-p", "lerning_rate", "1"], **how)
    assert r.returncode != 0 and "unknown key 'lerning_rate'" in r.stderr


def test_two_runs_are_equal(birds, tmp_path):
    a, b = (fit(Config(**toy(birds, tmp_path/n)), None) for n in "ab")
    assert [r["loss"] for r in a.history] == [r["loss"] for r in b.history]
    assert all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values()))


def test_second_run_moves_the_first_aside(birds, tmp_path):
    said = []
    for _ in range(2): fit(Config(**toy(birds, tmp_path/"run", epochs=1)), said.append)
    assert any("held an earlier run" in s for s in said) and (tmp_path/"run.1"/"best.safetensors").is_file()


@pytest.mark.parametrize("args,words", [
    (["train", "-p", "data=no/such/folder"], ["no/such/folder"]),
    (["train", "-p", "epoch=3"], ["unknown key 'epoch'", "did you mean 'epochs'"]),
    (["train", "-p", "lr=fast"], ["lr: expected float, got 'fast'"]),
    (["train", "--config", "CUB/deit_lca_md_smal_patch16_224"], ["did you mean 'CUB/deit_lca_md_small_patch16_224'"]),
    (["evaluate", "--checkpoint", "no/such.safetensors"], ["no/such.safetensors", "no such checkpoint"]),
    (["localize", "no/such.jpg", "--checkpoint", "no/such.safetensors"], ["no such checkpoint"])])
def test_one_clear_message(args, words, tmp_path):
    r = cli(*args, *([] if args[0] == "localize" else ["--out", str(tmp_path/"run")]))
    assert r.returncode == 2, r.stderr
    errors = [line for line in r.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in r.stderr and all(w in errors[0] for w in words), r.stderr


def test_checkpoint_of_another_class_count(birds, tmp_path):
    fit(Config(**toy(birds, tmp_path/"run", epochs=1)), None)
    other = write_synthbirds(tmp_path/"other", n_train=16, n_test=8, size=96, seed=6, workers=0, table=species_table(4))
    best = str(tmp_path/"run"/"best.safetensors")
    with pytest.raises(CheckpointError, match="made for 8 classes, the model has 4"): Run(Config(**toy(other, tmp_path/"x", checkpoint_path=best)))
    with pytest.raises(CheckpointError, match="trained on 8 classes"): evaluate(EvalConfig(checkpoint=best, data=str(other), device="cpu"))


def test_two_processes_by_one_command(birds, tmp_path):
    """`lca-md train --num-processes 2`: a script in two processes, then the report; the run continues with two processes from its folder alone."""
    params = [v for k, x in toy(birds, tmp_path/"run", batch_size=4, epochs=1).items() if k != "out" for v in ("-p", f"{k}={x}")]
    r = cli("train", *params, "--out", str(tmp_path/"run"), "--num-processes", "2")
    assert r.returncode == 0, r.stderr + (tmp_path/"run"/"processes.log").read_text()[-2000:]
    assert "epoch 1/1" in r.stderr and "best epoch 1" in r.stdout
    assert {"train.py", "processes.log", "train.ipynb", "train.html", "best.safetensors"} <= {p.name for p in (tmp_path/"run").iterdir()}
    assert json.loads((tmp_path/"run"/"environment.json").read_text())["processes"] == 2
    pictures = [o for c in nbformat.read(tmp_path/"run"/"train.ipynb", 4).cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert any("image/png" in o["data"] for o in pictures)  # the report has its curves
    one = fit(Config(**toy(birds, tmp_path/"one", batch_size=8, epochs=1)), None)
    assert one.history[0]["images"] == json.loads((tmp_path/"run"/"history.json").read_text())["epochs"][0]["images"]
    with pytest.raises(CheckpointError, match="made with 2 processes and batches of 8 images; use 2 processes, or batch_size=8 with 1"):
        fit(Config(**toy(birds, tmp_path/"run", batch_size=4, epochs=2, resume=True)), None)


NESTED = """
BASIC: {{SEED: 26, NUM_WORKERS: 0, GPU_ID: [0]}}
DATA: {{DATASET: CUB, DATADIR: {data}, NUM_CLASSES: '8', CROP_SIZE: 96, SCALE_SIZE: 196}}
MODEL: {{ARCH: deit_lca_md_tiny_patch16_224, CAM_THR: '0.1', TOP_K: 5}}
TRAIN: {{BATCH_SIZE: 8, ALPHA: 0.6, BETA: 1}}
TEST: {{BATCH_SIZE: 8, SAVE_CAMS: true, CKPT_DIR: ''}}
SOLVER: {{START_LR: 0.001, LR_STEPS: ['30'], LR_FACTOR: 0.1, NUM_EPOCHS: 1, MUMENTUM: 0.9, WEIGHT_DECAY: 5.0e-4}}
"""


def test_the_original_usage(birds, tmp_path):
    """The original's nested file, --config_file, --lr and --resume with its kind of weight file: settings, notes, start weights, a card from val."""
    from lca_md.cli import released_notes, train_config, with_card
    from lca_md.models import from_card
    (tmp_path/"cub.yaml").write_text(NESTED.format(data=birds))
    r = cli("train", "--config_file", str(tmp_path/"cub.yaml"), "--lr", "5e-5", "--show")
    shown = yaml.safe_load(r.stdout)
    assert r.returncode == 0 and (shown["lr"], shown["lr_steps"], shown["num_classes"], shown["fixed_threshold"]) == (5e-5, [30], 8, .1), r.stderr
    for key in "SOLVER.START_LR SOLVER.MUMENTUM SOLVER.WEIGHT_DECAY MODEL.TOP_K TRAIN.ALPHA TEST.SAVE_CAMS BASIC.GPU_ID DATA.SCALE_SIZE".split():
        assert f"note: {key}: had no effect in the released code" in r.stderr
    assert len(released_notes("CUB/deit_lca_md_small_patch16_224")) == 0
    run = fit(Config(**toy(birds, tmp_path/"run", epochs=1)), None)
    torch.save(dict(epoch=1, state_dict={f"module.{k}": v for k, v in run.net.state_dict().items()}, best_map=0.), tmp_path/"model_best.pth")
    given = dict(model_args=toy(birds, "")["model_args"], val_per_class=1, device="cpu")
    cfg = train_config(str(tmp_path/"cub.yaml"), given, str(tmp_path/"model_best.pth"))
    assert cfg.checkpoint_path == str(tmp_path/"model_best.pth") and not cfg.resume
    path, threshold = with_card(cfg, tmp_path/"carded.safetensors")
    model, card = from_card(path)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad(): assert torch.allclose(model(x).logits, run.net.eval()(x).logits, atol=1e-6)
    assert card["threshold"] == threshold == run.history[0]["threshold"]


def test_trackers_of_accelerate(birds, tmp_path):
    """Numbers also go through accelerate's trackers (its TensorBoard one stands for those that are not installed here)."""
    fit(Config(**toy(birds, tmp_path/"run", epochs=1, arch="deit_tscam_tiny_patch16_224", trackers=["tensorboard"])), None)
    assert list((tmp_path/"run"/"lca_md").rglob("events.out.tfevents*"))


def test_failing_notebook_names_its_cause(birds, tmp_path):
    with pytest.raises(LcaError, match="no/such"): execute("train", toy("no/such", tmp_path/"run"), tmp_path/"run", quiet=True)
    assert (tmp_path/"run"/"train.html").is_file()  # the executed notebook is kept, and shows where


SLOW_ANSWER = """import time
kernel = get_ipython().kernel
answer = kernel.shell_handlers["kernel_info_request"]
async def slow(*request):
    await answer(*request)
    time.sleep(1)
kernel.shell_handlers["kernel_info_request"] = slow"""


def own_notebook(path, *sources, outputs=()):
    "A notebook file: a parameters cell, then these cells, each with the same outputs."
    cells = [new_code_cell("x = 1  # a number", metadata=dict(tags=["parameters"])), *(new_code_cell(s, outputs=list(outputs)) for s in sources)]
    kernel = dict(name="python3", display_name="python3", language="python")
    nbformat.write(new_notebook(cells=cells, metadata=dict(kernelspec=kernel)), path)
    return path


def test_the_end_of_a_kernel_is_quiet(tmp_path, capfd):
    """Jupyter interrupts a kernel before it asks it to end; one that is busy with its last answer said so on the terminal, with nothing wrong."""
    execute(own_notebook(tmp_path/"own.ipynb", SLOW_ANSWER), {}, tmp_path/"out")
    assert "KeyboardInterrupt" not in capfd.readouterr().err


OLD = "a number of the committed notebook"


@pytest.mark.parametrize("how", ["execute", "papermill"])
def test_committed_outputs_never_reach_a_run(tmp_path, how):
    """A run that stops at its first cell leaves no output of the notebook that it was made from, in later cells neither; a script has none at all."""
    old = [new_output("stream", name="stdout", text=OLD), new_output("display_data", data={"text/plain": OLD})]
    source, target = own_notebook(tmp_path/"own.ipynb", "print('new'); 1/0", "print(2)", "3", outputs=old), tmp_path/"out"/"own.ipynb"
    if how == "execute":
        with pytest.raises(LcaError, match="ZeroDivisionError"): execute(source, {}, tmp_path/"out", quiet=True)
        assert OLD not in target.with_suffix(".html").read_text() and OLD not in script(source, {})
    else:
        target.parent.mkdir()
        command = [sys.executable, "-m", "papermill", source, target, "-p", "x", "2"]
        r = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert r.returncode and "ZeroDivisionError" in r.stderr
    assert OLD in source.read_text() and OLD not in target.read_text() and "new" in target.read_text()


@pytest.mark.parametrize("name", ["train", "evaluate", "localize", "quickstart", "pretrain"])
def test_run_notebooks_have_commented_parameters(name):
    cells = [c for c in nbformat.read(notebook_path(name), 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1 and all("#" in line for line in cells[0].source.splitlines())
