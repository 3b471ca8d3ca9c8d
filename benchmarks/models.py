"""Speed and memory of the localizers, as ratios to the plain timm DeiT with a linear head.

Optimizer, images and threads are the same.
On an AMD processor ours multiplies by oneDNN (chapter 10); `--mkl` leaves it to PyTorch's usual library, as the plain model does.
Each ratio is measured in one process: the two models take turns, and the median of the turns' ratios counts. Peak memory: one process per model.
`python benchmarks/models.py` takes fifteen minutes, `python benchmarks/models.py tiny` measures a part; `--json FILE` writes the numbers.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

THREADS, BATCH, TURNS = 2, 8, 15
ROWS = [  # name, size, classes, what, must, goal
    ("tscam", "tiny", 200, "train", 1.04, 1.02), ("tscam", "small", 200, "train", 1.03, 1.01),
    ("lca_md", "tiny", 200, "train", 1.22, 1.12), ("lca_md", "small", 200, "train", 1.09, 1.06), ("lca_md", "small", 1000, "train", 1.15, 1.10),
    ("tscam", "tiny", 200, "infer", 1.05, 1.03), ("lca_md", "tiny", 200, "infer", 1.05, 1.03), ("lca_md", "tiny", 1000, "infer", 1.05, 1.03),
    ("tscam", "small", 200, "infer", 1.04, 1.02), ("lca_md", "small", 200, "infer", 1.04, 1.02), ("lca_md", "small", 1000, "infer", 1.04, 1.02),
    ("tscam", "tiny", 200, "memory", 1.15, 1.15), ("lca_md", "tiny", 200, "memory", 1.15, 1.15),
    ("tscam", "small", 200, "memory", 1.10, 1.10), ("lca_md", "small", 200, "memory", 1.10, 1.10)]
SAY = dict(train="training step", infer="inference, logits + maps of the top 5", memory="peak memory, training")


def images():
    import numpy as np
    import torch
    from lca_md.data import MEAN, STD
    from lca_md.synth import draw_bird
    x = torch.from_numpy(np.stack([draw_bird(i).image for i in range(BATCH)])).permute(0, 3, 1, 2).float()/255
    return (x - torch.tensor(MEAN)[:, None, None])/torch.tensor(STD)[:, None, None]


def make(method, size, classes):
    "A model, and functions that do one training step and one inference of it."
    import timm
    import torch
    from timm.optim import create_optimizer_v2
    import lca_md  # noqa: F401 (registers the models)
    from lca_md import backbone
    if os.environ.get("LCA_BENCH_MKL"): backbone.ONEDNN = False
    from lca_md.losses import lca_md_loss
    torch.manual_seed(0)
    name = f"deit_{size}_patch16_224" if method == "plain" else f"deit_{method}_{size}_patch16_224"
    m = timm.create_model(name, num_classes=classes, drop_path_rate=.1)
    opt = create_optimizer_v2(m, opt="adamw", lr=1e-5, weight_decay=.05, fused=True)
    x, y = images(), torch.arange(BATCH)

    def train():
        m.train()
        out = m(x)
        loss = torch.nn.functional.cross_entropy(out, y) if method == "plain" else lca_md_loss(out, y)["loss"]
        opt.zero_grad()
        loss.backward()
        opt.step()

    def infer():
        m.eval()
        with torch.inference_mode():
            out = m(x)
            if method != "plain": out.maps_for(out.logits.topk(5).indices)
    return dict(train=train, infer=infer)


def ratio(method, size, classes, what):
    "Medians of interleaved turns, in ms per image."
    import torch
    torch.set_num_threads(THREADS)
    steps = [make(m, size, classes)[what] for m in ("plain", method)]
    times, repeat = [[], []], 3 if what == "infer" else 1
    for turn in range(TURNS + 2):
        for k in ((0, 1) if turn % 2 else (1, 0)):
            t = time.perf_counter()
            for _ in range(repeat): steps[k]()
            if turn >= 2: times[k].append((time.perf_counter() - t)/repeat/BATCH*1000)
    plain, ours = (statistics.median(t) for t in times)
    pairs = sorted(b/a for a, b in zip(*times))  # neighbours in time share the machine's mood; the median of their ratios counts
    return dict(plain=plain, ours=ours, ratio=statistics.median(pairs), low=pairs[len(pairs)//4], high=pairs[-1 - len(pairs)//4])


def memory(method, size, classes):
    "Peak resident memory of a process that makes three training steps, in MB."
    import torch
    torch.set_num_threads(THREADS)
    step = make(method, size, classes)["train"]
    for _ in range(3): step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def child(*args):
    "One measurement in a process of its own."
    done = subprocess.run([sys.executable, "-W", "ignore", __file__, "--child", *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode: sys.exit(f"error: measuring {args} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("only", nargs="*", help="words that a row must contain, e.g. tiny train")
    p.add_argument("--json", type=Path, help="write the numbers to this file")
    p.add_argument("--mkl", action="store_true", help="no oneDNN for ours")
    p.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        method, size, classes, what = a.child[0], a.child[1], int(a.child[2]), a.child[3]
        return print(json.dumps(memory(method, size, classes) if what == "memory" else ratio(method, size, classes, what)))
    if a.mkl: os.environ["LCA_BENCH_MKL"] = "1"
    library = ", without oneDNN" if a.mkl else ""
    print(f"{THREADS} threads, batch {BATCH}, fp32{library}, median ratio of {TURNS} interleaved turns; plain: timm's deit_* with a linear head\n")
    print("| model | classes | what | plain | ours | ratio (quartiles) | must | goal |\n|---|---|---|---:|---:|---:|---:|---:|")
    rows = []
    for method, size, classes, what, must, goal in ROWS:
        if not all(w in (method, size, what, str(classes)) for w in a.only): continue
        if what == "memory":
            plain, ours = child("plain", size, classes, what), child(method, size, classes, what)
            r = dict(plain=plain, ours=ours, ratio=ours/plain)
        else: r = child(method, size, classes, what)
        unit, spread = ("MB", "") if what == "memory" else ("ms/img", f" ({r['low']:.2f} .. {r['high']:.2f})")
        numbers = f"{r['plain']:.1f} {unit} | {r['ours']:.1f} | {r['ratio']:.3f}{spread}"
        print(f"| {method} {size} | {classes} | {SAY[what]} | {numbers} | {must} | {goal} |", flush=True)
        rows.append(dict(method=method, size=size, classes=classes, what=what, must=must, goal=goal, **r))
    if a.json: a.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__": main()
