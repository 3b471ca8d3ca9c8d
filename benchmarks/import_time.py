"What `import lca_md` costs, as a multiple of `import torch, timm`: fresh processes, alternating, medians."
import argparse, statistics, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDES = {"import torch, timm": "import torch, timm", "import lca_md": "import lca_md"}


def seconds(code:str) -> float:
    "Wall time of a new interpreter that runs `code`, less nothing: both sides pay the interpreter's own start."
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - start


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--repeats", type=int, default=7, help="timed repeats of each side (default 7), after one untimed round")
    n = p.parse_args().repeats
    for code in SIDES.values(): seconds(code)  # fills the disk cache and writes the byte code
    times = {name: [] for name in SIDES}
    for _ in range(n):
        for name, code in SIDES.items(): times[name].append(seconds(code))
    base, ours = (statistics.median(t) for t in times.values())
    print(f"{'what':<22}{'median s':>10}{'min s':>8}{'max s':>8}")
    for name, t in times.items(): print(f"{name:<22}{statistics.median(t):>10.2f}{min(t):>8.2f}{max(t):>8.2f}")
    print(f"ratio of medians: {ours/base:.3f} (goal: at most 1.25)")


if __name__ == "__main__": main()
