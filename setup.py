"Packaging: everything is read from settings.ini, as in any nbdev project. The wheel also carries configs, run notebooks and weights."
import shlex, shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SETTINGS = ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT/"settings.ini", encoding="utf-8")
cfg = SETTINGS["DEFAULT"]
missing = [k for k in "lib_name lib_path version description author license min_python requirements".split() if not cfg.get(k)]
assert not missing, f"settings.ini: missing {', '.join(missing)}"

STATUS = ["", "1 - Planning", "2 - Pre-Alpha", "3 - Alpha", "4 - Beta", "5 - Production/Stable"]
LICENSE = {"apache2": "Apache-2.0", "mit": "MIT"}
# Where a file of the checkout goes inside the wheel; `lca_md.runs` looks in both places.
EXTRA = {"nbs/runs/*.ipynb": "notebooks", "data/weights/*.safetensors": "weights"}


class BuildWithNotebooks(build_py):
    "Copies the run notebooks and the shipped weights into the package; an editable install uses them where they are."

    def extra_files(self):
        if getattr(self, "editable_mode", False): return
        for pattern, folder in EXTRA.items():
            for src in sorted(ROOT.glob(pattern)): yield src, Path(self.build_lib)/cfg["lib_path"]/folder/src.name

    def run(self):
        super().run()
        for src, dst in self.extra_files():
            dst.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(src, dst)

    def get_outputs(self, include_bytecode=1): return [*super().get_outputs(include_bytecode), *(str(dst) for _, dst in self.extra_files())]
    def get_source_files(self): return [*super().get_source_files(), *(str(src.relative_to(ROOT)) for p in EXTRA for src in ROOT.glob(p))]


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(ROOT/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license_expression=LICENSE[cfg["license"]],
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[f"Development Status :: {STATUS[int(cfg['status'])]}", "Intended Audience :: Science/Research",
                 f"Natural Language :: {cfg['language']}", "Programming Language :: Python :: 3",
                 "Topic :: Scientific/Engineering :: Artificial Intelligence", "Topic :: Scientific/Engineering :: Image Recognition"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["configs/**/*.yaml"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={k: shlex.split(cfg.get(f"{k}_requirements", "")) for k in ("dev", "onnx")},
    entry_points={"console_scripts": shlex.split(cfg.get("console_scripts", "")),
                  "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
    cmdclass={"build_py": BuildWithNotebooks},
    zip_safe=False,
)
