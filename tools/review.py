"""A readable diff of notebooks: python tools/review.py [REF] [FILE ...]     (or `make diff REF=main`)

Each changed notebook is written as text by jupytext (percent format, no outputs, no metadata), before and after, and the two texts are compared.
REF is any commit (default: HEAD); what is in the working tree is "after".
"""
import argparse, difflib, subprocess, sys
from pathlib import Path

import jupytext, nbformat

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"+": "\033[32m", "-": "\033[31m", "@": "\033[36m"}


def as_text(source:str) -> str:
    "A notebook's JSON as percent-format text: markdown as comments, code as it is; nothing for an empty source."
    if not source: return ""
    nb = nbformat.reads(source, as_version=4)
    nb.metadata = nbformat.NotebookNode()
    for cell in nb.cells: cell.metadata = nbformat.NotebookNode({k: v for k, v in cell.metadata.items() if k == "tags"})
    text = jupytext.writes(nb, fmt={"extension": ".py", "format_name": "percent", "comment_magics": False})
    return text.split("\n# ---\n", 1)[-1].lstrip("\n") if text.startswith("# ---\n") else text


def git(*args, root=ROOT) -> str:
    r = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True)
    if r.returncode: raise SystemExit(f"error: git {' '.join(args)}: {r.stderr.strip()}")
    return r.stdout


def changed(ref:str, root=ROOT) -> list[str]:
    "Notebooks that differ from `ref`, new ones included."
    new = git("ls-files", "--others", "--exclude-standard", "--", "*.ipynb", root=root)
    return sorted({*git("diff", "--name-only", ref, "--", "*.ipynb", root=root).splitlines(), *new.splitlines()})


def diff(path:str, ref:str, root=ROOT) -> list[str]:
    "Lines of the unified diff of one notebook."
    known = git("ls-tree", "-r", "--name-only", ref, "--", path, root=root).strip()
    old = git("show", f"{ref}:{path}", root=root) if known else ""
    new = (root/path).read_text(encoding="utf-8") if (root/path).is_file() else ""
    if not known and not (root/path).is_file(): raise SystemExit(f"error: {path}: no such notebook in {ref} or in {root}; paths count from there")
    return list(difflib.unified_diff(as_text(old).splitlines(), as_text(new).splitlines(), f"{ref}:{path}", path, lineterm=""))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("ref", nargs="?", default="HEAD")
    p.add_argument("files", nargs="*", help="only these notebooks")
    a = p.parse_args()
    paint = (lambda x: f"{COLOURS[x[0]]}{x}\033[0m" if x[:1] in COLOURS else x) if sys.stdout.isatty() else str
    for path in a.files or changed(a.ref):
        lines = diff(path, a.ref)
        print("\n".join(map(paint, lines)) if lines else f"{path}: only outputs or metadata differ")


if __name__ == "__main__": main()
