"""Figures of the board, against arithmetic that can be done by hand."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gla.benchmarks import board_data, suites
from gla.benchmarks.board_data import board, curves, null_means, profile_of
from gla.benchmarks.board_input import gather
from gla.benchmarks.board_names import names
from gla.benchmarks.results import AgentResult, Lifetime

_spec = importlib.util.spec_from_file_location(
    "board_samples", Path(__file__).with_name("board_samples.py")
)
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

BANDITS = suites.find("bandits-v1")


def made(folder, suite="bandits-v1"):
    reads = [r for r in gather([folder], False).submissions if r.submission.suite == suite]
    return board(suites.find(suite), list(zip(reads, names(reads), strict=True)))


@pytest.fixture(scope="module")
def bandits(tmp_path_factory):
    return made(samples.many(tmp_path_factory.mktemp("many")))


def row(one, label):
    return next(row for row in one.rows if row.label == label)


def test_the_floor_is_the_best_of_all_nulls_and_the_expert_the_stored_one(bandits):
    for env in BANDITS.environments:
        null, expert = samples.ends(env)
        ends = bandits.scales[env]
        assert ends.null_name == "zero action" and ends.expert == expert
        # Measured on these tasks, so near the stored one and not equal to it.
        assert ends.null.estimate == pytest.approx(null, abs=0.01 * (expert - null))
        assert ends.null.estimate != null
        assert [name for name, _ in null_means(bandits, env)] == [
            "zero action", "constant 1", "uniform",
        ]  # fmt: skip
    assert bandits.scored == BANDITS.environments


def test_without_measured_nulls_the_stored_reference_is_the_floor(tmp_path):
    samples.write(tmp_path, "learner", "gridworld-v1")
    one = made(tmp_path, "gridworld-v1")
    ends = one.scales["gla/Gridworld-v0"]
    assert ends.null.estimate == samples.ends("gla/Gridworld-v0")[0]
    assert "stored reference" in ends.null_name
    assert null_means(one, "gla/Gridworld-v0") == []


def scores_of(one, found):
    """Scores of the last of ten episodes, by environment."""
    tables = []
    for env, place in found.places.items():
        null, expert = one.scales[env].null.estimate, one.scales[env].expert
        returns = np.array([life.episode_returns[-1] for life in place.agent.lifetimes])
        tables.append((returns - null) / (expert - null))
    return np.array(tables)


def test_scores_are_interquartile_means_over_all_lifetimes(bandits):
    found = row(bandits, "GLA, 100 steps")
    scores = scores_of(bandits, found)
    assert scores.shape == (3, 32)
    assert found.score.estimate == pytest.approx(stats.trim_mean(scores.ravel(), 0.25))
    assert found.score.low < found.score.estimate < found.score.high
    differences, rises, areas = [], [], []
    for env, place in found.places.items():
        width = bandits.scales[env].expert - bandits.scales[env].null.estimate
        own = np.array([life.episode_returns for life in place.agent.lifetimes])
        twin = np.array([life.episode_returns for life in place.twin.lifetimes])
        differences.append((own[:, -1] - twin[:, -1]) / width)
        rises.append((own[:, -1] - own[:, 0]) / width)
        areas.append((own.mean(1) - bandits.scales[env].null.estimate) / width)
    for interval, tables in (
        (found.gain, differences), (found.improvement, rises), (found.area, areas),
    ):  # fmt: skip
        assert interval.estimate == pytest.approx(stats.trim_mean(np.ravel(tables), 0.25))
        assert interval.known
    assert found.learned == 3 and found.complete
    assert found.seconds == 37.5 and found.step_seconds == 0.002


def test_ranks_are_of_those_that_can_be_ranked(bandits):
    ranks = {one.label: one.rank for one in bandits.rows}
    assert ranks == {
        "GLA, 100 steps": (1, 2),
        "GLA's <rival> & co": (1, 2),
        "PPO, online": (3, 3),
        "weak": (4, 4),
        "foreign": None,
        "broken": None,
    }
    assert list(ranks.values())[4:] == [None, None]
    assert {one.label for one in bandits.leaders} == {"GLA, 100 steps", "GLA's <rival> & co"}
    assert row(bandits, "foreign").why_unranked == "training sources not allowed"
    assert row(bandits, "foreign").foreign == ("elsewhere/Bandit-v0",)
    broken = row(bandits, "broken")
    assert broken.why_unranked == "2 of 3 environments" and not broken.complete
    assert set(broken.failures) == {"gla/LinearBandit-v0"}
    assert broken.score.estimate == pytest.approx(
        stats.trim_mean(scores_of(bandits, broken).ravel(), 0.25)
    )


def test_everyone_is_held_against_online_ppo(bandits):
    assert bandits.online.label == "PPO, online"
    assert bandits.online.better is None
    found, ppo = row(bandits, "GLA, 100 steps"), bandits.online
    pairs = [
        stats.mannwhitneyu(a, b).statistic / 32**2
        for a, b in zip(scores_of(bandits, found), scores_of(bandits, ppo), strict=True)
    ]
    assert found.better.estimate == pytest.approx(np.mean(pairs))
    assert 0 <= found.better.low <= found.better.estimate <= found.better.high <= 1
    assert row(bandits, "weak").better.estimate < 0.05


def test_half_of_the_scale_is_reached_by_the_mean_of_a_tenth_of_the_episodes(bandits):
    found = row(bandits, "GLA, 100 steps")
    steps = []
    for env, place in found.places.items():
        ends = bandits.scales[env]
        middle = (ends.null.estimate + ends.expert) / 2
        for life in place.agent.lifetimes:
            there = [i for i, value in enumerate(life.episode_returns) if value >= middle]
            steps.append(100.0 * (there[0] + 1) if there else math.inf)
    assert found.half.reach.share.estimate == pytest.approx(np.isfinite(steps).mean())
    assert found.half.reach.median.estimate == sorted(steps)[len(steps) // 2]
    # Online PPO gets there in less than half of its lifetimes: their length bounds the ratio.
    assert math.isinf(bandits.online.half.reach.median.estimate)
    assert found.half.bound == ">"
    assert found.half.speed.estimate == 1000 / found.half.reach.median.estimate
    weak = row(bandits, "weak").half
    assert math.isinf(weak.reach.median.estimate) and weak.speed is None


def test_speed_where_both_get_there_and_where_only_ppo_does(tmp_path):
    samples.write(tmp_path / "a", "fast", level=0.9, shape={"pace": 0.1, "spread": 0.01})
    samples.write(tmp_path / "b", "PPO, online", level=0.9, shape={"pace": 0.4, "spread": 0.01})
    samples.write(tmp_path / "c", "flat", level=0.1, shape={"spread": 0.01})
    one = made(tmp_path)
    fast, ppo = row(one, "fast").half, one.online.half
    assert fast.bound == "="
    assert fast.speed.estimate == ppo.reach.median.estimate / fast.reach.median.estimate
    assert 1 < fast.speed.low <= fast.speed.estimate <= fast.speed.high
    assert ppo.speed.estimate == 1
    flat = row(one, "flat").half
    assert flat.bound == "<" and flat.speed.estimate == ppo.reach.median.estimate / 1000


def test_the_profile_is_the_share_of_lifetimes_above(bandits):
    found = row(bandits, "GLA, 100 steps")
    profile, scores = profile_of(found, bandits), scores_of(bandits, found)
    for level, share in zip(profile.thresholds, profile.shares, strict=True):
        assert share.estimate == pytest.approx((scores > level).mean())


def test_the_newest_complete_ppo_that_is_allowed_is_held_against_the_others(tmp_path):
    for name, created, changes in (
        ("old", "2026-01-01T00:00:00+00:00", {}),
        ("new", "2026-02-01T00:00:00+00:00", {"seed": 1}),
        ("failed", "2026-03-01T00:00:00+00:00", {"failures": ("gla/LinearBandit-v0",)}),
        ("foreign", "2026-04-01T00:00:00+00:00", {"sources": ("x/Y-v0",)}),
    ):
        samples.write(tmp_path / name, "PPO, online", created=created, spec="ppo", **changes)
    one = made(tmp_path)
    assert one.online.label == "PPO, online (new)"
    assert len({found.label for found in one.rows}) == 4
    assert len({found.page for found in one.rows}) == 1  # one agent, several submissions
    assert any("newest" in note for note in one.notes)


def test_environments_without_an_expert_are_left_out_of_scores(tmp_path):
    # Data sets as bandits have options, and so nothing stored.
    suite = suites.find("supervised-v1")
    samples.write(tmp_path / "nulls", None, suite.name, nulls=True)
    samples.write(tmp_path / "a", "learner", suite.name)
    one = made(tmp_path, suite.name)
    assert one.scored == () and one.ranked == () and one.leaders == ()
    (only,) = one.rows
    assert only.score is None and only.why_unranked == "no score" and only.half is None
    assert all(place.score is None for place in only.places.values())


def test_a_measured_expert_is_the_end_where_none_is_stored(tmp_path):
    suite = suites.find("supervised-v1")
    solver = AgentResult(
        "oracle", "expert", (Lifetime((40.0, 60.0), (100, 100)),) * suite.lifetimes, 1.0
    )
    samples.write(tmp_path / "nulls", None, suite.name, nulls=True)
    reads = gather([samples.write(tmp_path / "a", "learner", suite.name), tmp_path / "nulls"])
    first, *rest = reads.submissions
    extended = replace(
        first,
        results={
            env: replace(found, agents=(*found.agents, solver))
            for env, found in first.results.items()
        },
    )
    given = [extended, *rest]
    one = board(suite, list(zip(given, names(given), strict=True)))
    assert one.scored == suite.environments
    assert {ends.expert for ends in one.scales.values()} == {50.0}
    assert one.rows[0].rank == (1, 1)


def test_submissions_that_store_other_references_are_noted(tmp_path):
    suite = suites.find("supervised-v1")
    for name, value, created in (("a", 50.0, "2026-01-01"), ("b", 60.0, "2026-02-01")):
        samples.write(
            tmp_path / name, name, suite.name, created=created, nulls=True,
            references={"expert": {"return": value, "provenance": name}},
        )  # fmt: skip
    one = made(tmp_path, suite.name)
    assert {ends.expert for ends in one.scales.values()} == {60.0}
    assert len(one.notes) == 3 and "newest" in one.notes[0]


def test_one_name_for_two_agents_is_told_apart(tmp_path):
    samples.write(tmp_path / "x", "same", spec="a:b")
    samples.write(tmp_path / "y", "same", spec="c:d", seed=1)
    samples.write(tmp_path / "z", "same (x)", spec="e:f", seed=2)
    one = made(tmp_path)
    labels = [found.label for found in one.rows]
    assert len(set(labels)) == 3 and len({found.page for found in one.rows}) == 3
    assert "same (y)" in labels


def test_failed_everywhere_is_still_a_row(tmp_path):
    samples.write(tmp_path / "a", "hopeless", failures=BANDITS.environments)
    (only,) = made(tmp_path).rows
    assert only.score is None and only.half is None and only.places == {}
    assert only.why_unranked == "0 of 3 environments"


def test_curves_share_their_unit(bandits, tmp_path):
    places = [one.places["gla/BernoulliBandit-v0"] for one in bandits.rows[:2]]
    found, unit = curves(places)
    assert unit == "episode" and [len(own.positions) for own, _ in found] == [10, 10]
    varied = AgentResult(
        "varied", "agent",
        (Lifetime((1.0, 2.0, 3.0), (300, 300, 400)), Lifetime((1.0, 2.0), (500, 500))), 1.0,
    )  # fmt: skip
    found, unit = curves([places[0], replace(places[1], agent=varied, twin=None)])
    assert unit == "step" and found[1][1] is None
    assert all(0 < x < 1000 for own, _ in found for x in own.positions)
    many = replace(varied, lifetimes=(Lifetime([1.0] * 60, [10] * 60),) * 2)
    _, unit = curves([replace(places[0], agent=many, twin=None)])
    assert unit == "step" and board_data._MOST_POINTS < 60
