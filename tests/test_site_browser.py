"""The website in a real browser: every page at two widths, formulas, search, the threshold explorer, accessibility.

Needs Chromium (Debian: apt-get install chromium) and playwright (pip); axe-core comes from npm. `make test-site` fetches the last two and runs
this file; where one of them is missing, the tests that need it are skipped and say so.
"""
import functools, http.server, json, os, re, shutil, sys, threading
from pathlib import Path

import pytest

from conftest import ROOT

sys.path.insert(0, str(ROOT/"tools"))
CHROMIUM = next((shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome") if shutil.which(n)), None)
AXE = Path(os.environ.get("AXE_JS", ROOT/"build/browser/node_modules/axe-core/axe.min.js"))
FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync").split()
WIDE, PHONE = dict(width=1280, height=900), dict(width=390, height=844)

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-site` installs it")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site"),
              pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (Debian: apt-get install chromium)")]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="module")
def address(site):
    "The site, served on this machine only."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Watched:
    "A page and everything that went wrong on it. Requests to anywhere but the site fail, as without a connection, and are noted."
    def __init__(self, browser, address, **context):
        self.page, self.wrong, self.address = browser.new_context(**context).new_page(), [], address
        self.page.on("console", lambda m: self.wrong.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.wrong.append(f"script: {e}"))
        left = "net::ERR_ABORTED"  # the test went on to the next page; what is kept from the network fails with net::ERR_FAILED
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url[:200]}") if r.failure != left else None)
        self.page.on("response", lambda r: self.wrong.append(f"{r.status}: {r.url[:200]}") if r.status >= 400 else None)
        self.page.route(re.compile(r"^(?!data:|blob:|" + re.escape(address or "file:") + ")"), lambda route: route.abort())

    def open(self, path, base=None):
        self.page.goto((base or self.address) + path, wait_until="load")
        return self.page


@pytest.fixture
def watched(browser, address):
    w = Watched(browser, address, viewport=WIDE)
    yield w
    w.page.context.close()


def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))


WIDER = """() => [...document.querySelectorAll("main *")]
  .filter(e => !e.closest("pre, table, .katex, .katex-display, .sourceCode, .wide-figure, .anchorjs-link, .visually-hidden")
  && e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 1).slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""


def test_every_page_loads_at_both_widths(site, watched):
    wrong = {}
    for path in pages(site):
        watched.wrong.clear()
        page = watched.open(path)
        page.set_viewport_size(PHONE)
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = [*watched.wrong, *(page.evaluate(WIDER)), *([f"page is {wide} px wide on a phone"] if wide > PHONE["width"] else [])]
        if found: wrong[path] = found
        page.set_viewport_size(WIDE)
    assert not wrong, json.dumps(wrong, indent=1)


def test_formulas_are_set(site, watched):
    wrong, seen = [], 0
    for path in pages(site):
        if "katex.min.js" not in (site/path).read_text(encoding="utf-8"): continue
        page = watched.open(path)
        n, bad, raw = page.evaluate("""() => [document.querySelectorAll("main .katex").length, document.querySelectorAll(".katex-error").length,
            [...document.querySelectorAll("main .math")].filter(e => !e.querySelector(".katex")).length]""")
        seen += n
        if not n or bad or raw: wrong.append(f"{path}: {n} formulas, {bad} with errors, {raw} not set")
    assert not wrong and seen > 100, (seen, wrong)
    page = watched.open("ssfm.html")
    assert page.evaluate("document.fonts.load('12px KaTeX_Main').then(f => f.length)") == 1


def test_search_finds_newton_schulz(site, watched):
    page = watched.open("index.html")
    box = page.locator(".smalldocs-search input, #quarto-search input").first
    box.fill("Newton-Schulz")
    first = page.locator(".search-result").first
    first.wait_for()
    titles = page.locator(".search-result-title").all_inner_texts()
    assert any("fusion" in t.lower() for t in titles), titles
    box.press("ArrowDown")
    box.press("Enter")
    page.wait_for_load_state()
    assert "Newton" in page.inner_text("main")
    assert not watched.wrong, watched.wrong


def test_search_works_below_the_root(site, watched):
    page = watched.open("runs/train.html")
    page.locator(".smalldocs-search input, #quarto-search input").first.fill("contrast")
    page.locator(".search-result").first.wait_for()
    assert not watched.wrong, watched.wrong


def test_links_of_a_chapter_come_from_the_settings(site, watched):
    from website import notebook_links
    page = watched.open("thresholds.html")
    links = page.evaluate("Object.fromEntries([...document.querySelectorAll('.page-links a')].map(a => [a.textContent, a.href]))")
    assert links["Open in Colab"] == notebook_links("23_thresholds.ipynb")["colab"]
    with page.expect_download() as got: page.click("text=Download the notebook")
    assert json.loads(Path(got.value.path()).read_text(encoding="utf-8"))["nbformat"] == 4


# -- chapters and figures within reach

def test_list_of_chapters_shows_the_open_one_and_unfolds_by_keyboard(site, watched):
    page = watched.open("thresholds.html")
    here, head = page.locator("#quarto-sidebar .sidebar-link.active"), page.locator("#quarto-sidebar a[role=button]", has_text="The task")
    assert here.inner_text() == "23 " + page.title().split(" \u2013 ")[0]
    box, inside = here.bounding_box(), page.locator("#quarto-sidebar").bounding_box()
    assert inside["y"] <= box["y"] and box["y"] + box["height"] <= min(WIDE["height"], inside["y"] + inside["height"])
    entry = page.locator("#quarto-sidebar a", has_text="SynthBirds")
    assert not entry.is_visible()
    head.focus()
    page.keyboard.press("Enter")
    entry.wait_for(state="visible")
    assert not watched.wrong, watched.wrong


def test_figures_can_be_read_on_a_phone(site, watched):
    page = watched.open("thresholds.html")
    page.set_viewport_size(PHONE)
    page.wait_for_function("document.querySelectorAll('main .wide-figure').length > 1")
    width, inside, reached = page.evaluate("""() => { const e = document.querySelector('main .wide-figure');
        return [e.querySelector('img').clientWidth, e.scrollWidth > e.clientWidth, e.tabIndex]; }""")
    assert width >= 540 and inside and reached == 0


# -- the explorer

def explorer(page):
    root = page.locator(".threshold-explorer.ex-ready")
    root.wait_for()
    page.wait_for_function("document.querySelector('.threshold-explorer').dataset.drawn")
    return root


def state(page): return page.evaluate("({...document.querySelector('.threshold-explorer').dataset})")


def drawn(page, side=0):
    "A fingerprint of a canvas."
    return page.evaluate("""i => { const c = document.querySelectorAll('.threshold-explorer canvas')[i];
        return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.reduce((a, v, k) => (a * 31 + v * (k % 7)) % 1000000007, 7); }""", side)


def test_explorer_by_keyboard(site, watched):
    page = watched.open("thresholds.html")
    explorer(page)
    slider = page.locator(".threshold-explorer input[type=range]")
    slider.focus()
    before, picture = state(page), drawn(page)
    for _ in range(5): page.keyboard.press("ArrowRight")
    page.wait_for_timeout(200)
    after = state(page)
    assert round(float(after["threshold"]) - float(before["threshold"]), 2) == .05 and drawn(page) != picture
    assert f"threshold {after['threshold']}" in slider.get_attribute("aria-valuetext")
    page.keyboard.press("Home")
    page.wait_for_timeout(100)
    assert state(page)["threshold"] == "0.00"
    page.locator(".threshold-explorer input[type=radio]:checked").first.focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(200)
    assert state(page)["bird"] != before["bird"]
    page.keyboard.press("Tab")  # the next group
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(200)
    assert state(page)["dial"] != before["dial"] and not watched.wrong


def test_explorer_by_pointer(site, watched):
    page = watched.open("thresholds.html")
    explorer(page)
    plot = page.locator(".ex-plot")
    plot.scroll_into_view_if_needed()
    at, mask, start = plot.bounding_box(), drawn(page, 1), state(page)
    page.mouse.move(at["x"] + .3*at["width"], at["y"] + 40)
    page.mouse.down()
    page.mouse.move(at["x"] + .8*at["width"], at["y"] + 40, steps=5)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert .7 < float(state(page)["threshold"]) < .85 and drawn(page, 1) != mask
    other = page.locator(".threshold-explorer label", has_text="TS-CAM")
    other.click()
    page.wait_for_timeout(200)
    assert state(page)["method"] == "TS-CAM" != start["method"]
    page.locator(".ex-reset").click()
    page.wait_for_timeout(200)
    assert float(state(page)["threshold"]) < .7 and not watched.wrong


def test_explorer_counts_as_the_package(site, watched):
    "The box that the page's own map would give is the package's, and so is the IoU."
    from explorer import BIRDS, OUT, scenes
    from lca_md.boxes import best_iou, map_levels
    data = json.loads((OUT/"birds.js").read_text(encoding="utf-8").split("=", 1)[1].rstrip().rstrip(";"))
    page = watched.open("thresholds.html")
    explorer(page)
    truth = scenes(BIRDS[:1])[0][0].box
    page.locator(".threshold-explorer label", has_text="TS-CAM").click()
    view = data["birds"][0]["scenes"][0]["methods"]["TS-CAM"]
    import numpy as np
    levels = map_levels(np.reshape(view["map"], (1, 14, 14)))[0]
    for i in (5, 25, 50):
        page.locator(".threshold-explorer input[type=range]").fill(str(i))
        page.wait_for_function(f"document.querySelector('.threshold-explorer').dataset.drawn.endsWith(' {i}')")
        got = state(page)
        box = view["boxes"][4*i:4*i + 4]
        assert [int(v) for v in got["box"].split()] == box
        assert abs(float(got["iou"]) - best_iou(np.array(box), [truth])) < 1e-3
        inside = page.evaluate("""() => { const c = document.querySelectorAll('.threshold-explorer canvas')[1], k = c.width / 224;
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
            const at = (x, y) => 4 * (Math.floor((y + .5) * k) * c.width + Math.floor((x + .5) * k));
            for (let y = 0; y < 224; y++) for (let x = 0; x < 224; x++) n += d[at(x, y)] > 200;
            return n; }""")
        edge = 4*(box[2] - box[0] + box[3] - box[1]) + 20  # pixels that the frame hides
        assert abs(inside - (levels > int(i/100*levels.max())).sum()) <= edge


def test_explorer_without_scripts_is_a_picture(site, browser, address):
    w = Watched(browser, address, viewport=WIDE, java_script_enabled=False)
    page = w.open("thresholds.html")
    image = page.locator(".threshold-explorer img")
    assert image.is_visible() and "threshold" in image.get_attribute("alt") and not w.wrong
    w.page.context.close()


def test_explorer_from_a_folder(site, browser):
    "Opened as a file, without any server."
    w = Watched(browser, "file:", viewport=PHONE)
    page = w.open("thresholds.html", base=site.as_uri() + "/")
    explorer(page)
    assert 0 <= float(state(page)["iou"]) <= 1
    assert not [x for x in w.wrong if "search.json" not in x], w.wrong
    w.page.context.close()


# -- light, dark, and everybody

def test_light_and_dark(site, browser, address):
    shades = {}
    for scheme in ("light", "dark"):
        w = Watched(browser, address, viewport=WIDE, color_scheme=scheme)
        page = w.open("wsol.html")
        both = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
        shades[scheme] = [sum(map(int, re.findall(r"\d+", c)[:3])) for c in both]
        w.page.context.close()
    assert shades["light"][0] > 700 > shades["light"][1] and shades["dark"][0] < 200 < shades["dark"][1]


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: `make test-site` fetches it from npm (or set AXE_JS)")
@pytest.mark.parametrize("scheme, size, rules", [("light", WIDE, {}), ("dark", WIDE, {"runOnly": ["color-contrast"]}),
                                                 ("light", PHONE, {"rules": {"color-contrast": {"enabled": False}}})], ids=["light", "dark", "phone"])
def test_no_serious_accessibility_violation(site, browser, address, scheme, size, rules):
    "Every rule on the wide page; in the dark the contrast again, on a phone the rest again."
    w, wrong, code = Watched(browser, address, viewport=size, color_scheme=scheme), [], AXE.read_text(encoding="utf-8")
    for path in pages(site):
        page = w.open(path)
        page.wait_for_timeout(100)
        page.evaluate(code)
        found = page.evaluate("rules => axe.run(document, {resultTypes: ['violations'], ...rules})", rules)["violations"]
        bad = [v for v in found if v["impact"] in ("serious", "critical")]
        wrong += [f"{path}: {v['impact']} {v['id']}, {len(v['nodes'])}, first {v['nodes'][0]['html'][:160]}" for v in bad]
    w.page.context.close()
    assert not wrong, "\n".join(wrong)
