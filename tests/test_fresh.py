"`tools/nb.py fresh`: what it calls equal and what not, on made-up notebooks; one real execution; and what the committed run notebooks show."
import ast, base64, io, re, sys

import nbformat, numpy as np, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from conftest import ROOT

sys.path.insert(0, str(ROOT/"tools"))
import fresh as tool  # noqa: E402
from fresh import ONLY_BY_NAME, RUNS, chosen, differences, fresh, mask_times, parts, write_outputs  # noqa: E402


def printed(text, name="stdout"): return new_output("stream", name=name, text=text)
def shown(**data): return new_output("display_data", data={k.replace("_", "/"): v for k, v in data.items()})
def book(*outputs, source="show()"): return new_notebook(cells=[new_markdown_cell("# t"), new_code_cell(source, outputs=list(outputs))])


def picture(value=100, size=(8, 6), **how):
    "A grey picture with one pixel of `value`, as base64."
    a = np.full((*size, 3), 100, np.uint8)
    a[2, 3] = value
    Image.fromarray(a).save(buf := io.BytesIO(), "PNG", **how)
    return base64.b64encode(buf.getvalue()).decode()


EQUAL = [("loss 0.769", "loss 0.769"), ("took 12 s", "took 9.5 s"), ("3.1 ms, 35 images/s", "12.25 ms, 8 images/s"),
         ("1 min 3 s left", "2 min 10 s left"), ("done 2026-01-31 12:30:05", "done 2027-11-03 08:00:00"), ("|  9.9 s |", "| 110.1 s |"),
         ("<td>12 s</td>", "<td>7 s</td>"), ("at 1:02:03", "at 0:00:59")]
OTHER = [("loss 0.769", "loss 0.768"), ("12 birds", "13 birds"), ("3 s, loss 1", "3 s, loss 2"), ("[8, 3, 224]", "[8, 3, 96]"),
         ("size 12", "size 13"), ("top-5 s2", "top-6 s2"), ("x[1:20]", "x[1:30]"), ("a b", "a  b"), ("v1.2", "v1.3"), ("12 steps", "13 steps")]


@pytest.mark.parametrize("a,b", EQUAL)
def test_times_are_masked(a, b): assert not differences(book(printed(a)), book(printed(b)))


@pytest.mark.parametrize("a,b", OTHER)
def test_all_else_is_not(a, b):
    said, = differences(book(printed(a)), book(printed(b)))
    assert "cell 1: show()" in said and f"committed: {a}" in said and f"fresh    : {b}" in said


def test_text_without_times_stays_as_it_is(): assert mask_times("a  b 12 x") == "a  b 12 x" and mask_times("a  b 12 s") == "a b <time>"


def test_tolerance_is_for_numbers_alone():
    old, new, words = (book(printed(f"loss {x}, {w}  3")) for x, w in ((.5, "bird"), (.5004, "bird"), (.5, "fish")))
    assert differences(old, new) and differences(old, new, 1e-4) and not differences(old, new, 1e-3)
    assert differences(old, words, 1e-3)
    assert differences(book(printed("1 2")), book(printed("1 2 3")), 1.)


def test_pictures():
    one = book(shown(image_png=picture()))
    assert not differences(one, book(shown(image_png=picture(compress_level=0))))     # other bytes, same pixels
    said, = differences(one, book(shown(image_png=picture(160))))
    assert "2.1% of the pixels differ" in said and "at most by 60" in said
    assert not differences(one, book(shown(image_png=picture(160))), .01)             # 0.9 of 255 on average
    assert "pictures of 6x8 and 8x6 pixels" in differences(one, book(shown(image_png=picture(size=(6, 8)))), .5)[0]


def test_missing_and_further_outputs():
    text = printed("x")
    for old, new, words in ((book(), book(text), "committed: no output\n    fresh    : stdout"), (book(text), book(), "fresh    : no output"),
                            (book(text), book(text, shown(text_plain="2")), "fresh    : stdout, text/plain")):
        assert words in differences(old, new)[0]
    assert differences(book(text), book(text, source="other()"))  # another cell
    assert not differences(book(), book(text), skip=[1])


def test_how_it_was_printed_does_not_matter():
    assert not differences(book(printed("a\nb\n")), book(printed("a\n"), printed("50 %", "stderr"), printed("b\n")))
    assert parts([printed("a"), shown(text_plain="2"), printed("b")]) == [("stdout", "a"), ("text/plain", "2"), ("stdout", "b")]


CELLS = ["import numpy as np\nprint(np.arange(3))", "print('a', flush=True)\nprint('b')", "#| slow\n1/0", "1 + 1"]


def test_executes_writes_and_then_finds_all_equal(tmp_path):
    "A notebook without outputs differs; `write` puts them in; then nothing differs; a changed number does; the flagged cell was never run."
    path = tmp_path/"lca"/"nbs"/"01_x.ipynb"
    path.parent.mkdir(parents=True)
    kernel = dict(name="python3", display_name="python3", language="python")
    nb = new_notebook(cells=[new_code_cell(s) for s in CELLS], metadata=dict(kernelspec=kernel))
    nbformat.write(nb, path)
    say, ask = [], dict(flags=["slow"], root=tmp_path/"lca", say=lambda s: say.append(s))
    assert not fresh(write=True, **ask) and "different  01_x" in say[0] and say[0].count("committed: no output") == 3
    assert fresh(**ask) and say[2].startswith("equal      01_x") and say[3].startswith("1 of 1 notebooks equal")
    cells = nbformat.read(path, 4).cells
    assert [c.source for c in cells] == CELLS and [len(c.outputs) for c in cells] == [1, 1, 0, 1] and cells[1].outputs[0].text == "a\nb\n"
    cells[3].outputs[0].data["text/plain"] = "3"
    nb.cells = cells
    nbformat.write(nb, path)
    assert not fresh(**ask) and "cell 3: 1 + 1" in say[4] and "committed: 3" in say[4] and "fresh    : 2" in say[4]
    path.write_text(path.read_text().replace("1 + 1", "1 + x"))
    assert not fresh(**ask) and say[6].startswith("failed") and "name 'x' is not defined" in say[6]


def test_write_leaves_all_but_outputs(tmp_path):
    nbformat.write(book(printed("old")), tmp_path/"x.ipynb")
    before = nbformat.read(tmp_path/"x.ipynb", 4)
    write_outputs(tmp_path/"x.ipynb", new := book(printed("new\n"), printed("!", "stderr"), printed("more")))
    after = nbformat.read(tmp_path/"x.ipynb", 4)
    assert [o.text for o in after.cells[1].outputs] == ["new\nmore"] and not differences(after, new)
    after.cells[1].outputs = before.cells[1].outputs
    assert after == before


def test_what_is_chosen():
    stems = lambda *names: [p.stem for p in chosen(list(names))]
    assert stems("evaluate") == ["quickstart", "train", "evaluate"] and stems("nbs/01_species.ipynb", "pretrain") == ["01_species", "pretrain"]
    assert set(stems()) == {p.stem for p in tool.notebooks()} - set(ONLY_BY_NAME) and "index" in stems()
    with pytest.raises(SystemExit, match="no notebook 'trian'"): chosen(["trian"])


# -- the committed run notebooks

def committed(name): return nbformat.read(ROOT/"nbs"/"runs"/f"{name}.ipynb", 4)


def shows(source):
    "Whether a cell always shows something: it prints or displays at its outer level, or ends in an expression that is no call for its effect."
    lines = [n.value for n in ast.parse(source).body if isinstance(n, ast.Expr)]
    name = lambda e: getattr(e.func, "id", getattr(e.func, "attr", "")) if isinstance(e, ast.Call) else ""
    ends_so = isinstance(ast.parse(source).body[-1], ast.Expr) and not re.match("write_|chdir|set_|seed_", name(lines[-1]))
    return ends_so or any(name(e) in ("print", "display") for e in lines)


def test_run_notebooks_are_known(): assert set(RUNS) == {p.stem for p in (ROOT/"nbs"/"runs").glob("*.ipynb")}


@pytest.mark.parametrize("name", RUNS)
def test_run_notebook_has_its_outputs(name):
    cells = [c for c in committed(name).cells if c.cell_type == "code" and c.source.strip()]
    assert sum(bool(c.outputs) for c in cells) >= 4
    bare = [c.source for c in cells if shows(c.source) and not c.outputs]
    assert not bare, f"run `tools/nb.py fresh {name} --write`; no output is committed of: {bare[0][:200]}"


@pytest.mark.parametrize("name", RUNS)
def test_run_notebook_outputs_name_no_place_and_stay_short(name):
    for c in committed(name).cells:
        for kind, text in parts(c.get("outputs", [])):
            if kind.startswith("image/"): continue
            place = re.search(r"(?<![\w.<])/(?:[\w.-]+/)+[\w.-]+|site-packages|\b[A-Z]:\\", text)
            assert not place, f"{place[0]} in the output of {c.source[:80]}"
            assert text.count("\n") < 120, f"{text.count(chr(10))} lines of output: {c.source[:80]}"
        assert not any("\r" in t for k, t in parts(c.get("outputs", [])) if k == "stdout"), "a progress bar"


@pytest.mark.parametrize("name", RUNS)
def test_run_notebook_is_a_source_for_papermill(name):
    tags = [t for c in committed(name).cells for t in c.metadata.get("tags", [])]
    assert tags.count("parameters") == 1 and "injected-parameters" not in tags
