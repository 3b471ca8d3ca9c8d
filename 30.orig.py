# %% [markdown]
# # Training
#
# > The loop on accelerate: released schedule, epoch and threshold chosen on val, exact resume, a record of everything
# %%
#| default_exp train
# %% [markdown]
# Everything so far meets here: data, model, loss, measure. The loop is short; what takes care is honesty and endurance. The epoch that is kept and the threshold of its boxes are chosen on a val split that is carved from the training images,
# never on test. And a run that is stopped continues as if it had not been.
#
# The chapter trains a toy model for a few steps on a handful of birds, in about 20 seconds. The real thing is the run notebook [train](runs/train.ipynb).
# %%
import dataclasses, io, tempfile
from contextlib import redirect_stderr
from fastcore.test import *
from lca_md import viz
from lca_md.synth import species_table, write_synthbirds
viz.set_style()
# %%
#| export
import json, os, sys, time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from fastcore.basics import patch
from timm.optim import create_optimizer_v2
from tqdm import tqdm

from lca_md.core import CheckpointError, Config, ConfigError, LcaError, Settings
from lca_md.core import atomic_write, check_config, fresh_folder, seed_everything, setting, write_json
from lca_md.data import MEAN, STD, WSOLDataset, eval_transform, make_loader, open_split, train_transform
from lca_md.losses import lca_md_loss
from lca_md.metrics import LocalizationMetrics, Protocol, best_centred_baseline, whole_image_baseline
from lca_md.models import build_model, load_checkpoint, save_checkpoint
# %%
#| hide
torch.set_num_threads(2)
# %% [markdown]
# ## Something to train on
#
# Forty drawn birds, and a very small model. Nothing good will come of it in ten steps, but every part of the loop runs.
# %%
folder = Path(tempfile.mkdtemp())
with redirect_stderr(io.StringIO()): write_synthbirds(folder/"birds", n_train=32, n_test=8, size=96, seed=5, workers=0)
tiny = Config(arch="deit_lca_md_tiny_patch16_224", model_args=dict(embed_dim=48, depth=2, num_heads=3), data=str(folder/"birds"),
              recipe="light", img_size=96, epochs=3, batch_size=8, lr=1e-3, lr_steps=[3], val_per_class=1, out=str(folder/"run"), device="cpu")
# %% [markdown]
# ## The released schedule
#
# Before epoch $e = 1, 2, \ldots$ the learning rate is multiplied by `lr_factor` if $e$ is a multiple of any entry of `lr_steps`. A *multiple*: with `lr_steps=[30]` and 60 epochs the rate falls at 30 and again at 60, so the last epoch runs at one more cut than one would think.
# %%
#| exports
def released_lr(cfg:Config, # lr, lr_steps, lr_factor
                epoch:int, # 1, 2, ...
               )->float: # learning rate during that epoch
    "The released step rule, in closed form, so that a resumed run needs no scheduler state."
    cuts = sum(any(e % s == 0 for s in cfg.lr_steps) for e in range(1, epoch + 1))
    return cfg.lr*cfg.lr_factor**cuts
# %%
[released_lr(Config(lr=5e-5, lr_steps=[30]), e) for e in (1, 29, 30, 59, 60)]
# %%
test_close([released_lr(Config(lr=1e-6, lr_steps=[10, 12]), e) for e in (9, 10, 12, 20)], [1e-6, 1e-7, 1e-8, 1e-9], 1e-15)
# %% [markdown]
# ## Progress
#
# Long work says how far it is. In a terminal that is a bar; elsewhere (a log file) a plain line now and then. When a notebook does the work, its terminal is somewhere else: the process that started the notebook sets `LCA_MD_PROGRESS` to a file, progress goes there, and the starter draws the bar.
# %%
#| exports
class Progress:
    "Count steps of a task: to a terminal, as plain lines, or into the file named by LCA_MD_PROGRESS."
    def __init__(self,
                 total:int, # steps
                 desc:str, # what is being done
                 every:float=10.): # seconds between plain lines
        self.total, self.desc, self.every, self.n, self.start, self.said = total, desc, every, 0, time.time(), time.time()
        self.file = os.environ.get("LCA_MD_PROGRESS")
        self.bar = tqdm(total=total, desc=desc, leave=False) if not self.file and sys.stderr.isatty() else None
# %%
#| exports
@patch
def line(self:Progress)->str: # e.g. "train 3/10, 7 s left"
    "Where the work stands, and how long it will take."
    left = (time.time() - self.start)/max(self.n, 1)*(self.total - self.n)
    return f"{self.desc} {self.n}/{self.total}" + (f", {left:.0f} s left" if self.n < self.total else "")
# %%
#| export
@patch
def _say(self:Progress, note):
    "One plain line, unless the last one is fresh."
    if time.time() - self.said <= self.every: return
    self.said = time.time()
    print(self.line(), note, file=sys.stderr, flush=True)
# %%
#| exports
@patch
def step(self:Progress,
         n:int=1, # steps done
         note:str="", # shown behind the bar
        ):
    "Count `n` steps, and say so where it is wanted."
    self.n += n
    if self.bar is not None:
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(n)
    elif self.file:
        with open(self.file, "a") as f: f.write(json.dumps(dict(desc=self.desc, n=self.n, total=self.total, note=note)) + "\n")
    else: self._say(note)
    if self.n >= self.total and self.bar is not None: self.bar.close()
# %%
os.environ["LCA_MD_PROGRESS"] = str(folder/"progress")
p = Progress(3, "count")
for _ in range(3): p.step()
del os.environ["LCA_MD_PROGRESS"]
(folder/"progress").read_text().splitlines()[-1]
# %%
test_eq(json.loads((folder/"progress").read_text().splitlines()[-1]), dict(desc="count", n=3, total=3, note=""))
test_eq(p.line(), "count 3/3")
# %% [markdown]
# ## Data and model of a run
#
# Train and val are disjoint parts of the training images; test is not even opened here.
# %%
#| exports
def run_data(cfg:Config)->dict: # "train" and "val": WSOLDataset; "class_names"
    "Training and val sets of a configuration. Raises `DataError` or `ConfigError`."
    out = {}
    for split in ("train", "val"):
        records, names = open_split(cfg.data, split, cfg.val_per_class, cfg.val_seed, classes=cfg.classes or None)
        transform = train_transform(cfg.img_size, cfg.recipe) if split == "train" else eval_transform(cfg.img_size)
        out[split] = WSOLDataset(records, names, transform, cfg.img_size, cfg.box_rule)
    if cfg.num_classes and cfg.num_classes != len(names):
        raise ConfigError(f"num_classes: {cfg.num_classes}, but {cfg.data} has {len(names)} classes; "
                          "leave num_classes at 0 to take them from the data")
    return dict(**out, class_names=names)
# %%
data = run_data(tiny)
len(data["train"]), len(data["val"]), data["class_names"][:3]
# %%
test_eq((len(data["train"]), len(data["val"]), len(data["class_names"])), (24, 8, 8))
test_eq({r.name for r in data["train"].records} & {r.name for r in data["val"].records}, set())
# %%
#| exports
def run_model(cfg:Config, num_classes:int): # -> (model, LoadReport or None)
    "The model of a configuration, with its starting weights and a report of what was loaded."
    model = build_model(cfg.arch, num_classes, img_size=cfg.img_size, variant=cfg.variant, drop_rate=cfg.drop, drop_path_rate=cfg.drop_path,
                        pretrained=cfg.pretrained, **cfg.model_args)
    return model, load_checkpoint(model, cfg.checkpoint_path) if cfg.checkpoint_path else None
# %%
seed_everything(26)
model, report = run_model(tiny, 8)
sum(p.numel() for p in model.parameters()), report
# %% [markdown]
# ## Measuring a split
#
# One function measures every split of every chapter. For the choice of epoch and threshold one map per image is enough (`keep=1`); the final evaluation keeps the maps of five classes.
# %%
#| exports
@torch.no_grad()
def measure(model, # a localizer; left in evaluation mode
            ds:WSOLDataset, # one split
            batch_size:int=32, # images per forward pass
            keep:int=5, # predicted classes whose maps are scored
            device="cpu", # where to compute
            desc:str="evaluate", # for the progress bar
            workers:int=0, # processes that load images
           )->LocalizationMetrics:
    "Logits and maps of all images of a split, scored."
    model.eval()
    metrics, loader = LocalizationMetrics(ds.size, keep=min(keep, len(ds.class_names))), make_loader(ds, batch_size, train=False, workers=workers)
    bar = Progress(len(ds), desc)
    for b in loader:
        idx, out = b["index"].tolist(), model(b["image"].to(device))
        metrics.update(out, out.logits, b["label"], [ds.boxes(i) for i in idx])
        bar.step(len(idx))
    return metrics
# %%
metrics = measure(model, data["val"], keep=1)
str(Protocol("gt", "val", metrics.choose_threshold(), "val")), len(metrics)
# %%
test_eq(len(metrics), 8)
test_eq(measure(model, data["val"], keep=1, batch_size=3).curve().tolist(), metrics.curve().tolist())
# %% [markdown]
# What the loop keeps per epoch is one row: losses, rate, and the val numbers at the threshold that is best *on val*.
# %%
#| exports
def val_row(metrics:LocalizationMetrics)->dict: # numbers in percent, thresholds
    "GT-known, Top-1 Loc and classification on val, with the thresholds that val prefers."
    thr = {m: metrics.choose_threshold(m) for m in ("gt", "pred")}
    got = metrics.compute(Protocol("gt", "val", thr["gt"], "val"))
    return dict(gt_known=got["gt_known"], top1_loc=got["top1_loc"], top1_cls=got["top1_cls"], mean_iou=got["mean_iou"], threshold=thr)
# %%
sorted(val_row(metrics))
# %% [markdown]
# ## One epoch
#
# A loss that is not finite would poison the weights silently. It stops the run instead, with the names of the batch's images.
# %%
#| exports
def check_finite(terms:dict, names:list[str], epoch:int, step:int):
    "Raises `LcaError` naming the loss terms and images if the loss is not finite."
    if torch.isfinite(terms["loss"]): return
    bad = [k for k,v in terms.items() if not torch.isfinite(v)]
    raise LcaError(f"epoch {epoch}, step {step}: {', '.join(bad)} not finite; images: {', '.join(names[:4])} ...; lower lr, or use precision fp32")
# %%
terms = dict(loss=torch.tensor(float("nan")), ce=torch.tensor(1.))
test_fail(lambda: check_finite(terms, ["a.jpg"], 2, 3), contains="epoch 2, step 3: loss not finite; images: a.jpg")
# %%
#| exports
def train_epoch(acc, # accelerate's Accelerator
                model, opt, loader, # prepared model and optimizer; training loader
                cfg:Config, epoch:int, # 1, 2, ...
                steps_before:int=0, # optimizer steps so far, for max_steps
               )->dict: # mean of loss terms, training top-1 in percent, images, steps
    "One pass over the training images."
    model.train()
    loader.set_epoch(epoch)
    for g in opt.param_groups: g["lr"] = released_lr(cfg, epoch)*g.get("lr_scale", 1.)
    sums, n, steps, bar = {}, 0, 0, Progress(len(loader.dataset), f"epoch {epoch}/{cfg.epochs}")
    for b in loader:
        x, y = b["image"].to(acc.device), b["label"].to(acc.device)
        with acc.autocast(): out = model(x)
        terms = lca_md_loss(out, y, cfg.delta, cfg.sim_alpha)
        check_finite(terms, [loader.dataset.records[i].name for i in b["index"].tolist()], epoch, steps + 1)
        opt.zero_grad()
        acc.backward(terms["loss"])
        opt.step()
        terms["top1_train"] = 100*(out.logits.argmax(1) == y).float().mean()
        for k,v in terms.items(): sums[k] = sums.get(k, 0.) + v.item()*len(y)
        n, steps = n + len(y), steps + 1
        bar.step(len(y), f"loss {terms['loss'].item():.3f}")
        if cfg.max_steps and steps_before + steps >= cfg.max_steps: break
    return {**{k: v/n for k,v in sums.items()}, "images": n, "steps": steps}
# %% [markdown]
# ## The run
#
# A run is an object with a state: model, optimizer, how many epochs are done, and the history. The state goes to `last.pt` after every epoch, whole or not at all.
# %%
#| export
def _accelerator(cfg):
    "accelerate's object for device and precision. Raises `ConfigError` if they cannot be had."
    acc = Accelerator(cpu=cfg.device == "cpu", mixed_precision="no" if cfg.precision == "fp32" else cfg.precision)
    if cfg.device == "cuda" and acc.device.type != "cuda":
        raise ConfigError("device: cuda was asked for, but PyTorch sees none; use device=cpu or auto")
    if acc.num_processes > 1: raise ConfigError("this version trains in one process; start it without a launcher")
    return acc
# %%
#| exports
class Run:
    "A training run in the folder `cfg.out`: data, model, optimizer, history."
    def __init__(self, cfg:Config):
        if cfg.threads: torch.set_num_threads(cfg.threads)
        self.cfg, self.folder, self.acc = cfg, Path(cfg.out), _accelerator(cfg)
        self.data = run_data(cfg)
        seed_everything(cfg.seed)
        self.model, self.report = run_model(cfg, len(self.data["class_names"]))
        self.opt = create_optimizer_v2(self.model, opt=cfg.opt, lr=cfg.lr, weight_decay=cfg.weight_decay, eps=cfg.opt_eps, betas=tuple(cfg.opt_betas),
                                       layer_decay=None if cfg.layer_decay == 1 else cfg.layer_decay)
        self.model, self.opt = self.acc.prepare(self.model, self.opt)
        self.loader = make_loader(self.data["train"], cfg.batch_size, train=True, seed=cfg.seed, workers=cfg.workers)
        self.epoch, self.steps, self.history, self.best = 0, 0, [], None
# %% [markdown]
# Weight decay spares what it should: biases, norms, tokens and positions, by timm's rule.
# %%
run = Run(tiny)
spared = {id(p) for g in run.opt.param_groups if g["weight_decay"] == 0 for p in g["params"]}
[n for n,p in run.model.named_parameters() if id(p) in spared][:6]
# %%
names = {n for n,p in run.model.named_parameters() if id(p) in spared}
assert {"cls_token", "pos_embed", "norm.weight", "layers.0.thred"} <= names and "head.weight" not in names
# %% [markdown]
# With few images the backbone should move less than the fresh head. `layer_decay=0.5` halves the rate from each block to the one below it (the head keeps `lr`); 1, the released recipe, treats all alike.
# %%
slow = Run(dataclasses.replace(tiny, layer_decay=.5))
{"head": 1.} | {n: g["lr_scale"] for g in slow.opt.param_groups for n,p in slow.model.named_parameters() if p is g["params"][0] and n.endswith("norm1.weight")}
# %%
scale = {id(p): g["lr_scale"] for g in slow.opt.param_groups for p in g["params"]}
rate = {n: scale[id(p)] for n,p in slow.model.named_parameters()}
test_eq([rate["head.weight"], rate["tfcm.conv3x3_1.weight"]], [1., 1.])
assert rate["blocks.0.attn.qkv.weight"] < rate["blocks.1.attn.qkv.weight"] < 1
# %% [markdown]
# The state is everything that the next epoch depends on. The order and augmentation of images depend on (seed, epoch, index) alone ([chapter 02](02_data.ipynb)), so there is nothing to store for them.
# %%
#| exports
@patch
def state(self:Run)->dict:
    "Everything the next epoch depends on."
    cuda_rng = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return dict(model=self.acc.unwrap_model(self.model).state_dict(), opt=self.opt.state_dict(), epoch=self.epoch, steps=self.steps,
                history=self.history, best=self.best, rng=torch.get_rng_state(), cuda_rng=cuda_rng, config=self.cfg.to_dict())
# %%
#| exports
@patch
def save(self:Run):
    "Write `last.pt` and `history.json`, atomically."
    with atomic_write(self.folder/"last.pt", "wb") as f: torch.save(self.state(), f)
    write_json(self.folder/"history.json", dict(best=self.best, epochs=self.history))
# %%
#| exports
# settings that do not change the numbers of an epoch
_may_change = {"out", "resume", "epochs", "max_steps", "workers", "threads", "device", "eval_every"}
@patch
def restore(self:Run):
    "Continue from `last.pt`. Raises `CheckpointError` if it is missing, damaged, or of another configuration."
    path = self.folder/"last.pt"
    if not path.is_file(): raise CheckpointError(f"{path}: nothing to resume; start without resume")
    try: s = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        why = str(e).splitlines()[0][:80]
        raise CheckpointError(f"{path}: damaged ({why}); start again without resume, or copy it from a backup") from None
    diff = [k for k,v in self.cfg.to_dict().items() if k not in _may_change and s["config"].get(k) != v]
    said = ", ".join(f"{k}: {s['config'].get(k)!r}, now {getattr(self.cfg, k)!r}" for k in diff)
    if diff: raise CheckpointError(f"{path}: was made with other settings ({said}); use the same, or another out")
    self.acc.unwrap_model(self.model).load_state_dict(s["model"])
    self.opt.load_state_dict(s["opt"])
    self.epoch, self.steps, self.history, self.best = s["epoch"], s["steps"], s["history"], s["best"]
    torch.set_rng_state(s["rng"])
    if s["cuda_rng"] and torch.cuda.is_available(): torch.cuda.set_rng_state_all(s["cuda_rng"])
# %% [markdown]
# The checkpoint that is kept carries a card: how to rebuild the model, what it may be asked, the threshold from val, and the val numbers.
# %%
#| exports
@patch
def card(self:Run, row:dict)->dict:
    "The card of the model after an epoch."
    c, names = self.cfg, self.data["class_names"]
    return dict(arch=c.arch, num_classes=len(names), img_size=c.img_size, model_args={**c.model_args, "variant": c.variant}, class_names=names,
                mean=MEAN, std=STD, box_rule=c.box_rule,
                threshold=row["threshold"], threshold_rule=f"best GT-known on val ({len(self.data['val'])} images)",
                epoch=row["epoch"], val={k: row[k] for k in ("gt_known", "top1_loc", "top1_cls", "mean_iou")}, config=c.to_dict())
# %%
#| exports
@patch
def keep_best(self:Run,
              row:dict, # of the epoch, with its val numbers
             ):
    "Save model and card if val says that this epoch is the best so far."
    score = [row[self.cfg.select], row["mean_iou"]]  # equal scores: the better overlap, then the earlier epoch
    if self.best is not None and score <= self.best["score"]: return
    self.best = dict(epoch=self.epoch, score=score)
    save_checkpoint(self.acc.unwrap_model(self.model), self.folder/"best.safetensors", self.card(row))
# %%
#| exports
@patch
def one_epoch(self:Run)->dict: # the new row of the history
    "Train an epoch, measure val if it is due, keep the best, save."
    self.epoch += 1
    c, val, acc = self.cfg, self.data["val"], self.acc
    row = dict(epoch=self.epoch, lr=released_lr(c, self.epoch), **train_epoch(acc, self.model, self.opt, self.loader, c, self.epoch, self.steps))
    self.steps += row["steps"]
    if self.epoch % c.eval_every == 0 or self.finished():
        row.update(val_row(measure(acc.unwrap_model(self.model), val, c.batch_size, 1, acc.device, f"val {self.epoch}", c.workers)))
        self.keep_best(row)
    self.history.append(row)
    self.save()
    return row
# %%
#| exports
@patch
def finished(self:Run)->bool:
    "Whether epochs or steps are used up."
    return self.epoch >= self.cfg.epochs or bool(self.cfg.max_steps and self.steps >= self.cfg.max_steps)
# %% [markdown]
# `fit` is the whole: a fresh folder (an earlier run is moved aside, and it says so) or a continued one, then epochs until done, each with a line in the log and in TensorBoard.
# %%
#| exports
def fit(cfg:Config, # everything
        log=print, # called with one line per epoch; None: silent
       )->Run: # the finished run; its folder holds config.yaml, best.safetensors (+ .json), last.pt, history.json, tb/
    "Train. Raises `LcaError` subclasses for what the user can mend."
    run, log, said = Run(cfg), log or (lambda s: None), ""
    if cfg.resume: run.restore()
    else: _, said = fresh_folder(cfg.out, "config.yaml")
    for line in [said, str(run.report or "")]: line and log(line)
    cfg.to_yaml(run.folder/"config.yaml")
    from torch.utils.tensorboard import SummaryWriter
    with SummaryWriter(run.folder/"tb", purge_step=run.epoch + 1) as tb:
        while not run.finished():
            row = run.one_epoch()
            log(epoch_line(row))
            for k,v in row.items():
                if isinstance(v, float): tb.add_scalar(k, v, row["epoch"])
    return run
# %%
#| exports
def epoch_line(row:dict)->str: # one line of the log
    "An epoch in one line."
    val = f"; val GT-known {row['gt_known']:.1f}, Top-1 Loc {row['top1_loc']:.1f}, Cls {row['top1_cls']:.1f}" if "gt_known" in row else ""
    return f"epoch {row['epoch']}: loss {row['loss']:.3f}, train top-1 {row['top1_train']:.1f}{val}"
# %%
run = fit(tiny)
# %%
sorted(p.name for p in run.folder.iterdir())
# %%
test_eq(len(run.history), 3)
test_close([r["lr"] for r in run.history], [1e-3, 1e-3, 1e-4], 1e-9)
test_eq({p.name for p in run.folder.iterdir()}, {"best.json", "best.safetensors", "config.yaml", "history.json", "last.pt", "tb"})
# %% [markdown]
# ## Stopped and continued
#
# One run of three epochs, and one that is stopped after the first and continued. The weights are equal, bit for bit.
# %%
part = Config(**{**tiny.to_dict(), "out": str(folder/"part")})
part.epochs = 1
fit(part, None)
part.epochs, part.resume = 3, True
again = fit(part, None)
all(torch.equal(a, b) for a,b in zip(run.model.state_dict().values(), again.model.state_dict().values()))
# %%
test_eq([r["loss"] for r in again.history], [r["loss"] for r in run.history])
for a,b in zip(run.model.state_dict().values(), again.model.state_dict().values()): test_eq(a, b)
part.lr = 2e-3
test_fail(lambda: fit(part, None), contains="was made with other settings (lr: 0.001, now 0.002)")
# %% [markdown]
# A damaged state, or a folder without one, is one sentence:
# %%
bad = Config(**{**tiny.to_dict(), "out": str(folder/"bad"), "resume": True})
test_fail(lambda: fit(bad, None), contains="nothing to resume")
(folder/"bad").mkdir()
(folder/"bad"/"last.pt").write_bytes((run.folder/"last.pt").read_bytes()[:5000])
test_fail(lambda: fit(bad, None), contains="damaged")
# %% [markdown]
# ## The final evaluation
#
# Test is opened here, and only here, with a finished checkpoint and the thresholds on its card. The settings of an evaluation are few:
# %%
#| exports
@dataclass
class EvalConfig(Settings):
    "Settings of an evaluation."
    checkpoint:str = setting("runs/train/best.safetensors", "checkpoint of this book (its card names model, classes and threshold)")
    data:str = setting("", "data folder (empty: the one it was trained on)")
    split:str = setting("test", "which images", ["test", "val", "train"])
    fixed_threshold:float = setting(-1., "threshold of the `fixed` rows (negative: the training configuration's)")
    out:str = setting("", "folder for metrics.json and arrays (empty: beside the checkpoint, in evaluate-SPLIT)")
    batch_size:int = setting(32, "images per forward pass")
    device:str = setting("auto", "where to compute", ["auto", "cpu", "cuda"])
    workers:int = setting(0, "processes that load images")
    threads:int = setting(0, "CPU threads (0: PyTorch's choice)")
# %%
test_fail(lambda: EvalConfig.from_dict(dict(splitt="test")), contains="did you mean 'split'?")
# %%
#| exports
def open_for_eval(cfg:EvalConfig): # -> (model, card, WSOLDataset, device)
    "Model and split of an evaluation. Raises `CheckpointError` if data and model disagree about the classes."
    from lca_md.models import from_card
    model, card = from_card(cfg.checkpoint)
    train = Config.from_dict(card["config"])
    records, names = open_split(cfg.data or train.data, cfg.split, train.val_per_class, train.val_seed, classes=train.classes or None)
    if names != (known := card["class_names"]):
        other = "" if len(names) != len(known) else " with other names"
        raise CheckpointError(f"{cfg.checkpoint}: trained on {len(known)} classes, {cfg.data or train.data} has {len(names)}{other}")
    device = torch.device("cuda" if cfg.device == "cuda" or (cfg.device == "auto" and torch.cuda.is_available()) else "cpu")
    return model.to(device), card, WSOLDataset(records, names, eval_transform(card["img_size"]), card["img_size"], card["box_rule"]), device
# %%
#| exports
def evaluate(cfg:EvalConfig, # what to measure
            )->dict: # "table" (a row per protocol), "floors", "released", "dials", "metrics" (LocalizationMetrics), "card", "dataset", "model"
    "Every protocol's numbers of one checkpoint on one split; written to `out` as metrics.json and scores.npz."
    if cfg.threads: torch.set_num_threads(cfg.threads)
    model, card, ds, device = open_for_eval(cfg)
    m = measure(model, ds, cfg.batch_size, 5, device, f"evaluate {cfg.split}", cfg.workers)
    fixed = cfg.fixed_threshold if cfg.fixed_threshold >= 0 else card["config"]["fixed_threshold"]
    truth, train = [ds.boxes(i) for i in range(len(ds))], Config.from_dict(card["config"])
    val_records, _ = open_split(cfg.data or train.data, "val", train.val_per_class, train.val_seed, classes=train.classes or None)
    val = WSOLDataset(val_records, ds.class_names, None, ds.size, ds.box_rule)
    floors = [whole_image_baseline(truth, ds.size), best_centred_baseline([val.boxes(i) for i in range(len(val))], truth, ds.size)]
    out = Path(cfg.out or Path(cfg.checkpoint).parent/f"evaluate-{cfg.split}")
    result = dict(checkpoint=cfg.checkpoint, split=cfg.split, images=len(ds), table=m.table(card["threshold"], fixed, cfg.split), floors=floors,
                  released=m.compute("released") if m.keep >= 5 else None, dials=dial_table(m, ds, card))
    write_json(out/"metrics.json", result)
    m.save(out/"scores.npz")
    return dict(result, metrics=m, card=card, dataset=ds, model=model, out=str(out))
# %% [markdown]
# On SynthBirds the same numbers are reported against each dial, at the val threshold.
# %%
#| exports
DIAL_EDGES = (0, .25, .5, .75, 1)
def dial_table(m:LocalizationMetrics, ds:WSOLDataset, card:dict)->dict: # dial -> rows
    "The metrics in four bins of each SynthBirds dial; empty for other data."
    if ds.dials is None: return {}
    p = Protocol("gt", "val", card["threshold"]["gt"], "test")
    return {k: m.by(v, DIAL_EDGES, p) for k,v in ds.dials.items()}
# %%
result = evaluate(EvalConfig(checkpoint=str(run.folder/"best.safetensors"), device="cpu"))
[r["protocol"] for r in result["table"]]
# %%
result["floors"][1]["name"], sorted(p.name for p in Path(result["out"]).iterdir())
# %%
test_eq(len(result["table"]), 6)
test_eq(list(result["dials"]), ["discriminativeness", "occlusion", "camouflage"])
test_eq(json.loads((Path(result["out"])/"metrics.json").read_text())["table"][0]["gt_known"], result["table"][0]["gt_known"])
# %% [markdown]
# A checkpoint of another class count does not slip through:
# %%
with redirect_stderr(io.StringIO()):
    write_synthbirds(folder/"other", n_train=8, n_test=4, size=96, seed=6, workers=0, table=species_table(4))
elsewhere = EvalConfig(checkpoint=str(run.folder/"best.safetensors"), data=str(folder/"other"), device="cpu")
test_fail(lambda: evaluate(elsewhere), contains="trained on 8 classes")
# %% [markdown]
# ## Summary
#
# - `fit(Config)` trains; the epoch is chosen on val, and so is the threshold on the checkpoint's card.
# - `evaluate(EvalConfig)` opens test once and writes every protocol's number with its name.
# - Stopping costs nothing: `resume` gives the same weights as an uninterrupted run.
# - Mixed precision, CUDA and other backbones are settings. What ran here ran on a CPU in fp32; nothing of this chapter has been run on a GPU.
#
# ## What to try
#
# - `tensorboard --logdir runs` while a run is going.
# - Set `select="top1_cls"`: does another epoch win?
# - Stop a run with Ctrl-C in its third epoch, and resume it.
#
# Next: [from image to box](31_predict.ipynb).
