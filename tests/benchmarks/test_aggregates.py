"""What is said of a suite, against arithmetic that can be done by hand and known distributions."""

import numpy as np
import pytest
from scipy import stats

from gla.benchmarks.aggregates import (
    aggregate,
    area_under_curve,
    last_tenth,
    performance_profile,
    probability_of_improvement,
    reach,
    speed,
    steps_to,
)
from gla.benchmarks.results import AgentResult, Lifetime
from gla.benchmarks.statistics import Interval
from gla.errors import GlaError

RNG = np.random.default_rng(0)


def agent(*lifetimes):
    return AgentResult("a", "agent", tuple(Lifetime(r, n) for r, n in lifetimes), 1.0)


def test_the_estimate_is_the_trimmed_mean_of_all_scores():
    scores = RNG.normal(size=(3, 8))
    found = aggregate(list(scores))
    assert found.estimate == pytest.approx(stats.trim_mean(scores.ravel(), 0.25))
    assert found.low < found.estimate < found.high
    assert aggregate(list(scores)) == found != aggregate(list(scores), seed=1)
    assert aggregate(list(scores), np.mean).estimate == pytest.approx(scores.mean())


def test_environments_are_kept_and_lifetimes_drawn_again():
    # Environments that differ much and lifetimes that do not: other lifetimes change little.
    scores = [np.full(5, level) for level in (0.0, 1.0, 2.0, 3.0)]
    found = aggregate(scores, np.mean)
    assert (found.low, found.estimate, found.high) == (1.5, 1.5, 1.5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    means, inside = np.array([0.2, 0.5, 1.1]), 0
    for trial in range(200):
        draws = np.random.default_rng(trial).normal(means[:, None], 0.3, (3, 20))
        found = aggregate(list(draws), np.mean, seed=trial, resamples=400)
        inside += found.low <= means.mean() <= found.high
    assert 178 <= inside <= 199  # 190 expected; the percentile bootstrap is a little narrow


def test_a_single_lifetime_each_has_no_interval():
    found = aggregate([[0.1], [0.5]], np.mean)
    assert found.estimate == pytest.approx(0.3) and not found.known


def test_the_profile_is_the_share_above():
    scores = [[0.0, 0.5, 1.0, 1.5], [0.2, 0.2]]
    found = performance_profile(scores, [-1.0, 0.2, 0.9, 2.0])
    # Environments count alike, however many lifetimes they have.
    assert [one.estimate for one in found.shares] == [1.0, 0.375, 0.25, 0.0]
    for one in found.shares:
        assert 0 <= one.low <= one.estimate <= one.high <= 1
    assert (found.shares[0].low, found.shares[3].high) == (1.0, 0.0)


def test_the_probability_of_improvement_is_that_of_mann_and_whitney():
    x, y = RNG.normal(0.3, 1, 12), RNG.normal(0, 1, 9)
    found = probability_of_improvement([x], [y])
    expected = stats.mannwhitneyu(x, y).statistic / (12 * 9)
    assert found.estimate == pytest.approx(expected) and found.low < expected < found.high
    assert probability_of_improvement([[1, 2], [1, 1]], [[0, 0], [1, 1]]).estimate == 0.75
    both = probability_of_improvement([x, y], [y, x])
    assert both.estimate == pytest.approx(0.5)


def test_chunks_do_not_matter(monkeypatch):
    from gla.benchmarks import aggregates

    scores = [RNG.normal(size=7), RNG.normal(size=7)]
    whole = performance_profile(scores, [0.0, 0.5], resamples=50)
    monkeypatch.setattr(aggregates, "_TOGETHER", 14 * 2 * 3)  # three resamples at a time
    assert len(list(aggregates._draws(scores, 0, 50, 2))) == 17
    part = performance_profile(scores, [0.0, 0.5], resamples=50)
    assert [a.estimate for a in part.shares] == [b.estimate for b in whole.shares]


def test_steps_to_a_return():
    one = agent(
        ((0, 2, 1, 5), (10, 10, 20, 20)),
        ((0, 0, 0), (10, 10, 10)),
        ((7, 0), (3, 4)),
    )
    assert steps_to(one, 2).tolist() == [20, np.inf, 3]
    assert steps_to(one, 3, window=2).tolist() == [60, np.inf, 7]
    assert steps_to(one, 3, window=3).tolist() == [np.inf, np.inf, np.inf]
    assert steps_to(one, 2.6, window=3).tolist() == [60, np.inf, np.inf]


def test_the_area_is_in_the_units_of_a_return():
    one = agent(((0, 10), (30, 10)), ((4, 4, 4), (1, 2, 3)))
    assert area_under_curve(one).tolist() == [2.5, 4.0]
    # The same returns, reached sooner.
    sooner = agent(((10, 0), (30, 10)))
    assert area_under_curve(sooner)[0] == 7.5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: aggregate([]), "scores are missing"),
        (lambda: aggregate([[1.0], []]), "scores are missing"),
        (lambda: aggregate([[1.0, 2.0], [1.0]]), "1 to 2 lifetimes; expected equally many"),
        (lambda: aggregate([[1.0, np.nan]]), "a score is not finite"),
        (lambda: aggregate([[1.0, 2.0]], resamples=0), "resamples is 0"),
        (lambda: performance_profile([[1.0, 2.0]], [1, 1]), "do not ascend"),
        (lambda: performance_profile([[1.0, 2.0]], []), "do not ascend"),
        (lambda: probability_of_improvement([[1.0]], [[1.0], [2.0]]), "of 1 environments and"),
        (lambda: steps_to(agent(((1,), (1,))), 0, window=0), "window is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(GlaError, match=message):
        call()


def test_the_last_tenth_is_at_least_one_episode():
    one = agent((range(25), [1] * 25), ([1.0, 2.0, 6.0], [1] * 3))
    assert list(last_tenth(one)) == [23.5, 6.0]


def test_a_tenth_of_the_episodes_must_reach_the_return():
    lucky = [0.0] * 30
    lucky[2] = 1.0
    late = [0.0] * 20 + [1.0] * 10
    one = agent((lucky, [10] * 30), (late, [10] * 30), ([0.0, 1.0], [10, 10]))
    assert list(steps_to(one, 1.0)) == [30, 210, 20]
    assert list(steps_to(one, 1.0, window=None)) == [np.inf, 230, 20]


def test_reach_is_the_median_of_those_that_get_there_and_those_that_never_do():
    found = reach([[100.0, 200.0, 300.0], [150.0, np.inf, 250.0]], 400)
    assert found.share.estimate == pytest.approx(5 / 6)
    assert found.median.estimate == 250.0  # four of six are there
    assert 100 <= found.median.low <= 250 <= found.median.high
    half = reach([[100.0, np.inf]], 400)
    assert half.median.estimate == np.inf and half.share.estimate == 0.5
    never = reach([[np.inf] * 4], 400)
    assert never.median.estimate == never.median.low == np.inf
    assert (never.share.estimate, never.share.high) == (0.0, 0.0)
    single = reach([[100.0], [200.0]], 400)
    assert not single.median.known and not single.share.known
    with pytest.raises(GlaError, match="after its end"):
        reach([[500.0]], 400)


def test_speed_is_the_ratio_of_medians_and_bounded_by_the_lifetime():
    fast, slow = [[100.0, 200.0, 300.0]], [[400.0, 600.0, np.inf]]
    found = speed(fast, slow, 1000)
    assert found.estimate == 3.0 and found.low < 3.0 < found.high
    assert speed(slow, fast, 1000).estimate == pytest.approx(1 / 3)
    assert speed(fast, [[np.inf] * 3], 1000).estimate == 5.0
    assert speed([[200.0] * 4], [[200.0] * 4], 1000) == Interval(1.0, 1.0, 1.0)
    with pytest.raises(GlaError, match="same environments"):
        speed(fast, fast * 2, 1000)
