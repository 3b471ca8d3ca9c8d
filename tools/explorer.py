"""The data of the site's threshold explorer: python tools/explorer.py (or `make explorer`)

Draws four birds under four settings of the dials, asks the shipped TS-CAM and LCA-MD for the map of the true class, and writes pictures, maps,
and the package's own boxes at 100 thresholds to nbs/assets/explorer/birds.js, the picture that stands in for the explorer
without JavaScript, and the README's.
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
DIALS = {"as it is": {}, "leaves in front": dict(occlusion=.9), "hidden in its colours": dict(camouflage=.9),
         "one telling part": dict(discriminativeness=0.)}


def fingerprint() -> str:
    "Which weights the data were made from."
    return hashlib.sha256(b"".join(shipped_weights(m).read_bytes() for m in METHODS.values())).hexdigest()[:16]


def webp(image, quality:int = 82) -> bytes:
    "A picture as a small file: pixels, or a figure of `viz`."
    out, drawn = io.BytesIO(), io.BytesIO()
    if isinstance(image, np.ndarray): image = Image.fromarray(image)
    else:
        image.savefig(drawn, format="png", bbox_inches="tight", pad_inches=.05)
        image = Image.open(drawn).convert("RGB")
    image.save(out, "WEBP", quality=quality, method=6)
    return out.getvalue()


def inline(file:bytes) -> str:
    "A file as an address that holds it."
    return "data:image/webp;base64," + base64.b64encode(file).decode()


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
    scene = lambda b, i: {"image": inline(webp(b.image)), "truth": list(map(int, b.box)), "methods": views(i)}
    return {"weights": fingerprint(), "thresholds": [round(float(t), 2) for t in THRESHOLDS], "methods": list(METHODS), "dials": list(DIALS),
            "chosen": chosen, "heat": [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps[viz.HEAT](np.linspace(0, 1, 32))],
            "birds": [{"name": row[0].species.replace("_", " "), "scenes": [scene(b, per*i + j) for j, b in enumerate(row)]}
                      for i, row in enumerate(rows)]}


def picture(data:dict) -> bytes:
    "What a reader without JavaScript sees: the first bird at seven thresholds."
    bird, view = scenes(BIRDS[:1])[0][0], data["birds"][0]["scenes"][0]["methods"]["LCA-MD"]
    return webp(viz.threshold_slider(map_levels(np.reshape(view["map"], (1, 14, 14)))[0], bird.image, [bird.box]), 90)


def readme_birds() -> bytes:
    "Three species, the same three under leaves."
    rows = scenes(BIRDS[:3])
    return webp(viz.show_images([row[i].image for row in rows for i in (0, 1)], cols=6), 88)


def readme_maps(data:dict) -> bytes:
    "Map and box of both methods, each at its own threshold."
    rows, views = scenes(), [b["scenes"][0]["methods"] for b in data["birds"]]
    maps = {m: [np.reshape(v[m]["map"], (14, 14)) for v in views] for m in METHODS}
    at = {m: round(100*data["chosen"][m]) for m in METHODS}
    boxes = {m: [v[m]["boxes"][4*at[m]:4*at[m] + 4] for v in views] for m in METHODS}
    return webp(viz.show_maps([r[0].image for r in rows], maps, boxes, [[r[0].box] for r in rows], blocks=2), 88)


def main():
    data = make()
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, separators=(",", ":"))
    with atomic_write(OUT/"birds.js") as f: f.write(f"// Written by tools/explorer.py.\nwindow.LCA_EXPLORER = {text};\n")
    for name, content in (("explorer", picture(data)), ("readme_birds", readme_birds()), ("readme_maps", readme_maps(data))):
        with atomic_write(OUT/f"{name}.webp", "wb") as f: f.write(content)
    print(", ".join(f"{p.name} {p.stat().st_size/1024:.0f} KiB" for p in sorted(OUT.iterdir())))


if __name__ == "__main__": main()
