"The website is built from a clean copy: every notebook has its page, and every local link leads to a file."
import re, shutil, sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest, yaml

from conftest import ROOT, run_python

sys.path.insert(0, str(ROOT/"tools"))
from website import address_file, page_name  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]


class Links(HTMLParser):
    "What a page loads or links to."
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs): self.found += [v for k, v in attrs if k in ("href", "src") and v]


@pytest.fixture(scope="session")
def site(checkout, tmp_path_factory):
    copy = tmp_path_factory.mktemp("site")/"lca_md"
    shutil.copytree(checkout, copy)
    r = run_python("tools/website.py", "build", cwd=copy, timeout=1200)
    assert r.returncode == 0, (r.stdout + r.stderr)[-6000:]
    return copy/"_site"


def pages():
    "The pages that must exist, by their path in the site."
    for p in (ROOT/"nbs").glob("**/*.ipynb"):
        if ".ipynb_checkpoints" not in p.parts: yield str(p.relative_to(ROOT/"nbs").with_name(page_name(p.stem) + ".html"))


def test_every_notebook_has_its_page(site):
    for page in pages(): assert (site/page).is_file(), page


def test_every_notebook_is_in_the_sidebar():
    sidebar = yaml.safe_load((ROOT/"_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [x for item in sidebar for x in (item["contents"] if isinstance(item, dict) else [item])]
    assert sorted(x.replace(".ipynb", ".html") for x in listed) == sorted(pages())


def test_local_links_resolve(site):
    lost = []
    for page in site.rglob("*.html"):
        for link in Links(page.read_text(encoding="utf-8")).found:
            u = urlsplit(link)
            if u.scheme or u.netloc or not u.path: continue
            target = (page.parent/unquote(u.path)).resolve()
            if not (target.is_file() or (target/"index.html").is_file()): lost.append(f"{page.relative_to(site)}: {link}")
    assert not lost


def test_pages_have_pictures_and_reference(site):
    assert "<img" in (site/"synth.html").read_text() and "draw_bird" in (site/"synth.html").read_text()
    assert not re.search(r"Traceback \(most recent call last\)", (site/"index.html").read_text())


def test_addresses_come_from_settings():
    assert set(yaml.safe_load(address_file())["website"]) == {"title", "description", "site-url", "repo-url", "repo-branch", "repo-subdir"}
