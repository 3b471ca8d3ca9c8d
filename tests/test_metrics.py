"Chapter 21: every value of the reference evaluations, the same result however images are batched and merged, and clear refusals."
from pathlib import Path

import numpy as np
import pytest
import torch

from lca_md.core import DataError, LcaError
from lca_md.metrics import THRESHOLDS, LocalizationMetrics, Protocol, best_centred_baseline, top_classes, whole_image_baseline

GOLDEN = np.load(Path(__file__).parent / "golden" / "evaluation.npz")
TRUTH = [b[b[:, 0] >= 0] for b in GOLDEN["gt_boxes"]]


def measure(ids=slice(None), masks=None, batch=7, as_tensor=True, **settings):
    "The recorded maps, measured in batches."
    m = LocalizationMetrics(**settings)
    wrap = torch.from_numpy if as_tensor else (lambda a: a)
    for chunk in np.array_split(np.arange(40)[ids], -(-len(np.arange(40)[ids]) // batch)):
        m.update(wrap(GOLDEN["cams"][chunk]), wrap(GOLDEN["logits"][chunk]), wrap(GOLDEN["labels"][chunk].astype(int)),
                 [TRUTH[i] for i in chunk], None if masks is None else masks[chunk])
    return m


@pytest.fixture(scope="module")
def forty(): return measure(multi=True)


def test_released_28_values(forty):
    got = forty.compute("released")
    assert list(got) == list(GOLDEN["result_keys"])
    assert list(got.values()) == list(GOLDEN["result_vals"])
    np.testing.assert_array_equal(top_classes(GOLDEN["logits"]), GOLDEN["top5"])


def test_released_at_one_threshold():
    assert list(measure(thresholds=[.35]).compute("released").values()) == list(GOLDEN["thr035_vals"])


def test_released_counts(forty):
    hit = forty._get("pred")[:, :, None] >= np.float32([.3, .5, .7])[:, None]  # [N, 5, 3, T]
    right = forty._get("top") == forty._get("label")[:, None]
    for i, k in enumerate((1, 5)):
        np.testing.assert_array_equal(hit[:, :k].any(1).sum(0), GOLDEN["det"][:, i])
        np.testing.assert_array_equal((hit & right[..., None, None])[:, :k].any(1).sum(0), GOLDEN["loc"][:, i])


def test_standard_metrics_of_the_benchmark(forty):
    for i, iou in enumerate((.3, .5, .7)):
        np.testing.assert_allclose(forty.curve("gt", iou) * .4, GOLDEN["clovaai_v1_counts"][i], atol=1e-9)
        np.testing.assert_allclose(forty.curve("multi", iou) * .4, GOLDEN["clovaai_v2_counts"][i], atol=1e-9)
    got = forty.compute(Protocol("gt", "oracle"))
    for name, ref in (("maxboxacc", "clovaai_v1"), ("maxboxaccv2", "clovaai_v2")):
        np.testing.assert_allclose([got[f"{name}_{k}"] for k in (30, 50, 70)], GOLDEN[ref], atol=1e-9)
        assert abs(got[f"{name}_mean"] - GOLDEN[f"{ref}_mean"]) < 1e-9


@pytest.mark.parametrize("step", [.01, .001])
def test_pxap(step):
    m = measure(slice(0, 20), GOLDEN["masks20"], thresholds=np.arange(0, 1, step), keep=1)
    assert abs(m.pxap() / float(GOLDEN[f"pxap_{step}"]) - 1) < 1e-6
    if step == .01: np.testing.assert_array_equal(m.pixels[:, 1:], [GOLDEN["pxap_hist_true"], GOLDEN["pxap_hist_false"]])


def test_batches_merging_and_files_change_nothing(tmp_path):
    whole, masks = measure(slice(0, 9), GOLDEN["masks20"], batch=9, as_tensor=False), GOLDEN["masks20"]
    parts = [measure(slice(*s), masks, batch=2) for s in ((0, 3), (3, 4), (4, 9))]
    parts[2].save(tmp_path / "part.npz")
    merged = parts[0].merge(parts[1]).merge(LocalizationMetrics.load(tmp_path / "part.npz"))
    assert merged.compute("released") == whole.compute("released") and len(merged) == 9
    assert merged.table(.5, .1) == whole.table(.5, .1)
    merged.reset()
    assert len(merged) == 0 and LocalizationMetrics().load_state_dict(merged.state_dict()).size == (224, 224)


def test_fewer_maps_same_standard_numbers(forty):
    few, p = measure(keep=1), Protocol("pred", "fixed", .5)
    assert {k: v for k, v in forty.compute(p).items() if not k.startswith("top5")} == few.compute(p)
    assert few.choose_threshold("gt") == forty.choose_threshold("gt")


def test_maps_on_demand(forty):
    class Output:
        asked = 0
        def maps_for(self, classes):
            Output.asked += classes.numel()
            return torch.from_numpy(GOLDEN["cams"])[torch.arange(40)[:, None], classes]
    m = LocalizationMetrics(keep=1)
    m.update(Output(), GOLDEN["logits"], GOLDEN["labels"], TRUTH)
    assert Output.asked == 80
    np.testing.assert_array_equal(m.best_ious(), forty.best_ious())


def test_val_threshold_never_beats_the_oracle(forty):
    val = measure(slice(0, 15))
    for m in ("gt", "pred"):
        t = val.choose_threshold(m)
        assert t in THRESHOLDS
        chosen, best = forty.compute(Protocol(m, "val", t)), forty.compute(Protocol(m, "oracle"))
        assert all(chosen[k] <= best[k] + 1e-9 for k in chosen if isinstance(chosen[k], float) and k != "threshold")
    rows = forty.table(val_threshold=val, fixed=.1)
    assert [r["protocol"] for r in rows] == list(dict.fromkeys(r["protocol"] for r in rows)) and len(rows) == 6


def test_bins_add_up(forty):
    dial = np.linspace(0, 1, 40)
    rows = forty.by(dial, [0, .2, .5, 1], Protocol("gt", "oracle"))
    assert sum(r["images"] for r in rows) == 40
    assert abs(sum(r["images"] * r["gt_known"] for r in rows) / 40 - forty.compute(Protocol("gt", "oracle"))["gt_known"]) < 1e-9


def test_one_map_for_all_classes():
    m = LocalizationMetrics(keep=3)
    m.update(GOLDEN["cams"][:4, 0], GOLDEN["logits"][:4], GOLDEN["labels"][:4], TRUTH[:4])
    np.testing.assert_array_equal(m.best_ious("gt"), m.best_ious("pred"))


def test_two_classes_are_enough():
    m = LocalizationMetrics()
    m.update(GOLDEN["cams"][:5, :2], GOLDEN["logits"][:5, :2], [0, 1, 0, 1, 0], TRUTH[:5])
    assert len(m.compute("released")) == 28 and m.compute()["top5_cls"] == 100


def test_floors():
    assert whole_image_baseline([np.array([[0, 0, 223, 223]])])["mean_iou"] == 100
    rng = np.random.default_rng(0)
    boxes = [np.array([[a, b, 223 - a + 3, 223 - b]]) for a, b in rng.integers(30, 60, (50, 2))]
    floor = best_centred_baseline(boxes[:25], boxes[25:])
    assert floor["gt_known"] == 100 and .45 < floor["fraction"] < .75


def bad_batches():
    "Name -> the message, and what spoils a batch of maps c, logits l, labels y, boxes b."
    return dict(nan_map=("NaN", lambda c, l, y, b: c.__setitem__((1, y[1]), np.nan)),
                nan_logit=("logits contain NaN", lambda c, l, y, b: l.__setitem__((0, 0), np.nan)),
                label=("12 classes", lambda c, l, y, b: y.__setitem__(0, 12)),
                no_box=("image 2 of the batch has no true box", lambda c, l, y, b: b.__setitem__(2, np.zeros((0, 4)))),
                swapped=("corners are swapped", lambda c, l, y, b: b.__setitem__(0, np.array([[9, 9, 3, 20]]))))


@pytest.mark.parametrize("name", bad_batches())
def test_bad_batches_are_refused_and_leave_nothing_behind(name):
    message, spoil = bad_batches()[name]
    batch = GOLDEN["cams"][:3].copy(), GOLDEN["logits"][:3].copy(), GOLDEN["labels"][:3].astype(int), list(TRUTH[:3])
    spoil(*batch)
    m = LocalizationMetrics(keep=1)
    with pytest.raises(DataError, match=message): m.update(*batch, GOLDEN["masks20"][:3])
    assert len(m) == 0 and not m.pixels.any()


def test_flat_maps_do_not_stop_an_evaluation():
    m = LocalizationMetrics()
    m.update(np.zeros((2, 12, 14, 14)), GOLDEN["logits"][:2], GOLDEN["labels"][:2], TRUTH[:2])
    assert all(np.isfinite(v) for v in m.compute("released").values()) and m.compute()["gt_known"] == 0


def test_other_refusals(forty, tmp_path):
    with pytest.raises(LcaError, match="call update first"): LocalizationMetrics().compute("released")
    with pytest.raises(LcaError, match="was not swept"): forty.compute(Protocol("gt", "fixed", .1234))
    with pytest.raises(LcaError, match="keep"): forty.merge(measure(slice(0, 2), keep=1))
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 not really")
    for f in ("x.npz", "missing.npz"):
        with pytest.raises(DataError, match=f): LocalizationMetrics.load(tmp_path / f)
