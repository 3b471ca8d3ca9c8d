"""What the Makefile and the tests do with notebooks.

python tools/nb.py export        write lca_md/ from nbs/, strip metadata, copy settings.ini into pyproject.toml's [tool.nbdev], write the contents
python tools/nb.py contents      write the tables of contents in README.md and nbs/index.ipynb: order from _quarto.yml, words from the chapters
python tools/nb.py test FILE     run one chapter as nbdev does; exit 1 with the failing cell if one fails
python tools/nb.py table         cells, lines, pictures and words of every chapter
python tools/nb.py fresh [NAME]  execute notebooks (all of them) in a copy; exit 1 if an output is not the committed one (see tools/fresh.py)
"""
import argparse, ast, json, os, re, sys
from configparser import ConfigParser
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT/"nbs", ROOT/"lca_md"


def settings(root:Path = ROOT) -> dict:
    "settings.ini as a dictionary of strings, runs of white space made single."
    ini = ConfigParser(delimiters=["="], interpolation=None)
    ini.read(root/"settings.ini", encoding="utf-8")
    return {k: " ".join(v.split()) for k, v in ini["DEFAULT"].items()}


def sync_pyproject(root:Path = ROOT):
    "Write settings.ini into the [tool.nbdev] table of pyproject.toml."
    path = root/"pyproject.toml"
    table = "".join(f'{k} = "{v}"\n' for k, v in settings(root).items())
    old = path.read_text(encoding="utf-8")
    new, n = re.subn(r"(?ms)^\[tool\.nbdev\]\n.*?(?=^\[|\Z)", lambda _: f"[tool.nbdev]\n{table}\n", old)
    if n != 1: raise SystemExit("error: pyproject.toml needs exactly one [tool.nbdev] table")
    if new != old: path.write_text(new, encoding="utf-8")


def export():
    "Everything that must be in step before a commit."
    from nbdev.clean import nbdev_clean
    from nbdev.doclinks import nbdev_export
    os.environ.pop("IN_TEST", None)
    os.chdir(ROOT)
    sync_pyproject()
    contents()
    nbdev_clean.__wrapped__()
    nbdev_export.__wrapped__()


def code_of(cell_source:str) -> str:
    "A cell's code without nbdev's `#|` lines and outer blank lines."
    return "\n".join(line for line in cell_source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip()


def exported_places() -> dict:  # code of a cell -> (module file, line number of its first line less one)
    "Where the code of each exported cell stands in the package."
    places = {}
    for file in sorted(LIB.glob("*.py")):
        lines = file.read_text(encoding="utf-8").splitlines()
        heads = [i for i, line in enumerate(lines) if line.startswith("# %% ")] + [len(lines)]
        for a, b in zip(heads, heads[1:]):
            block = "\n".join(lines[a + 1:b])
            places[block.strip()] = (str(file), a + 1 + len(block) - len(block.lstrip("\n")))
    return places


def count_exported_cells():
    "Compile exported cells under their module's file name and lines, so that coverage counts what a chapter executes of the package."
    from IPython.core.compilerop import CachingCompiler
    places, name, parse = exported_places(), CachingCompiler.get_code_name, CachingCompiler.ast_parse

    def get_code_name(self, raw_code, transformed_code, number):
        found = places.get(code_of(raw_code))
        return found[0] if found else name(self, raw_code, transformed_code, number)

    def cache(self, transformed_code, number=0, raw_code=None, plain=CachingCompiler.cache):
        if code_of(raw_code or transformed_code) not in places: return plain(self, transformed_code, number, raw_code)
        return get_code_name(self, raw_code or transformed_code, transformed_code, number)

    def ast_parse(self, source, filename="<unknown>", symbol="exec"):
        tree, found = parse(self, source, filename, symbol), places.get(code_of(source))
        if found:
            skipped = next(i for i, line in enumerate(source.splitlines()) if line.strip() and not re.match(r"\s*#\s*\|", line))
            ast.increment_lineno(tree, found[1] - skipped)
        return tree

    CachingCompiler.cache, CachingCompiler.ast_parse = cache, ast_parse


def test(path:Path) -> bool:  # whether every cell ran
    "Run a chapter through nbdev, without the cells that settings.ini's tst_flags name; the notebook file stays as it is."
    os.environ["IN_TEST"] = "1"
    from nbdev.test import test_nb
    if os.environ.get("LCA_COVER_CELLS"): count_exported_cells()
    return test_nb(path.resolve(), skip_flags=settings()["tst_flags"].split(), basepath=ROOT)[0]


def chapters() -> list[Path]:
    "The numbered chapters, in order."
    return sorted(NBS.glob("[0-9]*.ipynb"))


# -- the tables of contents

PARTS = {"Start here": "The whole idea on one bird, before any detail.", "The task": "What is asked, and the pictures to ask it of.",
         "The model": "From pixels to a map, one part at a time.", "The measure": "From a map to a box, and from boxes to a number with a meaning.",
         "The run": "Training, evaluating and using it, from Python, from notebooks and from the shell."}


def parts() -> dict[str, list[Path]]:  # part -> its chapters
    "The chapters by part, in the order of the website's sidebar (_quarto.yml); pages outside its sections are where a reader starts."
    import yaml
    files = {re.sub(r"^\d+[a-z]?_", "", p.stem) + ".ipynb": p for p in chapters()}
    out = {}
    for item in yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]:
        part, pages = (item["section"], item["contents"]) if isinstance(item, dict) else ("Start here", [item])
        found = [files[p] for p in pages if p in files]
        if found: out[part] = out.get(part, []) + found
    return out


def says_of_itself(path:Path) -> tuple[str, str, str]:
    "A chapter's title, its one line of description, and its module, if it has one."
    cells = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"][:2]]
    title, line = re.match(r"# (.+)\n+> (.+)", cells[0]).groups()
    module = re.search(r"#\s*\|\s*default_exp (\w+)", cells[1])
    return title.strip(), line.strip(), module[1] if module else ""


def contents_text(folder:str = "", modules:bool = False) -> str:  # folder: the way to the notebooks
    "The table of contents in Markdown: a heading, a sentence and a table for each part."
    out = []
    for part, paths in parts().items():
        head = "| chapter | module | what it holds |\n|---|---|---|" if modules else "| chapter | what it holds |\n|---|---|"
        rows = []
        for p in paths:
            title, line, module = says_of_itself(p)
            cells = [f"[{title}]({folder}{p.name})", *([f"`lca_md.{module}`" if module else ""] if modules else []), line.replace("|", "\\|")]
            rows.append("| " + " | ".join(cells) + " |")
        out.append("\n".join([f"### {part}\n", PARTS.get(part, "") + "\n", head, *rows]))
    return "\n\n".join(out)


CONTENTS = re.compile(r"(?s)(<!-- contents: written by make export -->\n).*?(<!-- end of contents -->)")


def contents():
    "Write both tables of contents: README.md between its two marks, nbs/index.ipynb as the cell `## The chapters`."
    readme, index = ROOT/"README.md", NBS/"index.ipynb"
    old = readme.read_text(encoding="utf-8")
    new, n = CONTENTS.subn(lambda m: f"{m[1]}\n{contents_text('nbs/', True)}\n\n{m[2]}", old)
    if n != 1: raise SystemExit("error: README.md needs exactly one pair of contents marks")
    if new != old: readme.write_text(new, encoding="utf-8")
    nb = json.loads(index.read_text(encoding="utf-8"))
    cell, = [c for c in nb["cells"] if "".join(c["source"]).startswith("## The chapters")]
    text = f"## The chapters\n\n{contents_text()}"
    if "".join(cell["source"]) == text: return
    cell["source"] = text.splitlines(keepends=True)
    index.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


TESTED = re.compile(r"(?m)^\s*(test_\w+\(|assert\b|with ExceptionExpected)")
EXPORT = re.compile(r"(?m)^\s*#\s*\|\s*exports?i?\b")
STYLE = dict(cells=(15, 60), median=(1, 4), p90=(1, 15), words=(3, 6), tests=(.5, 99))  # what a chapter aims at


def measure(path:Path) -> dict:
    "The figures of one chapter that the book's style speaks of."
    from execnb.nbio import read_nb
    cells = read_nb(path).cells
    code = [c for c in cells if c.cell_type == "code" and any(x.strip() for x in code_of(c.source).splitlines())]
    sizes = sorted(sum(bool(x.strip()) for x in code_of(c.source).splitlines()) for c in code) or [0]
    words = sum(len(c.source.split()) for c in cells if c.cell_type == "markdown")
    exports = [n for c in code if EXPORT.search(c.source) for n in ast.parse(c.source).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    public = sum(not n.name.startswith("_") for n in exports)
    tested = sum(bool(TESTED.search(c.source)) for c in code if not EXPORT.search(c.source))
    return dict(cells=len(cells), code=len(code), median=sizes[len(sizes)//2], p90=sizes[int(len(sizes)*.9)], longest=sizes[-1],
                pictures=sum(any(k.startswith("image/") for k in o.get("data", {})) for c in code for o in c.get("outputs", [])),
                words=words/max(1, sum(sizes)), exports=public, tests=tested/public if public else None, kib=path.stat().st_size/1024)


def table():
    "One line per chapter; a star marks a figure outside the style's range (words per line are counted only where a chapter exports code)."
    columns = dict(cells="cells", code="code", median="median", p90="p90", longest="longest", pictures="pictures", words="words/line",
                   exports="exports", tests="tests/export", kib="KiB")
    print(f"{'chapter':<18}" + "".join(f"{head:>{len(head) + 3}}" for head in columns.values()))
    for path in chapters():
        m = measure(path)
        shown = {k: "" if v is None else f"{v:.1f}" if k in ("words", "tests") else f"{v:.0f}" for k, v in m.items()}
        counts = [k for k in STYLE if m[k] is not None and (k != "words" or m["exports"])]
        out = [k for k in counts if not STYLE[k][0] <= m[k] <= STYLE[k][1]]
        print(f"{path.stem:<18}" + "".join(f"{shown[k] + ('*' if k in out else ' '):>{len(head) + 3}}" for k, head in columns.items()))
    print("* outside: " + ", ".join(f"{columns[k]} {low:g} to {high:g}" for k, (low, high) in STYLE.items()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("do", choices=["export", "contents", "test", "table", "fresh"])
    p.add_argument("files", nargs="*", metavar="NOTEBOOK", help="the notebook to test; the notebooks to execute afresh")
    p.add_argument("--tolerance", type=float, default=0., help="fresh: numbers may differ by this share of themselves (default: not at all)")
    p.add_argument("--write", action="store_true", help="fresh: put outputs that differ into the notebooks")
    a = p.parse_args()
    if a.do == "export": export()
    elif a.do == "contents": contents()
    elif a.do == "table": table()
    elif a.do == "fresh":
        from fresh import fresh
        if not fresh(a.files, a.tolerance, a.write, settings()["tst_flags"].split(), say=partial(print, flush=True)): sys.exit(1)
    elif len(a.files) != 1: p.error("test needs a notebook")
    elif not test(Path(a.files[0])): sys.exit(1)


if __name__ == "__main__": main()
