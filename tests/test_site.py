"The website is built from a clean copy: every notebook has its page, every local link and anchor leads somewhere, nothing is fetched from elsewhere."
import html, json, re, sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import numpy as np, pytest, yaml

from conftest import ROOT

sys.path.insert(0, str(ROOT/"tools"))
import explorer  # noqa: E402
from nb import settings  # noqa: E402
from website import add_links, address_file, api_page, described, first_lines, hanging_lines, links_cell, local_page  # noqa: E402
from website import notebook_links, page_name, plain_code, site_settings, tidy  # noqa: E402

built = [pytest.mark.slow, pytest.mark.xdist_group("site")]
NOTEBOOKS = [p for p in sorted((ROOT/"nbs").glob("**/*.ipynb")) if ".ipynb_checkpoints" not in p.parts]


class Page(HTMLParser):
    "What a page links to, what it loads, and where it can be linked to."
    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.anchors, self.pictures = [], [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag == "a" and a.get("href"): self.links.append(a["href"])
        if tag in ("link", "script", "img") and (a.get("href") or a.get("src")): self.loads.append(a.get("href") or a["src"])
        if tag == "img": self.pictures.append(a.get("alt"))
        self.anchors |= {v for k, v in attrs if k in ("id", "name") and v}


@pytest.fixture(scope="session")
def read(site): return {p.relative_to(site).as_posix(): Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html")}


def pages():
    "The pages that must exist, by their path in the site."
    return [str(p.relative_to(ROOT/"nbs").with_name(page_name(p.stem) + ".html")) for p in NOTEBOOKS]


class TestBuilt:
    pytestmark = built

    def test_every_notebook_has_its_page(self, read): assert set(pages()) | {"api.html"} == set(read)

    def test_links_and_anchors_resolve(self, site, read):
        lost = []
        for path, page in read.items():
            for link in page.links + page.loads:
                u = urlsplit(link)
                if u.scheme or u.netloc: continue
                target = (site/path).parent/unquote(u.path) if u.path else site/path
                rel = target.resolve().relative_to(site.resolve()).as_posix()
                if not target.is_file(): lost.append(f"{path}: {link}")
                elif u.fragment and rel in read and unquote(u.fragment) not in read[rel].anchors: lost.append(f"{path}: {link} (no such anchor)")
        assert not lost, "\n".join(lost)

    def test_nothing_is_loaded_from_elsewhere(self, site, read):
        loads = [f"{path}: {x}" for path, page in read.items() for x in page.loads if urlsplit(x).netloc]
        far = re.compile(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\"']+")
        css = [f"{p.name}: {m}" for p in site.rglob("*.css") for m in far.findall(p.read_text(encoding="utf-8"))]
        assert not loads and not css

    def test_formulas_come_from_the_site(self, site, read):
        assert "assets/katex/katex.min.js" in read["ssfm.html"].loads
        css = (site/"assets/katex/katex.min.css").read_text()
        assert all((site/"assets/katex"/f).is_file() for f in re.findall(r"url\((fonts/[^)]+\.woff2)\)", css))

    def test_every_picture_is_described(self, read):
        assert not [path for path, page in read.items() for alt in page.pictures if not alt]

    def test_notebooks_can_be_downloaded_and_opened(self, site, read):
        for p, path in zip(NOTEBOOKS, pages()):
            rel = p.relative_to(ROOT/"nbs").as_posix()
            assert json.loads((site/"notebooks"/rel).read_text(encoding="utf-8"))["nbformat"] == 4
            assert notebook_links(rel)["colab"] in read[path].links, path

    def test_pages_have_pictures_and_reference(self, site, read):
        assert read["synth.html"].pictures and "draw_bird" in read["synth.html"].anchors
        for path in read:
            text = (site/path).read_text(encoding="utf-8")
            assert "Traceback (most recent call last)" not in text and "site-packages" not in text, path

    def test_every_name_leads_to_its_explanation(self, read):
        links = [x for x in read["api.html"].links if "#" in x and not x.startswith("#")]
        assert len(links) > 200 and "boxes.html#largest_boxes" in links

    def test_search_index(self, site):
        entries = json.loads((site/"search.json").read_text(encoding="utf-8"))
        assert any("newton-schulz" in e["text"].lower() for e in entries)


def test_every_notebook_is_in_the_sidebar():
    sidebar = yaml.safe_load((ROOT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [x for item in sidebar for x in (item["contents"] if isinstance(item, dict) else [item])]
    assert sorted(x.replace(".ipynb", ".html") for x in listed if x != "api.md") == sorted(pages())


def test_addresses_come_from_settings():
    assert set(yaml.safe_load(address_file())["website"]) == {"title", "description", "site-url", "repo-url", "repo-branch", "repo-subdir"}
    s = settings()
    links = notebook_links("runs/train.ipynb")
    repo = s["git_url"].split("github.com/")[1]
    assert links["colab"] == f"https://colab.research.google.com/github/{repo}/blob/{s['branch']}/nbs/runs/train.ipynb"


def test_chapters_are_numbered_as_the_text_calls_them():
    sidebar = yaml.safe_load(site_settings())["website"]["sidebar"]["contents"]
    assert sidebar[:2] == ["index.ipynb", "wsol.ipynb"]
    listed = [x for part in sidebar if "contents" in part for x in part["contents"]]
    assert {"text": "16b A corrected LCA-MD", "href": "corrected.ipynb"} in listed and "runs/train.ipynb" in listed
    said = [links_cell(path)["source"][0] for path in ("16b_corrected.ipynb", "runs/train.ipynb", "index.ipynb")]
    assert ["Chapter 16b" in said[0], *("Chapter" in x for x in said[1:])] == [True, False, False]


def test_signatures_hold_no_links():
    text = "[`f`](x.html)\n\n```python\ndef g(\n    a, # as [`f`](https://x/y.html#f)s, [1](b)\n):\n```\n\n[`f`](x.html)"
    got = plain_code([dict(output_type="display_data", data={"text/markdown": [text]}), dict(output_type="stream", text="x")])
    assert "".join(got[0]["data"]["text/markdown"]) == text.replace("[`f`](https://x/y.html#f)s", "`f`s")


def test_links_stand_under_the_title():
    outputs = [dict(output_type="stream", name=n, text="x") for n in ("stdout", "stderr")]
    nb = dict(cells=[dict(cell_type="raw", source="---\ntitle: x\n---"), dict(cell_type="code", source="text", outputs=outputs)], metadata={})
    cells = json.loads(add_links(json.dumps(nb), "runs/x.ipynb"))["cells"]
    assert [c["cell_type"] for c in cells] == ["raw", "markdown", "code"] and cells[2]["outputs"] == outputs[:1]
    assert 'href="../notebooks/runs/x.ipynb" download' in cells[1]["source"][0]


def test_lines_that_were_printed_are_one_block():
    said = [dict(output_type="stream", name=n, text=[x]) for n, x in (("stdout", "a\n"), ("stderr", "w\n"), ("stdout", "b\n"))]
    shown = dict(output_type="display_data", data={})
    assert tidy([*said, shown, said[0]]) == [said[0] | {"text": ["a\n", "b\n"]}, shown, said[0]]
    assert said[0]["text"] == ["a\n"]


def test_headings_keep_their_underscores():
    out = plain_code([dict(data={"text/markdown": ["---\n\n### Protocol.__str__\n", "`__str__` stays\n"]})])
    assert out[0]["data"]["text/markdown"] == ["---\n\n### Protocol.\\_\\_str\\_\\_\n`__str__` stays\n"]


def test_lines_of_code_know_their_indentation():
    code = '<span class="kw">def</span> f():\n    <span class="st">"one\n    &lt;two&gt;"</span>\n\n    <span class="kw">return</span>'
    lines = hanging_lines(code).split("\n")
    assert [re.search(r"--indent:(\d+)", x)[1] for x in lines] == list("04404")
    assert all(x.startswith('<span class="line"') and x.count("<span") == x.count("</span>") for x in lines)
    assert [re.sub("<[^>]+>", "", x) for x in lines] == [re.sub("<[^>]+>", "", x) for x in code.split("\n")]
    page = f'<pre class="sourceCode python"><code class="sourceCode python">{code}</code></pre><pre><code>a\nb</code></pre>'
    assert local_page(page, "").count('class="line"') == 5, "outputs stay as they are"
    quarto = page.replace("<span", '<span id="cb1-1"><span', 1)
    assert 'class="line"' not in local_page(quarto, ""), "Quarto's pages have elements for lines already"


def test_local_page_takes_nothing_from_elsewhere():
    cdn = "https://cdn.jsdelivr.net/npm/katex@0.16.11/dist/katex.min.js"
    page = local_page(f'<head><script src="{cdn}"></script></head><body><div class="threshold-explorer"></div></body>', "../")
    assert 'src="../assets/katex/katex.min.js"' in page and "jsdelivr" not in page
    assert page.count("explorer.js") == 1 and "explorer.js" not in local_page("<head></head><body></body>", "")


def test_pictures_are_described_by_what_stands_before():
    text = described("<h2>The box</h2><p>First. Then a picture:</p><img src='x'><p><em>docs</em></p><img src='y'><img alt='own' src='z'>")
    assert re.findall(r'alt="([^"]*)"', text) == ["Figure. The box: Then a picture:"]*2 and "alt='own'" in text


def test_api_page_lists_public_names():
    text = html.unescape(api_page())
    assert "[`largest_boxes`](boxes.html#largest_boxes)" in text and "[`LocalizationMetrics.compute`]" in text
    assert "`_walk`" not in text
    assert first_lines(ROOT/"lca_md/boxes.py")["box_iou"].startswith("Intersection over union")


# -- the data of the threshold explorer

@pytest.fixture(scope="module")
def data(): return json.loads((explorer.OUT/"birds.js").read_text(encoding="utf-8").split("=", 1)[1].rstrip().rstrip(";"))


def test_explorer_was_made_from_the_shipped_weights(data):
    assert data["weights"] == explorer.fingerprint(), "the shipped weights have changed: run `make explorer`"


def test_explorer_shows_the_packages_boxes(data):
    made = explorer.make(explorer.BIRDS[1:2])["birds"][0]["scenes"][2]["methods"]
    for name, view in data["birds"][1]["scenes"][2]["methods"].items():
        assert np.abs(np.subtract(view["map"], made[name]["map"])).max() < 1e-2
        assert np.mean(np.not_equal(view["boxes"], made[name]["boxes"])) < .05


def test_explorer_is_small_and_whole(data):
    assert sum(p.stat().st_size for p in explorer.OUT.iterdir()) < 500_000
    assert [len(data[k]) for k in ("methods", "dials", "birds", "thresholds")] == [2, 4, 4, 100]
    for bird in data["birds"]:
        for scene in bird["scenes"]:
            x0, y0, x1, y1 = scene["truth"]
            assert 0 <= x0 < x1 < 224 and 0 <= y0 < y1 < 224 and scene["image"].startswith("data:image/webp;base64,")
            assert all(len(v["map"]) == 196 and len(v["boxes"]) == 400 for v in scene["methods"].values())
