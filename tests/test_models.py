"Every registered model, and the backbones beyond: train, evaluate, localize, save, load; refusals give the reason."
import pickle

import numpy as np
import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import lca_md  # noqa: F401 (registers the models)
from conftest import ROOT
from lca_md.core import CheckpointError, Config, ConfigError
from lca_md.losses import lca_md_loss
from lca_md.metrics import LocalizationMetrics, Protocol
from lca_md.models import ARCHS, METHODS, build_model, from_card, load_checkpoint, localizer, save_checkpoint, shipped_weights
from lca_md.predict import Localizer
from lca_md.synth import draw_bird, write_synthbirds
from lca_md.train import NotFinite, Run
from lca_md.tscam import make_localizer

K = 7
SMALL = {"deit": dict(embed_dim=48, depth=2, num_heads=3), "vit": dict(embed_dim=64, depth=2, num_heads=2),
         "conformer": dict(channel_ratio=.25, embed_dim=48, num_heads=3, depth=6)}
BOTH = ["deit_lca_md_base", "deit_lca_md_small", "deit_tscam_base", "deit_tscam_small", "deit_tscam_tiny"]
RELEASED = {"CUB": ["conformer_lca_md_small", "vit_lca_md_small", *BOTH], "ILSVRC": ["conformer_tscam_small", *BOTH]}
UNUSED = {f"tfcm.{m}.{p}" for m in ("bn_head", "conv3x3") for p in ("weight", "bias")}  # in the released code too
BEYOND = ["vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_224.dino", "deit_tiny_distilled_patch16_224",
          "vit_tiny_patch16_384"]


def birds(n=2): return [draw_bird(i, seed=3) for i in range(n)]
def batch(pics, size=224):
    x = torch.from_numpy(np.stack([p.image for p in pics])).permute(0, 3, 1, 2).float()/127.5 - 1
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear")


@pytest.mark.parametrize("split", RELEASED)
def test_the_thirteen_configurations(split):
    for name in RELEASED[split]:
        cfg = Config.from_yaml(ROOT/"lca_md"/"configs"/split/f"{name}_patch16_224.yaml")
        assert cfg.arch == f"{name}_patch16_224" and cfg.arch in ARCHS and cfg.arch in timm.list_models(f"*{name}*")


@pytest.mark.parametrize("arch", ARCHS)
def test_train_evaluate_localize(arch, tmp_path):
    torch.manual_seed(0)
    small, pics = SMALL[arch.split("_")[0]], birds()
    m = timm.create_model(arch, num_classes=K, **small)
    x, y = batch(pics), torch.tensor([1, 4])
    opt = create_optimizer_v2(m, opt="adamw", lr=1e-3, weight_decay=.05, layer_decay=.7)
    terms = lca_md_loss(m.train()(x), y)
    terms["loss"].backward()
    unused = {n for n, p in m.named_parameters() if p.grad is None}
    assert unused == (UNUSED if "lca_md" in arch and "plus" not in arch else set()), unused
    opt.step()
    with torch.no_grad():
        out = m.eval()(x)
        assert out.logits.isfinite().all() and out.cams.shape == (2, K, 14, 14)
        torch.testing.assert_close(out.maps_for(torch.tensor([[3], [6]]))[:, 0], out.cams[[0, 1], [3, 6]], rtol=1e-4, atol=1e-5)
    metrics = LocalizationMetrics(224)
    metrics.update(out, out.logits, y, [np.array([p.box]) for p in pics])
    assert 0 <= metrics.compute(Protocol("gt", "fixed", .2, "test"))["gt_known"] <= 100
    card = dict(arch=arch, num_classes=K, img_size=224, model_args=small, class_names=[str(i) for i in range(K)], threshold=dict(gt=.2, pred=.2))
    save_checkpoint(m, tmp_path/"m.safetensors", card)
    again, _ = from_card(tmp_path/"m.safetensors")
    with torch.no_grad(): torch.testing.assert_close(again(x).logits, out.logits, rtol=0, atol=0)
    found = Localizer.from_checkpoint(tmp_path/"m.safetensors")(pics[0].image)
    assert found.map.shape == (224, 224) and found.label in map(str, range(K))


@pytest.mark.parametrize("method", ["tscam", "scm", "lca_md", "sat"])
@pytest.mark.parametrize("backbone", BEYOND)
def test_backbones_beyond(backbone, method):
    patch = timm.create_model(backbone, embed_dim=48, depth=1, num_heads=3, num_classes=0).patch_embed.patch_size[0]
    for size in (8*patch, 11*patch):
        m = localizer(method, backbone, num_classes=3, embed_dim=48, depth=2, num_heads=3, img_size=size)
        x = batch(birds(), size)
        lca_md_loss(m.train()(x), torch.tensor([0, 2]))["loss"].backward()
        assert m.eval()(x).cams.shape == (2, 3, size//patch, size//patch)


def test_positions_are_interpolated_and_keep_the_prefix(tmp_path):
    base = timm.create_model("deit_tiny_distilled_patch16_224", embed_dim=48, depth=1, num_heads=3)
    torch.save({"model": base.state_dict()}, tmp_path/"deit.pth")
    m = build_model("tscam:deit_tiny_distilled_patch16_224", 3, embed_dim=48, depth=1, num_heads=3, img_size=320)
    report = load_checkpoint(m, tmp_path/"deit.pth")
    assert "198 to 402 positions" in report.resized["pos_embed"]
    torch.testing.assert_close(m.pos_embed[:, :2], base.pos_embed[:, :2])
    assert {k for k in report.skipped if k.startswith("head")} == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.mark.parametrize("method", METHODS)
def test_pretrained_weights_stay(method, tmp_path, monkeypatch):
    "`pretrained=True`: everything that timm loads is there, the class token too."
    make, small = timm.create_model, dict(embed_dim=48, depth=2, num_heads=3)
    vit = make("deit_tiny_patch16_224", **small)
    for p in vit.parameters(): torch.nn.init.normal_(p)
    torch.save(vit.state_dict(), tmp_path/"vit.pth")
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: make(*a, **k, pretrained_cfg_overlay=dict(file=str(tmp_path/"vit.pth"))))
    have = localizer(method, "deit_tiny_patch16_224", 5, pretrained=True, **small).state_dict()
    for k, v in vit.state_dict().items(): assert k.startswith("head") or have[k].equal(v), k


@pytest.mark.parametrize("backbone,why", [("resnet18", "is a ResNet"), ("swin_tiny_patch4_window7_224", "is a SwinTransformer"),
                                          ("vit_base_patch16_siglip_gap_224", "no class token"), ("vit_nowhere", "timm has no model")])
def test_unfit_backbones_are_refused_with_the_reason(backbone, why):
    with pytest.raises(ConfigError, match=why), torch.device("meta"): localizer("lca_md", backbone, num_classes=3)


@pytest.mark.parametrize("name", ["deit_lca_md_tiny", "deit_tscam_small", "deit_scm_tiny", "deit_sat_small", "vit_lca_md_small",
                                  "conformer_tscam_small", "conformer_scm_small"])
def test_released_pth_alone(name, tmp_path):
    "A file under DataParallel's names, without a card: architecture, classes and size follow from its tensors."
    from lca_md.models import guess_card
    with torch.device("meta"): sd = timm.create_model(f"{name}_patch16_224", num_classes=5).state_dict()
    assert guess_card(sd) == dict(arch=f"{name}_patch16_224", num_classes=5, img_size=224, model_args={})


def test_wrong_shapes_are_errors(tmp_path):
    m = build_model("conformer_tscam_small_patch16_224", 5, **SMALL["conformer"])
    torch.save({"state_dict": {f"module.{k}": v for k, v in m.state_dict().items()}}, tmp_path/"c.pth")
    assert load_checkpoint(build_model("conformer_tscam_small_patch16_224", 5, **SMALL["conformer"]), tmp_path/"c.pth").skipped == {}
    with pytest.raises(CheckpointError, match="made for 5 classes, the model has 6"):
        load_checkpoint(build_model("conformer_tscam_small_patch16_224", 6, **SMALL["conformer"]), tmp_path/"c.pth")


def test_checkpoints_hold_no_code(tmp_path):
    torch.save({"state_dict": {"cls_token": torch.zeros(1)}, "args": ROOT}, tmp_path/"evil.pth")
    with pytest.raises(CheckpointError, match="weights_only"): from_card(tmp_path/"evil.pth")


@pytest.mark.parametrize("name", ["deit_lca_md_tiny", "deit_sat_tiny"])
def test_bfloat16_autocast_keeps_fusion_and_answers_in_float32(name):
    torch.manual_seed(0)
    m, x = timm.create_model(f"{name}_patch16_224", num_classes=K, **SMALL["deit"]).train(), batch(birds())
    with torch.autocast("cpu", dtype=torch.bfloat16): terms = lca_md_loss(m(x), torch.tensor([1, 4]))
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)
    assert abs(terms["loss"].item() - lca_md_loss(m(x), torch.tensor([1, 4]))["loss"].item()) < .05


@pytest.mark.parametrize("name", ["deit_tscam_tiny", "deit_lca_md_tiny", "deit_sat_tiny"])
def test_the_drawn_birds_configurations_take_the_books_weights(name):
    "As their comment says: checkpoint_path may name data/weights/book_vit.safetensors."
    cfg = Config.from_yaml(f"synth/{name}")
    report = load_checkpoint(build_model(cfg.arch, 8, **cfg.model_args), shipped_weights("book_vit"))
    assert not report.skipped and not [k for k in report.fresh if k.startswith(("patch_embed", "blocks", "norm", "pos_embed", "cls_token"))]


def test_seeded_stochastic_depth_is_timms():
    "Training with drop_path: the tokens and gradients of timm's own forward under the same seed, dropped samples included."
    from lca_md.backbone import vit_features
    vit = timm.create_model("deit_tiny_patch16_224", embed_dim=48, depth=4, num_heads=3, drop_path_rate=.4).train()
    x = torch.randn(5, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    def grads(features, seed):
        torch.manual_seed(seed)
        t = features(x)
        return [t, *torch.autograd.grad(t.sin().sum(), [p for n, p in vit.named_parameters() if not n.startswith("head")]), torch.rand(3)]
    for seed in range(3):
        want = grads(lambda x: vit.forward_features(x)[:, 1:], seed)
        for rows in (True, False):
            for a, b in zip(grads(lambda x: vit_features(vit, x, rows)[0], seed), want): assert (a - b).abs().max() <= 1e-4*b.abs().max() + 1e-6


def test_onnx_of_sat_takes_any_batch(tmp_path):
    "The exported file gives the model's logits and maps, for a batch of another size than it was recorded with."
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    from lca_md.share import export_onnx
    torch.manual_seed(0)
    m, x = timm.create_model("deit_sat_tiny_patch16_224", num_classes=K, **SMALL["deit"]).eval(), batch(birds(3))
    logits, maps = ort.InferenceSession(export_onnx(m, tmp_path/"m.onnx")).run(None, {"images": x.numpy()})
    with torch.no_grad(): out = m(x)
    assert np.abs(logits - out.logits.numpy()).max() < 1e-4 and np.abs(maps - out.cams.numpy()).max() < 1e-3


# ---- found by a bug hunt

@pytest.mark.parametrize("name", ["deit_lca_md_tiny_patch16_224", "deit_sat_tiny_patch16_224", "conformer_tscam_small_patch16_224"])
def test_models_can_be_pickled(name):
    torch.manual_seed(0)
    model, x = build_model(name, K, **SMALL[name.split("_")[0]]).eval(), batch(birds(1))
    again = pickle.loads(pickle.dumps(model)).eval()
    with torch.no_grad(): assert torch.equal(again(x).logits, model(x).logits) and type(again) is type(model)


def test_a_trained_class_token_stays():
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=0, **SMALL["deit"])
    torch.nn.init.normal_(vit.cls_token)
    was = vit.cls_token.detach().clone()
    assert torch.equal(make_localizer(METHODS["lca_md"], vit, K).cls_token, was)


def test_maps_carry_no_gradient():
    for name in ("deit_sat_tiny_patch16_224", "deit_lca_md_plus_tiny_patch16_224"):
        model = build_model(name, K, embed_dim=48, depth=12, num_heads=3).eval()
        assert model(batch(birds(1))).cams.numpy().shape[:2] == (1, K)


BAD = [(dict(model_args=dict(img_size=64)), "a setting of its own"), (dict(eval_size=90), "multiples of the patch size"),
       (dict(model_args=dict(patch_drop_rate=.5)), "patch_drop_rate"), (dict(opt="adamx"), "cannot make this optimizer"),
       (dict(opt_betas=[.9]), "cannot make this optimizer"),
       (dict(arch="deit_lca_md_plus_tiny_patch16_224", model_args=dict(head=dict(reach=7))), "reach")]


@pytest.mark.parametrize("over, said", BAD)
def test_bad_settings_are_named_before_training(over, said, tmp_path):
    data = write_synthbirds(tmp_path/"birds", 16, 8, size=64, workers=0)
    with pytest.raises(ConfigError, match=said):
        cfg = dict(data=str(data), out=str(tmp_path/"run"), img_size=64, val_per_class=1, recipe="light", device="cpu") | over
        Run(Config(**cfg))


def test_positions_that_are_no_square_are_named(tmp_path):
    vit = timm.create_model("deit_tiny_patch16_224", num_classes=0, **SMALL["deit"])
    sd = dict(vit.state_dict(), pos_embed=torch.zeros(1, 198, 48))
    torch.save(sd, tmp_path/"distilled.pth")
    model = build_model("deit_tscam_tiny_patch16_224", K, **SMALL["deit"])
    with pytest.raises(CheckpointError, match="198 positions"): load_checkpoint(model, tmp_path/"distilled.pth")


def test_a_step_that_is_refused_leaves_running_statistics(tmp_path):
    data = write_synthbirds(tmp_path/"birds", 16, 8, size=64, workers=0)
    run = Run(Config(arch="deit_tscam_tiny_patch16_224", model_args=dict(SMALL["deit"], stem="conv"), data=str(data), out=str(tmp_path/"run"),
                     img_size=64, batch_size=8, val_per_class=1, recipe="light", device="cpu"))
    was = [b.clone() for b in run.net.buffers()]
    with torch.no_grad(): run.net.head.bias.fill_(torch.nan)
    with pytest.raises(NotFinite): run.train_step([next(iter(run.loader))])
    assert len(was) > 3 and all(torch.equal(a, b) for a, b in zip(was, run.net.buffers()))
