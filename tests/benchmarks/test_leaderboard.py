import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gla.benchmarks import results
from gla.benchmarks.leaderboard import build, merge, ranks
from gla.benchmarks.statistics import Interval, beats, overlap
from gla.errors import GlaError

_spec = importlib.util.spec_from_file_location(
    "report_pages", Path(__file__).with_name("test_report.py")
)
pages = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pages)
agent, check_page, make, written = pages.agent, pages.check_page, pages.make, pages.written


def interval(low, high):
    return Interval((low + high) / 2, low, high)


def table_rows(folder):
    """Return (rank, name) of every row of the page, in order."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    return re.findall(
        r'<td class="rank" data-value="(\d*)">.*?<th scope="row" data-value="([^"]*)"', text, re.S
    )


def test_those_that_nothing_beats_share_the_first_rank():
    assert ranks([interval(9, 11), interval(8, 10), interval(1, 2)]) == [(1, 2), (1, 2), (3, 3)]
    # The middle one overlaps with both others, of which one beats the other.
    chain = [interval(9, 11), interval(7, 9.5), interval(5, 8)]
    assert ranks(chain) == [(1, 2), (1, 3), (2, 3)]
    assert ranks([interval(1, 1), interval(1, 1)]) == [(1, 2), (1, 2)]


def test_without_an_interval_there_is_no_rank():
    unknown = Interval(100.0, float("-inf"), float("inf"))
    assert ranks([unknown, interval(1, 2), interval(3, 4)]) == [None, (2, 2), (1, 1)]


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 5)).map(lambda x: interval(x[0], sum(x))),
        min_size=1,
        max_size=8,
    )
)
def test_no_order_between_intervals_that_overlap(intervals):
    found = ranks(intervals)
    leader = max(intervals, key=lambda one: one.low)
    for a, (best, worst) in zip(intervals, found, strict=True):
        assert 1 <= best <= worst <= len(intervals)
        assert (best == 1) == overlap(a, leader)
        for b, (other_best, other_worst) in zip(intervals, found, strict=True):
            if overlap(a, b):
                assert best <= other_worst
                assert other_best <= worst
            elif beats(a, b):
                assert best < other_best
                assert worst < other_worst


def test_a_table_per_environment_with_everyone_in_it(tmp_path):
    given = [make(), make("gla/Pendulum-v0", expert=None), make("gla/Ant-v0", means=(-3,), count=1)]
    assert build(written(tmp_path, *given), tmp_path / "site") == []
    page = check_page(tmp_path / "site" / "index.html")
    assert {"gla-RandomLinear-v0", "gla-Pendulum-v0", "gla-Ant-v0"} <= set(page.ids)
    everyone = ["learner", "zero action", "learner (rewards masked)", "uniform"]
    rows = table_rows(tmp_path / "site")
    ant, pendulum, linear = rows[:5], rows[5:9], rows[9:]
    assert pendulum == list(zip("1234", everyone, strict=True))
    assert linear == [*pendulum, ("", "Expert")]
    # A single lifetime: no ranks, best first.
    assert [place for place, _ in ant] == [""] * 5
    assert "PPO, 1M steps" in page.text
    assert "no interval" in page.text


def test_files_of_one_environment_share_a_table(tmp_path):
    second = make(
        agents=(
            agent("other", "agent", (-15, -9, -3.1)),
            agent("other (rewards masked)", "masked", (-15, -15, -15)),
            *(replace(one, seconds=9.0) for one in make().agents[2:]),
        )
    )
    paths = written(tmp_path, make(), second)
    build(paths, tmp_path / "site")
    assert table_rows(tmp_path / "site") == [
        ("1", "learner"),
        ("1", "other"),
        ("3", "zero action"),
        ("4", "learner (rewards masked)"),
        ("4", "other (rewards masked)"),
        ("6", "uniform"),
        ("", "Expert"),
    ]
    # The very same file again changes nothing.
    build([*paths, paths[0]], tmp_path / "again")
    assert table_rows(tmp_path / "again") == table_rows(tmp_path / "site")


def test_one_name_with_different_returns_is_told_apart(tmp_path):
    given = [make(), make(means=(-15, -9, -4))]
    merged = merge([(Path("a/x.json"), given[0]), (Path("b/x.json"), given[1])])
    names = [one.name for one in merged.agents]
    assert names.count("zero action") == 1
    assert {"learner (x)", "learner (b/x.json)"} <= set(names)
    assert len(set(names)) == len(names) == 5
    same_path = merge([(Path("x.json"), make(means=(-9, n))) for n in range(4)])
    assert len({one.name for one in same_path.agents}) == len(same_path.agents)


def test_other_lifetimes_are_another_table(tmp_path):
    given = [make(), make(means=(-15, -3)), replace(make(), split="validation")]
    build(written(tmp_path, *given), tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert text.count("<table>") == 3
    assert text.count("<h2") == 2  # one environment, and how to read it


def test_the_newest_expert_is_used_and_the_difference_said(tmp_path):
    old = replace(make(expert=-2.0), created="2020-01-01T00:00:00+00:00")
    build(written(tmp_path, make(expert=-1.0), old), tmp_path)
    text = (tmp_path / "index.html").read_text()
    assert 'data-value="-1.0"' in text
    assert 'data-value="-2.0"' not in text
    assert "store different experts" in text


def test_bad_files_are_named_and_the_rest_is_built(tmp_path):
    paths = written(tmp_path, make())
    (tmp_path / "bad.json").write_text("{")
    problems = build([tmp_path / "bad.json", *paths, tmp_path / "none.json"], tmp_path / "site")
    assert len(problems) == 2
    assert str(tmp_path / "bad.json") in problems[0]
    assert str(tmp_path / "none.json") in problems[1]
    page = check_page(tmp_path / "site" / "index.html")
    assert "bad.json" in page.text
    assert len(table_rows(tmp_path / "site")) == 5


def test_only_bad_files_still_make_a_page_that_says_so(tmp_path):
    assert len(build([tmp_path / "none.json"], tmp_path / "site")) == 1
    assert "no results to show" in check_page(tmp_path / "site" / "index.html").text


def test_nothing_at_all_is_refused(tmp_path):
    with pytest.raises(GlaError, match="no results"):
        build([], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(GlaError):
        build(written(tmp_path, make()), tmp_path / "file")


def test_agents_without_nulls_or_twin_can_be_listed(tmp_path):
    one = make(agents=make().agents[:1])
    assert build(written(tmp_path, one), tmp_path) == []
    assert table_rows(tmp_path) == [("1", "learner"), ("", "Expert")]


def test_names_are_escaped(tmp_path):
    evil = '<script>"&'
    one = make(evil, agents=(replace(make().agents[0], name=evil),), training_sources=(evil,))
    build(written(tmp_path, one), tmp_path)
    check_page(tmp_path / "index.html")
    assert (tmp_path / "index.html").read_text().count("<script>") == 1  # the page's own


def test_varied_lifetimes_can_be_listed(tmp_path):
    build(written(tmp_path, pages.varied()), tmp_path)
    check_page(tmp_path / "index.html")


def test_results_written_by_the_library_are_those_read(tmp_path):
    path = written(tmp_path, make())[0]
    assert results.read(path).agents == make().agents
