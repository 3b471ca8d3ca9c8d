"""Numbers of the public reference implementations (inputs, weights, outputs, gradients), and the tolerances measured for them."""
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import lca_md  # noqa: F401 (registers the models)
from lca_md.losses import lca_md_loss, pair_cosines, sim_max_loss, sim_min_loss, similarity_ranks
from lca_md.ssfm import DCPAB, SSFM, neighbor_matrix, norm_cam, similarity

HERE = Path(__file__).parent/"golden"
TOL = json.loads((HERE/"tolerances.json").read_text())


@pytest.fixture(scope="module")
def golden():
    cache = {}
    def load(*names):
        for n in names:
            if n not in cache: cache[n] = dict(np.load(HERE/f"{n}.npz"))
        return {k: v for n in names for k, v in cache[n].items()}
    return load


def close(got, want, tol, what=""):
    got = got.detach().double().numpy() if torch.is_tensor(got) else np.asarray(got, float)
    want = np.asarray(want, float)
    error = np.abs(got - want).max()/max(np.abs(want).max(), 1e-30)
    assert error <= tol, f"{what}: relative error {error:.1e} > {tol:.1e}"


@pytest.mark.parametrize("side", [14, 7])
def test_ssfm(golden, side):
    z, tol, s = golden("ssfm_matrices", "ssfm_layers"), TOL["ssfm"], f"{side}x{side}"
    for reach in (1, 2, 3, 4): np.testing.assert_array_equal(neighbor_matrix((side, side), reach).numpy(), z[f"adj_{s}_c{reach}"])
    sim = similarity(torch.tensor(z[f"tokens_{s}"]).flatten(2))
    for k in (4, 16): close(SSFM(k)(sim), z[f"ssfm_{s}_it{k}"], tol[f"ssfm_{s}_it{k}"], f"it{k}")
    for reach in (1, 2, 4):
        key = f"ssfm_{s}_it4_c{reach}_rowsum"
        close(SSFM(4, reach)(sim).sum(-1), z[key], tol[key], f"reach {reach}")
    moved = SSFM(16)
    moved._loss_rate.data.fill_(.97)
    close(moved(sim), z[f"ssfm_{s}_it16_r0.97"], tol[f"ssfm_{s}_it16_r0.97"], "r=.97")


@pytest.mark.parametrize("tag", ["it16", "it4", "it16_moved"])
@pytest.mark.parametrize("side", [14, 7])
def test_diffusion_layer(golden, side, tag):
    z, p = golden("ssfm_layers"), f"dcpab_{side}x{side}_{tag}_"
    for dtype in (torch.float32, torch.float64):
        layer = DCPAB(int(tag.split("_")[0][2:])).to(dtype)
        layer.thred.data.fill_(float(z[p + "thred"]))
        layer.ssfm._loss_rate.data.fill_(float(z[p + "loss_rate"]))
        t = lambda k: torch.tensor(z[k]).to(dtype)
        x, c = t(f"tokens_{side}x{side}").requires_grad_(), t(p + "cam_in").requires_grad_()
        x_out, c_out = layer(x, c)
        ((x_out*t(p + "cot_x")).sum() + (c_out*t(p + "cot_cam")).sum()).backward()
        if dtype == torch.float32:
            got = dict(x_out=x_out, cam_out=c_out, grad_x=x.grad, grad_cam=c.grad, grad_loss_rate=layer.ssfm._loss_rate.grad)
            for k, v in got.items(): close(v, z[p + k], TOL["ssfm"][p + k], k)
        else:  # the gradient of thred cancels in float32
            close(layer.thred.grad, z[p + "grad_thred_fp64"], 1e-5, "grad_thred")
            close(layer.ssfm._loss_rate.grad, z[p + "grad_loss_rate_fp64"], 1e-5, "grad_loss_rate")


def test_norm_cam(golden):
    z = golden("norm_cam")
    for k in ("2", "3", "4", "2_small_range"): close(norm_cam(torch.tensor(z[f"in{k}"])), z[f"out{k}"], 2e-6, k)
    assert z["const_isnan"] and (norm_cam(torch.tensor(z["const_in"])) == 0).all()  # the reference is NaN there: here a flat map is 0


CASES = ("corr", "dup", "indep", "near", "nearequal", "one", "opposite", "scaled", "two", "wide")


@pytest.mark.parametrize("case", CASES)
def test_losses(golden, case):
    z, tol = golden("losses"), TOL["losses"]
    p, q = (torch.tensor(z[f"{case}_{k}"]).requires_grad_() for k in "pq")
    close(pair_cosines(p, p), z[f"{case}_C"], 1e-6)
    np.testing.assert_array_equal(similarity_ranks(pair_cosines(p, p).detach()).numpy(), z[f"{case}_rank"])
    for a in (.25, .75):
        loss = sim_max_loss(p, a)
        close(loss, z[f"{case}_simmax_{a}"], tol[f"{case}_simmax_{a}"], f"sim_max {a}")
        close(torch.autograd.grad(loss, p)[0], z[f"{case}_simmax_{a}_grad"], tol[f"{case}_simmax_{a}_grad"], f"grad sim_max {a}")
    loss = sim_min_loss(p, q)
    close(loss, z[f"{case}_simmin"], tol[f"{case}_simmin"], "sim_min")
    for name, g in zip("pq", torch.autograd.grad(loss, (p, q))):
        key = f"{case}_simmin_grad_{name}"
        close(g, z[key], tol[key], f"grad sim_min {name}")


MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((.485, .456, .406), (.229, .224, .225)))


def built(z, arch):
    m = timm.create_model(arch, num_classes=20, embed_dim=48, depth=3, num_heads=3)
    m.load_state_dict({k[2:]: torch.tensor(v) for k, v in z.items() if k.startswith("w:")})
    return m


def inputs(z): return (torch.tensor(z["images_u8"]).permute(0, 3, 1, 2).float()/255 - MEAN)/STD, torch.tensor(z["labels"])


@pytest.mark.parametrize("name,arch", [("tscam_small_vit", "deit_tscam_tiny_patch16_224"), ("lca_md_small_vit", "deit_lca_md_tiny_patch16_224")])
def test_models(golden, name, arch):
    z, tol = golden(name), TOL[name]
    m, (x, y) = built(z, arch), inputs(z)
    out = m.eval()(x)
    got = dict(eval_logits=out.logits, eval_cams=out.cams)
    if out.fg is not None: got |= dict(eval_fg=out.fg, eval_bg=out.bg, a=out.attention[:, None], norm_a=norm_cam(out.attention).flatten(1))
    out = m.train()(x)
    terms = lca_md_loss(out, y)
    got |= dict(train_logits=out.logits, loss_ce=terms["ce"])
    if out.fg is not None:
        got |= dict(train_fg=out.fg, train_bg=out.bg, loss_total=terms["loss"], loss_simmax_bg=terms["sim_max_bg"],
                    loss_simmax_fg=terms["sim_max_fg"], loss_simmin_bg_fg=terms["sim_min"])
    for k, v in got.items(): close(v, z[k], tol[k], k)
    terms["loss"].backward()
    params = dict(m.named_parameters())
    assert set(params) == set(z["param_names"].tolist())
    for n, want, noise in zip(z["param_names"], np.nan_to_num(z["grad_norms"]), np.nan_to_num(z["grad_rel_fp32_vs_fp64"])):  # nan: no gradient there
        have = 0. if params[n].grad is None else params[n].grad.norm().item()
        assert abs(have - want) <= max(1e-3, 20*noise)*max(want, 1e-30), f"gradient norm of {n}: {have} instead of {want}"
    for k in z:
        if k.startswith("grad:") and k in tol: close(params[k[5:]].grad, z[k], tol[k], k)


def test_trajectory(golden):
    start, z = golden("lca_md_small_vit"), golden("traj")
    m, (x, y) = built(start, "deit_lca_md_tiny_patch16_224"), inputs(z)
    opt = create_optimizer_v2(m, opt="adamw", lr=5e-4, weight_decay=.05, eps=1e-8)
    spared = {id(p) for g in opt.param_groups if g["weight_decay"] == 0 for p in g["params"]}
    assert {n for n, p in m.named_parameters() if id(p) in spared} == set(z["no_decay_names"].tolist())
    losses, rows = [], []
    for step in range(6):
        terms = lca_md_loss(m.train()(x), y)
        losses.append(terms["loss"].item())
        rows.append([terms[k].item() for k in ("sim_max_bg", "sim_max_fg", "sim_min", "ce")])
        if step == 5: break
        opt.zero_grad()
        terms["loss"].backward()
        opt.step()
    close(losses, z["losses"], TOL["traj"]["losses"], "losses")
    close(rows, z["loss_terms"], TOL["traj"]["loss_terms"], "terms")
    params = dict(m.named_parameters())
    for k in z:
        if k.startswith("final:"): close(params[k[6:]], z[k], TOL["traj"][k], k)


def test_finite_where_the_released_iteration_diverges():
    sim = similarity(torch.randn(2, 200, 196, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1), requires_grad=True)
    with pytest.warns(UserWarning, match="the released iteration diverges"): assert SSFM(16)(sim).isfinite().all()
    x_out, c_out = DCPAB(16)(x, torch.rand(2, 196))
    (x_out.sum() + c_out.sum()).backward()
    assert x_out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_stay_finite(classes):
    m = timm.create_model("deit_lca_md_tiny_patch16_224", num_classes=classes, embed_dim=48, depth=2, num_heads=3)
    x = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    opt = torch.optim.AdamW(m.parameters(), lr=1e-3)
    for _ in range(3):
        loss = lca_md_loss(m.train()(x), torch.arange(4) % classes)["loss"]
        opt.zero_grad()
        loss.backward()
        opt.step()
        assert loss.isfinite() and all(p.isfinite().all() for p in m.parameters())
