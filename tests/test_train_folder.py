"""Training on a folder of labelled images, without any box: what the card says then, and what the command says."""
import json
import subprocess
import sys

import pytest
from PIL import Image

from lca_md.core import Config
from lca_md.models import from_card
from lca_md.predict import Localizer
from lca_md.synth import draw_bird
from lca_md.train import fit

SMALL = dict(model_args=dict(embed_dim=48, depth=1, num_heads=3), img_size=64, batch_size=4, lr=1e-3, val_per_class=1, epochs=1,
             recipe="light", device="cpu", threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    "Two classes of six pictures each, in a folder of folders."
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("jay", "wren")):
        (root/name).mkdir()
        for i in range(6): Image.fromarray(draw_bird(10*k + i, size=64, species=k).image).save(root/name/f"{i}.jpg")
    return root


def test_no_boxes(photos, tmp_path):
    run = fit(Config(arch="deit_tscam_tiny_patch16_224", data=str(photos), out=str(tmp_path/"run"), fixed_threshold=.3, **SMALL))
    assert "top1_cls" in run.history[0] and "gt_known" not in run.history[0]
    card = from_card(tmp_path/"run"/"best.safetensors")[1]
    assert card["class_names"] == ["jay", "wren"]
    assert card["threshold"] == dict(gt=.3, pred=.3) and "no boxes" in card["threshold_rule"]
    assert Localizer.from_checkpoint(tmp_path/"run"/"best.safetensors")(photos/"jay"/"0.jpg").label in ("jay", "wren")


def test_by_command(photos, tmp_path):
    "`lca-md train --data FOLDER`, through the notebook."
    args = [f"{k}={json.dumps(v) if isinstance(v, dict) else v}" for k, v in SMALL.items()]
    done = subprocess.run([sys.executable, "-m", "lca_md", "train", "--data", photos, "--out", tmp_path/"run", *(x for a in args for x in ("-p", a))],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "which has no boxes" in done.stdout
    assert (tmp_path/"run"/"train.ipynb").is_file() and (tmp_path/"run"/"train.html").is_file()
