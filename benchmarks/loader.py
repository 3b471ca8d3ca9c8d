"""Training images a second: this book's loader beside the plain recipe (PIL, torchvision or timm, DataLoader), same files, one run.

Both sides do the same augmentation (crops, operations, probabilities) on JPEGs of 500 x 375 pixels, and take turns, epoch by epoch; medians count.
Run `python benchmarks/loader.py` (about three minutes on two cores); `--images N`, `--turns N`, `--workers N` make it shorter or steadier,
`--data FOLDER` takes the training pictures of a data set instead of drawn ones, `--json FILE` writes the numbers.
"""
import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from lca_md.data import MEAN, STD, Draw, Record, Tint, WSOLDataset, guard_posterize, make_loader, open_split, train_transform
from lca_md.synth import draw_bird

BATCH, MUST = 32, 1.5


def plain_recipe(recipe):
    "The same augmentation as everybody writes it."
    end = [T.ToTensor(), T.Normalize(MEAN, STD)]
    if recipe == "ilsvrc": return T.Compose([T.Resize((256, 256)), T.RandomCrop(224), T.RandomHorizontalFlip(), *end])
    if recipe == "light": return T.Compose([T.RandomResizedCrop(224, scale=(.4, 1)), T.RandomHorizontalFlip(), end[0], Tint(), end[1]])
    return guard_posterize(create_transform(224, is_training=True, color_jitter=.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
                                            re_prob=.25, re_mode="pixel", re_count=1, mean=MEAN, std=STD))


class Plain(Dataset):
    "What everybody writes."
    def __init__(self, records, transform): self.records, self.transform = records, transform
    def __len__(self): return len(self.records)

    def __getitem__(self, i):
        with Image.open(self.records[i].path) as im: return self.transform(im.convert("RGB")), self.records[i].label


def draw(folder, n, size):
    "Drawn birds with the unrest of photographs, so that JPEG has as much to do."
    rng, out = np.random.default_rng(0), []
    for i in range(n):
        a = cv2.resize(draw_bird(i, size=224).image, size, interpolation=cv2.INTER_CUBIC)
        a = np.clip(a + cv2.GaussianBlur(rng.normal(0, 40, a.shape), (0, 0), 1.2), 0, 255).astype(np.uint8)
        Image.fromarray(a).save(path := folder / f"{i}.jpg", quality=90)
        out.append(Record(path.name, str(path), i % 8, np.zeros((0, 4)), size))
    return out


def plain_loader(records, recipe, workers):
    return DataLoader(Plain(records, plain_recipe(recipe)), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def our_loader(records, recipe, workers, cache=None):
    ds = WSOLDataset(records, [str(k) for k in range(1 + max(r.label for r in records))], train_transform(224, recipe), cache=cache)
    return make_loader(ds, BATCH, train=True, workers=workers)


def speed(loader, n):
    "Images a second of one epoch."
    t = time.perf_counter()
    for _ in loader: pass
    return n / (time.perf_counter() - t)


def compare(sides, n, turns):
    "Median images a second of each side; they take turns, the first epoch of each (workers start, caches fill) does not count."
    for loader in sides.values(): speed(loader, n)
    rows = {k: [] for k in sides}
    for _ in range(turns):
        for k, loader in sides.items(): rows[k].append(speed(loader, n))
    return {k: statistics.median(v) for k, v in rows.items()}, {k: (min(v), max(v)) for k, v in rows.items()}


def cpu_ms(ds, keys):
    "Milliseconds of one core for one picture, in this process: steady even where other programs run."
    best = []
    for _ in range(4):
        t = time.process_time()
        for k in keys: ds[k]
        best.append((time.process_time() - t) / len(keys) * 1e3)
    return statistics.median(best[1:])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--images", type=int, default=256)
    a.add_argument("--turns", type=int, default=5)
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--data", help="data folder, instead of drawn pictures")
    a.add_argument("--json")
    a = a.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    out = {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        if a.data: records = open_split(a.data, "train")[0][:a.images]
        else:
            (tmp / "jpeg").mkdir()
            records = draw(tmp / "jpeg", a.images, (500, 375))
        n, kb = len(records), sum(os.path.getsize(r.path) for r in records) / len(records) / 1e3
        print(f"{n} JPEGs, {records[0].size[0]} x {records[0].size[1]} and the like, {kb:.0f} kB each; batch {BATCH}, {a.workers} workers, "
                f"{os.cpu_count()} cores\n")
        print(f"one core, ms for a picture:\n{'recipe':8} {'plain':>9} {'ours':>9} {'ratio':>7} {'cached':>9} {'ratio':>7}")
        for recipe in ("ilsvrc", "cub", "light"):
            sides = dict(plain=plain_loader(records, recipe, 0), ours=our_loader(records, recipe, 0), cached=our_loader(records, recipe, 0,
                    tmp / f"cache-{recipe}"))
            m = {k: cpu_ms(v.dataset, range(min(n, 96)) if k == "plain" else [Draw(0, 0, i) for i in range(min(n, 96))]) for k, v in sides.items()}
            out[f"ms {recipe}"] = m
            print(f"{recipe:8} {m['plain']:9.2f} {m['ours']:9.2f} {m['plain'] / m['ours']:7.2f} {m['cached']:9.2f} {m['plain'] / m['cached']:7.2f}",
                    flush=True)
        print(f"\n{'recipe':8} {'plain':>9} {'ours':>9} {'ratio':>7} {'cached':>9} {'ratio':>7}   images/s, medians of {a.turns} epochs (least to "
                f"most)")
        for recipe in ("ilsvrc", "cub", "light"):
            sides = dict(plain=plain_loader(records, recipe, a.workers), ours=our_loader(records, recipe, a.workers),
                         cached=our_loader(records, recipe, a.workers, tmp / f"cache-{recipe}"))
            m, spread = compare(sides, n, a.turns)
            out[recipe] = m
            print(f"{recipe:8} {m['plain']:9.0f} {m['ours']:9.0f} {m['ours'] / m['plain']:7.2f} {m['cached']:9.0f} {m['cached'] / m['plain']:7.2f}   "
                  + ", ".join(f"{k} {lo:.0f} to {hi:.0f}" for k, (lo, hi) in spread.items()), flush=True)
            del sides
        print(f"goal: at least {MUST} times the plain recipe\n\nworkers (ilsvrc recipe, images/s):")
        for w in sorted({0, 1, a.workers}):
            m, _ = compare(dict(plain=plain_loader(records, "ilsvrc", w), ours=our_loader(records, "ilsvrc", w)), n, a.turns)
            out[f"workers {w}"] = m
            print(f"  {w}: plain {m['plain']:.0f}, ours {m['ours']:.0f}, ratio {m['ours'] / m['plain']:.2f}", flush=True)
        if not a.data:
            (tmp / "large").mkdir()
            large = draw(tmp / "large", 12, (4000, 3000)) * 2
            for recipe in ("ilsvrc", "cub"):
                m, _ = compare(dict(plain=plain_loader(large, recipe, a.workers), ours=our_loader(large, recipe, a.workers)), len(large), min(3,
                        a.turns))
                out[f"large {recipe}"] = m
                print(f"photographs of 4000 x 3000, {recipe}: plain {m['plain']:.1f}, ours {m['ours']:.1f}, ratio {m['ours'] / m['plain']:.1f}",
                        flush=True)
    if a.json: Path(a.json).write_text(json.dumps(out, indent=1))


if __name__ == "__main__": main()
