"""Conformer (TS-CAM, SCM) and SCM on a vision transformer against numbers of the public reference implementations.

Every array of a fixture is compared: the loops run over the fixture's names, and a name that is not measured here is an error."""
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

import lca_md  # noqa: F401 (registers the models)
from lca_md.conformer import conformer_features
from lca_md.ssfm import ALPHA, norm_cam, similarity

HERE = Path(__file__).parent/"golden"
TOL = json.loads((HERE/"tolerances_conformer.json").read_text())
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((.485, .456, .406), (.229, .224, .225)))
ARCHS = {"conformer_tscam": ("conformer_tscam_small_patch16_224", dict(channel_ratio=.5)),
         "scm_conformer": ("conformer_scm_small_patch16_224", dict(channel_ratio=.5)),
         "scm_deit_small_vit": ("deit_scm_tiny_patch16_224", dict(depth=3))}
GIVEN = ("w:", "images_u8", "labels", "param_names", "grad_rel_fp32_vs_fp64")  # not results
each_fixture = pytest.mark.parametrize("name", ARCHS)
CACHE = {}


def golden(name):
    "Arrays of a fixture; the late blocks of the Conformers lie in a file of their own (no file above 1 MiB)."
    files = [name, f"{name}_late"] if "conformer" in name else [name]
    if name not in CACHE: CACHE[name] = {k: v for f in files for k, v in np.load(HERE/f"{f}.npz").items()}
    return CACHE[name]


def built(name):
    "The model with the reference's weights, under the reference's names."
    arch, kwargs = ARCHS[name]
    m = timm.create_model(arch, num_classes=20, embed_dim=48, num_heads=3, **kwargs)
    m.load_state_dict({k[2:]: torch.tensor(v) for k, v in golden(name).items() if k.startswith("w:")})
    return m


def inputs(z): return (torch.tensor(z["images_u8"]).permute(0, 3, 1, 2).float()/255 - MEAN)/STD, torch.tensor(z["labels"])


def close(got, want, tol, what=""):
    got = got.detach().double().numpy() if torch.is_tensor(got) else np.asarray(got, float)
    want = np.asarray(want, float)
    assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
    error = np.abs(got - want).max()/max(np.abs(want).max(), 1e-30)
    assert error <= tol, f"{what}: relative error {error:.1e} > {tol:.1e}"


def head(m): return m.trans_cls_head if hasattr(m, "trans_cls_head") else m.head


def features(m, x):
    "Tokens, attention rows and the scores of the convolutions (0 where there are none)."
    return conformer_features(m, x) if hasattr(m, "trans_cls_head") else (*m.features(x), 0)


def fused(m, S, a):
    "The fusion layers one by one: what enters and leaves each."
    x, c, steps = S, norm_cam(a).flatten(1), []
    for layer in m.layers:
        before = x
        x, c = layer(x, c)
        steps.append((layer, before, x, c))
    return steps


def widest(layer, x):
    "alpha * wmax^2 of the layer's matrix, per image."
    A = layer.fuse.matrix(similarity(x.flatten(2))).double()
    return ALPHA*torch.linalg.eigvalsh(A).abs().amax(-1)**2


def probed(m, x):
    "Evaluation, with class token and mean map after some blocks."
    got, hooks = {}, []
    def keep(p): return lambda mod, args, out: got.update({f"{p}_x_mean": out[0].mean((2, 3)), f"{p}_cls": out[1][:, 0]})
    for n in ("conv_trans_2", "conv_trans_5", "conv_trans_9", "conv_trans_12"):
        hooks.append(getattr(m, n).register_forward_hook(keep(f"probe_{n}")))
    hooks.append(m.conv_cls_head.register_forward_hook(lambda mod, args, out: got.update(conv_feat=args[0], conv_logits=out)))
    m(x)
    for h in hooks: h.remove()
    return got


def evaluated(m, x):
    "Everything the fixtures hold of evaluation mode."
    m.eval()
    with torch.no_grad():
        out, (t, rows, _) = m(x), features(m, x)
        S = head(m)(t)
        got = dict(eval_logits=out.logits, eval_cams=out.cams, S=S, eval_semantic=S, a=out.attention[:, None], trans_logits=S.mean((2, 3)),
                   eval_pred_cam=norm_cam(rows.sum(1))[:, None])
        close(out.attention, rows.sum(1).numpy(), 1e-5, "attention")
        some = torch.tensor([[3, 0], [19, 3]])
        close(out.maps_for(some), out.cams[torch.arange(2)[:, None], some].numpy(), 1e-4, "single maps")
        if hasattr(m, "conv_cls_head"): got |= probed(m, x)
        if not hasattr(m, "layers"): return got
        steps = fused(m, S, rows.sum(1))
        got |= {f"eval_layer{i}_cam_out": c for i, (_, _, _, c) in enumerate(steps)} | {"eval_x_fused": steps[-1][2]}
        got["fuse_alpha_wmax2"] = torch.stack([widest(layer, before) for layer, before, _, _ in steps])
        got["laplacian"] = -m.layers[0].fuse.matrix(torch.zeros(1, 196, 196).to(S))[0]   # where nothing is similar, A is -L
    return got


def trained(m, x, y):
    "Everything the fixtures hold of training mode: one forward and backward pass from the stored state."
    m.train()
    logits = m(x).logits
    loss = F.cross_entropy(logits, y)
    got = {f"after_train:{k}": v.clone() for k, v in m.state_dict().items() if "running_" in k}
    loss.backward()
    got |= {f"{kind}:{n}": p.grad for n, p in m.named_parameters() for kind in ("grad", "grad64")}
    with torch.no_grad(): t, rows, _ = features(m, x)       # batch statistics again: the same tokens as in the pass above
    got |= dict(train_logits=logits, loss_ce=loss, train_S=head(m)(t))
    if not hasattr(m, "layers"): return got
    with torch.no_grad(): steps = fused(m, got["train_S"], rows.sum(1))
    for i, (_, _, _, c) in enumerate(steps): got |= {f"train_layer{i}_cam_out": c, f"layer{i}_cam_out": c}
    return got | dict(x_out=steps[-1][2])


def norms(m, z):
    "Gradient norms in the fixture's order."
    params = dict(m.named_parameters())
    assert set(params) == set(z["param_names"].tolist())
    return np.array([params[n].grad.norm().item() for n in z["param_names"]])


def skip_cancelling(name, key): return name.startswith("scm") and key.endswith("thred")  # the gradient of thred cancels in float32


@each_fixture
def test_float32(name):
    z, tol = golden(name), TOL[name]
    m, (x, y) = built(name), inputs(z)
    got = evaluated(m, x) | trained(m, x, y)
    for k, want in z.items():
        if k.startswith(GIVEN) or k.endswith("_fp64") or k.startswith(("grad64:", "grad_norms")) or skip_cancelling(name, k): continue
        close(got[k], want, tol[k], k)
    have, want, noise = norms(m, z), z["grad_norms"], z["grad_rel_fp32_vs_fp64"]
    for n, g, w, e in zip(z["param_names"], have, want, noise):
        if w < 1e-6*want.max(): assert g < 1e-4*want.max(), n       # no true gradient: biases before batch norm, key biases
        elif not skip_cancelling(name, n):
            allowed = 1e-1 if "conformer" in name else max(1e-3, 20*e)
            assert abs(g - w) <= allowed*w, f"gradient norm of {n}: {g} instead of {w}"


@each_fixture
def test_float64(name):
    z = golden(name)
    m, (x, y) = built(name).double(), inputs(z)
    x = x.double()
    got = evaluated(m, x) | trained(m, x, y)
    for k, want in z.items():
        if k.endswith("_fp64") and not k.startswith("grad"): close(got[k.removesuffix("_fp64")], want, 1e-8, k)
        if k.startswith("grad64:"): close(got[k], want, 1e-6, k)
    have, want = norms(m, z), z["grad_norms_fp64"]
    real = want > 1e-6*want.max()
    assert np.abs(have[~real]).max(initial=0) < 1e-6*want.max()
    np.testing.assert_allclose(have[real], want[real], rtol=1e-6)
