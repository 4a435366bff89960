import hashlib
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gla.benchmarks import results
from gla.benchmarks.leaderboard import build, merge, ranks
from gla.benchmarks.statistics import Interval, beats, overlap
from gla.errors import GlaError


def load(name):
    place = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"leaderboard_{name}", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages, samples = load("test_report"), load("board_samples")
agent, check_page, make, written = pages.agent, pages.check_page, pages.make, pages.written


def interval(low, high):
    return Interval((low + high) / 2, low, high)


def table_rows(folder, name="index.html"):
    """Return (rank, name) of every row of the page, in order."""
    text = (folder / name).read_text(encoding="utf-8")
    return re.findall(r'<td data-value="(\d*)">[^\n]*\n<th scope="row" data-value="([^"]*)"', text)


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
    assert text.count("<h3") == 1  # one environment


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
    assert (tmp_path / "index.html").read_text().count("<script") == 1  # the page's own


def test_varied_lifetimes_can_be_listed(tmp_path):
    build(written(tmp_path, pages.varied()), tmp_path)
    check_page(tmp_path / "index.html")


def test_results_written_by_the_library_are_those_read(tmp_path):
    path = written(tmp_path, make())[0]
    assert results.read(path).agents == make().agents


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of submissions of all kinds, two of which are left out."""
    folder = samples.many(tmp_path_factory.mktemp("in"))
    cut = samples.write(folder / "cut", "cut") / "BernoulliBandit-v0.json"
    cut.write_text(cut.read_text()[:1000])
    changed = samples.write(folder / "changed", "changed") / "submission.json"
    changed.write_text(changed.read_text().replace('"changed"', '"better"'))
    shutil.copytree(folder / "ppo", folder / "ppo-again")
    return folder


@pytest.fixture(scope="module")
def board(inputs, tmp_path_factory):
    """The site of these submissions and a results file, and what was left out."""
    alone = tmp_path_factory.mktemp("alone")
    folder = tmp_path_factory.mktemp("site")
    return folder, build([inputs, *written(alone, make())], folder, "A <board> & more")


def read(folder, name):
    return check_page(folder / name).text


def test_every_page_of_a_site_is_sound_and_its_links_resolve(board):
    folder, _ = board
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    assert found == [
        "agents/GLA-100-steps.html",
        "agents/GLA-s-rival-co.html",
        "agents/PPO-online.html",
        "agents/broken.html",
        "agents/foreign.html",
        "agents/weak.html",
        "environments/bandits-v1-BernoulliBandit-v0.html",
        "environments/bandits-v1-GaussianBandit-v0.html",
        "environments/bandits-v1-LinearBandit-v0.html",
        "environments/gridworld-v1-Gridworld-v0.html",
        "index.html",
        "suites/bandits-v1.html",
        "suites/gridworld-v1.html",
    ]
    linked = set()
    for name in found:
        page = check_page(folder / name)
        linked |= {(folder / name).parent.joinpath(link).resolve() for link in page.links}
        text = (folder / name).read_text()
        assert "<title>" in text and 'class="skip"' in text and "<main id=" in text
        assert "A &lt;board&gt; &amp; more" in text
        labels = re.findall(r'role="region" aria-label="([^"]*)"', text)
        assert len(labels) == len(set(labels)) == text.count("<table")
    # Every page can be reached.
    assert {folder.resolve() / name for name in found} <= linked


def test_the_first_page_names_leaders_and_what_was_left_out(board):
    folder, problems = board
    text = (folder / "index.html").read_text()
    suites = text[text.index('id="suites"') : text.index('id="alone"')]
    bandits, grid = suites.split("<tr>")[2:]
    # Two agents whose intervals overlap lead together; nobody below them is named.
    assert re.findall(r'class="entry" href="agents/([^"]*)"', bandits) == [
        "GLA-s-rival-co.html", "GLA-100-steps.html",
    ]  # fmt: skip
    assert "their intervals overlap" in bandits and "4 ranked" in bandits
    assert re.findall(r'class="entry" href="agents/([^"]*)"', grid) == ["GLA-100-steps.html"]
    assert len(problems) == 1 + 3
    assert {Path(line.partition(":")[0]).parts[-1] for line in problems} >= {"changed"}
    page = check_page(folder / "index.html")
    assert all(line in page.text for line in problems)
    assert "listed once" in page.text and "ppo-again" in page.text
    assert "gla/RandomLinear-v0" in page.text  # the results file


def test_the_page_of_a_suite(board):
    folder, _ = board
    text = read(folder, "suites/bandits-v1.html")
    assert "not ranked: training sources not allowed" in text
    assert "not ranked: 2 of 3 environments" in text
    assert "at step 3, raised ValueError: <no> & so." in text
    assert "elsewhere/Bandit-v0" in text
    page = (folder / "suites/bandits-v1.html").read_text()
    assert page.count('role="img"') == 2  # the profile, for wide and narrow screens
    lines = table_rows(folder, "suites/bandits-v1.html")
    assert [rank for rank, _ in lines] == ["1", "1", "3", "4", "", "", "", ""]
    names = [name for _, name in lines]
    assert names[-2:] == ["Best null controllers", "Experts"]


def test_the_page_of_an_agent_says_where_it_comes_from(board):
    folder, _ = board
    text = read(folder, "agents/GLA-100-steps.html")
    assert "gla meta-test OUT --agent runs/gla --suite bandits-v1 --which best --ask gap=32" in text
    assert "gla meta-test OUT --agent runs/gla --suite gridworld-v1" in text
    assert "gla/RandomTabular-v0, gla/RandomLinear-v0" in text
    assert "Rank 1 to 2 of 4." in text
    digests = re.findall(r"\b[0-9a-f]{64}\b", text)
    assert len(digests) == 4
    assert "Not allowed in this suite" in read(folder, "agents/foreign.html")
    assert "Not ranked: 2 of 3 environments." in read(folder, "agents/broken.html")


def test_the_page_of_an_environment_has_everyone(board):
    folder, _ = board
    text = read(folder, "environments/bandits-v1-LinearBandit-v0.html")
    assert "broken has no results here: 'learner' on it" in text
    for name in ("GLA, 100 steps", "GLA's <rival> & co", "PPO, online", "weak", "foreign"):
        assert f"{name} (rewards masked)" in text
    assert "uniform" in text and "constant 1" in text


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_the_same_input_gives_the_same_bytes(inputs, tmp_path):
    one = [inputs / "gla", inputs / "ppo", inputs / "other"]
    build(one, tmp_path / "a")
    # Neither where submissions lie nor in which order they are given matters.
    moved = shutil.copytree(inputs, tmp_path / "moved")
    build([moved / "other", moved / "ppo", moved / "gla"], tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_pages_of_a_former_site_go_and_other_files_stay(inputs, tmp_path):
    build([inputs / "gla", inputs / "weak"], tmp_path / "site")
    (tmp_path / "site/agents/notes.html").write_text("mine")
    (tmp_path / "precious.html").write_text("mine")
    listed = tmp_path / "site/assets/pages.json"
    names = json.loads(listed.read_text())
    assert "agents/weak.html" in names
    listed.write_text(json.dumps([*names, "../precious.html", "/etc/passwd.html", 3]))
    build([inputs / "gla"], tmp_path / "site")
    assert not (tmp_path / "site/agents/weak.html").exists()
    assert (tmp_path / "site/agents/notes.html").exists()
    assert (tmp_path / "precious.html").exists()
    listed.write_text("nonsense")
    assert build([inputs / "gla"], tmp_path / "site") == []


def test_nulls_alone_make_a_suite_without_agents(inputs, tmp_path):
    assert build([inputs / "nulls"], tmp_path) == []
    assert "nobody is ranked" in read(tmp_path, "index.html")
    assert "Best null controllers" in read(tmp_path, "suites/bandits-v1.html")


def test_a_suite_without_scores_is_shown(tmp_path):
    samples.write(tmp_path / "in", "learner", "supervised-v1")
    build([tmp_path / "in"], tmp_path / "site")
    text = read(tmp_path / "site", "suites/supervised-v1.html")
    assert "No score on" in text and "not ranked: no score" in text
    for path in (tmp_path / "site").rglob("*.html"):
        check_page(path)


def test_evil_names_of_agents_are_escaped(tmp_path):
    evil = "<script>alert('\"&</script> " + 90 * "long"
    samples.write(tmp_path / "in", evil, "gridworld-v1", spec=evil, sources=("<b>", "gla/<i>-v0"))
    build([tmp_path / "in"], tmp_path / "site", title=evil)
    for path in (tmp_path / "site").rglob("*.html"):
        check_page(path)
        assert path.read_text().count("<script") == 1
        assert "<b>" not in path.read_text()


def test_leaders_that_beat_no_null_controller_are_called_so(tmp_path):
    for name in "abcde":
        samples.write(tmp_path / "in" / name, name, "gridworld-v1", level=-0.1, seed=7)
    build([tmp_path / "in"], tmp_path / "site")
    text = read(tmp_path / "site", "index.html")
    assert "none of them beats the best null controllers" in text
    assert "and 1 more" in text  # five share the lead, four are named
