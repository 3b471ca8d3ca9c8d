"The wheel: what is in it, and that it works away from the checkout. Nothing is fetched: the libraries are those of the test environment."
import sys, zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from conftest import ROOT, run_python

pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture(scope="session")
def wheel(checkout, tmp_path_factory) -> Path:
    "The wheel of a clean copy of the checkout."
    out = tmp_path_factory.mktemp("wheel")
    r = run_python("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", out, cwd=checkout)
    assert r.returncode == 0, r.stderr[-4000:]
    found = list(out.glob("*.whl"))
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="session")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as z: return set(z.namelist())


@pytest.fixture(scope="session")
def site(wheel, tmp_path_factory) -> Path:
    "A folder with the installed package and nothing else."
    to = tmp_path_factory.mktemp("site")
    r = run_python("-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", to, wheel)
    assert r.returncode == 0, r.stderr[-4000:]
    return to


def python(code:str, site:Path, cwd:Path):
    "Run `code` with the installed package first on the path, outside the checkout."
    r = run_python("-c", code, cwd=cwd, PYTHONPATH=str(site))
    assert r.returncode == 0, r.stderr[-4000:]
    return r.stdout


def test_every_module_is_in_the_wheel(names):
    for f in (ROOT/"lca_md").glob("*.py"): assert f"lca_md/{f.name}" in names


DATA = {"lca_md/configs/**/*.yaml": "lca_md/configs", "nbs/runs/*.ipynb": "lca_md/notebooks", "data/weights/*.safetensors": "lca_md/weights"}


@pytest.mark.parametrize("pattern, folder", DATA.items())
def test_data_files_are_in_the_wheel(names, checkout, pattern, folder):
    files = sorted(checkout.glob(pattern))
    base = checkout/pattern.split("*")[0].rstrip("/")
    assert files or "weights" in pattern, f"the checkout has no {pattern}"
    assert {f"{folder}/{f.relative_to(base).as_posix()}" for f in files} <= names


def test_nothing_else_is_in_the_wheel(names):
    assert {n.split("/")[0].split("-")[0] for n in names} == {"lca_md"}
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".jpg", ".log")) or "ipynb_checkpoints" in n]


def test_metadata(wheel, root):
    sys.path.insert(0, str(root/"tools"))
    from nb import settings
    with zipfile.ZipFile(wheel) as z:
        meta = Parser().parsestr(z.read(next(n for n in z.namelist() if n.endswith("dist-info/METADATA"))).decode())
        scripts = z.read(next(n for n in z.namelist() if n.endswith("entry_points.txt"))).decode()
        assert any(n.endswith("licenses/LICENSE") for n in z.namelist())
    cfg = settings()
    assert [meta[k] for k in ("Name", "Version", "License-Expression")] == [cfg["lib_name"], cfg["version"], "Apache-2.0"]
    assert meta["Requires-Python"] == f">={cfg['min_python']}"
    needs = {r.replace(" ", "") for r in meta.get_all("Requires-Dist") if "extra" not in r}
    assert needs == set(cfg["requirements"].split())
    assert "lca-md = lca_md.cli:main" in scripts and "lca_md = lca_md._modidx:d" in scripts


def test_import(site, tmp_path):
    assert Path(python("import lca_md; print(lca_md.__file__)", site, tmp_path).strip()).is_relative_to(site)


def test_development_tools_are_not_needed(site, tmp_path):
    "Importing every module loads nothing that only the dev extra installs."
    tools = "nbdev execnb ghapi pytest hypothesis jupyterlab smalldocs pycocotools"
    code = ("import importlib, pkgutil, sys, lca_md\n"
            "for m in pkgutil.iter_modules(lca_md.__path__): importlib.import_module(f'lca_md.{m.name}')\n"
            f"print(*sorted({{m.split('.')[0] for m in sys.modules}} & set('{tools}'.split())))")
    assert python(code, site, tmp_path).strip() == ""


def test_command(site, tmp_path):
    script = next(p for p in (site/"bin").iterdir() if p.name.startswith("lca-md"))
    r = run_python(script, "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert r.returncode == 0, r.stderr[-4000:]
    for command in ("train", "evaluate", "demo"): assert command in r.stdout


def test_configs_are_found(site, tmp_path, root):
    configs = root/"lca_md/configs"
    names = [str(p.relative_to(configs).with_suffix("")) for p in configs.glob("*/*.yaml")]
    out = python(f"from lca_md.core import config_path\nfor n in {names!r}: print(config_path(n))", site, tmp_path)
    assert len(names) == len(out.split()) and all(Path(p).is_relative_to(site) for p in out.split())


def test_run_notebooks_are_found(site, tmp_path, root):
    names = [p.stem for p in (root/"nbs/runs").glob("*.ipynb")]
    out = python(f"from lca_md.runs import notebook_path\nfor n in {names!r}: print(notebook_path(n))", site, tmp_path)
    assert len(names) == len(out.split()) and all(Path(p).is_relative_to(site) for p in out.split())


def test_weights_are_found(site, tmp_path, root):
    names = [p.stem for p in (root/"data/weights").glob("*.safetensors")]
    out = python(f"from lca_md.models import shipped_weights\nfor n in {names!r}: print(shipped_weights(n))", site, tmp_path)
    assert len(names) == len(out.split()) and all(Path(p).is_relative_to(site) for p in out.split())
