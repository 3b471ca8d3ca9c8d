"What `import lca_md` costs, as a multiple of `import torch, timm`: new processes, alternating, medians of wall and processor time."
import argparse, os, statistics, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("import torch, timm", "import lca_md")


def cost(code:str) -> tuple[float, float]:
    "Wall and processor seconds of a new interpreter that runs `code`. Both sides include the interpreter's own start."
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    wall, after = time.perf_counter() - start, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--repeats", type=int, default=7, help="timed repeats of each side (default 7), after one untimed round")
    n = p.parse_args().repeats
    for code in SIDES: cost(code)  # fills the disk cache and writes the byte code
    rows = {code: [] for code in SIDES}
    for _ in range(n):
        for code in SIDES: rows[code].append(cost(code))
    print(f"{'what':<22}{'wall s':>8}{'(min':>8} .. max){'processor s':>15}")
    medians = []
    for code, r in rows.items():
        wall, cpu = zip(*r)
        medians.append((statistics.median(wall), statistics.median(cpu)))
        print(f"{code:<22}{medians[-1][0]:>8.2f}{min(wall):>8.2f} ..{max(wall):>5.2f}{medians[-1][1]:>15.2f}")
    (wall0, cpu0), (wall1, cpu1) = medians
    print(f"ratio of medians: wall {wall1/wall0:.3f}, processor {cpu1/cpu0:.3f} (goal: at most 1.25)")


if __name__ == "__main__": main()
