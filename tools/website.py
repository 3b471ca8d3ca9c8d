"""The book's website.

python tools/website.py build            nbs/ -> _proc/ (nbdev) -> build/site/ (pages, names without numbers) -> _site/ (HTML)
python tools/website.py serve            the same, then show it at a local address

Rendered by Quarto where `quarto` is on the PATH, else by smalldocs, which reads the same _quarto.yml. (Formulas: both load KaTeX or
MathJax from a content network; without a connection a page shows the formula's source.)
"""
import argparse, functools, http.server, os, re, shutil, subprocess, sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nb import ROOT, settings  # noqa: E402

PAGES, SITE = ROOT/"build/site", ROOT/"_site"


def page_name(stem:str) -> str:
    "The page's name: the chapter's, without its number, as nbdev's own links expect."
    return re.sub(r"^\d+[a-z]?_", "", stem)


def page_text(text:str) -> str:
    "A staged notebook's JSON with links to the pages' names, and without the front matter's `output-file`, which says the name once more."
    text = re.sub(r"(\]\([\w./-]*?)\d+[a-z]?_(\w+\.ipynb)", r"\1\2", text)
    return re.sub(r'\n *"output-file: [\w.]+\\n",', "", text)


def address_file() -> str:
    "What _quarto.yml takes from settings.ini, as YAML."
    s = settings()
    web = {"title": s["title"], "description": s["description"], "site-url": s["doc_host"] + s["doc_baseurl"],
           "repo-url": s["git_url"], "repo-branch": s["branch"], "repo-subdir": s["nbs_path"]}
    return yaml.safe_dump({"website": web}, sort_keys=False)


def stage():
    "Write everything that a renderer needs into build/site/."
    os.chdir(ROOT)
    from nbdev.serve import proc_nbs
    proc = Path(proc_nbs("nbs"))
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for src in sorted(p for p in proc.rglob("*") if p.is_file()):
        if not (ROOT/"nbs"/src.relative_to(proc)).exists(): continue  # left over from a notebook that was renamed
        dst = PAGES/src.relative_to(proc).with_name(page_name(src.stem) + src.suffix)
        dst.parent.mkdir(parents=True, exist_ok=True)
        if src.suffix != ".ipynb": shutil.copyfile(src, dst)
        else: dst.write_text(page_text(src.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.copyfile(ROOT/"_quarto.yml", PAGES/"_quarto.yml")
    (PAGES/"nbdev.yml").write_text(address_file(), encoding="utf-8")


def render():
    "Turn build/site/ into _site/."
    quarto = shutil.which("quarto")
    cmd = [quarto, "render", "."] if quarto else [sys.executable, "-m", "smalldocs.cli", "render", "."]
    subprocess.run(cmd, cwd=PAGES, check=True)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PAGES/"_site", SITE)
    print(f"{SITE.name}/index.html and {len(list(SITE.rglob('*.html')))-1} more pages, by {'Quarto' if quarto else 'smalldocs'}")


def serve(port:int):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        print(f"http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
        try: server.serve_forever()
        except KeyboardInterrupt: print()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("do", choices=["build", "serve"])
    p.add_argument("--port", type=int, default=8000)
    a = p.parse_args()
    stage()
    render()
    if a.do == "serve": serve(a.port)


if __name__ == "__main__": main()
