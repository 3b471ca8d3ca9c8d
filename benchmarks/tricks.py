"""What each trick of chapters 10 to 15 buys: the plain way against ours, in one process, forward and backward where there is one.

`python benchmarks/tricks.py` takes about a minute. Two threads, batch 8, 200 classes, the sizes of DeiT-S; median ratio of interleaved turns.
Both ways use PyTorch's usual library; rows that say oneDNN let ours use the other one (chapter 10).
"""
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from lca_md import backbone
from lca_md.backbone import attend, block_step, linear, mlp_step
from lca_md.ssfm import ALPHA, diffuse, neighbor_matrix, newton_schulz, similarity, ssfm_matrix
from lca_md.tscam import conv_classes, pooled_conv, winograd

THREADS, TURNS, B, D, K = 2, 15, 8, 384, 200


def library(onednn, f):
    "`f` with or without oneDNN for ours."
    def run():
        backbone.ONEDNN = onednn
        f()
    return run


def cases():
    "name -> (plain way, our way), each a function without arguments."
    from timm.layers import Attention, Mlp
    from timm.models.vision_transformer import Block
    torch.manual_seed(0)
    attn, x = Attention(D, 6, qkv_bias=True), torch.randn(B, 197, D)
    wide, deep, mlp = nn.Linear(D, 4*D), Block(D, 6, qkv_bias=True, drop_path=.1), Mlp(D, 4*D).eval()
    hidden = torch.randn(B, 197, D, requires_grad=True)
    thousand, g1000 = nn.Conv2d(D, 1000, 3, padding=1), torch.randn(B, 1000, 14, 14)
    head, tfcm = nn.Conv2d(D, K, 3, padding=1), nn.Conv2d(K, K, 3, padding=1)
    t, S, g = torch.randn(B, D, 14, 14, requires_grad=True), torch.randn(B, K, 14, 14, requires_grad=True), torch.rand(B, 2, 14, 14)
    tokens = F.interpolate(torch.randn(B, K, 5, 5), size=(14, 14), mode="bicubic") + .3
    A = ssfm_matrix(similarity(tokens.flatten(2)), neighbor_matrix((14, 14))).requires_grad_()
    c, five, alpha = torch.rand(B, 196), torch.randint(0, K, (B, 5)), torch.full((B, 1, 1), ALPHA)

    def full_attention():
        q, k, v = attn.qkv(x).reshape(B, 197, 3, 6, D//6).permute(2, 0, 3, 1, 4).unbind(0)
        w = (q*attn.scale @ k.transpose(-2, -1)).softmax(-1)
        y = attn.proj((w @ v).transpose(1, 2).reshape(B, 197, D))
        (y.sum() + w.mean(1)[:, 0].square().sum()).backward()

    def one_row():
        y, row = attend(attn, x)
        (y.sum() + row.square().sum()).backward()

    def iterate(k):
        def f(): (newton_schulz(A, k, alpha).transpose(1, 2) @ c[..., None]).sum().backward()
        return f

    def product(k):
        def f(): diffuse(A, c, k, alpha).sum().backward()
        return f

    with_grad = {"stochastic depth of 0.1: only who stays (10b)": (lambda: deep(hidden).sum().backward(),
                                                              lambda: block_step(deep, hidden, False)[0].sum().backward()),
                 "linear layer by oneDNN (10)": (lambda: wide(hidden).sum().backward(), lambda: linear(wide, hidden).sum().backward()),
                 "class token's row beside fused attention (10b)": (full_attention, one_row),
                 "logits: pool, then multiply (12)": (lambda: head(t).mean((2, 3)).sum().backward(),
                                                      lambda: pooled_conv(head, t, t.new_full((1, 1, 14, 14), 1/196)).sum().backward()),
                 "TFCM: pool, then multiply (13)": (lambda: torch.einsum("bghw,bkhw->bgk", g, tfcm(S)).sum().backward(),
                                                    lambda: pooled_conv(tfcm, S, g).sum().backward()),
                 "semantic map of 1000 classes: Winograd (12)": (lambda: (thousand(t)*g1000).sum().backward(),
                                                                lambda: (winograd(thousand, t)*g1000).sum().backward()),
                 "the same, by oneDNN (12)": (lambda: (thousand(t)*g1000).sum().backward(), lambda: (winograd(thousand, t)*g1000).sum().backward()),
                 "diffusion, 16 steps: M c without M (14b)": (iterate(16), product(16)),
                 "the same, by oneDNN (14b)": (iterate(16), product(16)),
                 "diffusion, 4 steps: vectors only (14b)": (iterate(4), product(4))}
    without = {"MLP: activation in place, no gradient (10b)": (lambda: mlp(x), lambda: mlp_step(mlp, x)),
               "maps of 5 of 200 classes (12)": (lambda: head(t), lambda: conv_classes(head, t, five))}
    every = with_grad | {k: tuple(torch.no_grad()(f) for f in v) for k, v in without.items()}
    usual = backbone.ONEDNN
    return {k: tuple(library(usual and "oneDNN" in k, f) for f in v) for k, v in every.items()}


def main():
    torch.set_num_threads(THREADS)
    print(f"{THREADS} threads, batch {B}, width {D}, {K} classes; median of {TURNS} interleaved turns\n")
    print("| trick (chapter) | plain, ms/img | ours, ms/img | ours / plain |\n|---|---:|---:|---:|")
    for name, pair in cases().items():
        times = [[], []]
        for turn in range(TURNS + 1):
            for k in ((0, 1) if turn % 2 else (1, 0)):
                start = time.perf_counter()
                for _ in range(3): pair[k]()
                if turn: times[k].append((time.perf_counter() - start)/3/B*1000)
        plain, ours = map(statistics.median, times)
        print(f"| {name} | {plain:.2f} | {ours:.2f} | {statistics.median(b/a for a, b in zip(*times)):.2f} |", flush=True)


if __name__ == "__main__": main()
