"""Scores of many environments put together, and how fast they were reached.

What is said of a suite follows Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice": the interquartile mean of all scores, their distribution (the performance
profile), the probability that one agent does better than another, and intervals by the stratified
bootstrap, which draws lifetimes again within every environment and keeps the environments. So an
interval says how far other lifetimes might have changed a figure, not other environments.

A score is that of `gla.benchmarks.statistics.score`: 0 is the best null controller, 1 the expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gla.benchmarks.results import AgentResult
from gla.benchmarks.statistics import Interval, iqm
from gla.errors import GlaError

RESAMPLES = 2000
_TOGETHER = 2_000_000  # numbers that are drawn at once, to bound memory (16 MB)

Scores = Sequence[np.ndarray | Sequence[float]]


class Profile(NamedTuple):
    """What share of lifetimes scores more than a threshold.

    Attributes:
        thresholds: f64[K], ascending.
        shares: K intervals in [0, 1]; every environment counts alike.
    """

    thresholds: np.ndarray
    shares: tuple[Interval, ...]


class Reach(NamedTuple):
    """How soon a return is reached, over all lifetimes of a suite.

    Attributes:
        median: steps by which more than half of the lifetimes are there; infinite where they
            never are, and so may be the bounds.
        share: of lifetimes that get there at all, in [0, 1].
    """

    median: Interval
    share: Interval


def aggregate(
    scores: Scores,
    statistic: Callable[..., Any] = iqm,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return a statistic of all scores of a suite with its 95% interval.

    Args:
        scores: f64[N] per environment, equally many each, so that all count alike.
        statistic: function of an array and `axis`, such as `gla.benchmarks.statistics.iqm`,
            `numpy.mean` or `numpy.median`.
        seed: of the resampling; equal input gives equal output.
        resamples: how often lifetimes are drawn again.

    Returns:
        The interval; without bounds where environments have a single lifetime.

    Raises:
        GlaError: if there is no score, one is not finite, or environments differ in how many.
    """
    tables = _tables(scores)
    counts = {len(table) for table in tables}
    if len(counts) > 1:
        raise GlaError(
            f"environments have {min(counts)} to {max(counts)} lifetimes",
            "equally many, so that all environments count alike",
        )

    def of(drawn: list[np.ndarray]) -> np.ndarray:
        return np.asarray(statistic(np.concatenate(drawn, -1), axis=-1))[..., None]

    return _stratified(tables, of, seed, resamples)[0]


def performance_profile(
    scores: Scores,
    thresholds: np.ndarray | Sequence[float],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Profile:
    """Return the share of lifetimes that score more than each threshold, with 95% bands.

    Args:
        scores: f64[N] per environment.
        thresholds: f64[K], ascending.
        seed: of the resampling.
        resamples: how often lifetimes are drawn again.

    Raises:
        GlaError: if there is no score, one is not finite, or thresholds do not ascend.
    """
    levels = np.asarray(thresholds, np.float64)
    if levels.ndim != 1 or not levels.size or (np.diff(levels) <= 0).any():
        raise GlaError("the thresholds of a profile do not ascend", "ascending numbers")

    def of(drawn: list[np.ndarray]) -> np.ndarray:
        return np.mean([(one[..., None] > levels).mean(-2) for one in drawn], axis=0)

    return Profile(levels, _stratified(_tables(scores), of, seed, resamples, len(levels)))


def probability_of_improvement(
    scores: Scores, others: Scores, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return how probably one agent scores more than another on an environment of the suite.

    A lifetime of one agent is drawn against one of the other; a draw counts half (the Mann-Whitney
    statistic), and environments count alike.

    Args:
        scores: f64[N] per environment.
        others: f64[M] per environment, of the same environments in the same order.
        seed: of the resampling.
        resamples: how often lifetimes of both are drawn again.

    Raises:
        GlaError: if there is no score, one is not finite, or the environments are not as many.
    """
    ours, theirs = _tables(scores), _tables(others)
    if len(ours) != len(theirs):
        raise GlaError(
            f"one agent has scores of {len(ours)} environments and the other of {len(theirs)}",
            "the same environments",
        )

    def of(drawn: list[np.ndarray]) -> np.ndarray:
        shares = []
        for x, y in zip(drawn[: len(ours)], drawn[len(ours) :], strict=True):
            pairs = x[..., :, None], y[..., None, :]
            wins = (pairs[0] > pairs[1]).mean((-2, -1))
            shares.append(wins + 0.5 * (pairs[0] == pairs[1]).mean((-2, -1)))
        return np.mean(shares, axis=0)[..., None]

    widest = max(len(x) * len(y) for x, y in zip(ours, theirs, strict=True))
    return _stratified(ours + theirs, of, seed, resamples, widest)[0]


def last_tenth(agent: AgentResult) -> np.ndarray:
    """Return the mean return of the last tenth of each lifetime's whole episodes, f64[N].

    The last tenth is E // 10 episodes of E, and at least one, as in
    `gla.benchmarks.statistics.improvement`.
    """
    return np.array(
        [
            np.mean(one.episode_returns[-_tenth(len(one.episode_returns)) :])
            for one in agent.lifetimes
        ]
    )


def _tenth(episodes: int) -> int:
    return max(1, episodes // 10)


def steps_to(agent: AgentResult, threshold: float, window: int | None = 1) -> np.ndarray:
    """Return after how many steps of its lifetime an agent reaches a return, f64[N].

    Args:
        agent: whose lifetimes.
        threshold: return per episode.
        window: episodes whose mean return must reach it; the steps are those up to the last of
            them. None is a tenth of each lifetime's episodes, and at least one, so that a lucky
            episode in a long lifetime is not taken for a skill.

    Returns:
        Steps of each lifetime; infinite where it never gets there.

    Raises:
        GlaError: if `window` is below 1.
    """
    if window is not None and window < 1:
        raise GlaError(f"window is {window}", "1 or more episodes")
    found = []
    for life in agent.lifetimes:
        returns = np.asarray(life.episode_returns)
        width = _tenth(len(returns)) if window is None else window
        ends = np.cumsum(life.episode_lengths)[width - 1 :]
        reached = np.zeros(0, bool)
        if len(returns) >= width:
            reached = np.convolve(returns, np.full(width, 1 / width), "valid") >= threshold
        found.append(float(ends[np.argmax(reached)]) if reached.any() else np.inf)
    return np.array(found)


def reach(steps: Scores, limit: float, seed: int = 0, resamples: int = RESAMPLES) -> Reach:
    """Return how soon and how often lifetimes of a suite get somewhere, with 95% intervals.

    Args:
        steps: f64[N] per environment, equally many each, infinite where a lifetime never gets
            there (`steps_to`).
        limit: steps of the longest lifetime.
        seed: of the resampling.
        resamples: how often lifetimes are drawn again.

    Raises:
        GlaError: if there are no steps, they are beyond the limit, or environments differ in how
            many there are.
    """
    tables = [np.asarray(one, np.float64) for one in steps]
    there = [np.isfinite(one) for one in tables]
    if any((one[ok] > limit).any() for one, ok in zip(tables, there, strict=True)):
        raise GlaError(f"a lifetime gets there after its end, {limit:.0f} steps")
    # What never comes is later than all that does; so medians over both are in order.
    censored = [np.where(ok, one, 2 * limit) for one, ok in zip(tables, there, strict=True)]
    found = aggregate(censored, _upper_median, seed, resamples)
    ends = [x if x <= limit else np.inf for x in (found.estimate, found.low, found.high)]
    if not found.known:
        ends[1:] = [-np.inf, np.inf]
    share = aggregate([one.astype(float) for one in there], np.mean, seed, resamples)
    return Reach(Interval(*ends), share)


def _upper_median(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the least value that more than half of all do not exceed."""
    return np.quantile(values, 0.5, axis=axis, method="higher")


def speed(
    steps: Scores, others: Scores, limit: float, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return how many times sooner lifetimes of one agent get somewhere than those of another.

    It is the median of the others' steps divided by that of the agent's, over all lifetimes of a
    suite. A median that is never reached counts as `limit`, so the ratio is then a bound.

    Args:
        steps: f64[N] per environment, infinite where a lifetime never gets there (`steps_to`).
        others: f64[M] per environment, of the same environments in the same order.
        limit: steps of the longest lifetime.
        seed: of the resampling.
        resamples: how often lifetimes of both are drawn again.

    Raises:
        GlaError: if there are no steps, or the environments are not as many.
    """
    ours, theirs = (
        _tables([np.minimum(np.asarray(one, np.float64), limit) for one in given])
        for given in (steps, others)
    )
    if len(ours) != len(theirs):
        raise GlaError(
            f"one agent has steps on {len(ours)} environments and the other on {len(theirs)}",
            "the same environments",
        )

    def of(drawn: list[np.ndarray]) -> np.ndarray:
        mine = np.concatenate(drawn[: len(ours)], -1)
        others = np.concatenate(drawn[len(ours) :], -1)
        return (_upper_median(others, -1) / _upper_median(mine, -1))[..., None]

    return _stratified(ours + theirs, of, seed, resamples)[0]


def area_under_curve(agent: AgentResult) -> np.ndarray:
    """Return the mean over the steps of each lifetime of the return of the episode they are in.

    This is the area under the curve of return against steps, divided by the number of steps: an
    agent that learns sooner has more of it, in the units of a return.

    Returns:
        f64[N].
    """
    return np.array(
        [np.average(one.episode_returns, weights=one.episode_lengths) for one in agent.lifetimes]
    )


def _tables(scores: Scores) -> list[np.ndarray]:
    tables = [np.asarray(one, np.float64) for one in scores]
    if not tables or any(one.ndim != 1 or not one.size for one in tables):
        raise GlaError("scores are missing", "f64[N] per environment, N > 0")
    if not all(np.isfinite(one).all() for one in tables):
        raise GlaError("a score is not finite", "finite numbers")
    return tables


def _stratified(
    tables: list[np.ndarray],
    of: Callable[[list[np.ndarray]], np.ndarray],
    seed: int,
    resamples: int,
    width: int = 1,
) -> tuple[Interval, ...]:
    """Return 95% intervals of K statistics.

    Args:
        tables: f64[N_e] per environment.
        of: maps f64[..., N_e] per environment to f64[..., K].
        seed: of the resampling.
        resamples: how often.
        width: numbers that `of` makes of every number it is given.
    """
    if resamples < 1:
        raise GlaError(f"resamples is {resamples}", "1 or more")
    estimates = of(tables)
    if all(len(table) == 1 for table in tables):
        return tuple(Interval(float(x), -np.inf, np.inf) for x in estimates)
    replicates = np.concatenate([of(drawn) for drawn in _draws(tables, seed, resamples, width)])
    low, high = np.percentile(replicates, [2.5, 97.5], axis=0)
    return tuple(Interval(*map(float, one)) for one in zip(estimates, low, high, strict=True))


def _draws(
    tables: list[np.ndarray], seed: int, resamples: int, width: int
) -> Iterator[list[np.ndarray]]:
    """Draw lifetimes again within every environment, some resamples at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _TOGETHER // (sum(map(len, tables)) * width))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        yield [table[rng.integers(len(table), size=(count, len(table)))] for table in tables]
