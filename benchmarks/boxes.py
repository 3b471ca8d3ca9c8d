"""Boxes of all thresholds: `largest_boxes` beside the plain loop (resize, then threshold + findContours for each threshold), same maps, one thread.

Both sides start from coarse maps and end with identical boxes (compared first); they take turns, and the median of the turns counts.
Run `python benchmarks/boxes.py` (about a minute); `--images N` and `--turns N` make it shorter or steadier, `--json FILE` writes the numbers,
`--maps FILE.npy` also measures maps [N, 5, h, w] of your own.
"""
import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from lca_md.boxes import _compiled, largest_boxes, map_levels
from lca_md.synth import draw_bird

SIDE, TOP = 224, 5
ROWS = [("smooth", 100, 8, 20), ("many peaks", 100, 8, 20), ("smooth", 1000, 60, 60), ("many peaks", 1000, 60, 60)]  # kind, thresholds, must, goal


def smooth(n):
    "Maps like a trained model's: head and body of a drawn bird at several strengths, softened, with a little unrest. [n, 5, 14, 14]"
    rng, out = np.random.default_rng(0), np.zeros((n, TOP, 14, 14))
    for i, k in np.ndindex(n, TOP):
        bird, part = draw_bird(i), rng.uniform(.3, 1)
        m = cv2.GaussianBlur(part*bird.mask + (1 - part)*bird.parts["head"], (0, 0), 9)
        out[i, k] = cv2.resize(m, (14, 14), interpolation=cv2.INTER_AREA) + .15*cv2.GaussianBlur(rng.random((14, 14)), (0, 0), 1.5)
    return out


def many_peaks(n): return np.random.default_rng(1).random((n, TOP, 14, 14))


def plain(maps, thresholds):
    "The usual loop for one image's maps."
    out = []
    for m in maps:
        big = cv2.resize(m, (SIDE, SIDE))
        big = big - big.min()
        levels = (255*(big/big.max())).astype(np.uint8)
        for t in thresholds:
            inside = cv2.threshold(levels, int(t*levels.max()), 1, cv2.THRESH_BINARY)[1]
            contours = cv2.findContours(inside, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
            if not contours: out.append((0, 0, 0, 0)); continue
            x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
            out.append((x, y, min(x + w, SIDE - 1), min(y + h, SIDE - 1)))
    return np.array(out).reshape(len(maps), -1, 4)


def ours(maps, thresholds): return largest_boxes(map_levels(maps, SIDE), thresholds)


def seconds(f, images, thresholds):
    t = time.thread_time()
    for maps in images: f(maps, thresholds)
    return (time.thread_time() - t)/len(images)


def measure(images, n, turns):
    thresholds = np.arange(n)/n
    for maps in images[:8]: np.testing.assert_array_equal(ours(maps, thresholds), plain(maps, thresholds))
    few, pairs = images[:max(2, len(images)*100//n)], []
    for turn in range(turns):
        order = (plain, ours) if turn % 2 else (ours, plain)
        got = {f: seconds(f, few, thresholds) for f in order}
        pairs.append((got[plain]*1000, got[ours]*1000))
    ratios = [a/b for a, b in pairs]
    base, own = (statistics.median(x) for x in zip(*pairs))
    return dict(plain=base, ours=own, ratio=statistics.median(ratios), low=min(ratios), high=max(ratios))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--images", type=int, default=20)
    p.add_argument("--turns", type=int, default=7)
    p.add_argument("--maps", type=Path, help="a file of maps [N, 5, h, w] to measure beside the drawn ones")
    p.add_argument("--json", type=Path, help="write the numbers to this file")
    a = p.parse_args()
    cv2.setNumThreads(1)
    kinds = {"smooth": smooth(a.images), "many peaks": many_peaks(a.images)}
    rows = list(ROWS)
    if a.maps:
        kinds[a.maps.stem] = np.load(a.maps, allow_pickle=False).astype(float)[:a.images]
        rows += [(a.maps.stem, 100, 8, 20), (a.maps.stem, 1000, 60, 60)]
    _compiled()  # machine code is made, or read, before anything is timed
    print(f"one thread, {TOP} maps an image, resize to {SIDE} x {SIDE} included, median of {a.turns} turns, CPU time\n")
    print("| maps | thresholds | plain loop | ours | times faster (lowest .. highest turn) | must | goal |\n|---|---:|---:|---:|---:|---:|---:|")
    results = []
    for kind, n, must, goal in rows:
        r = measure(kinds[kind], n, a.turns)
        times = f"{r['ratio']:.1f} ({r['low']:.1f} .. {r['high']:.1f})"
        print(f"| {kind} | {n} | {r['plain']:.1f} ms/img | {r['ours']:.2f} | {times} | {must} | {goal} |", flush=True)
        results.append(dict(kind=kind, thresholds=n, must=must, goal=goal, **r))
    if a.json: a.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__": main()
