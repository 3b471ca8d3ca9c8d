"What every test file shares: the checkout, copies of it, and processes with a plain environment."
import os, shutil, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATED = {".git", ".venv", "__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".ruff_cache", ".hypothesis", "build", "dist", "htmlcov",
             "_proc", "_docs", "_site", "runs", "node_modules", "lca_md.egg-info"}


def tracked_files() -> list[Path]:  # relative to ROOT
    "The files that are in git or would be added by `git add .`; in a source archive, everything but what commands generate."
    try:
        git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = [Path(f) for f in subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0") if f]
    except (OSError, subprocess.CalledProcessError):
        files = [p.relative_to(ROOT) for p in ROOT.rglob("*") if not GENERATED & set(p.relative_to(ROOT).parts) or p.parent == ROOT/"nbs/runs"]
    return sorted(f for f in files if (ROOT/f).is_file())


def plain_env(**more) -> dict:
    "The environment without what a test runner adds to it, one thread for arithmetic; `more` wins."
    drop = ("IN_TEST", "PYTHONPATH", "PYTHONSTARTUP")
    return {**{k: v for k, v in os.environ.items() if k not in drop}, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **more}


def run_python(*args, cwd=ROOT, timeout=600, **env) -> subprocess.CompletedProcess:
    "Run this interpreter; the result has text output and is not checked."
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env=plain_env(**env), capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=timeout)


@pytest.fixture(scope="session")
def root() -> Path:
    "The checkout."
    return ROOT


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    "A clean copy of the tracked files: what a fresh clone would hold."
    to = tmp_path_factory.mktemp("clone")/"lca_md"
    for f in tracked_files():
        (to/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/f, to/f)
    return to


@pytest.fixture(scope="session")
def site(checkout, tmp_path_factory) -> Path:
    "The website, built from a clean copy (its tests share an xdist group, so that one process builds it once). LCA_SITE=_site takes a built one."
    if os.environ.get("LCA_SITE"): return (ROOT/os.environ["LCA_SITE"]).resolve()
    copy = tmp_path_factory.mktemp("site")/"lca_md"
    shutil.copytree(checkout, copy)
    r = run_python("tools/website.py", "build", cwd=copy, timeout=1200)
    assert r.returncode == 0, (r.stdout + r.stderr)[-6000:]
    return copy/"_site"


def pytest_collection_modifyitems(items):
    "Long tests first, so that the workers finish together."
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def toy(birds, out, **over) -> dict:
    "Settings of a training that takes seconds: a ViT of two blocks on a handful of drawn birds."
    return dict(arch="deit_lca_md_tiny_patch16_224", model_args=dict(embed_dim=48, depth=2, num_heads=3), data=str(birds), recipe="light",
                img_size=96, epochs=2, batch_size=8, lr=1e-3, val_per_class=1, device="cpu", out=str(out)) | over
