"The study of chapter 36: its rows are runs that exist, its numbers are those of the runs, and nothing tuned anything on test."
import json
import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT/"tools"))
import study  # noqa: E402

from lca_md.core import write_json  # noqa: E402
from lca_md.metrics import LocalizationMetrics, Protocol  # noqa: E402
from lca_md.models import build_model  # noqa: E402

RESULTS = json.loads(study.RESULTS.read_text())


def test_every_row_is_a_run_that_can_begin():
    made = study.jobs("photos", "weights.safetensors")
    names = [j.name for j, _ in made]
    assert len(set(names)) == len(names) and set(RESULTS) <= {*names, "untrained"}
    for job, _ in made:
        assert (job.cfg.model_args.get("embed_dim") == 96) == job.name.startswith("synth-"), job.name
        head = job.cfg.model_args.get("head", {})
        build_model(job.cfg.arch, 5, embed_dim=12, depth=12, num_heads=3, **({"head": head} if head else {}))


def test_test_is_read_by_rows_that_chose_nothing_with_it():
    for job, reads_test in study.jobs("photos", "weights.safetensors"):
        assert reads_test == (not job.name.startswith("val-")), job.name
    for name, r in RESULTS.items():
        assert ("test" in r) == (not name.startswith(("val-", "untrained"))), name
        assert "threshold_rule" not in r or "val" in r["threshold_rule"], name


def test_one_row_by_name_and_several_by_part():
    assert [j.name for j, _ in study.jobs("d", "w", "val-plus")] == ["val-plus"]
    assert len(study.jobs("d", "w", "plus-seed")) >= 6
    with pytest.raises(SystemExit, match="no such row"): study.jobs("d", "w", "swan")


def scored(folder, n=12):
    "A folder as a finished run leaves it, with invented scores."
    rng, m = np.random.default_rng(0), LocalizationMetrics(64)
    cams, logits, labels = rng.random((n, 3, 8, 8)), rng.random((n, 3)), rng.integers(0, 3, n)
    m.update(cams, logits, labels, [np.array([[8, 8, 40, 40]])]*n)
    job = study.jobs("photos", "weights.safetensors", "tscam-seed26")[0][0]
    write_json(folder/"done.json", job.cfg.to_dict())
    write_json(folder/"history.json", dict(best=dict(epoch=1), epochs=[dict(epoch=1, loss=2.)]))
    table = m.table(dict(gt=.3, pred=.3), .1, "test")
    write_json(folder/"evaluate-test"/"metrics.json", dict(table=table, val_threshold=dict(gt=.3), threshold_rule="val", floors=[], dials={},
                                                         errors=m.errors(Protocol("gt", "val", .3, "test"))))
    m.save(folder/"evaluate-test"/"scores.npz")
    return m


def test_collect_keeps_what_was_measured(tmp_path):
    m = scored(tmp_path/"runs"/"tscam-seed26")
    rows = study.collect(tmp_path/"runs", tmp_path/"results.json", say=lambda *_: None)
    got, want = json.loads((tmp_path/"results.json").read_text())["tscam-seed26"], m.compute(Protocol("gt", "val", .3, "test"))
    assert rows.keys() == {"tscam-seed26"} and len(got["iou"]) == 12
    assert 100*np.mean(np.array(got["iou"]) >= 500) == pytest.approx(want["gt_known"])
    assert 100*np.mean((np.array(got["iou"]) >= 500) & np.array(got["named"], bool)) == pytest.approx(want["top1_loc"])
    assert "photos" not in (tmp_path/"results.json").read_text()          # no path of the machine that ran it


def test_collect_without_runs_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="make study"): study.collect(tmp_path, tmp_path/"results.json")
    assert not (tmp_path/"results.json").exists()


def test_readme_reports_what_the_study_measured():
    "Every row of README's table of photographs, number by number."
    def mean(row, of): return np.mean([of(r) for n, r in RESULTS.items() if n.rpartition("-seed")[0] == row])
    rows = {"TS-CAM": "tscam", "SCM": "scm", "LCA-MD (released": "lca_md", "the same, tuned": "lca_md-tuned", "SAT": "sat",
            "**LCA-MD corrected": "plus"}
    text = (ROOT/"README.md").read_text().split("| on photographs |")[1].split("\n\n")[0]
    for start, row in rows.items():
        line, = [x for x in text.splitlines() if x.startswith(f"| {start}")]
        want = [mean(row, lambda r: r["test"]["gt_known"]), mean(row, lambda r: r["oracle"]["gt_known"]),
                *(mean(row, lambda r: r["test"][k]) for k in ("maxboxacc_70", "top1_loc", "top1_cls", "mean_iou"))]
        assert [float(x) for x in line.split("|")[2:8]] == pytest.approx(want, abs=.06), line
        seeds = sum(n.rpartition("-seed")[0] == row for n in RESULTS)
        assert (f"mean of {seeds} seeds" if seeds > 1 else "one seed") in line
