"""The data of the site's threshold explorer: python tools/explorer.py (or `make explorer`)

Draws four birds under four settings of the dials, asks the shipped TS-CAM and LCA-MD for the map of the true class, and writes pictures, maps,
and the package's own boxes at 100 thresholds to nbs/assets/explorer/birds.js, and the picture that stands in for the explorer without JavaScript.
Run it again after the shipped weights change; tests/test_site.py says when.
"""
import base64, hashlib, io, json, sys
from pathlib import Path

import matplotlib, numpy as np, torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from lca_md import viz  # noqa: E402
from lca_md.boxes import largest_boxes, map_levels  # noqa: E402
from lca_md.core import atomic_write  # noqa: E402
from lca_md.metrics import THRESHOLDS  # noqa: E402
from lca_md.models import from_card, shipped_weights  # noqa: E402
from lca_md.synth import draw_bird  # noqa: E402

OUT = ROOT/"nbs/assets/explorer"
SEED, BIRDS = 7, (2, 5, 7, 0)  # drawings that no training has seen
METHODS = {"TS-CAM": "tscam", "LCA-MD": "lca_md"}
PLAIN = dict(discriminativeness=1., occlusion=0., camouflage=0.)
DIALS = {"as it is": {}, "leaves in front": dict(occlusion=.9), "hidden in its colours": dict(camouflage=.9), "one telling part": dict(discriminativeness=0.)}


def fingerprint() -> str:
    "Which weights the data were made from."
    return hashlib.sha256(b"".join(shipped_weights(m).read_bytes() for m in METHODS.values())).hexdigest()[:16]


def webp(image:np.ndarray) -> str:  # a data address
    "A drawing as a small file inside the text."
    out = io.BytesIO()
    Image.fromarray(image).save(out, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def scenes(birds=BIRDS) -> list:  # per bird, per dial: SynthBird
    "The drawings: one bird and one place under each setting."
    return [[draw_bird(i, seed=SEED, dials={**PLAIN, **more}) for more in DIALS.values()] for i in birds]


@torch.no_grad()
def look(model, drawings) -> tuple[np.ndarray, np.ndarray]:  # [n, 14, 14] maps, [n, T, 4] boxes
    "Maps of the true class, rounded as they are written, and their boxes at every threshold."
    x = torch.cat([viz.to_input(b.image) for b in drawings])
    maps = model(x).maps_for(torch.tensor([[b.label] for b in drawings]))[:, 0].numpy()
    maps = np.array([[float(f"{v:.5g}") for v in m.ravel()] for m in maps]).reshape(maps.shape)
    return maps, largest_boxes(map_levels(maps), THRESHOLDS)


def make(birds=BIRDS) -> dict:
    "Everything that the explorer shows."
    rows, per = scenes(birds), len(DIALS)
    flat = [b for row in rows for b in row]
    seen, chosen = {}, {}
    for name, file in METHODS.items():
        model, card = from_card(shipped_weights(file))
        seen[name], chosen[name] = look(model, flat), card["threshold"]["gt"]
    views = lambda i: {m: {"map": maps[i].ravel().tolist(), "boxes": boxes[i].ravel().tolist()} for m, (maps, boxes) in seen.items()}
    return {"weights": fingerprint(), "thresholds": [round(float(t), 2) for t in THRESHOLDS], "methods": list(METHODS), "dials": list(DIALS), "chosen": chosen,
            "heat": [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps[viz.HEAT](np.linspace(0, 1, 32))],
            "birds": [{"name": row[0].species.replace("_", " "), "scenes": [{"image": webp(b.image), "truth": list(map(int, b.box)), "methods": views(per*i + j)}
                                                          for j, b in enumerate(row)]} for i, row in enumerate(rows)]}


def picture(data:dict) -> bytes:
    "What a reader without JavaScript sees: the first bird at seven thresholds."
    bird, view = scenes(BIRDS[:1])[0][0], data["birds"][0]["scenes"][0]["methods"]["LCA-MD"]
    return viz.threshold_slider(map_levels(np.reshape(view["map"], (1, 14, 14)))[0], bird.image, [bird.box]).encode()[1]


def main():
    data = make()
    OUT.mkdir(parents=True, exist_ok=True)
    with atomic_write(OUT/"birds.js") as f: f.write("// Written by tools/explorer.py.\nwindow.LCA_EXPLORER = " + json.dumps(data, separators=(",", ":")) + ";\n")
    with atomic_write(OUT/"explorer.png", "wb") as f: f.write(picture(data))
    print(", ".join(f"{p.name} {p.stat().st_size/1024:.0f} KiB" for p in sorted(OUT.iterdir())))


if __name__ == "__main__": main()
