"A sweep that is stopped in the middle and finished by the same call, and what its report says."
import json
from pathlib import Path

import pytest

from lca_md.core import ConfigError, LcaError
from lca_md.states import Stopped
from lca_md.sweep import collect, grid, plan, report, run_sweep, standing
from lca_md.synth import write_synthbirds
from lca_md.evaluate import EvalConfig, evaluate
from lca_md.train import fit


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return write_synthbirds(tmp_path_factory.mktemp("data")/"birds", n_train=32, n_test=8, size=64, seed=5, workers=0)


def jobs_of(birds, out):
    base = dict(arch="deit_lca_md_tiny_patch16_224", model_args="{embed_dim: 48, depth: 1, num_heads: 3}", data=str(birds), recipe="light",
                img_size="64", epochs="2", batch_size="8", val_per_class="1", device="cpu")
    return plan([{**base, **c} for c in grid(dict(method="tscam,lca_md", seed="1,2,3"))], out=out, named={"method", "seed"})


def do(job, resume):
    "What `do_job` does, without papermill."
    job.cfg.resume = resume
    fit(job.cfg, None)
    evaluate(EvalConfig(checkpoint=str(Path(job.cfg.out)/"best.safetensors"), device="cpu"))


def test_two_by_three_sweep_stopped_and_finished(birds, tmp_path):
    jobs, told, did = jobs_of(birds, tmp_path), [], []

    def stops(job, resume):
        did.append((job.name, resume))
        if len(did) == 4:
            job.cfg.epochs = 1  # as far as it came
            fit(job.cfg, None)
            (Path(job.cfg.out)/"config.yaml").write_text(jobs_of(birds, tmp_path)[3].cfg.to_yaml())
            raise Stopped("stopped (SIGTERM) in epoch 2 after step 3; the state is saved. Continue with: lca-md train --resume x")
        do(job, resume)
    with pytest.raises(Stopped, match="the state is saved. The same sweep command continues"): run_sweep(jobs, stops, told.append)
    jobs = jobs_of(birds, tmp_path)
    assert [standing(j) for j in jobs] == ["done"]*3 + ["begun"] + ["new"]*2
    run_sweep(jobs, lambda job, resume: did.append((job.name, resume)) or do(job, resume), told.append)
    assert did[4:] == [(jobs[3].name, True), (jobs[4].name, False), (jobs[5].name, False)]
    assert len(json.loads((tmp_path/jobs[3].name/"history.json").read_text())["epochs"]) == 2
    run_sweep(jobs, None, told.append)
    assert [t.split(": ")[1] for t in told[-6:]] == ["done before"]*6
    text = report([tmp_path], tmp_path/"report")
    rows, varies, protocol = collect([tmp_path])
    assert (len(rows), varies) == (6, ["arch", "seed"]) and protocol.endswith("chosen on val, test split") and protocol in text
    assert "Differences, seed by seed" in text and text.count("deit_lca_md_tiny_patch16_224 - ") + text.count("- deit_lca_md") >= 4
    table = json.loads((tmp_path/rows[0]["run"]/"evaluate-test"/"metrics.json").read_text())["table"]
    assert rows[0]["gt_known"] in [t["gt_known"] for t in table]


def test_one_failing_run_does_not_stop_the_others(birds, tmp_path):
    jobs, did = jobs_of(birds, tmp_path), []

    def do(job, resume):
        did.append(job.name)
        if len(did) == 2: raise LcaError("no room")
    with pytest.raises(LcaError, match="1 of 6 runs failed, first method=tscam,seed=2: no room"): run_sweep(jobs, do, lambda s: None)
    assert len(did) == 6


def test_protocols_are_not_mixed(birds, tmp_path):
    for name, split in (("a", "test"), ("b", "val")):
        jobs_of(birds, tmp_path)[0].cfg.to_yaml(tmp_path/name/"config.yaml")
        row = dict(protocol=f"gt map, threshold 0.20 chosen on val, {split} split", gt_known=1.)
        (tmp_path/name/"evaluate-test").mkdir()
        (tmp_path/name/"evaluate-test"/"metrics.json").write_text(json.dumps(dict(table=[row])))
    with pytest.raises(ConfigError, match="different protocols cannot be compared"): collect([tmp_path])


# ---- found by a bug hunt

def test_no_run_lies_in_the_folder_of_the_sweep(tmp_path):
    jobs = plan([dict(seed=1, layer_decay=.5), dict(seed=1)], out=tmp_path/"sw", named={"layer_decay"})
    assert [j.name for j in jobs] == ["layer_decay=0.5", "seed=1"] and len({j.cfg.out for j in jobs} - {str(tmp_path/"sw")}) == 2
    assert plan([{}], out=tmp_path/"sw", named=set())[0].name == "run"


def finished(folder, **settings):
    folder.mkdir(parents=True)
    (folder/"config.yaml").write_text(json.dumps(dict(out=str(folder), **settings)))
    (folder/"best.json").write_text(json.dumps(dict(val=dict(gt_known=50., top1_loc=40., top1_cls=60., mean_iou=55.))))


def test_a_run_counts_once(tmp_path):
    for s in (1, 2): finished(tmp_path/f"seed={s}", seed=s)
    (tmp_path/"seed=1.1").mkdir()  # moved aside when the sweep was started again
    (tmp_path/"seed=1.1"/"config.yaml").write_text(json.dumps(dict(out=str(tmp_path/"seed=1"), seed=1)))
    assert len(collect([tmp_path, tmp_path/"seed=1"])[0]) == 2
    finished(tmp_path/"again", seed=2)
    with pytest.raises(ConfigError, match="would count as two runs"): collect([tmp_path])
