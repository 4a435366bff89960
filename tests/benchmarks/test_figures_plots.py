"""What is drawn of results: windows that do not select, intervals, marks within the picture."""

import dataclasses

import numpy as np
import pytest
from matplotlib.figure import Figure as Picture

from gla.benchmarks import figures_plots
from gla.benchmarks import results as files
from gla.benchmarks.figures_parts import Figure, Line, Panel
from gla.benchmarks.figures_plots import draw, draw_panel, own_points, window_edges, windowed
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.errors import GlaError


def agent(*lives, name="a", kind="agent"):
    """Lifetimes given as lists of (return, length)."""
    made = tuple(Lifetime([r for r, _ in life], [n for _, n in life]) for life in lives)
    return AgentResult(name, kind, made, 1.0)


def test_windows_hold_the_episodes_that_end_in_them():
    one = agent([(1.0, 5), (3.0, 5), (10.0, 10)], [(2.0, 10), (20.0, 10)])
    points = windowed([one], np.array([0.0, 10.0, 20.0]))
    # First window: lifetime means 2 and 2; second: 10 and 20. Places: mean ends.
    assert [p.estimate for p in points.values] == [2.0, 15.0]
    assert points.steps.tolist() == [pytest.approx((5 + 10 + 10) / 3), 20.0]
    assert (points.values[1].low, points.values[1].high) == (10.0, 20.0)


def test_seeds_are_put_together_and_empty_windows_left_out():
    first, second = agent([(1.0, 4)]), agent([(3.0, 4)])
    points = windowed([first, second], np.array([0.0, 4.0, 8.0]))
    assert len(points.values) == 1 and points.values[0].estimate == 2.0


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("longest", [1, 7, 50, 1000])
def test_no_window_is_shorter_than_the_longest_episode(log, longest):
    one = agent([(0.0, longest), (0.0, 1)])
    edges = window_edges([one], 1600, log)
    assert edges[0] == 0 and edges[-1] == 1600
    assert np.diff(edges).min() >= longest - 1e-9
    assert len(edges) <= 18


def test_windows_grow_only_on_a_logarithmic_axis():
    one = agent([(0.0, 10)])
    even, growing = (np.diff(window_edges([one], 1600, log)) for log in (False, True))
    assert np.allclose(even, even[0]) and growing[-1] > 5 * growing[0]


def test_episodes_longer_than_a_lifetime_make_one_window():
    assert window_edges([agent([(0.0, 50)])], 20, True).tolist() == [0.0, 20.0]


def test_own_curve_counts_all_steps_and_thins_out():
    points = own_points({"steps": 100, "returns": [[0.0, 2.0], [2.0, 4.0]]})
    assert points.steps.tolist() == [100.0, 200.0]
    assert [p.estimate for p in points.values] == [1.0, 3.0]
    many = own_points({"steps": 10, "returns": [list(range(500))]})
    assert len(many.values) == 50 and many.values[0].estimate == 4.5
    assert not many.values[0].known  # one run has no interval
    assert many.steps[0] == 10 * 5.5


def results(returns, expert=2.0, twin=True):
    made = [agent(*[[(x, 10) for x in life] for life in returns])]
    if twin:
        made.append(dataclasses.replace(made[0], name="a (rewards masked)", kind="masked"))
    made.append(agent([(0.5, 10)], [(0.6, 10)], name="zero action", kind="null"))
    references = {"expert": {"return": expert, "provenance": "somebody"}}
    steps = 10 * len(returns[0])
    return Results(
        "gla/Pendulum-v0", "test", 0, steps, len(returns), tuple(made), references, {}, {}, ()
    )


def figure(panel):
    return Figure("f", "cpu", "Title", "Caption.", (), (panel,))


LEARNS = [[0.0, 0.4, 1.0, 1.4], [0.1, 0.5, 1.1, 1.6]]


def test_rows_say_what_the_results_say(tmp_path):
    files.write(tmp_path / "r.json", results(LEARNS))
    lines = (Line("GLA", ("r.json",)), Line("masked", ("r.json",), twin=True))
    panel = Panel("p", lines, "r.json", read=(("first", 0.0), ("best", 1.0), ("last", 0.9)))
    [row] = draw(figure(panel), tmp_path, tmp_path / "f.png")
    assert (row.panel, row.label, row.file) == ("p", "GLA", "r.json")
    assert row.first == "0.05 [0.00, 0.10]" and row.last == "1.50 [1.40, 1.60]"
    assert row.null == "zero action 0.55 [0.50, 0.60]"
    # Equal to its twin: what it gained was not learned from rewards.
    assert row.masked == row.last and row.verdict == "did not learn (not above its twin)"
    assert row.numbers["score"][0] == pytest.approx((1.5 - 0.55) / (2.0 - 0.55))


@pytest.mark.parametrize("expert", [2.0, 500.0])
def test_an_expert_far_above_does_not_flatten_the_lines(tmp_path, expert):
    files.write(tmp_path / "r.json", results(LEARNS, expert))
    axes = Picture().add_subplot()
    draw_panel(axes, Panel("p", (Line("GLA", ("r.json",)),), "r.json"), tmp_path)
    low, high = axes.get_ylim()
    assert low < 0 and 1.6 < high < 3
    written = " ".join(text.get_text() for text in axes.texts)
    assert ("expert 500" in written) == (expert == 500.0)
    drawn = [line.get_label() for line in axes.lines]
    assert ("expert" in drawn) == (expert == 2.0)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("gap 2", "gap 8", "optimal"), 4),  # and the floor and the expert
        (tuple(f"trained on {kind} directions of an ant" for kind in ("both", "all", "no")), 3),
        (("a long name " * 15, "another long name " * 15), 1),
    ],
)
def test_the_legend_is_whole_whatever_its_entries(tmp_path, monkeypatch, names, columns):
    kept = []
    monkeypatch.setattr(figures_plots, "save_figure", lambda picture, path: kept.append(picture))
    files.write(tmp_path / "r.json", results(LEARNS))
    lines = tuple(Line(name, ("r.json",), style=i) for i, name in enumerate(names))
    draw(figure(Panel("p", lines, "r.json")), tmp_path, tmp_path / "f.png")
    [picture] = kept
    [legend] = picture.legends
    box, panel = legend.get_window_extent(), picture.axes[0].get_tightbbox()
    assert box.x0 >= 0 and box.x1 <= figures_plots.WIDTH
    assert box.y0 >= 0 and box.y1 <= panel.y0
    assert len(legend.get_texts()) == len(names) + 2
    assert legend._ncols == columns


@pytest.mark.parametrize(
    ("one", "other", "side", "edge"),
    [
        ([0.9, 9.0], [0.2, 9.0], "right", "bottom"),
        ([9.0, 0.9], [9.0, 0.2], "left", "bottom"),
        ([0.9, 0.9], [9.0, 9.0], "left", "top"),
    ],
)
def test_the_name_of_the_floor_stands_where_no_line_runs(tmp_path, one, other, side, edge):
    files.write(tmp_path / "one.json", results(2 * [np.repeat(one, 8).tolist()], expert=50.0))
    files.write(tmp_path / "other.json", results(2 * [np.repeat(other, 8).tolist()], expert=50.0))
    lines = tuple(Line(name, (f"{name}.json",)) for name in ("one", "other"))
    axes = Picture(figsize=(6, 4)).add_subplot()
    draw_panel(axes, Panel("p", lines, "one.json"), tmp_path)  # the floor is 0.55
    [name] = [text for text in axes.texts if text.get_text() == "zero action"]
    assert (name.get_ha(), name.get_va()) == (side, edge)


def test_missing_results_and_twins_are_named(tmp_path):
    panel = Panel("p", (Line("GLA", ("r.json",)),), "r.json", own=("o",))
    with pytest.raises(GlaError, match="r.json is not there"):
        draw(figure(panel), tmp_path, tmp_path / "f.png")
    files.write(tmp_path / "r.json", results(LEARNS, twin=False))
    with pytest.raises(GlaError, match="o.json cannot be read"):
        draw(figure(panel), tmp_path, tmp_path / "f.png")
    masked = Panel("p", (Line("GLA", ("r.json",), twin=True),), "r.json")
    with pytest.raises(GlaError, match="no reward-masked twin"):
        draw(figure(masked), tmp_path, tmp_path / "f.png")
    assert not (tmp_path / "f.png").exists()
