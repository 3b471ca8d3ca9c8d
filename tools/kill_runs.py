"""Kill a short training run at random moments (kill -9), continue it each time, and compare it with the run that nobody killed.

python tools/kill_runs.py --kills 20                  one process: the weights must be equal bit for bit
python tools/kill_runs.py --kills 20 --processes 2    two processes (gloo): equal to rounding
"""
import argparse, os, random, shutil, signal, socket, sys, tempfile, time
from contextlib import redirect_stderr
from pathlib import Path

import torch

from lca_md.core import Config
from lca_md.models import read_weights
from lca_md.synth import write_synthbirds
from lca_md.train import fit


def settings(folder, out, processes):
    return dict(arch="deit_lca_md_tiny_patch16_224", model_args=dict(embed_dim=48, depth=2, num_heads=3), data=str(folder/"birds"), recipe="light",
                img_size=64, epochs=6, batch_size=8//processes, lr=1e-3, val_per_class=1, ema=.9, save_every=1, device="cpu", threads=1, out=str(out))


def life(conf, processes):
    "One life of the run: the ids of its processes."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ids = []
    for rank in range(processes):
        if pid := os.fork():
            ids.append(pid)
            continue
        if processes > 1:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                              RANK=str(rank), LOCAL_RANK=str(rank))
        code = 1
        try:
            with open(os.devnull, "w") as null, redirect_stderr(null): fit(Config(**conf), None)
            code = 0
        finally:
            os._exit(code)
    return ids


def finish(ids):
    "Wait for the end; whether it was a good one."
    return all([os.waitpid(i, 0)[1] == 0 for i in ids])


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--kills", type=int, default=20)
    args.add_argument("--processes", type=int, default=1)
    args.add_argument("--seed", type=int, default=0)
    a = args.parse_args()
    torch.set_num_threads(1)
    folder, rng = Path(tempfile.mkdtemp()), random.Random(a.seed)
    with open(os.devnull, "w") as null, redirect_stderr(null): write_synthbirds(folder/"birds", n_train=40, n_test=8, size=64, seed=5, workers=0)
    start = time.time()
    if not finish(life(settings(folder, folder/"whole", a.processes), a.processes)): sys.exit("the uninterrupted run failed")
    took = time.time() - start
    conf, kills, tries, ended = settings(folder, folder/"killed", a.processes), 0, 0, False
    while not ended:
        resume = any((folder/"killed"/"states").glob("step-*.pt"))
        ids = life({**conf, "resume": resume}, a.processes)
        tries += 1
        if kills >= a.kills:
            ended = finish(ids)
            if not ended: sys.exit("the last life failed")
            break
        time.sleep(rng.uniform(.2, max(.4, .8*took)))
        for i in ids: os.kill(i, signal.SIGKILL)
        ended = finish(ids)                        # True: it had ended before the kill
        kills += not ended
        if ended and kills < a.kills:              # too fast for the wish: begin again, the kills count on
            compare(folder, a.processes)
            shutil.rmtree(folder/"killed")
            ended = False
    worst = compare(folder, a.processes)
    left = len([p for p in (folder/"killed").rglob("*.tmp")])
    print(f"{kills} kills, {tries} lives, {a.processes} process(es): largest difference of any weight {worst}; histories equal; "
          f"{left} temporary files left")
    shutil.rmtree(folder)


def compare(folder, processes):
    "The largest difference between the two runs' weights; ends with an error if they or the histories differ."
    import json
    files = [sorted((folder/n/"states").glob("step-*.pt"), key=lambda p: p.stat().st_mtime)[-1] for n in ("whole", "killed")]
    states = [torch.load(f, weights_only=True) for f in files]
    pairs = [(x[k], y[k]) for x, y in [[s["model"] for s in states], [s["ema"] for s in states]] for k in x]
    pairs += list(zip(*(read_weights(folder/n/"best.safetensors").values() for n in ("whole", "killed"))))
    worst = max((x.double() - y.double()).abs().max().item() for x, y in pairs)
    history = [json.loads((folder/n/"history.json").read_text())["epochs"] for n in ("whole", "killed")]
    same = history[0] == history[1] if processes == 1 else [r["images"] for r in history[0]] == [r["images"] for r in history[1]]
    if worst > (0 if processes == 1 else 1e-5) or not same: sys.exit(f"DIFFERENT: weights by {worst}, histories equal: {same}")
    return worst


if __name__ == "__main__": main()
