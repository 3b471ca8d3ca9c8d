"Chapters 21 to 21e: every value of the reference evaluations, the same result however images are batched and merged, and clear refusals."
from pathlib import Path

import numpy as np
import pytest
import torch

from lca_md.core import DataError, LcaError
from lca_md.metrics import (MISSES, THRESHOLDS, LocalizationMetrics, MapFolder, Protocol, best_centred_baseline, miss_kind, top_classes,
                            whole_image_baseline)

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


def test_taxonomy_equals_the_definitions_written_out():
    rng = np.random.default_rng(0)
    def area(b): return max(0, b[2] - b[0] + 1) * max(0, b[3] - b[1] + 1)
    def shared(a, b): return area([max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])])
    seen = set()
    for _ in range(400):
        truth = np.sort(rng.integers(0, 40, (rng.integers(1, 4), 2, 2)), axis=1).reshape(-1, 4)
        box = np.sort(rng.integers(0, 40, (2, 2)), axis=0).reshape(4)
        iog, iop = [shared(box, t) / area(t) for t in truth], [shared(box, t) / area(box) for t in truth]
        ious = [shared(box, t) / (area(box) + area(t) - shared(box, t)) for t in truth]
        best = ious.index(max(ious))
        kind = 0 if ious[best] >= .5 else 1 if sum(v > .3 for v in iog) > 1 else 2 if iop[best] > .5 else 3 if iog[best] >= .7 else 4
        assert miss_kind([box], truth) == [kind]
        seen.add(kind)
    assert seen == set(range(len(MISSES)))


@pytest.mark.parametrize("protocol", [Protocol("gt", "fixed", .3), Protocol("gt", "oracle"), Protocol("pred", "val", .12)], ids=str)
def test_errors_add_up(forty, protocol):
    got, same = forty.errors(protocol), forty._fixed(protocol)
    assert abs(sum(v for k, v in got.items() if k != "protocol") - 100) < 1e-9
    assert abs(got["right"] - forty.compute(same)["top1_loc"]) < 1e-9
    assert abs(got["classification"] - (100 - forty.classification()["top1_cls"])) < 1e-9


def test_classes_and_sizes_add_up(forty):
    p = Protocol("gt", "fixed", .3)
    whole = forty.compute(p)
    for rows in (forty.per_class(p), forty.by_size(p)):
        rows = [r for r in rows if r["images"]]
        assert sum(r["images"] for r in rows) == 40
        for k in ("gt_known", "top1_loc", "mean_iou", "top1_cls"):
            assert abs(sum(r["images"] * r[k] for r in rows) / 40 - whole[k]) < 1e-9
    area = [max((b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1)) / 224**2 for b in TRUTH]
    assert [r["images"] for r in forty.by_size(p)] == [r["images"] for r in forty.by(area, (0, .05, .1, .2, .3, .5, 1), p)]


def test_iou_curve_and_failures(forty):
    p = Protocol("gt", "fixed", .3)
    np.testing.assert_allclose(forty.iou_curve(p, (.3, .5, .7)), [forty.compute(p)[f"maxboxacc_{k}"] for k in (30, 50, 70)])
    worst, iou = forty.failures(40, p), forty.best_ious()[:, 30]
    assert len(worst) == (iou < .5).sum() and (np.diff(iou[worst]) >= 0).all()


def test_intervals(forty):
    for p in (Protocol("gt", "fixed", .3), Protocol("gt", "oracle")):
        got, value = forty.intervals(p), forty.compute(p)
        assert got == forty.intervals(p) != forty.intervals(p, seed=1)
        assert all(0 <= low <= value[k] <= high <= 100 for k, (low, high) in got.items())
    wide, narrow = forty.intervals(p, level=99)["gt_known"], forty.intervals(p, level=50)["gt_known"]
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    sure = LocalizationMetrics(keep=1)
    sure.update(np.kron([[1, 0], [0, 0]], np.ones((7, 7)))[None, None], np.ones((1, 1)), [0], [np.array([[0, 0, 111, 111]])])
    assert sure.intervals(Protocol("gt", "fixed", .5))["gt_known"] == (100, 100)


def test_each_misreading_moves_the_number(forty):
    "A threshold for each image >= the test split's own >= one chosen elsewhere; and the predicted class's map is another number."
    held_out = measure(slice(0, 15)).choose_threshold()
    per_image = 100 * (forty.best_ious().max(1) >= .5).mean()
    oracle, honest = forty.curve().max(), forty.curve()[round(100 * held_out)]
    assert per_image > oracle >= honest
    assert (forty.compute("released")["GT-Known_top-1"], oracle) == (60, GOLDEN["clovaai_v1"][1]) == (60, 67.5)


def test_gather_merges_all_ranks(monkeypatch):
    ranks = [measure(slice(0, 3), keep=1), measure(slice(3, 9), keep=1)]
    def all_gather(into, state):
        assert state.keys() == ranks[0].state_dict().keys()
        into[:] = [r.state_dict() for r in ranks]
    fakes = dict(is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2, all_gather_object=all_gather)
    for name, f in fakes.items(): monkeypatch.setattr(torch.distributed, name, f)
    together = measure(slice(3, 9), keep=1).gather()
    assert together.compute() == measure(slice(0, 9), keep=1).compute()


def test_maps_from_a_folder(tmp_path, forty):
    (tmp_path / "class").mkdir()
    for i in range(6): np.save(tmp_path / ("class" if i % 2 else ".") / f"image{i}.npy", GOLDEN["cams"][i])
    folder, m = MapFolder(tmp_path), LocalizationMetrics()
    names = [f"class/image{i}.jpg" for i in range(6)]
    m.update(folder.batch(names), GOLDEN["logits"][:6], GOLDEN["labels"][:6], TRUTH[:6])
    assert m.compute("released") == measure(slice(0, 6)).compute("released")
    assert folder.missing([*names, "other.jpg"]) == ["other.jpg"]
    assert folder.missing(["class2/image0.jpg", "class2/image1.jpg"]) == ["class2/image1.jpg"], "another class's map is not this image's"
    np.save(tmp_path / "one.npy", GOLDEN["cams"][0, 0])
    one = LocalizationMetrics(keep=1)
    one.update(MapFolder(tmp_path).batch(["one"]), GOLDEN["logits"][:1], GOLDEN["labels"][:1], TRUTH[:1])
    np.testing.assert_array_equal(one.best_ious("gt"), one.best_ious("pred"))
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY torn")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    for name in ("bad", "flat"):
        with pytest.raises(DataError, match=f"{name}.npy"): MapFolder(tmp_path).batch([name])
    with pytest.raises(DataError, match="no such folder of maps"): MapFolder(tmp_path / "nothing")


def test_scores_saved_before_a_quantity_existed(forty):
    old = {k: v for k, v in forty.state_dict().items() if k not in ("row_miss", "row_area")}
    m = LocalizationMetrics().load_state_dict(old)
    assert m.compute() == forty.compute()
    with pytest.raises(LcaError, match="measure the images again"): m.errors()
