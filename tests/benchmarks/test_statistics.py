import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gla.benchmarks import statistics as stats
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.benchmarks.statistics import Interval
from gla.errors import GlaError

finite = st.floats(-1e6, 1e6)


def agent(rows, name="learner", kind="agent", lengths=None, unfinished=False):
    lives = tuple(
        Lifetime(row, (lengths or [[10] * len(row)] * len(rows))[i], unfinished)
        for i, row in enumerate(rows)
    )
    return AgentResult(name, kind, lives, 1.0)


def results(*agents, references=None, **changes):
    entries = {
        "environment": "gla/RandomLinear-v0",
        "split": "test",
        "seed": 0,
        "steps": 100,
        "lifetimes": len(agents[0].lifetimes),
        "agents": agents,
        "references": references or {},
        "config": {},
        "packages": {},
        "training_sources": (),
    }
    return Results(**entries | changes)


def rows(means, count=16, spread=0.5):
    """Return lifetimes whose episodes have these means, with an exactly known spread."""
    offsets = spread * np.linspace(-1, 1, count)
    return [tuple(np.asarray(means, float) + offset) for offset in offsets]


# Intervals


def test_a_bootstrap_worked_by_hand():
    # Resamples of {0, 1} of size two have means 0, 1/2, 1/2, 1: a quarter lies at either end.
    assert stats.bootstrap_interval([0.0, 1.0]) == Interval(0.5, 0.0, 1.0)
    assert stats.bootstrap_interval([0.0, 1.0], level=0.4) == Interval(0.5, 0.5, 0.5)


def test_a_bootstrap_agrees_with_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).exponential(size=40)
    ours = stats.bootstrap_interval(values)
    theirs = bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert ours.estimate == values.mean()
    np.testing.assert_allclose([ours.low, ours.high], theirs, rtol=0.03)


def test_equal_values_have_no_width_and_one_value_no_interval():
    assert stats.bootstrap_interval([0.1] * 7) == Interval(*[np.mean([0.1] * 7)] * 3)
    alone = stats.bootstrap_interval([2.0])
    assert alone == Interval(2.0, -math.inf, math.inf)
    assert not alone.known
    assert alone.text() == "2.00 (no interval)"


@settings(max_examples=30, deadline=None)
@given(values=st.lists(finite, min_size=2, max_size=30))
def test_an_interval_holds_its_estimate_and_stays_inside_the_values(values):
    interval = stats.bootstrap_interval(values, resamples=500)
    tolerance = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - tolerance <= interval.low <= interval.high <= max(values) + tolerance
    assert stats.bootstrap_interval(values, resamples=500) == interval


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(300, 40))
    found = [stats.bootstrap_interval(one, resamples=800) for one in samples]
    share = np.mean([one.low <= 1.0 <= one.high for one in found])
    # Percentile intervals of skewed samples of 40 cover a little less than they promise.
    assert 0.87 <= share <= 0.98


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, math.nan], [1.0, math.inf]])
def test_values_without_an_interval_are_refused(values):
    with pytest.raises(GlaError):
        stats.bootstrap_interval(values)


@pytest.mark.parametrize("settings", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(GlaError, match=next(iter(settings))):
        stats.bootstrap_interval([1.0, 2.0], **settings)


def test_the_middle_half():
    assert stats.iqm(np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000])) == 3.5
    assert stats.bootstrap_interval([1.0, 2, 3, 50], stats.iqm).estimate == 2.5


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 1), (2, 3), False),
        ((0, 1), (1, 2), True),  # touching ends
        ((0, 9), (2, 3), True),  # one within the other
        ((-math.inf, math.inf), (2, 3), True),
    ],
)
def test_overlap(a, b, expected):
    a, b = (Interval(sum(x) / 2, *map(float, x)) for x in (a, b))
    assert stats.overlap(a, b) is stats.overlap(b, a) is expected
    assert stats.beats(b, a) is (not expected)
    assert not stats.beats(a, b)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(-22.08, -24.0, -20.31), "-22.1 [-24.0, -20.3]"),
        (Interval(-1234.5, -1300, -1200.2), "-1234 [-1300, -1200]"),
        (Interval(0.5, -0.0001, 0.75), "0.500 [0.000, 0.750]"),
        (Interval(0, 0, 0), "0.000 [0.000, 0.000]"),
    ],
)
def test_numbers_for_people(interval, text):
    assert interval.text() == text


# Lifetimes


def test_first_last_and_whole_lifetime():
    one = agent([(1.0, 2.0, 6.0), (4.0,)])
    np.testing.assert_array_equal(stats.first_episode(one), [1, 4])
    np.testing.assert_array_equal(stats.last_episode(one), [6, 4])
    np.testing.assert_array_equal(stats.whole_lifetime(one), [3, 4])


def test_improvement_is_paired_and_takes_the_last_tenth():
    # 20 episodes: the last two, 18 and 19, average 18.5; the first is 0 in both, but for an offset.
    one = agent([tuple(range(20)), tuple(100 + x for x in range(20))])
    assert stats.improvement(one) == Interval(18.5, 18.5, 18.5)
    # 19 episodes: a tenth is one episode.
    assert stats.improvement(agent([tuple(range(19))] * 2)).estimate == 18
    assert stats.improvement(agent([(1.0, 3.0), (5.0,)])).estimate == 1.0
    assert stats.improvement(agent([(1.0,), (5.0,)])) is None


def test_a_curve_per_episode():
    one = agent([(0.0, 2.0), (1.0, 2.0)])
    curve = stats.episode_curve(one)
    np.testing.assert_array_equal(curve.positions, [1, 2])
    assert curve.intervals == (Interval(0.5, 0.0, 1.0), Interval(2.0, 2.0, 2.0))
    assert curve.unit == "episode"


def test_a_curve_agrees_with_single_intervals():
    table = np.random.default_rng(0).normal(size=(9, 3))
    curve = stats.episode_curve(agent([tuple(row) for row in table]))
    for column, interval in zip(table.T, curve.intervals, strict=True):
        assert interval == stats.bootstrap_interval(column)


def test_a_curve_in_windows_of_steps():
    one = agent(
        [(1.0, 3.0, 5.0), (7.0, 9.0)],
        lengths=[[20, 30, 50], [51, 49]],
    )
    curve = stats.episode_curve(one, bins=2)
    # Steps 1 to 50 and 51 to 100: episodes end at 20, 50 | 100, and at - | 51, 100.
    np.testing.assert_array_equal(curve.positions, [25, 75])
    assert [point.estimate for point in curve.intervals] == [2.0, 6.5]
    assert not curve.intervals[0].known  # one lifetime alone
    assert curve.unit == "step"
    # A window in which nothing ends is left out.
    np.testing.assert_array_equal(
        stats.episode_curve(one, bins=10, steps=100).positions, [15, 45, 55, 95]
    )


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=8), min_size=1, max_size=4),
    bins=st.integers(1, 12),
)
def test_windows_lose_no_episode(lengths, bins):
    one = agent([tuple([1.0] * len(row)) for row in lengths], lengths=lengths)
    curve = stats.episode_curve(one, bins=bins, unit="step")
    assert all(point.estimate == 1.0 for point in curve.intervals)
    assert 1 <= len(curve.positions) <= bins
    assert (curve.positions > 0).all()
    assert (curve.positions <= max(map(sum, lengths))).all()


def test_points_per_episode_need_equal_counts():
    with pytest.raises(GlaError, match="1 to 2 episodes"):
        stats.episode_curve(agent([(1.0, 2.0), (1.0,)]), unit="episode")
    with pytest.raises(GlaError, match="bins"):
        stats.episode_curve(agent([(1.0,)]), bins=0)


# Scores


def test_score():
    np.testing.assert_allclose(stats.score(np.array([-10.0, -5, 0]), -10, 0), [0, 0.5, 1])
    with pytest.raises(GlaError, match="better than doing nothing"):
        stats.score(1.0, 2.0, 2.0)


def test_the_best_null_has_the_highest_mean_over_whole_lifetimes():
    late = agent(rows([-9, -1]), "late", "null")
    steady = agent(rows([-4, -4]), "steady", "null")
    measured = results(agent(rows([0, 0])), late, steady)
    assert stats.best_null(measured).name == "steady"
    with pytest.raises(GlaError, match="no null controller"):
        stats.best_null(results(agent(rows([0, 0]))))


def test_the_measured_null_comes_before_the_stored_one():
    stored = {
        "null": {"controller": "stored", "return": -20.0},
        "expert": {"return": 0.0, "provenance": "long run"},
    }
    learner, null = agent(rows([-5, -5])), agent(rows([-10, -10]), "zero action", "null")
    ends = stats.scale(results(learner, null, references=stored))
    assert (ends.null.estimate, ends.null_name) == (-10.0, "zero action")
    assert ends.score(Interval(-5.0, -6.0, -4.0)) == Interval(0.5, 0.4, 0.6)
    ends = stats.scale(results(learner, references=stored))
    assert (ends.null.estimate, ends.null_name) == (-20.0, "stored, stored reference")
    assert ends.expert_name == "long run"


def test_an_expert_measured_here_stands_in_for_a_stored_one():
    expert = agent(rows([3, 3]), "tuned PPO", "expert")
    ends = stats.scale(results(agent(rows([1, 1])), expert))
    assert (ends.expert, ends.expert_name) == (3.0, "tuned PPO")
    assert ends.score(Interval(1, 1, 1)) is None  # no null end


@pytest.mark.parametrize(
    "references",
    [
        {"expert": {"return": -10.1}},
        {"expert": {"return": -9.9}},  # inside the interval of the null controller
        {"expert": {"return": 5.0}, "expert_beats_null": False},
    ],
)
def test_an_expert_that_does_not_beat_the_null_gives_no_score(references):
    null = agent(rows([-10, -10]), "zero action", "null")
    verdict = stats.judge(results(agent(rows([-5, -1])), null, references=references))
    assert verdict.score is None
    assert "does not beat the best null controller, so there is no score" in verdict.sentence


# Verdicts


def full(learner, masked=(-15, -15), null=(-10, -10), references=None, count=16):
    return results(
        agent(rows(learner, count)),
        agent(rows(masked, count), "learner (rewards masked)", "masked"),
        agent(rows(null, count), "zero action", "null"),
        agent(rows([-40] * len(null), count), "uniform", "null"),
        references=references,
    )


def test_learned():
    verdict = stats.judge(full([-15, -3], references={"expert": {"return": 0.0}}))
    assert verdict.learned
    assert verdict.status == "learned"
    assert [one.beaten for one in verdict.comparisons] == [True, True, True]
    assert verdict.score.estimate == pytest.approx(0.7)
    sentence = verdict.sentence
    assert sentence.startswith("gla/RandomLinear-v0: learned. Last episode -3.0 [-3.2, -2.9] beats")
    assert "the first (-15.0 [" in sentence
    assert "the best null controller (zero action, -10.0 [" in sentence
    assert "and the reward-masked twin (-15.0 [" in sentence
    assert "Score 0.70 [0.68, 0.72]" in sentence


def test_exactly_the_failed_comparisons_are_listed():
    verdict = stats.judge(full([-15, -12]))
    assert verdict.status == "did not learn"
    assert [one.beaten for one in verdict.comparisons] == [True, False, True]
    lost, won = verdict.sentence.split("; it beats ")
    assert "does not beat the best null controller (zero action" in lost
    assert "the first" not in lost
    assert "twin" not in lost
    assert "the first (" in won
    assert "the reward-masked twin (" in won
    nothing = stats.judge(full([-15, -15])).sentence
    assert "it beats" not in nothing
    assert " or the reward-masked twin (" in nothing


def test_an_improvement_without_rewards_is_not_learning():
    verdict = stats.judge(full([-15, -3], masked=[-15, -3]))
    assert not verdict.learned
    assert verdict.comparison("masked").beaten is False


def test_the_best_null_counts_over_its_whole_lifetime():
    verdict = stats.judge(full([-15, -9], null=[-4, -14]))
    assert verdict.comparison("null").interval.estimate == -9.0
    assert verdict.comparison("null").beaten is False


def test_one_episode_is_judged_without_first_against_last():
    verdict = stats.judge(full([-3], masked=[-15], null=[-10]))
    assert verdict.learned
    assert verdict.comparison("first").beaten is None
    assert "first against last is not judged" in verdict.sentence
    assert "beats the first" not in verdict.sentence


def test_what_was_not_run_is_not_judged():
    whole = full([-15, -3])
    for missing, words in (
        ("masked", "The reward-masked twin was not run."),
        ("null", "The best null controller was not run."),
    ):
        rest = replace(whole, agents=tuple(a for a in whole.agents if a.kind != missing))
        verdict = stats.judge(rest)
        assert verdict.status == "not judged"
        assert words in verdict.sentence
    # What is there and is not beaten settles it all the same.
    whole = full([-15, -15])
    rest = replace(whole, agents=tuple(a for a in whole.agents if a.kind != "masked"))
    assert stats.judge(rest).status == "did not learn"


def test_a_single_lifetime_is_not_judged_and_few_are_named_rough():
    verdict = stats.judge(full([-15, -3], count=1))
    assert verdict.status == "not judged"
    assert "A single lifetime gives no interval." in verdict.sentence
    assert "inf" not in verdict.sentence
    assert "only 4 lifetimes" in stats.judge(full([-15, -3], count=4)).sentence


def test_unfinished_episodes_are_named():
    learner = agent(rows([-3]), unfinished=True)
    assert "In 16 of 16 lifetimes no episode ended" in stats.judge(results(learner)).sentence


def test_agents_and_twins_are_told_apart_by_name():
    small = agent(rows([-3, -3]), "gla")
    large = agent(rows([-2, -2]), "gla large")
    twins = [agent(rows([-9, -9]), f"{x.name} (rewards masked)", "masked") for x in (large, small)]
    both = results(small, large, *twins)
    assert stats.twin_of(both, small).name == "gla (rewards masked)"
    assert stats.twin_of(both, large).name == "gla large (rewards masked)"
    assert stats.judge(both, "gla large").last.estimate == -2
    with pytest.raises(GlaError, match="'gla', 'gla large'"):
        stats.judge(both)
    with pytest.raises(GlaError, match="called 'other'"):
        stats.judge(both, "other")
    with pytest.raises(GlaError, match="none"):
        stats.judge(results(agent(rows([0]), "zero", "null")))


def test_the_summary_says_where_it_learned_and_where_it_did_not():
    verdicts = [
        stats.judge(full([-15, -3])),
        replace(stats.judge(full([-15, -12])), environment="b"),
        replace(stats.judge(full([-15, -12])), environment="c"),
        replace(stats.judge(full([-15, -3], count=1)), environment="d"),
    ]
    assert stats.summarise(verdicts) == (
        "Learned on 1 of 4 environments: gla/RandomLinear-v0. Did not learn on b and c. "
        "Not judged on d."
    )
    assert stats.summarise(verdicts[:1]).startswith("Learned on 1 of 1 environment:")
    assert stats.summarise(verdicts[1:2]) == "Learned on 0 of 1 environment. Did not learn on b."
    two = [verdicts[0], replace(verdicts[0], agent="other")]
    assert "2 of 2 runs: gla/RandomLinear-v0 (learner) and" in stats.summarise(two)


@settings(max_examples=30, deadline=None)
@given(
    data=st.lists(st.lists(finite, min_size=1, max_size=4), min_size=1, max_size=5),
    masked=st.booleans(),
    null=st.booleans(),
)
def test_anything_finite_can_be_judged(data, masked, null):
    parts = [agent([tuple(row) for row in data])]
    if masked:
        parts.append(agent([tuple(row) for row in data], "m", "masked"))
    if null:
        parts.append(agent([tuple(row) for row in data], "n", "null"))
    verdict = stats.judge(results(*parts, references={"expert": {"return": 0.0}}))
    assert "nan" not in verdict.sentence
    assert "inf" not in verdict.sentence
    # Nothing can beat itself.
    assert not (verdict.learned and masked)
