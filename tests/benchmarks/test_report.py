import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from gla.benchmarks import plots, results
from gla.benchmarks.report import write_report
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.errors import GlaError

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what links, ids and images there are."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.links, self.ids, self.images = [], [], [], []
        self.tables, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        for name in ("href", "src"):
            if name in attrs:
                self.links.append(attrs[name])
        if tag == "img":
            self.images.append(attrs)
        if tag == "table":
            self.tables.append({"caption": False, "scopes": set()})
        if tag == "caption":
            self.tables[-1]["caption"] = True
        if tag == "th":
            self.tables[-1]["scopes"].add(attrs["scope"])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def check_page(path: Path) -> Page:
    page = Page(path)
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (path.parent / unquote(link)).is_file(), link
    assert all(image.get("alt", "").strip() for image in page.images)
    for table in page.tables:
        assert table["caption"]
        assert table["scopes"] == {"col", "row"}
    return page


def agent(name, kind, means, count=12, spread=0.5, length=50):
    offsets = spread * np.linspace(-1, 1, count)
    lives = (Lifetime(np.add(means, offset), [length] * len(means)) for offset in offsets)
    return AgentResult(name, kind, tuple(lives), 2.0)


def make(environment="gla/RandomLinear-v0", means=(-15, -9, -3), expert=-1.0, count=12, **changes):
    entries = {
        "environment": environment,
        "split": "test",
        "seed": 5,
        "steps": 50 * len(means),
        "lifetimes": count,
        "agents": (
            agent("learner", "agent", means, count),
            agent("learner (rewards masked)", "masked", [-15] * len(means), count),
            agent("zero action", "null", [-10] * len(means), count),
            agent("uniform", "null", [-40] * len(means), count),
        ),
        "references": {}
        if expert is None
        else {"expert": {"return": expert, "provenance": "PPO, 1M steps"}},
        "config": {"steps": 150, "width": 128},
        "packages": {"jax": "0.10.2"},
        "training_sources": ("gla/RandomNeural-v0",),
    }
    return Results(**entries | changes)


def varied(**changes):
    lives = tuple(
        Lifetime([float(n) for n in row], row) for row in ([20, 30, 40], [45, 55], [10, 80], [100])
    )
    lives += (Lifetime((9.0,), (100,), True),)
    agents = (AgentResult("learner", "agent", lives, 1.0), AgentResult("n", "null", lives, 1.0))
    return make("gla/CartPole-v0", agents=agents, steps=100, **changes)


def written(folder, *given):
    paths = []
    for index, one in enumerate(given):
        paths.append(folder / f"results {index}.json")
        results.write(paths[-1], one)
    return paths


def test_a_report_of_many_kinds_of_results(tmp_path):
    given = [
        make(),
        make("gla/Pendulum-v0", means=(-15, -15)),
        make("gla/CartpoleSwingup-v0", means=(-3,)),
        make("gla/HalfCheetah-v0", expert=None),
        make("gla/Ant-v0", count=1),
        varied(),
        make("gla/RandomLinear-v0", agents=make().agents[:1], expert=None),
    ]
    paths = written(tmp_path / "out", *given)
    report = write_report(paths, tmp_path / "out", "A <title>", ["A note & more."])
    assert report == tmp_path / "out" / "report.html"
    page = check_page(report)
    assert len(page.images) == len(given) + 1  # and the overview
    assert "Learned on 3 of 7 environments: gla/RandomLinear-v0, " in page.text
    assert "Did not learn on gla/Pendulum-v0" in page.text
    assert "A <title>" in page.text
    assert "A note & more." in page.text
    for words in ("zero action", "jax 0.10.2", "gla/RandomNeural-v0", '"width": 128', "1M steps"):
        assert words in page.text
    assert "inf" not in page.text.replace("information", "")
    assert "nan" not in page.text
    for image in (tmp_path / "out" / "curves").iterdir():
        with Image.open(image) as picture:
            assert picture.format == "PNG"
            if image.name != "overview.png":
                assert picture.size == (plots.WIDTH, plots.HEIGHT)
    assert not list(tmp_path.rglob("*.part"))


def test_results_elsewhere_are_named_without_a_link(tmp_path):
    paths = written(tmp_path / "elsewhere", make())
    page = check_page(write_report(paths, tmp_path / "out"))
    assert "results 0.json" in page.text
    assert not any("json" in link for link in page.links)


def test_everything_from_a_file_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    one = make(evil, config={evil: evil}, packages={evil: evil}, training_sources=(evil,))
    report = write_report(written(tmp_path, one), tmp_path)
    check_page(report)
    assert "<script" not in report.read_text()


def test_odd_names_still_make_files(tmp_path):
    given = [
        make(name) for name in ("../up", "", "overview", "Overview", "verdicts", "$\\bad$", "é")
    ]
    report = write_report(written(tmp_path, *given), tmp_path)
    assert len(check_page(report).images) == len(given) + 1
    assert {one.name for one in tmp_path.iterdir() if one.suffix != ".json"} == {
        "curves",
        "report.html",
    }


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(GlaError, match="no results"):
        write_report([], tmp_path / "out")
    good = written(tmp_path, make())
    with pytest.raises(GlaError, match="no results file"):
        write_report([*good, tmp_path / "none.json"], tmp_path / "out")
    nulls = written(tmp_path / "nulls", make(agents=make().agents[2:]))
    with pytest.raises(GlaError, match="holds no agent under test"):
        write_report([*good, *nulls], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError):
        write_report(written(tmp_path, make()), tmp_path / "file")


def test_a_failed_picture_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(GlaError, match="disk is full"):
        plots.plot_results(make(), tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_an_overview_needs_a_score(tmp_path):
    with pytest.raises(GlaError, match="no score"):
        plots.overview([make(expert=None)], tmp_path / "x.png")
    plots.overview([make(), make(expert=500.0), make(means=(-900, -800))], tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 5000


def test_very_many_episodes_are_drawn_in_windows(tmp_path):
    plots.plot_results(make(means=tuple(range(300))), tmp_path / "x.png")
    assert plots._curves([make(means=tuple(range(300))).agents[0]], 15000)[0].unit == "step"


def test_labels_are_pushed_apart_no_more_than_needed():
    assert plots._spread([0.1, 0.5], [0.1, 0.1]) == pytest.approx([0.1, 0.5])
    assert plots._spread([0.5, 0.5], [0.1, 0.1]) == pytest.approx([0.45, 0.55])
    assert plots._spread([0.99, 1.0], [0.1, 0.1]) == pytest.approx([0.9, 1.0])
    assert plots._spread([0.0, 0.0], [0.1, 0.1]) == pytest.approx([0.0, 0.1])


def test_the_picture_is_told_in_words():
    assert plots.alt_text(make()) == (
        "Return per episode on gla/RandomLinear-v0: the agent goes from -15.0 to -3.0, its "
        "reward-masked twin goes from -15.0 to -15.0; the best null controller stays at -10.0; "
        "the expert reaches -1.0."
    )
