"""What each shipped configuration should cost on a GPU: computed on a CPU from the model's operations and saved tensors, not run on any GPU.
Fused attention is left out of the operations (about a tenth of them), so the hours are a lower bound besides being a guess at the speed.

python tools/costs.py            print a line per configuration
python tools/costs.py --write    put the line into the configuration files
"""
import argparse, re, sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from lca_md.core import Config
from lca_md.losses import lca_md_loss
from lca_md.models import build_model

CONFIGS = Path(__file__).resolve().parent.parent/"lca_md/configs"
IMAGES = dict(CUB=5_994 - 5*200, ILSVRC=1_281_167 - 5*1000)  # training images without val
SPEED = 40e12  # operations per second, assumed: what a data-centre GPU sustains in bf16 or TF32 on such models, give or take a factor of two


def cost(cfg, batch=2):
    "Operations of a training step per image; saved bytes per image (fp32); bytes of weights, gradients and AdamW."
    torch.manual_seed(0)
    model = build_model(cfg.arch, cfg.num_classes, drop_path_rate=cfg.drop_path, **cfg.model_args).train()
    own, seen = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() not in own: seen[s.data_ptr()] = s.nbytes()
        return t
    # smooth images: what the released iteration gets from photographs, and not noise
    x = torch.nn.functional.interpolate(torch.rand(batch, 3, 8, 8), 224, mode="bicubic")
    with FlopCounterMode(display=False) as count:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = lca_md_loss(model(x), torch.arange(batch))["loss"]
        loss.backward()
    return count.get_total_flops()/batch, sum(seen.values())/batch, 16*sum(p.numel() for p in model.parameters())


def line(path):
    cfg = Config.from_yaml(path)
    work, saved, fixed = cost(cfg)
    hours = work*IMAGES[path.parent.name]*cfg.epochs/SPEED/3600
    took = f"{hours:.0f} hours" if hours >= 10 else f"{hours:.1f} hours" if hours >= 1 else f"{hours*60:.0f} minutes"
    return (f"# Expected on a GPU, computed and not run: {fixed/1e9:.1f} GB for weights, gradients and AdamW, {saved/1e6:.0f} MB of activations "
            "per image in fp32 (half of that\n"
            f"# in bf16): {(fixed + saved*cfg.batch_size)/1e9:.0f} GB at batch {cfg.batch_size} in one process; "
            f"{work/1e9:.0f} GFLOP per image and step, {took} in all at 40 TFLOP/s sustained,\n# loading of images not counted.")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--write", action="store_true")
    write = args.parse_args().write
    for path in sorted(CONFIGS.glob("CUB/*.yaml")) + sorted(CONFIGS.glob("ILSVRC/*.yaml")):
        text = line(path)
        print(f"{path.parent.name}/{path.stem}\n{text}", flush=True)
        if write:
            old = re.sub(r"(?m)^# Expected on a GPU.*\n# in bf16\).*\n# loading.*\n", "", path.read_text())
            head = re.match(r"(?:#.*\n)*", old).end()
            path.write_text(old[:head] + text + "\n" + old[head:])


if __name__ == "__main__": sys.exit(main())
