"""The site: pages that are made from the code, and its building without a warning."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import gla
from gla import cli
from gla.agents.makers import BUILT_IN
from gla.envs import catalog
from gla.envs.table import TABLE

DOCS = Path(__file__).parent.parent / "docs"
NEEDED = ("sphinx", "myst_parser", "furo", "sphinx_copybutton")


@pytest.fixture(scope="module")
def site():
    """The modules of the extension by name."""
    sys.path.insert(0, str(DOCS))
    try:
        names = ("api", "commands", "contents", "docstrings", "gallery")
        yield {name: importlib.import_module(f"gla_site.{name}") for name in names}
    finally:
        sys.path.remove(str(DOCS))


def test_every_command_is_on_a_page_with_all_below_it(site):
    pages = site["commands"].pages()
    assert list(pages) == list(cli._COMMANDS)
    for name, text in pages.items():
        assert text.startswith(f"# gla {name}\n")
        assert "\x1b" not in text and "/root" not in text
        assert max(map(len, text.splitlines())) <= site["commands"].WIDTH
    for maker in list(BUILT_IN)[1:]:
        assert f"\n## gla collect {maker}\n" in pages["collect"]
    assert "--epsilon.shape" in pages["collect"]
    assert "\n## gla meta-train ad\n" in pages["meta-train"]
    for words in ("histories merge", "histories import", "envs list", "gpicl run"):
        assert f"\n## gla {words}\n" in pages[words.split()[0]]
    assert "\n## gla leaderboard build\n" in pages["leaderboard"]
    listing = site["commands"].listing()
    assert all(f"(commands/{name}.md)" in listing for name in cli._COMMANDS)


def test_a_help_does_not_depend_on_the_terminal(site, monkeypatch):
    before = site["commands"].help_of(["envs", "show"])
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert site["commands"].help_of(["envs", "show"]) == before
    assert os.environ["COLUMNS"] == "300" and os.environ["FORCE_COLOR"] == "1"
    with pytest.raises(ValueError, match="no-such-command"):
        site["commands"].help_of(["no-such-command"])


def test_a_list_of_commands_is_told_from_a_help(site):
    below = site["commands"].subcommands
    assert below(["envs"], "gla envs list  List.\ngla envs show-all  Show.\n") == [
        "list",
        "show-all",
    ]
    assert below(["envs"], "gla envs list  List.\n\n--option  of it\n") == []


def test_every_public_module_has_a_page(site):
    api = site["api"]
    root = Path(gla.__file__).parent
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        assert (name in api.modules()) == ("._" not in name), name
        if name in api.modules():
            assert api.summary(name).endswith("."), name
    page = api.page("gla.histories")
    assert "[`gla.histories.store`](gla.histories.store.md)" in page
    assert "{py:obj}`HistoryStore <gla.histories.store.HistoryStore>`" in page
    assert "{py:obj}`STREAM_ARRAYS <gla.histories.STREAM_ARRAYS>`" in page  # has no home
    assert ":members:" in api.page("gla.projection") and ":no-members:" in page
    assert "gla.agents.base" in api.page("gla.agents") and "(api/gla.envs.md)" in api.listing()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f32[*shape] of `x + 1`", r"f32[\*shape] of ``x + 1``"),
        ("`Timestep`s and `gla.envs`.", r":py:obj:`Timestep`\ s and :py:obj:`gla.envs`."),
        ("an *agent space*, 2 * 3 * 4", r"an *agent space*, 2 \* 3 \* 4"),
        ("`two\nlines` and task_ or _x|y", "``two\nlines`` and task\\_ or _x\\|y"),
        ("With W:\n\n    A  *B*\n\nafter", "With W:\n\n::\n\n    A  *B*\n\nafter"),
        ("====  ==\na*   b\n====  ==", "::\n\n    ====  ==\n    a*   b\n    ====  =="),
        ("Args:\n    x: a\n        b.", "Args:\n    x: a\n        b."),
    ],
)
def test_docstrings_become_restructured_text(site, text, expected):
    assert site["docstrings"].to_rst(text) == expected


def test_contents_follow_the_links_of_a_page(site):
    text = "[up](../a.md)\n## One\n- [b](b.md), [c](d/c.md)\n## Two\n- [b](b.md), [e](e.md#x)\n"
    found = site["contents"].tables_of_contents(text)
    assert found == "\n```{toctree}\n:hidden:\n:caption: One\n\nb\nd/c\n```\n"


def test_the_index_leads_to_every_page():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.stem == "index" or f"({page.name})" in index, f"{page.name} is not in index.md"


def test_the_gallery_shows_every_picture_once(site):
    grid = site["gallery"].grid(DOCS)
    shown = re.findall(r"!\[(gla/[^:]*):[^\]]*\]\((images/environments/[^)]*)\)", grid)
    assert len({id for id, _ in shown}) == len(shown)
    assert sorted(path for _, path in shown) == sorted(
        path.relative_to(DOCS).as_posix() for path in (DOCS / "images/environments").glob("*.png")
    )
    for spec in catalog.select():
        name = spec.id.removeprefix("gla/").removesuffix("-v0")
        assert (spec.id in dict(shown)) != (f"[{name}](environments/{spec.domain}.md)" in grid)


def films():
    """(path, alternative text, command) of every film of the gallery."""
    return re.findall(
        r"^```\n(gla watch [^\n]*)\n```\n\n<img class=\"film\" src=\"([^\"]*)\" alt=\"([^\"]*)\">$",
        (DOCS / "gallery.md").read_text(), re.M,
    )  # fmt: skip


def test_films_are_small_described_and_named_by_their_commands():
    found = films()
    there = {path.relative_to(DOCS).as_posix() for path in (DOCS / "images/films").glob("*.gif")}
    assert {path for _, path, _ in found} == there and len(found) == len(there) >= 4
    sizes = [(DOCS / path).stat().st_size for path in there]
    assert max(sizes) < 400_000 and sum(sizes) < 2_000_000
    for command, path, alt in found:
        words = command.split()
        assert words[words.index("--out") + 1] == Path(path).name
        assert words[3] in TABLE and catalog.facts(words[3]).can_render
        assert len(alt) > 100 and "Episode 1" in alt


def test_a_film_can_stand_still(site, tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    film = '<img class="film" src="a.gif" alt="red, then blue">'
    text = site["gallery"].with_stills(f"before\n\n{film}\n\nafter", tmp_path)
    still = '<img class="still" src="a.png" alt="red, then blue">'
    assert text == f"before\n\n{film}\n{still}\n\nafter"
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (8, 6) and picture.getpixel((3, 3)) == (0, 0, 255)
    assert site["gallery"].with_stills("no film", tmp_path) == "no film"
    style = (DOCS / "_static/site.css").read_text()
    assert "prefers-reduced-motion: reduce" in style and "img.still" in style


def build(folder, code="", builder="html"):
    """Build a copy of the documentation in a folder of its own; code is run before."""
    command = (
        f"import sys; sys.path.insert(0, 'docs')\n{code}\nfrom sphinx.cmd.build import main\n"
        f"sys.exit(main(['-W', '--keep-going', '-q', '-b', '{builder}', 'docs', 'site']))"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-P", "-c", command],
        cwd=folder, capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    for name in NEEDED:
        pytest.importorskip(name, reason="the documentation's tools, gla[docs], are not installed")
    folder = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("_build", "__pycache__", "api", "commands")
    shutil.copytree(DOCS, folder / "docs", ignore=ignored)
    return folder


def check_offline(site: Path):
    """A browser needs nothing but the folder."""
    assert (site / "searchindex.js").stat().st_size > 10_000
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text()):
            assert not re.search(r"(src|href)=\"(https?:)?//", tag), f"{page.name}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", sheet.read_text()), sheet.name


SMALL = """
from gla_site import api
pages = {"gla": True, "gla.errors": False, "gla.projection": False, "gla.models": True}
api.modules = lambda: pages
"""


def test_a_site_with_few_modules_is_built_and_broken_links_are_errors(copied):
    result = build(copied, SMALL)
    assert result.returncode == 0, result.stderr
    check_offline(copied / "site")
    assert (
        "Towards General-Purpose" in (copied / "site/reference/api/gla.projection.html").read_text()
    )
    gallery = (copied / "site/gallery.html").read_text()
    for _, path, _ in films():
        for kind, suffix in (("film", ".gif"), ("still", ".png")):
            name = Path(path).with_suffix(suffix).name
            assert (copied / "site/_images" / name).exists()
            [tag] = re.findall(rf'<img [^>]*src="_images/{name}"[^>]*>', gallery)
            assert f'class="{kind}"' in tag
    grid = (copied / "site/environments/gridworld.html").read_text()
    assert 'src="../_images/Gridworld.png"' in grid
    assert (copied / "site/_images/Gridworld.png").exists()
    with open(copied / "docs/concepts.md", "a") as file:
        file.write("\n[nowhere](nowhere.md), [no heading](training.md#no-such-heading)\n")
    result = build(copied, SMALL)
    assert result.returncode != 0
    assert "nowhere.md" in result.stderr and "no-such-heading" in result.stderr


@pytest.mark.long
def test_the_whole_site_is_built(copied):
    shutil.copy(DOCS / "concepts.md", copied / "docs/concepts.md")
    result = build(copied)
    assert result.returncode == 0, result.stderr
    check_offline(copied / "site")
    assert (copied / "site/reference/api/gla.envs.base.html").exists()
