"Chapters 20 to 20e: boxes equal to a plain OpenCV loop on thousands of maps, and to the recorded answers of the reference evaluation."
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lca_md import boxes as B
from lca_md.boxes import all_boxes, best_iou, box_iou, box_overlap, largest_boxes, map_levels, normalize_map, resize_maps, to_levels
from lca_md.core import DataError, LcaError

GOLDEN = np.load(Path(__file__).parent / "golden" / "evaluation.npz")
THRESHOLDS = np.arange(0, 1, .01)


def plain_boxes(levels, thresholds):
    "The standard evaluation, written down again: one threshold after the other, every contour, the largest area, the first on ties."
    out, (H, W) = [], levels.shape
    for t in thresholds:
        inside = (levels > int(t * levels.max())).astype(np.uint8)
        contours = cv2.findContours(inside, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not contours: out.append([0, 0, 0, 0]); continue
        x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
        out.append([x, y, min(x + w, W - 1), min(y + h, H - 1)])
    return np.array(out)


def gt_maps(): return GOLDEN["cams"][np.arange(40), GOLDEN["labels"]]  # [40, 14, 14]


def test_reference_maps_and_boxes():
    levels = to_levels(normalize_map(resize_maps(gt_maps())))
    np.testing.assert_array_equal(levels[:4], GOLDEN["scoremap_u8_first4"])
    np.testing.assert_array_equal(largest_boxes(levels, GOLDEN["thresholds"]), GOLDEN["gtclass_boxes"])


def test_reference_contours():
    truth = [b[b[:, 0] >= 0] for b in GOLDEN["gt_boxes"]]
    found = all_boxes(normalize_map(resize_maps(gt_maps())), THRESHOLDS)
    np.testing.assert_array_equal([[len(b) for b in row] for row in found], GOLDEN["gtclass_multi_n"])
    best = [[best_iou(b, t).max(initial=0) for b in row] for row, t in zip(found, truth)]
    np.testing.assert_allclose(best, GOLDEN["gtclass_multi_best_iou"], atol=1e-7)


@pytest.mark.parametrize("kind", ["noise", "plateaus", "smooth", "ties"])
def test_equal_to_plain_loop(kind):
    rng = np.random.default_rng(sum(map(ord, kind)))
    for _ in range(500):
        H, W = rng.integers(1, 28, 2)
        m = rng.random((H, W))
        if kind == "plateaus": m = np.round(m * rng.integers(1, 5)) / 4
        if kind == "smooth": m = cv2.GaussianBlur(m, (0, 0), rng.uniform(.5, 4))
        if kind == "ties": m = np.kron((m < rng.random()) * rng.integers(1, 3, (H, W)) / 2, np.ones((2, 2)))
        levels, thresholds = to_levels(m), THRESHOLDS[::rng.integers(3, 12)]
        np.testing.assert_array_equal(largest_boxes(levels[None], thresholds)[0], plain_boxes(levels, thresholds))


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 127, 128, 254, 255])),
       st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_equal_to_plain_loop_any_map(levels, thresholds):
    np.testing.assert_array_equal(largest_boxes(levels[None], thresholds)[0], plain_boxes(levels, thresholds))


def by_tree(levels, cuts, run, **more): return B._by_tree(levels[None], np.array(cuts)[None], run, **more)[0]


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2, 127, 128, 254, 255])))
def test_sweep_equals_tracing(levels):
    "Both ways to sweep, at every level that the map has; the sweep as written, not compiled."
    cuts = np.unique(levels)[:-1].astype(int)
    if not len(cuts): return
    want = [B.largest_box(levels, level) for level in cuts]
    np.testing.assert_array_equal(by_tree(levels, cuts, B._sweep_maps), want)
    np.testing.assert_array_equal(B._by_tracing(levels, cuts), want)


@pytest.mark.parametrize("kind", ["coarse", "noise", "waves", "mazes", "rings"])
def test_compiled_sweep_equals_tracing(kind):
    "All levels of larger maps: many islands that compete, touch at corners only, lie in each other's holes, or have equal areas."
    sweep, rng = B._compiled()["_sweep_maps"], np.random.default_rng(sum(map(ord, kind)))
    for i in range(12):
        H, W = rng.integers(20, 130, 2)
        y, x = np.mgrid[:H, :W]
        m = {"coarse": lambda: cv2.resize(rng.random((rng.integers(2, 15), rng.integers(2, 15))), (int(W), int(H))),
             "noise": lambda: rng.random((H, W)),
             "waves": lambda: np.sin(x * rng.uniform(.05, .7)) * np.sin(y * rng.uniform(.05, .7)) + rng.uniform(0, .01) * x,
             "mazes": lambda: np.kron(rng.random((-(-H // 3), -(-W // 3))), np.eye(3) + .3 * rng.random((3, 3)))[:H, :W],
             "rings": lambda: np.cos(np.hypot(x - W * rng.random(), y - H * rng.random()) * rng.uniform(.1, .9))}[kind]()
        levels = to_levels(normalize_map(m))
        if i % 3 == 0: levels = levels // 32 * 32
        cuts = np.arange(levels.min(), levels.max())
        np.testing.assert_array_equal(by_tree(levels, cuts, sweep), B._by_tracing(levels, cuts))


def test_settling_in_parts():
    "More islands than the list of them holds: it is settled in between, with the same answer."
    levels, cuts = np.random.default_rng(3).integers(0, 40, (60, 70), dtype=np.uint8), np.arange(39)
    want = B._by_tracing(levels, cuts)
    for room in (0, 1 << 16): np.testing.assert_array_equal(by_tree(levels, cuts, B._compiled()["_sweep_maps"], room=room), want)


def test_few_and_many_boxes_agree(monkeypatch):
    levels = map_levels(gt_maps()[:6])
    np.testing.assert_array_equal(largest_boxes(levels, GOLDEN["thresholds"]), GOLDEN["gtclass_boxes"][:6])
    monkeypatch.setattr(B, "LARGE_SWEEP", 10**9)
    np.testing.assert_array_equal(largest_boxes(levels, GOLDEN["thresholds"]), GOLDEN["gtclass_boxes"][:6])


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(-1e6, 1e6)),
       st.integers(1, 20), st.integers(1, 20))
def test_levels_in_one_step(maps, H, W):
    B._compiled()
    np.testing.assert_array_equal(map_levels(maps, (H, W)), to_levels(normalize_map(resize_maps(maps, (H, W)))))


def test_thousand_thresholds():
    levels = to_levels(normalize_map(resize_maps(gt_maps()[:2])))
    thresholds = np.linspace(0, 1, 1000, endpoint=False)
    for m, boxes in zip(levels, largest_boxes(levels, thresholds)): np.testing.assert_array_equal(boxes, plain_boxes(m, thresholds))


def test_tensors_and_arrays_agree():
    maps = normalize_map(resize_maps(gt_maps()[:3]))
    np.testing.assert_array_equal(largest_boxes(torch.from_numpy(maps), torch.arange(0, 1, .25)), largest_boxes(maps, np.arange(0, 1, .25)))


@pytest.mark.parametrize("value", [0., .3, 1., -7., 1e300])
def test_flat_map_has_no_box(value):
    scaled = normalize_map(np.full((2, 9, 5), value))
    assert np.isfinite(scaled).all() and (largest_boxes(scaled, THRESHOLDS) == 0).all()


def test_single_pixel():
    m = np.zeros((1, 6, 8)); m[0, 2, 3] = 1
    assert largest_boxes(m, [0, .5, .99]).tolist() == [[[3, 2, 4, 3]] * 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_map_is_refused(bad):
    maps = np.zeros((3, 14, 14)); maps[2, 0, 0] = bad
    for f in (normalize_map, resize_maps, to_levels, map_levels, lambda m: largest_boxes(m, [.5])):
        with pytest.raises(DataError, match=r"map 2\): such a map has no box"): f(maps)


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match="normalize_map first"): largest_boxes(np.full((1, 3, 3), 200.), [.5])
    with pytest.raises(DataError, match=r"\[M, H, W\]"): largest_boxes(np.zeros((3, 3)), [.5])
    with pytest.raises(ValueError, match="between|lie in"): largest_boxes(np.zeros((1, 3, 3)), [1.5])
    assert issubclass(DataError, LcaError)


def test_iou_counts_pixels():
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.integers(0, 12, (40, 2, 2)), axis=1).reshape(40, 4)
    def pixels(b):
        m = np.zeros((12, 12), dtype=bool); m[b[1]:b[3]+1, b[0]:b[2]+1] = True
        return m
    want = [[(pixels(a) & pixels(b)).sum() / (pixels(a) | pixels(b)).sum() for b in boxes[:20]] for a in boxes[20:]]
    np.testing.assert_allclose(box_iou(boxes[20:], boxes[:20]), want, rtol=1e-15)
    np.testing.assert_array_equal(box_overlap(boxes[20:], boxes[:20]), [[(pixels(a) & pixels(b)).sum() for b in boxes[:20]] for a in boxes[20:]])
