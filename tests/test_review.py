"Notebooks as text, for reviews: what `make diff` prints, and the text twins of JupyterLab."
import json, shutil, subprocess, sys

import nbformat, pytest

from conftest import ROOT, run_python

sys.path.insert(0, str(ROOT/"tools"))
from review import as_text, changed, diff  # noqa: E402


def notebook(*cells): # (kind, source), ... -> JSON
    make = dict(md=nbformat.v4.new_markdown_cell, code=nbformat.v4.new_code_cell)
    return nbformat.writes(nbformat.v4.new_notebook(cells=[make[k](s) for k, s in cells]))


@pytest.fixture
def repo(tmp_path):
    who = ["-c", "user.name=n", "-c", "user.email=n@example.invalid"]
    def run(*args): subprocess.run(["git", *who, *args], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path/"a.ipynb").write_text(notebook(("md", "# Title"), ("code", "x = 1\ny = 2")))
    run("init", "-q")
    run("add", ".")
    run("commit", "-qm", "first")
    return tmp_path


def test_text_has_no_outputs_and_no_header():
    nb = json.loads(notebook(("md", "words"), ("code", "%time 1")))
    nb["cells"][1]["outputs"] = [dict(output_type="stream", name="stdout", text="LOUD")]
    nb["metadata"] = dict(kernelspec=dict(name="python3", display_name="x"))
    assert as_text(json.dumps(nb)) == "# %% [markdown]\n# words\n\n# %%\n%time 1\n"
    assert as_text("") == ""


def test_diff_shows_the_changed_line_only(repo):
    (repo/"a.ipynb").write_text(notebook(("md", "# Title"), ("code", "x = 1\ny = 3")))
    lines = diff("a.ipynb", "HEAD", repo)
    assert [x for x in lines[2:] if x[0] in "+-"] == ["-y = 2", "+y = 3"]


def test_outputs_alone_are_no_difference(repo):
    nb = json.loads((repo/"a.ipynb").read_text())
    nb["cells"][1]["execution_count"] = 7
    (repo/"a.ipynb").write_text(json.dumps(nb))
    assert changed("HEAD", repo) == ["a.ipynb"] and diff("a.ipynb", "HEAD", repo) == []


def test_new_and_removed_notebooks(repo):
    (repo/"b.ipynb").write_text(notebook(("code", "new = 1")))
    (repo/"a.ipynb").unlink()
    assert changed("HEAD", repo) == ["a.ipynb", "b.ipynb"]
    assert "+new = 1" in diff("b.ipynb", "HEAD", repo) and "-x = 1" in diff("a.ipynb", "HEAD", repo)


def test_an_unknown_commit_is_one_clear_line():
    if not (ROOT/".git").exists(): pytest.skip("not a git checkout")
    r = run_python("tools/review.py", "no-such-commit")
    assert r.returncode and r.stderr.startswith("error: git") and "Traceback" not in r.stderr


def test_notebooks_have_text_twins(tmp_path):
    "jupytext reads jupytext.toml: a twin appears under build/text/, and an edit of it reaches the notebook."
    shutil.copy(ROOT/"jupytext.toml", tmp_path)
    (tmp_path/"nbs").mkdir()
    path, twin = tmp_path/"nbs/a.ipynb", tmp_path/"build/text/a.py"
    path.write_text(notebook(("md", "words"), ("code", "x = 1")))
    assert run_python("-m", "jupytext", "--sync", path, cwd=tmp_path).returncode == 0
    assert "x = 1" in twin.read_text()
    twin.write_text(twin.read_text().replace("x = 1", "x = 2"))
    r = run_python("-m", "jupytext", "--sync", twin, cwd=tmp_path)
    assert r.returncode == 0 and nbformat.read(path, 4).cells[1].source == "x = 2", r.stderr
