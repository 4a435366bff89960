"""The site in a browser: no errors, sorting, keyboard, contrast, narrow screens, paper."""

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from gla.benchmarks import results
from gla.benchmarks.leaderboard import build

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-core looks for barriers"
)

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PAGES = (
    "index.html",
    "suites/bandits-v1.html",
    "environments/bandits-v1-LinearBandit-v0.html",
    "agents/GLA-100-steps.html",
)
DESK, PHONE = (1280, 900), (390, 844)


def load(name):
    place = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"browser_{name}", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_api.sync_playwright() as play:
        try:  # without one on the path, the one that playwright may have installed
            opened = play.chromium.launch(executable_path=found, args=FLAGS)
        except sync_api.Error as error:
            pytest.skip(f"no Chromium starts here ({str(error).splitlines()[0]})")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    samples, pages = load("board_samples"), load("test_report")
    samples.many(folder / "in")
    samples.write(folder / "in/long", 40 * "unbroken" + "<&>", "gridworld-v1", seed=5)
    alone = pages.make(agents=pages.make().agents + tuple(
        pages.agent(f"constant {n}", "null", [-20 - n] * 3) for n in range(4)
    ))  # fmt: skip
    results.write(folder / "alone.json", alone)
    problems = build([folder / "in", folder / "alone.json", folder / "none.json"], folder / "site")
    assert len(problems) == 1
    return folder / "site"


@pytest.fixture
def visit(browser, site):
    """Open a page; whatever the browser complains of by the end is a failure."""
    contexts, said = [], []

    def go(name, size=DESK, scheme="light", **options):
        viewport = {"width": size[0], "height": size[1]}
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{name}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{name}: {error}"))
        page.on("requestfailed", lambda request: said.append(f"{name}: {request.url}"))
        page.on(
            "request",
            lambda request: None if request.url.startswith("file://") else said.append(request.url),
        )
        page.goto((site / name).as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESK, "light"), (DESK, "dark"), (PHONE, "light")], ids=str
)
def test_there_are_no_barriers(visit, size, scheme):
    for name in PAGES:
        page = visit(name, size, scheme)
        if name.startswith("agents"):
            for one in page.locator("summary").all():
                one.click()
        # The style sheet is loaded already; from a file, a script may not load it again.
        found = axe.Axe().run(page, options={"preload": False}).response["violations"]
        assert [(one["id"], one["nodes"][0]["html"]) for one in found] == [], name


def test_light_and_dark_differ_also_in_charts(visit):
    colours = {}
    for scheme in ("light", "dark"):
        page = visit("suites/bandits-v1.html", scheme=scheme)
        colours[scheme] = [
            page.evaluate(f"getComputedStyle(document.querySelector('{css}')).{what}")
            for css, what in (
                ("body", "backgroundColor"),
                (".drawing", "backgroundColor"),
                (".chart .line.c0", "stroke"),
                (".chart text", "fill"),
            )
        ]
    assert all(a != b for a, b in zip(colours["light"], colours["dark"], strict=True))


def width_beyond(page):
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


def test_no_page_is_wider_than_the_screen(visit, site):
    for path in sorted(site.rglob("*.html")):
        page = visit(str(path.relative_to(site)))
        for width, height in (DESK, PHONE, (320, 640)):
            page.set_viewport_size({"width": width, "height": height})
            assert width_beyond(page) == 0, f"{path.name} at {width}"


def test_one_drawing_of_each_chart_is_shown_and_can_be_read(visit):
    for size, style in ((DESK, "wide-chart"), (PHONE, "narrow-chart")):
        page = visit("environments/bandits-v1-LinearBandit-v0.html", size)
        shown = [one for one in page.locator(".chart").all() if one.is_visible()]
        assert [one.get_attribute("class") for one in shown] == [f"chart {style}"]
        box = shown[0].bounding_box()
        scale = box["width"] / float(shown[0].get_attribute("width"))
        assert 12.5 * scale > 10  # pixels of its letters
        assert "GLA, 100 steps goes from" in shown[0].get_attribute("aria-label")


def column(page, number):
    return page.eval_on_selector_all(
        "main section[aria-labelledby=agents] tbody tr",
        f"rows => rows.map(row => row.cells[{number}].dataset.value)",
    )


def numbers(values):
    """Return the values, of which what is missing must come last."""
    known = [float(one) for one in values if one != ""]
    assert values[len(known) :] == [""] * (len(values) - len(known))
    return known


def test_columns_are_sorted_by_click_and_by_keyboard(visit):
    page = visit("suites/bandits-v1.html")
    heads = page.locator("section[aria-labelledby=agents] thead th")
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    for number in range(heads.count()):
        head = heads.nth(number)
        button = head.get_by_role("button")
        button.click() if number % 2 else button.press("Enter")
        first = head.get_attribute("aria-sort")
        values = column(page, number)
        if number == 1:  # names
            assert first == "ascending"
            # As readers look names up: without regard to case and to what is no letter.
            assert values == sorted(values, key=lambda one: re.sub(r"\W", "", one).lower())
        else:
            # The first column was in order before; pressing it again turns it round.
            assert first == "descending"
            assert numbers(values) == sorted(numbers(values), reverse=True)
        others = [heads.nth(n).get_attribute("aria-sort") for n in range(heads.count())]
        assert [n for n, one in enumerate(others) if one] == [number]
        button.press("Space")
        assert head.get_attribute("aria-sort") not in (first, None)
        if number != 1:
            assert numbers(column(page, number)) == sorted(numbers(values))


def test_the_keyboard_goes_to_the_content_first(visit):
    page = visit("suites/bandits-v1.html")
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert skip.inner_text() == "Skip to the content"
    assert skip.bounding_box()["x"] >= 0  # it can be seen now
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    region = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert region == "Agents on bandits-v1"  # the box of the table, for the arrow keys
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Rank"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_links_lead_from_page_to_page(visit):
    page = visit("index.html")
    page.get_by_role("link", name="bandits-v1").first.click()
    assert page.locator("h1").inner_text() == "bandits-v1"
    page.get_by_role("link", name="GLA's <rival> & co").first.click()
    assert page.locator("h1").inner_text() == "GLA's <rival> & co"
    page.get_by_role("link", name="LinearBandit-v0").first.click()
    assert page.locator("h1").inner_text() == "LinearBandit-v0"
    page.get_by_role("link", name="Leaderboard").click()
    assert page.locator("h1").inner_text() == "Leaderboard"


def test_only_the_best_null_controller_is_unfolded(visit):
    page = visit("index.html")
    button = page.get_by_role("button", name="Show the other 5 null controllers")
    assert page.get_by_text("constant 3").is_hidden()
    assert button.get_attribute("aria-expanded") == "false"
    button.press("Enter")
    assert page.get_by_text("constant 3").is_visible()


def test_without_scripts_everything_is_there(visit):
    page = visit("index.html", java_script_enabled=False)
    assert page.get_by_text("constant 3").is_visible()
    page = visit("suites/bandits-v1.html", java_script_enabled=False)
    assert page.locator("section[aria-labelledby=agents] tbody tr").count() == 8


def test_on_paper_no_table_is_cut_off(visit):
    page = visit("suites/bandits-v1.html", (720, 1000), "dark")
    page.emulate_media(media="print", color_scheme="light")
    assert width_beyond(page) == 0
    box = page.locator("section[aria-labelledby=agents] table").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 720
