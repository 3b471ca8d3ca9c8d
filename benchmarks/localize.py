"""Localizing a folder: `localize_folder` beside the plain loop (open, transform, network, map, box; one image at a time), same boxes, same threads.

The sides take turns, and the median of the turns counts. Memory (on Linux): the peak above what the process held with everything imported.
Run `python benchmarks/localize.py` (some minutes); `--images FOLDER --checkpoint FILE` measures yours, `--turns N` makes it steadier,
`--json FILE` writes the numbers.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lca_md.boxes import largest_boxes, normalize_map, resize_maps
from lca_md.models import shipped_weights
from lca_md.predict import LocalizeConfig, Localizer, list_images, localize_folder, scale_box
from lca_md.synth import draw_bird

OURS = {"batch 1": dict(batch_size=1), "batch 4": dict(batch_size=4), "batch 16": dict(batch_size=16), "batch 64": dict(batch_size=64),
        "batch 16, no reading ahead": dict(workers=0), "batch 16, pictures": dict(pictures="jpg"), "batch 16, flip": dict(flip=True)}


def draw(folder, n):
    "Drawings as JPEGs of a photograph's usual size."
    for i in range(n): Image.fromarray(draw_bird(i).image).resize((500, 375)).save(folder/f"{i:04d}.jpg", quality=92)


@torch.no_grad()
def plain(images, checkpoint, out):
    "What one writes without a library for it; a line per box."
    loc = Localizer.from_checkpoint(checkpoint)
    root, names = list_images(images)
    t, lines = loc.threshold("pred"), []
    for n in names:
        pic = Image.open(root/n).convert("RGB")
        o = loc.model(loc.transform(pic)[None])
        m = o.maps_for(o.logits.argmax(1, keepdim=True))[0].numpy()
        lines.append([n, *scale_box(largest_boxes(normalize_map(resize_maps(m, loc.size)), [t])[0, 0].tolist(), loc.size, pic.size)])
    return lines


def ours(images, checkpoint, out, **how):
    got = localize_folder(LocalizeConfig(images=str(images), checkpoint=str(checkpoint), out=str(out), device="cpu", **how))
    return [[r["image"], *(r["found"][0]["boxes"] or [[0]*4])[0]] for r in got["rows"]]


def side(name, images, checkpoint):
    with tempfile.TemporaryDirectory() as out:
        t = time.perf_counter()
        lines = plain(images, checkpoint, out) if name == "plain" else ours(images, checkpoint, out, **OURS[name])
        return len(lines)/(time.perf_counter() - t), lines


def memory(key):
    "VmRSS or VmHWM of this process, MB."
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))//1024


def peak(name, args):
    "Peak memory of a process that does only this, above its imports, MB."
    if not Path("/proc/self/clear_refs").exists(): return 0
    run = [sys.executable, __file__, "--only", name, "--images", args.images, "--checkpoint", args.checkpoint, "--threads", str(args.threads)]
    return json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--images", help="folder (default: drawings of 500 x 375 pixels)")
    p.add_argument("--n", type=int, default=96, help="drawings, where no folder is given")
    p.add_argument("--checkpoint", default=str(shipped_weights("lca_md")))
    p.add_argument("--turns", type=int, default=3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--sides", help="only these, with ; between")
    p.add_argument("--json")
    p.add_argument("--only", help=argparse.SUPPRESS)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
        side(args.only, args.images, args.checkpoint)
        return print(memory("VmHWM") - before)
    home = tempfile.TemporaryDirectory()
    if not args.images: draw(Path(home.name), args.n)
    args.images = args.images or home.name
    names = [n for n in ("plain", *OURS) if not args.sides or n in args.sides.split(";")]
    speed, want = {n: [] for n in names}, side("plain", args.images, args.checkpoint)[1]
    for turn in range(args.turns):
        for n in names if turn % 2 else names[::-1]:
            s, lines = side(n, args.images, args.checkpoint)
            if n not in ("batch 16, flip",): np.testing.assert_array_equal(np.array(lines), np.array(want))
            speed[n].append(s)
    rows = [dict(side=n, images_per_second=statistics.median(speed[n]), ratio=statistics.median(a/b for a, b in zip(speed[n], speed["plain"])),
                 low=min(speed[n]), high=max(speed[n]), peak_mb=peak(n, args)) for n in names]
    print(f"{len(want)} images, {args.threads} thread(s) of {os.cpu_count()} cores, {Path(args.checkpoint).name}; from files to all four formats\n")
    print(f"{'side':<28}{'images/s':>10}{'spread':>16}{'times plain':>13}{'memory, MB':>12}")
    for r in rows:
        print(f"{r['side']:<28}{r['images_per_second']:>10.1f}{r['low']:>9.1f} ..{r['high']:>5.1f}{r['ratio']:>13.2f}{r['peak_mb']:>12}")
    if args.json: Path(args.json).write_text(json.dumps(rows, indent=1))
    home.cleanup()


if __name__ == "__main__": main()
