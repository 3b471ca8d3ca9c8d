"""The study of chapter 36: rows are training runs, started, resumed and skipped as `lca-md sweep` does; their numbers are collected for the chapter.

    make study DATA=data/cub50 WEIGHTS=deit_tiny.safetensors             all rows, then collect
    python tools/study.py --data DATA --weights WEIGHTS --only plus      rows whose name contains "plus"
    python tools/study.py ... --print                                    say what would run
    python tools/study.py --collect                                      read runs/study again, train nothing

Headline rows train on all training images for a fixed number of epochs; the threshold is chosen on some of those images (val_in_train), as users of
the released code must. Ablations leave val out of training and are compared on val alone. Test is read once per headline row, by the run's evaluate
notebook.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUT, RESULTS = "runs/study", ROOT/"nbs"/"study"/"results.json"
COMMON = dict(batch_size=32, lr_steps=[], device="cpu", precision="bf16", threads=1)
RELEASED = dict(lr=1e-4)                                                   # the recipe of the released code's measurement
TUNED = dict(lr=5e-4, schedule="cosine", layer_decay=.7)                   # lower blocks learn slower, the rate falls
ARCH = "deit_{}_tiny_patch16_224"
LONG, SHORT = dict(epochs=10, val_in_train=True, eval_every=10), dict(epochs=5)


def head(**options): return dict(model_args=dict(head=options))


SEEDS = (26, 1, 2)
HEADLINE = {  # row -> (method, settings); a run for each seed
    "tscam": ("tscam", RELEASED),
    "scm": ("scm", RELEASED),
    "lca_md": ("lca_md", RELEASED),
    "lca_md-tuned": ("lca_md", dict(TUNED, eval_size=288)),
    "plus": ("lca_md_plus", dict(TUNED, eval_size=288)),
    "sat": ("sat", dict(TUNED, eval_size=288)),
}
ABLATIONS = {
    "val-lca_md": ("lca_md", RELEASED), "val-lca_md-no_contrast": ("lca_md", dict(RELEASED, delta=1.)),
    "val-lca_md-reach1": ("lca_md", dict(RELEASED, **head(reach=1))), "val-lca_md-reach2": ("lca_md", dict(RELEASED, **head(reach=2))),
    "val-lca_md-reach4": ("lca_md", dict(RELEASED, **head(reach=4))), "val-lca_md-steps4": ("lca_md", dict(RELEASED, **head(iterations=[4, 4]))),
    "val-lca_md-no_fusion": ("lca_md", dict(RELEASED, **head(iterations=[]))),
    "val-lca_md-delta.3": ("lca_md", dict(RELEASED, delta=.3)), "val-lca_md-delta.8": ("lca_md", dict(RELEASED, delta=.8)),
    "val-tscam": ("tscam", RELEASED),
    "val-lca_md-tuned": ("lca_md", dict(TUNED, eval_size=288)), "val-tscam-tuned": ("tscam", dict(TUNED, eval_size=288)),
    "val-plus": ("lca_md_plus", dict(TUNED, eval_size=288)), "val-plus-released_recipe": ("lca_md_plus", dict(RELEASED, eval_size=288)),
    "val-plus-no_naming": ("lca_md_plus", dict(TUNED, eval_size=288, **head(naming=[0., 0.]))),
    "val-plus-foreground_only": ("lca_md_plus", dict(TUNED, eval_size=288, **head(naming=[1., 0.]))),
    "val-sat": ("sat", dict(TUNED, eval_size=288)), "val-sat-released_recipe": ("sat", dict(RELEASED, eval_size=288)),
    "val-plus-no_pooling": ("lca_md_plus", dict(TUNED, eval_size=288, **head(pooling=0.))),
}
SYNTH = {  # on drawn birds, with the demo's settings untouched: row -> (method, settings)
    "synth-tscam": ("tscam", {}), "synth-lca_md": ("lca_md", {}), "synth-lca_md-no_contrast": ("lca_md", dict(delta=1.)),
    "synth-lca_md-no_fusion": ("lca_md", head(iterations=[])),
    "synth-plus": ("lca_md_plus", {}), "synth-sat": ("sat", {}),
    "synth-tscam-bf16": ("tscam", dict(precision="bf16")), "synth-lca_md-bf16": ("lca_md", dict(precision="bf16")),
}
DRAWN_SEEDS = (0, 1, 2)
DRAWN = "data/synthbirds-study"  # drawn by this script: the demo's numbers of training and test drawings
PLAIN = dict(root=1., spread=0., walk=0)  # attention as it is
MAPS = {  # maps read from one checkpoint, without training: (method, options of its head, picture size)
    name: ("lca_md_plus", options, size) for name, (options, size) in {
        "as trained": ({}, 288), "no walk": (dict(walk=0), 288), "no flow": (dict(spread=0.), 288), "neither": (dict(walk=0, spread=0.), 288),
        "walk, reach 3": (dict(reach=3), 288), "root 1": (dict(root=1.), 288), "root .3": (dict(root=.3), 288),
        "block 8": (dict(read=[8]), 288), "block 10": (dict(read=[10]), 288), "blocks 8 to 10": (dict(read=[8, 9, 10]), 288),
        "last six blocks": (dict(read=[6, 7, 8, 9, 10, 11]), 288), "all blocks": (dict(read=list(range(12))), 288),
        "times the semantic map": (dict(maps="class"), 288),
        "224 pixels": ({}, 224), "256 pixels": ({}, 256), "320 pixels": ({}, 320), "384 pixels": ({}, 384)}.items()}
LADDER = {  # from the released map to the corrected one, a step at a time
    "released map, 224 px": ("lca_md", {}, 224), "released map, 288 px": ("lca_md", {}, 288),
    "attention of all blocks": ("lca_md_plus", dict(PLAIN, read=list(range(12))), 288), "one block": ("lca_md_plus", PLAIN, 288),
    "with a root": ("lca_md_plus", dict(spread=0., walk=0), 288),
    "with flow": ("lca_md_plus", dict(walk=0), 288), "with the walk": ("lca_md_plus", {}, 288)}
BLOCKS = {  # what is there before any training
    **{f"block {i}": ("lca_md_plus", dict(PLAIN, read=[i]), 224) for i in range(12)},
    "all blocks": ("lca_md_plus", dict(PLAIN, read=list(range(12))), 224),
    "last six blocks": ("lca_md_plus", dict(PLAIN, read=[6, 7, 8, 9, 10, 11]), 224),
    "block 9, root": ("lca_md_plus", dict(spread=0., walk=0), 224), "block 9, root, flow": ("lca_md_plus", dict(walk=0), 224),
    "block 9, root, flow, walk": ("lca_md_plus", {}, 224)}
FUSED = {"released map, fusion too": ("lca_md", dict(fuse_maps=True), 224)}  # for rows that trained diffusion layers
CLIMBED = ("val-tscam", "val-lca_md", "val-lca_md-tuned", "val-plus-released_recipe", "val-plus")  # rows whose maps are read along the ladder


ROWS = [*[f"{row}-seed{s}" for row in HEADLINE for s in SEEDS], *ABLATIONS, *[f"{row}-seed{s}" for row in SYNTH for s in DRAWN_SEEDS]]
def matches(name, only):
    "Whether a row is meant: the one of that name, else all whose names contain it."
    return name == only if only in (*ROWS, "untrained") else only in name


def jobs(data, weights, only=""):
    "The jobs of all rows whose names contain `only`: (job, whether test is read)."
    from lca_md.core import Config
    from lca_md.runs import DemoConfig
    from lca_md.sweep import Job
    base = dict(COMMON, data=data, checkpoint_path=weights)
    out = []
    for row, (method, settings) in HEADLINE.items():
        out += [(f"{row}-seed{s}", dict(base, **LONG, **settings, arch=ARCH.format(method), seed=s), True) for s in SEEDS]
    out += [(row, dict(base, **SHORT, **settings, arch=ARCH.format(method), seed=26), False) for row, (method, settings) in ABLATIONS.items()]
    drawn = dict(Config.from_yaml("synth/deit_lca_md_tiny").to_dict(), data=DRAWN, checkpoint_path="data/weights/book_vit.safetensors", threads=1,
                 layer_decay=DemoConfig().layer_decay)
    for row, (method, settings) in SYNTH.items():
        width = dict(model_args=dict(drawn["model_args"], **settings.get("model_args", {})))  # the book's ViT, whatever the head
        out += [(f"{row}-seed{s}", dict(drawn, **settings | width, arch=ARCH.format(method), seed=s), True) for s in DRAWN_SEEDS]
    made = [(Job(name, Config(**dict(given, out=f"{OUT}/{name}")), {}), test) for name, given, test in out if matches(name, only)]
    if not made and only != "untrained": sys.exit(f"error: --only {only}: no such row; rows: {', '.join([*ROWS, 'untrained'])}")
    return made


def run(data, weights, only, say):
    "Do what is not done."
    from lca_md.runs import DemoConfig
    from lca_md.sweep import do_job, run_sweep
    from lca_md.synth import write_synthbirds
    demo = DemoConfig()
    if not Path(DRAWN).is_dir(): write_synthbirds(DRAWN, demo.n_train, demo.n_test, seed=demo.seed)
    todo = jobs(data, weights, only)
    tests = {job.name: test for job, test in todo}
    run_sweep([job for job, _ in todo], lambda j, resume: do_job(j, evaluate=tests[j.name], resume=resume), say)


def nearest_column(m, threshold): return int(np.abs(m.thresholds - threshold).argmin())


def val_images(card, size):
    "The val images of the run with this card, at another picture size."
    from lca_md.core import Config
    from lca_md.data import WSOLDataset, eval_transform, open_split
    cfg = Config.from_dict(card["config"])
    return WSOLDataset(*open_split(cfg.data, "val", cfg.val_per_class, cfg.val_seed), eval_transform(size), size, card["box_rule"])


def weights_id(path):
    "A number that changes with the weights."
    import hashlib
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def read_maps(file, weights, card, readings, say):
    "GT-known and more of several maps of one network on the val images, threshold chosen on the same images (oracle of val); kept in `file`."
    import torch
    from lca_md.core import write_json
    from lca_md.models import build_model, load_checkpoint
    from lca_md.train import measure
    of, same = file.with_name(f"{file.stem}.of.json"), weights_id(weights)  # what each number was read from
    key = json.loads(json.dumps({name: [same, *how] for name, how in readings.items()}))
    known = json.loads(of.read_text()) if of.is_file() else {}
    done = {k: v for k, v in json.loads(file.read_text()).items() if k in key and known.get(k) == key[k]} if file.is_file() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for name, (method, options, size) in readings.items():
        if name in done: continue
        model = build_model(ARCH.format(method), card["num_classes"], img_size=size, head=options)
        load_checkpoint(model, weights)
        torch.set_num_threads(1)
        m = measure(model, val_images(card, size), 25, 1)
        thr = m.choose_threshold("gt")
        k = nearest_column(m, thr)
        done[name] = dict({f"iou{int(100*i)}": float(m.curve("gt", i)[k]) for i in (.3, .5, .7)}, threshold=thr, **m.classification())
        say(f"{file.parent.name}, {name}: {done[name]}")
        write_json(file, {k: done[k] for k in readings if k in done})
        write_json(of, {k: key[k] for k in done})


def agreements(file, weights, card, say):
    "How far relevance and what flowed from it correlate, over the val images (5th, 50th, 95th percentile), at 288 pixels; kept in `file`."
    import torch
    from lca_md.core import write_json
    from lca_md.corrected import correlation, open_features, relevance
    from lca_md.models import build_model, load_checkpoint
    of, same = file.with_name("agreement.of.json"), weights_id(weights)
    if file.is_file() and of.is_file() and json.loads(of.read_text()) == same: return
    model, ds = build_model(ARCH.format("lca_md_plus"), card["num_classes"], img_size=288).eval(), val_images(card, 288)
    load_checkpoint(model, weights)
    torch.set_num_threads(1)
    out = []
    with torch.no_grad():
        for i in range(0, len(ds), 25):
            _, rows, flow = open_features(model, torch.stack([ds[j]["image"] for j in range(i, min(i + 25, len(ds)))]))
            c = relevance(rows, model.read, model.root)
            out += correlation(c, (flow @ c.flatten(1)[..., None]).reshape(c.shape)).tolist()
    write_json(file, [float(v) for v in np.percentile(out, [5, 50, 95])])
    write_json(of, same)
    say(f"{file.parent.name}: agreement {file.read_text()}")


def readings(weights, only, say):
    "The maps that are read without training: of the finished runs, and of the network before training."
    from lca_md.models import read_card
    def folder(row): return ROOT/OUT/row
    def card(row): return read_card(folder(row)/"best.safetensors")
    rows = [r for r in CLIMBED if matches(r, only) and (folder(r)/"done.json").is_file()]
    for r in rows:
        best = folder(r)/"best.safetensors"
        own = {k: ("tscam", *v[1:]) if r == "val-tscam" and v[0] == "lca_md" else v for k, v in LADDER.items()}  # TS-CAM stretches no map
        read_maps(folder(r)/"ladder.json", best, card(r), own | (FUSED if "lca_md" in r else {}), say)
        agreements(folder(r)/"agreement.json", best, card(r), say)
        if r == "val-plus": read_maps(folder(r)/"maps.json", best, card(r), MAPS, say)
    if matches("untrained", only) and (folder("val-plus")/"done.json").is_file():
        like = card("val-plus")
        read_maps(folder("untrained")/"maps.json", weights, like, BLOCKS, say)
        read_maps(folder("untrained")/"ladder.json", weights, like, {k: v for k, v in LADDER.items() if v[0] != "lca_md"}, say)
        agreements(folder("untrained")/"agreement.json", weights, like, say)


def one_run(folder):
    "What the chapter needs of one run: settings, history, and of test per image whether and how well it was found."
    from lca_md.core import Config
    from lca_md.metrics import LocalizationMetrics
    config = Config.from_dict(json.loads((folder/"done.json").read_text())).to_dict()
    history = json.loads((folder/"history.json").read_text())
    keep = ("arch", "lr", "schedule", "layer_decay", "epochs", "eval_size", "delta", "val_in_train", "precision", "seed", "model_args")
    out = dict(config={k: config[k] for k in keep}, epoch=history["best"]["epoch"],
               history=[{k: round(v, 4) for k, v in h.items() if isinstance(v, (int, float))} for h in history["epochs"]])
    test = folder/"evaluate-test"
    if not (test/"metrics.json").is_file(): return out
    d, m = json.loads((test/"metrics.json").read_text()), LocalizationMetrics.load(test/"scores.npz")
    thr = d["val_threshold"]["gt"]
    k = nearest_column(m, thr)
    def row(rule): return next(r for r in d["table"] if r["protocol"].startswith("gt map") and rule in r["protocol"])
    def numbers(r): return {k: v for k, v in r.items() if k != "protocol"}
    iou, curve = m.best_ious("gt")[:, k], {str(int(100*i)): np.round(m.curve("gt", i), 2).tolist() for i in (.3, .5, .7)}
    if d["dials"]: out["dials"] = {k: [numbers(r) for r in rows] for k, rows in d["dials"].items()}
    return dict(out, protocol=row("chosen on val")["protocol"], threshold=thr, threshold_rule=d["threshold_rule"], floors=d["floors"],
                test=numbers(row("chosen on val")), oracle=numbers(row("oracle")), errors=numbers(d["errors"]), curve=curve,
                iou=[int(1000*float(v) + 1e-3) for v in iou], named=[int(t[0] == y) for t, y in zip(m._get("top"), m._get("label"))])


READ = ("maps", "ladder", "agreement")  # files beside a run that hold what was read without training
def collect(folder=ROOT/OUT, to=RESULTS, say=print):
    "Gather all finished runs into one file, written whole."
    from lca_md.core import write_json
    rows = {}
    for f in sorted(Path(folder).glob("*/done.json")):
        rows[f.parent.name] = one_run(f.parent)
    for f in sorted(f for k in READ for f in Path(folder).glob(f"*/{k}.json")): rows.setdefault(f.parent.name, {})[f.stem] = json.loads(f.read_text())
    if not rows: sys.exit(f"error: {folder} holds no finished run of the study; run it first: make study DATA=... WEIGHTS=...")
    Path(to).parent.mkdir(parents=True, exist_ok=True)
    write_json(to, rows)
    say(f"{len(rows)} runs in {Path(to).name}")
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="folder of photographs, CUB layout")
    p.add_argument("--weights", help="ImageNet weights of DeiT-Tiny")
    p.add_argument("--only", default="", help="the row of this name, or all rows whose names contain this")
    p.add_argument("--print", action="store_true", help="say what would run")
    p.add_argument("--collect", action="store_true", help="only gather what has run")
    a = p.parse_args()
    if a.collect: return collect()
    if not (a.data and a.weights): p.error("--data and --weights are needed: make study DATA=folder WEIGHTS=file")
    if a.print:
        from lca_md.sweep import standing
        for job, _ in jobs(a.data, a.weights, a.only): print(f"{job.name}: {dict(done='done', begun='begun', new='to do')[standing(job)]}")
        return None
    run(a.data, a.weights, a.only, print)
    readings(a.weights, a.only, print)
    return collect()


if __name__ == "__main__":
    from lca_md.core import LcaError
    try: main()
    except LcaError as e: sys.exit(f"error: {e}")
