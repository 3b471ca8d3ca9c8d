"""Do the committed outputs still come out?   python tools/nb.py fresh [NAME ...] [--tolerance T] [--write]     (or `make fresh ARGS=...`)

Each notebook (default: all of them, chapters and run notebooks) is executed in a temporary copy of the checkout, with one thread, and every output
is compared with the committed one: texts must be equal but for times, pictures byte for byte or pixel for pixel. On another machine, where sums are
taken in another order, --tolerance 1e-3 lets numbers differ by that share. What goes to stderr (progress bars) is not compared and never committed.
Run notebooks are started as the `lca-md` command starts them, with the parameters of RUNS, after the runs that they build on.
"""
import base64, io, json, math, os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent

# How the committed outputs of a run notebook are made, in this order: what differs from its defaults, and the runs whose results it reads.
RUNS = {"quickstart": ({}, []),
        "train": (dict(config="synth/deit_lca_md_tiny", checkpoint_path="data/weights/book_vit.safetensors", layer_decay=.5, out="runs/train"),
                  ["quickstart"]),
        "evaluate": ({}, ["quickstart", "train"]),
        "localize": ({}, ["quickstart"]),
        "pretrain": ({}, [])}
ONLY_BY_NAME = {"pretrain": "a quarter of an hour on two quiet cores; `tools/nb.py fresh pretrain` runs it"}

# Programs of the processes that execute: a run notebook as the `lca-md` command does it (configuration resolved); a chapter in place.
RUN = """
import json, sys
from lca_md.core import Config
from lca_md.runs import execute
name, given, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if "config" in given: given = Config.from_yaml(given.pop("config"), **given).to_dict()
execute(name, given, out, quiet=True)
"""
CHAPTER = """
import nbformat, sys
from nbclient import NotebookClient
path, folder = sys.argv[1:]
nb = nbformat.read(path, 4)
quiet = dict(extra_arguments=["--log-level=ERROR"])  # the kernel greets with a warning otherwise
NotebookClient(nb, timeout=None, kernel_name="python3", resources=dict(metadata=dict(path=folder)), **quiet).execute()
nbformat.write(nb, path)
"""


# -- what two outputs have in common

TIMES = re.compile(r"""(?x)
    \b\d{4}-\d\d-\d\d (?:[T ]\d\d:\d\d(?::\d\d)?)? \b                              # 2026-01-31 12:30
    | (?<![\[:\d,.]) \d{1,2}:\d\d (?::\d\d)? (?![\d:\],])                          # 12:30, 1:02:03
    | (?<![\w.]) \d+(?:\.\d+)? \s? (?:[mµu]?s|sec|seconds?|min|minutes?|h|hours?|(?:it|img|images|birds)/s) (?![\w/])  # 12 s, 35 images/s
    """)
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?![\w])")


def mask_times(text:str) -> str:
    "A text without what a clock said; blanks that lined it up are made single."
    masked, n = TIMES.subn("<time>", text)
    return re.sub(r"[ \t]+", " ", masked) if n else text


def same_text(a:str, b:str, tolerance:float = 0.) -> bool:
    "Whether two texts are equal but for times, and numbers within a relative tolerance."
    a, b = mask_times(a), mask_times(b)
    if a == b or not tolerance: return a == b
    bare = lambda s: re.sub(r"[ -]+", " ", NUMBER.sub("<number>", s))
    x, y = ([float(n) for n in NUMBER.findall(s)] for s in (a, b))
    return bare(a) == bare(b) and all(math.isclose(p, q, rel_tol=tolerance, abs_tol=1e-9) for p, q in zip(x, y, strict=True))


def picture_difference(a:str, b:str, tolerance:float = 0.) -> str:
    "What two base64 pictures have not in common, in words; nothing if they are equal, or differ by less than `tolerance` of the range on average."
    a, b = base64.b64decode(a), base64.b64decode(b)
    if a == b: return ""
    x, y = (np.asarray(Image.open(io.BytesIO(p)).convert("RGBA"), int) for p in (a, b))
    if x.shape != y.shape: return "pictures of {1}x{0} and {3}x{2} pixels".format(*x.shape[:2], *y.shape[:2])
    d = abs(x - y)
    if d.mean() <= tolerance*255: return ""
    return f"{(d.max(-1) > 0).mean():.1%} of the pixels differ, by {d.mean():.2g} of 255 on average, at most by {d.max()}"


def parts(outputs:list) -> list[tuple[str, str]]:  # (stdout, error or a mime type; text or base64)
    "What a cell's outputs show: printed text in one piece, without stderr; an output's forms one by one."
    out = []
    for o in outputs:
        if o["output_type"] == "error": out.append(("error", f"{o['ename']}: {o['evalue']}"))
        elif o["output_type"] != "stream":
            out += [(k, v if isinstance(v, str) else json.dumps(v, sort_keys=True)) for k, v in sorted(o["data"].items())]
        elif o["name"] == "stderr": continue
        elif out and out[-1][0] == "stdout": out[-1] = ("stdout", out[-1][1] + o["text"])
        else: out.append(("stdout", o["text"]))
    return out


def first_lines_that_differ(a:str, b:str) -> str:
    "The first line that is not the same, of both."
    a, b = a.splitlines(), b.splitlines()
    i = next((i for i, (x, y) in enumerate(zip(a, b)) if mask_times(x) != mask_times(y)), min(len(a), len(b)))
    x, y = ([*t, *[""]*(i + 1)][i] for t in (a, b))
    k = next((k for k, (p, q) in enumerate(zip(x, y)) if p != q), 0)      # long lines (tables in HTML): from a little before the difference
    start = max(0, k - 60) if k > 100 else 0
    return "\n".join(f"    {who}: {'...' if start else ''}{t[start:start + 160]}" for who, t in (("committed", x), ("fresh    ", y)))


def cell_difference(old:list, new:list, tolerance:float = 0.) -> str:
    "What two lists of outputs have not in common, in words; nothing if they are equal."
    old, new = parts(old), parts(new)
    kinds = [", ".join(k for k, _ in p) or "no output" for p in (old, new)]
    if kinds[0] != kinds[1]: return f"    committed: {kinds[0]}\n    fresh    : {kinds[1]}"
    for (kind, a), (_, b) in zip(old, new):
        if kind.startswith("image/") and not kind.startswith("image/svg"):
            if said := picture_difference(a, b, tolerance): return f"    {kind}: {said}"
        elif not same_text(a, b, tolerance): return f"    {kind}\n{first_lines_that_differ(a, b)}"
    return ""


def differences(old, new, tolerance:float = 0., skip=()) -> list[str]:
    "The cells whose outputs are not those that were committed, in words. Cells numbered in `skip` are left out."
    sources = [[c.source for c in nb.cells] for nb in (old, new)]
    if sources[0] != sources[1]: return ["    the two notebooks have different cells"]
    pairs = [(i, c, n) for i, (c, n) in enumerate(zip(old.cells, new.cells)) if c.cell_type == "code" and i not in skip]
    found = [(i, c, cell_difference(c.outputs, n.outputs, tolerance)) for i, c, n in pairs]
    first_line = lambda c: next((x for x in c.source.splitlines() if not x.lstrip().startswith("#|")), "")
    return [f"  cell {i}: {first_line(c)[:100]}\n{said}" for i, c, said in found if said]


# -- executing

SKIPPED = {".git", ".venv", "__pycache__", ".ipynb_checkpoints", "node_modules"}                       # anywhere
MADE = {"runs", "build", "dist", "_site", "_proc", "_docs", "htmlcov", ".pytest_cache", ".ruff_cache", ".hypothesis"}  # at the top


def copy_checkout(to:Path, root:Path = ROOT) -> Path:
    "The checkout without what commands made and downloaded."
    def left_out(folder, names):
        top, data = Path(folder) == root, Path(folder) == root/"data"
        return [n for n in names if n in SKIPPED or top and n in MADE or data and n not in ("README.md", "weights")]
    return Path(shutil.copytree(root, to, ignore=left_out))


def environment(copy:Path) -> dict:
    "One thread, the copy's package, and nothing that a test run or a shell added."
    drop = ("IN_TEST", "MPLBACKEND", "PYTHONSTARTUP")
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {k: v for k, v in os.environ.items() if k not in drop} | one | dict(PYTHONPATH=str(copy))


def flagged(nb, flags:list[str]) -> list[int]:
    "The cells with one of nbdev's flags, such as `#| slow`; they keep the outputs they have."
    mark = re.compile(rf"(?m)^\s*#\s*\|\s*({'|'.join(flags)})\b")
    return [i for i, c in enumerate(nb.cells) if flags and c.cell_type == "code" and mark.search(c.source)]


def run_in_process(program:str, *args, copy:Path):
    "Run a program in the copy. Raises `RuntimeError` with its last words."
    r = subprocess.run([sys.executable, "-c", program, *map(str, args)], cwd=copy, env=environment(copy), capture_output=True, text=True)
    if r.returncode: raise RuntimeError(r.stderr.strip()[-2000:])


def run_chapter(path:Path, copy:Path, skip:list[int]):  # -> the executed notebook
    "Execute a chapter of the copy, from top to bottom."
    nb = nbformat.read(path, 4)
    sources = [c.source for c in nb.cells]
    for i, c in enumerate(nb.cells):
        if c.cell_type == "code": c.outputs = []
        if i in skip: c.source = ""
    nbformat.write(nb, path)
    run_in_process(CHAPTER, path, path.parent, copy=copy)
    nb = nbformat.read(path, 4)
    for c, source in zip(nb.cells, sources): c.source = source
    return nb


def run_run(name:str, copy:Path):  # -> the executed notebook
    "Execute a run notebook of the copy, with the parameters of RUNS."
    run_in_process(RUN, name, json.dumps(RUNS.get(name, ({}, []))[0]), "runs/fresh", copy=copy)
    nb = nbformat.read(copy/"runs"/"fresh"/f"{name}.ipynb", 4)
    nb.cells = [c for c in nb.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    return nb


def write_outputs(path:Path, new, skip=()):
    "Put fresh outputs into a notebook: printed text in one piece, no stderr, no counts, nothing but the outputs changed."
    nb = json.loads(path.read_text(encoding="utf-8"))
    for i, (c, n) in enumerate(zip(nb["cells"], new.cells, strict=True)):
        if c["cell_type"] != "code" or i in skip: continue
        out = []
        for o in (o for o in n.outputs if o.get("name") != "stderr"):
            if o.output_type == "stream" and out and out[-1].output_type == "stream": out[-1].text += o.text
            else: out.append(o.copy())
        for o in out:
            if "execution_count" in o: o.execution_count = None
        c["outputs"] = json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=out)])))["cells"][0]["outputs"]
    path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# -- the command

def notebooks(root:Path = ROOT) -> list[Path]:
    "Everything that can be executed: index, chapters, and the run notebooks in the order of RUNS."
    runs = sorted((root/"nbs"/"runs").glob("*.ipynb"), key=lambda p: [*RUNS, p.stem].index(p.stem))
    return [*sorted((root/"nbs").glob("*.ipynb")), *runs]


def chosen(names:list[str], root:Path = ROOT) -> list[Path]:
    "The notebooks that were named (01_species, train, a path), with the runs that they read; all but ONLY_BY_NAME if none was."
    there = {p.stem: p for p in notebooks(root)}
    stems = [Path(n).stem for n in names]
    lost = [n for n, s in zip(names, stems) if s not in there]
    if lost: raise SystemExit(f"error: no notebook {lost[0]!r}; there are {', '.join(there)}")
    wanted = {*stems, *(need for s in stems for need in RUNS.get(s, ({}, []))[1])} if names else {*there} - {*ONLY_BY_NAME}
    return [p for s, p in there.items() if s in wanted]


def fresh(names:list[str] = (), tolerance:float = 0., write:bool = False, flags:list[str] = (), root:Path = ROOT, say=print) -> bool:  # all equal?
    "Execute notebooks in a copy and say of each whether its outputs are the committed ones; with `write`, put those that are not into the notebooks."
    paths, good, seconds = chosen(list(names), root), [], time.time()
    for name, why in ONLY_BY_NAME.items():
        if not names and (root/"nbs"/"runs"/f"{name}.ipynb").is_file(): say(f"skipped    runs/{name}: {why}")
    with tempfile.TemporaryDirectory() as tmp:
        copy = copy_checkout(Path(tmp)/root.name, root)
        for path in paths:
            name, old, start = str(path.relative_to(root/"nbs").with_suffix("")), nbformat.read(path, 4), time.time()
            skip = flagged(old, list(flags))
            try: new = run_run(path.stem, copy) if path.parent.name == "runs" else run_chapter(copy/path.relative_to(root), copy, skip)
            except RuntimeError as e: found, new = ["\n".join(f"    {line}" for line in str(e).splitlines()[-12:])], None
            else: found = differences(old, new, tolerance, skip)
            said = "failed   " if new is None else "different" if found else "equal    "
            more = "" if not found or new is None else f": {len(found)} cells" + (", written" if write else "")
            say("\n".join([f"{said}  {name} ({time.time() - start:.0f} s){more}", *found]))
            if found and new and write: write_outputs(path, new, skip)
            good.append(not found)
    say(f"{sum(good)} of {len(good)} notebooks equal, in {(time.time() - seconds)/60:.0f} min" + (f" (tolerance {tolerance:g})" if tolerance else ""))
    return all(good)
