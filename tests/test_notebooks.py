"Every chapter runs, each in its own process, as `nbdev_test` would run it. (The run notebooks are tested with papermill elsewhere.)"
import subprocess

import pytest

from conftest import ROOT, run_python

CHAPTERS = [p for p in sorted((ROOT/"nbs").glob("*.ipynb")) if not p.name.startswith(("_", "."))]
HANG = 600  # seconds; only there to end a chapter that hangs, speed is not asserted


def run_chapter(path):
    "Run one notebook; fail with nbdev's report of the failing cell."
    try: r = run_python(ROOT/"tools/nb.py", "test", path, timeout=HANG)
    except subprocess.TimeoutExpired: pytest.fail(f"{path.name} did not end within {HANG} s", pytrace=False)
    if r.returncode: pytest.fail(f"{path.name} failed:\n{(r.stderr or r.stdout)[-6000:]}", pytrace=False)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter(path):
    before = path.read_bytes()
    run_chapter(path)
    assert path.read_bytes() == before, f"running {path.name} changed the file"


def test_there_are_chapters(): assert len(CHAPTERS) > 1


BROKEN = """{"cells": [
 {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# t"},
 {"cell_type": "code", "id": "b", "metadata": {}, "execution_count": null, "outputs": [], "source": "%s"}],
 "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}"""


def test_a_failing_cell_fails_with_its_message(tmp_path):
    bad = tmp_path/"bad.ipynb"
    bad.write_text(BROKEN % "assert 1 == 2, 'seven swans'")
    with pytest.raises(pytest.fail.Exception, match="seven swans"): run_chapter(bad)


@pytest.mark.parametrize("flag", ["gpu", "slow", "notest"])
def test_flagged_cells_are_skipped(tmp_path, flag):
    bad = tmp_path/"bad.ipynb"
    bad.write_text(BROKEN % (rf"#| {flag}\nassert False"))
    run_chapter(bad)
