"""The book's website.

python tools/website.py build            nbs/ -> _proc/ (nbdev) -> build/site/ (pages, names without numbers) -> _site/ (HTML)
python tools/website.py serve            the same, then show it at a local address

Rendered by Quarto where `quarto` is on the PATH, else by smalldocs, which reads the same _quarto.yml. Either way the finished pages take
everything from their own folder: formulas are set by the KaTeX in nbs/assets/, so the site also works without a connection.
"""
import argparse, ast, functools, html, http.server, json, os, re, shutil, subprocess, sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
from nb import LIB, NBS, ROOT, chapters, says_of_itself, settings  # noqa: E402

PAGES, SITE = ROOT/"build/site", ROOT/"_site"


def page_name(stem:str) -> str:
    "The page's name: the chapter's, without its number, as nbdev's own links expect."
    return re.sub(r"^\d+[a-z]?_", "", stem)


def page_text(text:str) -> str:
    "A staged notebook's JSON with links to the pages' names, and without the front matter's `output-file`, which says the name once more."
    text = re.sub(r"(\]\([\w./-]*?)\d+[a-z]?_(\w+\.ipynb)", r"\1\2", text)
    return re.sub(r'\n *"output-file: [\w.]+\\n",', "", text)


def notebook_links(path:str) -> dict[str, str]:  # what it opens -> address
    "Where a notebook can be opened: built from settings.ini's git_url and branch, and from nothing else."
    s = settings()
    repo, nb = s["git_url"].removeprefix("https://github.com/"), f"{s['nbs_path']}/{path}"
    return {"colab": f"https://colab.research.google.com/github/{repo}/blob/{s['branch']}/{nb}",
            "source": f"{s['git_url']}/blob/{s['branch']}/{nb}", "install": f"%pip install -q git+{s['git_url']}"}


def chapter_number(stem:str) -> str:  # "10b", or "" for a notebook that is no chapter
    "The number by which the chapters speak of each other."
    found = re.match(r"(\d+[a-z]?)_", stem)
    return found[1] if found else ""


def links_cell(path:str) -> dict:  # a notebook cell
    "The line under a page's title: the chapter's number, open in Colab, download, source."
    at, up, number = notebook_links(path), "../"*path.count("/"), chapter_number(path)
    name = f"<b>Chapter {number}</b> " if number else ""
    line = (f'<p class="page-links">{name}<a href="{at["colab"]}">Open in Colab</a> '
            f'<a href="{up}notebooks/{path}" download>Download the notebook</a> '
            f'<a href="{at["source"]}">Source</a> <span>in Colab, run first: <code>{html.escape(at["install"])}</code></span></p>')
    return {"cell_type": "markdown", "id": "page-links", "metadata": {}, "source": [line]}


def tidy(outputs:list) -> list:
    "A cell's outputs without warnings, and with what was printed line after line as one block."
    out = []
    for o in (o for o in outputs if o.get("name") != "stderr"):
        if o["output_type"] == "stream" and out and out[-1]["output_type"] == "stream": out[-1] = out[-1] | {"text": [*out[-1]["text"], *o["text"]]}
        else: out.append(o)
    return out


DUNDER = re.compile(r"(?m)^(#+ .*?)__(\w+)__$")
CODE, LINKED = re.compile(r"(?ms)^```python$.*?^```$"), re.compile(r"\[(`[^`\]]+`)\]\([^)\s]*\)")


def plain_code(outputs:list) -> list:
    """nbdev also links the names in the comments of a signature, where a link is only brackets and an address: without them.
    And a heading such as Protocol.__str__ means its underscores, not bold type."""
    for data in (o["data"] for o in outputs if "text/markdown" in o.get("data", {})):
        text = CODE.sub(lambda m: LINKED.sub(r"\1", m[0]), "".join(data["text/markdown"]))
        data["text/markdown"] = [DUNDER.sub(r"\1\_\_\2\_\_", text)]
    return outputs


def add_links(text:str, path:str) -> str:
    "A staged notebook with the line of links under its title, and tidy outputs."
    nb = json.loads(text)
    for c in nb["cells"]:
        if "outputs" in c: c["outputs"] = plain_code(tidy(c["outputs"]))
    first = next((i + 1 for i, c in enumerate(nb["cells"]) if c["cell_type"] == "raw"), 0)
    nb["cells"].insert(first, links_cell(path))
    return json.dumps(nb, indent=1, ensure_ascii=False)


def site_settings() -> str:
    "_quarto.yml with the chapters' numbers in the sidebar, for \"chapter 16b\" is how the text speaks of them."
    site = yaml.safe_load((ROOT/"_quarto.yml").read_text(encoding="utf-8"))
    titles = {page_name(p.stem) + ".ipynb": f"{chapter_number(p.stem)} {says_of_itself(p)[0]}" for p in chapters()}
    for part in (x for x in site["website"]["sidebar"]["contents"] if isinstance(x, dict)):
        part["contents"] = [{"text": titles[x], "href": x} if x in titles else x for x in part["contents"]]
    return yaml.safe_dump(site, sort_keys=False, allow_unicode=True)


def address_file() -> str:
    "What _quarto.yml takes from settings.ini, as YAML."
    s = settings()
    web = {"title": s["title"], "description": s["description"], "site-url": s["doc_host"] + s["doc_baseurl"],
           "repo-url": s["git_url"], "repo-branch": s["branch"], "repo-subdir": s["nbs_path"]}
    return yaml.safe_dump({"website": web}, sort_keys=False)


# -- the page that lists every name of the package

def first_lines(module:Path) -> dict[str, str]:  # name or Class.name -> first line of its docstring
    "What each public name of a module says of itself; methods added with @patch count to the class they patch."
    out = {}
    for n in ast.parse(module.read_text(encoding="utf-8")).body:
        if not isinstance(n, (ast.FunctionDef, ast.ClassDef)) or n.name.startswith("_"): continue
        name, args = n.name, getattr(n, "args", None)
        if any("patch" in ast.dump(d) for d in n.decorator_list) and args and args.args: name = f"{ast.unparse(args.args[0].annotation)}.{name}"
        out[name] = (ast.get_docstring(n) or "").split("\n")[0]
    return out


def api_page() -> str:
    "Every exported function, class and method, with what it does and where the book explains it, as Markdown."
    index, out = ast.literal_eval(re.search(r"(?s)d = (\{.*\})", (LIB/"_modidx.py").read_text(encoding="utf-8"))[1])["syms"], []
    for chapter in sorted(NBS.glob("[0-9]*.ipynb")):
        module = page_name(chapter.stem)
        if f"lca_md.{module}" not in index: continue
        says, at = first_lines(LIB/f"{module}.py"), {k.removeprefix(f"lca_md.{module}."): v[0] for k, v in index[f"lca_md.{module}"].items()}
        rows = [f"| [`{n}`]({at[n].removeprefix('lca_md/')}) | {s.replace('|', chr(92) + '|')} |" for n, s in says.items() if n in at]
        if rows: out += [f"## lca_md.{module}\n", f"Chapter: [{module}]({module}.ipynb)\n", "| name | what it does |\n|---|---|", *rows, ""]
    head = "---\ntitle: Names\ndescription: Every function, class and method of the package, and the page that explains it\n---\n"
    return head + "\n" + "\n".join(out)


# -- from notebooks to pages

def stage():
    "Write everything that a renderer needs into build/site/."
    os.chdir(ROOT)
    from nbdev.serve import proc_nbs
    proc = Path(proc_nbs("nbs"))
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for src in sorted(p for p in proc.rglob("*") if p.is_file()):
        rel = src.relative_to(proc)
        if not (NBS/rel).exists() or rel.parts[0] == "assets": continue  # left over from a renamed notebook; assets are copied as they are
        dst = PAGES/rel.with_name(page_name(src.stem) + src.suffix)
        dst.parent.mkdir(parents=True, exist_ok=True)
        if src.suffix != ".ipynb": shutil.copyfile(src, dst)
        else: dst.write_text(add_links(page_text(src.read_text(encoding="utf-8")), rel.as_posix()), encoding="utf-8")
    (PAGES/"api.md").write_text(api_page(), encoding="utf-8")
    (PAGES/"_quarto.yml").write_text(site_settings(), encoding="utf-8")
    (PAGES/"nbdev.yml").write_text(address_file(), encoding="utf-8")


KATEX = re.compile(r"https://cdn\.jsdelivr\.net/npm/katex@[\w.]+/dist")
FONTS = re.compile(r"@import url\([\"']?https://fonts\.[^)]*\);?")
EXPLORER = "threshold-explorer"


LANDMARKS = {'<nav class="navbar ': "Site", '<nav id="quarto-sidebar"': "Chapters", '<nav id="TOC"': "On this page",
             '<nav class="page-navigation"': "Previous and next"}
WORDS = re.compile(r"(?s)<(h[12]|p)\b[^>]*>(?!<em>|<a [^>]*>source)(.*?)</\1>")  # not what nbdev writes for a name


def described(text:str) -> str:
    "A page whose pictures without a description are described by their section's heading and the sentence before them."
    plain = lambda m: " ".join(html.unescape(re.sub(r"(?s)<[^>]+>|\\[()\[\]]", "", m[2])).split())
    said = [(m.start(), m[1], plain(m)) for m in WORDS.finditer(text) if 'class="page-links"' not in m[0]]

    def alt(img):
        if re.search(r"\salt=", img[0]): return img[0]
        before = [s for s in said if s[0] < img.start() and s[2]]
        head = next((s[2] for s in reversed(before) if s[1] != "p"), "")
        line = next((re.split(r"(?<=[.:]) ", s[2])[-1] for s in reversed(before) if s[1] == "p"), "")
        return f'<img alt="{html.escape(f"Figure. {head}: {line}"[:240], quote=True)}"' + img[0][4:]
    return re.sub(r"<img\b[^>]*>", alt, text)


def hanging_lines(code:str) -> str:
    "Highlighted code with every line in an element of its own that knows its indentation: a long one wraps to where it began (styles.css)."
    out, open_tags = [], []
    for line in code.split("\n"):
        start = "".join(open_tags)
        for tag in re.findall(r"<span\b[^>]*>|</span>", line):
            if tag == "</span>": open_tags.pop()
            else: open_tags.append(tag)
        plain = html.unescape(re.sub("<[^>]+>", "", line))
        out.append(f'<span class="line" style="--indent:{len(plain) - len(plain.lstrip())}">{start}{line}{"</span>"*len(open_tags)}</span>')
    return "\n".join(out)


SOURCE = re.compile(r'(?s)(<pre class="sourceCode[^>]*><code[^>]*>)((?!<span id="cb).*?)(</code></pre>)')  # Quarto has elements for lines


def local_page(text:str, up:str) -> str:  # up: the way to the site's root, "" or "../"
    "A rendered page that takes KaTeX from the site itself, with the explorer's script where it has an explorer."
    text = described(KATEX.sub(f"{up}assets/katex", text))
    text = SOURCE.sub(lambda m: m[1] + hanging_lines(m[2]) + m[3], text)
    for nav, label in LANDMARKS.items(): text = text.replace(nav, f'<nav aria-label="{label}"{nav[4:]}', 1)
    more = f'<link rel="icon" href="{up}assets/icon.svg"><script src="{up}assets/site.js" defer></script>'
    if f'class="{EXPLORER}"' in text:
        more += f'<link rel="stylesheet" href="{up}assets/explorer/explorer.css">'
        more += "".join(f'<script src="{up}assets/explorer/{f}" defer></script>' for f in ("birds.js", "explorer.js"))
    return text.replace("</head>", more + "</head>", 1)


def mend_names():
    "A name that its chapter's page does not explain by itself leads to the page."
    page, ids = SITE/"api.html", functools.cache(lambda f: set(re.findall(r'\bid="([^"]+)"', (SITE/f).read_text(encoding="utf-8"))))
    fix = lambda m: m[0] if m[2] in ids(m[1]) else f'href="{m[1]}"'
    page.write_text(re.sub(r'href="([\w/]+\.html)#([^"]+)"', fix, page.read_text(encoding="utf-8")), encoding="utf-8")


def finish():
    "What no renderer does: assets and notebooks beside the pages, and nothing left that would be fetched from elsewhere."
    shutil.copytree(NBS/"assets", SITE/"assets", dirs_exist_ok=True)
    for nb in NBS.glob("**/*.ipynb"):
        if ".ipynb_checkpoints" in nb.parts: continue
        to = SITE/"notebooks"/nb.relative_to(NBS)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(nb, to)
    for css in SITE.glob("site_libs/**/*.css"):  # the themes ask for web fonts; the pages use the reader's own
        old = css.read_text(encoding="utf-8")
        new = FONTS.sub("", old)
        if new != old: css.write_text(new, encoding="utf-8")
    for page in SITE.rglob("*.html"):
        up = "../"*(len(page.relative_to(SITE).parts) - 1)
        page.write_text(local_page(page.read_text(encoding="utf-8"), up), encoding="utf-8")
    mend_names()


def render():
    "Turn build/site/ into _site/."
    quarto = shutil.which("quarto")
    cmd = [quarto, "render", "."] if quarto else [sys.executable, "-m", "smalldocs.cli", "render", "."]
    subprocess.run(cmd, cwd=PAGES, check=True)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PAGES/"_site", SITE)
    finish()
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
