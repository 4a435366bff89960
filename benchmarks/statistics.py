"""What a results file says: intervals, curves, scores, and the verdict whether an agent learned.

Every interval is over lifetimes, because episodes of one lifetime share a task and are not
independent. One thing beats another only where their intervals do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from gla.benchmarks.results import AgentResult, Results
from gla.errors import GlaError

FEW_LIFETIMES = 10  # below this the percentile bootstrap is visibly too narrow
_CHUNK = 2_000_000  # numbers gathered at once while resampling, to bound memory (16 MB)

Status = Literal["learned", "did not learn", "not judged"]


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it, in the units of what was estimated.

    A single value has no interval: its bounds are then minus and plus infinity, so that it
    overlaps with everything and nothing can be concluded from it.
    """

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def text(self, digits: int | None = None) -> str:
        """Return "-22.1 [-24.0, -20.3]".

        Args:
            digits: digits after the point; None takes those of `digits`.
        """
        if digits is None:
            digits = digits_of(self)
        if not self.known:
            return f"{number(self.estimate, digits)} (no interval)"
        bounds = f"{number(self.low, digits)}, {number(self.high, digits)}"
        return f"{number(self.estimate, digits)} [{bounds}]"


def digits_of(*intervals: Interval | None) -> int:
    """Return how many digits after the point suit all of these intervals."""
    given = [x for one in intervals if one for x in (one.estimate, one.low, one.high)]
    largest = max((abs(x) for x in given if math.isfinite(x)), default=0.0)
    return 3 if largest < 1 else 2 if largest < 10 else 1 if largest < 1000 else 0


def number(value: float, digits: int) -> str:
    """Return a number with a fixed count of digits and no minus before a zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def overlap(a: Interval, b: Interval) -> bool:
    """Return whether two intervals share a point; touching ends do."""
    return a.low <= b.high and b.low <= a.high


def beats(a: Interval, b: Interval) -> bool:
    """Return whether all of `a` lies above all of `b`."""
    return a.low > b.high


def iqm(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean of the middle half, which single outliers do not move.

    Source: the interquartile mean of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge
    of the Statistical Precipice", as `scipy.stats.trim_mean` computes it.

    Args:
        values: f64[..., N].
        axis: the axis to average over.
    """
    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(
    values: np.ndarray | Sequence[float],
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 10_000,
) -> Interval:
    """Return a statistic over lifetimes with its percentile bootstrap interval.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Args:
        values: f64[N], one value per lifetime.
        statistic: function of an array and `axis`, such as `numpy.mean` or `iqm`.
        level: the share of intervals that should hold the true value, in (0, 1).
        seed: seed of the resampling; equal input gives equal output.
        resamples: how many times the lifetimes are drawn again with replacement.

    Returns:
        The interval; of zero width if all values are equal, without bounds if there is only one.

    Raises:
        GlaError: if there are no values, one is not finite, or a setting is out of range.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise GlaError(f"an interval was asked for an array shaped {values.shape}", "f64[N], N > 0")
    return _bootstrap(values[:, None], statistic, level, seed, resamples)[0]


def _bootstrap(
    values: np.ndarray,
    statistic: Callable[..., Any] = np.mean,
    level: float = 0.95,
    seed: int = 0,
    resamples: int = 10_000,
) -> tuple[Interval, ...]:
    """Return one interval per column of f64[N, K], from the same resamples of the N rows."""
    if not 0 < level < 1:
        raise GlaError(f"level is {level}", "a number between 0 and 1")
    if resamples < 1:
        raise GlaError(f"resamples is {resamples}", "1 or more")
    if not np.isfinite(values).all():
        raise GlaError("an interval was asked for values that are not all finite", "finite values")
    rows, columns = values.shape
    estimates = np.asarray(statistic(values, axis=0), np.float64)
    if rows == 1:
        return tuple(Interval(float(x), -math.inf, math.inf) for x in estimates)
    drawn = np.random.default_rng(seed).integers(rows, size=(resamples, rows), dtype=np.int32)
    chunk = max(1, _CHUNK // (rows * columns))
    replicates = np.concatenate(
        [
            np.asarray(statistic(values[drawn[start : start + chunk]], axis=1))
            for start in range(0, resamples, chunk)
        ]
    )
    tail = 50 * (1 - level)
    low, high = np.percentile(replicates, [tail, 100 - tail], axis=0)
    # Averaging equal numbers can differ in the last bit, which would invent a width.
    constant = (values == values[0]).all(axis=0)
    low, high = np.where(constant, estimates, low), np.where(constant, estimates, high)
    return tuple(Interval(*map(float, one)) for one in zip(estimates, low, high, strict=True))


def first_episode(agent: AgentResult) -> np.ndarray:
    """Return the return of each lifetime's first episode, f64[N]."""
    return np.array([life.episode_returns[0] for life in agent.lifetimes], np.float64)


def last_episode(agent: AgentResult) -> np.ndarray:
    """Return the return of each lifetime's last whole episode, f64[N].

    Where the length of an episode depends on the agent, the unfinished episode at the end of a
    lifetime, which is not counted, tends to be a long one.
    """
    return np.array([life.episode_returns[-1] for life in agent.lifetimes], np.float64)


def whole_lifetime(agent: AgentResult) -> np.ndarray:
    """Return the mean return per episode of each lifetime, f64[N]."""
    return np.array([np.mean(life.episode_returns) for life in agent.lifetimes], np.float64)


def has_several_episodes(agent: AgentResult) -> bool:
    """Return whether any lifetime has more than one episode."""
    return any(len(life.episode_returns) > 1 for life in agent.lifetimes)


def improvement(agent: AgentResult) -> Interval | None:
    """Return the last tenth of the lifetime's episodes minus its first episode.

    The last tenth is E // 10 episodes of E, and at least one. The difference is taken within every
    lifetime, which removes how hard its task is; a lifetime with a single episode counts as zero.

    Returns:
        The mean difference with its interval, or None if no lifetime has two episodes.
    """
    if not has_several_episodes(agent):
        return None
    tails = [
        np.mean(life.episode_returns[-max(1, len(life.episode_returns) // 10) :])
        for life in agent.lifetimes
    ]
    return bootstrap_interval(np.array(tails) - first_episode(agent))


class Curve(NamedTuple):
    """Return over the lifetime.

    Attributes:
        positions: f64[E], the number of the episode, or the middle of the window in steps.
        intervals: E intervals of the mean return per episode.
        unit: what `positions` counts, `episode` or `step`.
    """

    positions: np.ndarray
    intervals: tuple[Interval, ...]
    unit: Literal["episode", "step"]


def episode_curve(
    agent: AgentResult,
    bins: int = 20,
    steps: int | None = None,
    unit: Literal["auto", "episode", "step"] = "auto",
) -> Curve:
    """Return the mean return over the lifetime with 95% intervals over lifetimes.

    Where all lifetimes have equally many episodes there is a point per episode. Elsewhere the n-th
    episodes of two lifetimes lie at different times, so the lifetime is cut into `bins` windows of
    equally many steps: every lifetime gives the mean of its episodes that *end* in the window, a
    lifetime in which none ends there is left out of that window, and a window without any episode
    is left out of the curve.

    Args:
        agent: whose lifetimes.
        bins: number of windows, at least 1.
        steps: steps of a whole lifetime; None takes the longest sum of episode lengths.
        unit: `episode` or `step` ask for points per episode or windows, whatever fits.

    Raises:
        GlaError: if `bins` is out of range, or points per episode are asked for while lifetimes
            have different numbers of episodes.
    """
    if bins < 1:
        raise GlaError(f"bins is {bins}", "1 or more")
    counts = {len(life.episode_returns) for life in agent.lifetimes}
    if unit == "episode" and len(counts) > 1:
        raise GlaError(
            f"the lifetimes of {agent.name!r} have {min(counts)} to {max(counts)} episodes",
            "equally many for points per episode",
            "ask for windows of steps",
        )
    if unit != "step" and len(counts) == 1:
        returns = np.array([life.episode_returns for life in agent.lifetimes], np.float64)
        return Curve(np.arange(1.0, returns.shape[1] + 1), _bootstrap(returns), "episode")
    total = steps or max(sum(life.episode_lengths) for life in agent.lifetimes)
    table = np.full((len(agent.lifetimes), bins), np.nan)
    for row, life in zip(table, agent.lifetimes, strict=True):
        ends = np.cumsum(life.episode_lengths)
        # Window w of width total / bins holds the steps (w * width, (w + 1) * width].
        window = np.minimum((ends - 1) * bins // total, bins - 1)
        for index in np.unique(window):
            row[index] = np.mean(np.array(life.episode_returns)[window == index])
    filled = [index for index in range(bins) if not np.isnan(table[:, index]).all()]
    intervals = tuple(bootstrap_interval(column[~np.isnan(column)]) for column in table.T[filled])
    return Curve((np.array(filled) + 0.5) * total / bins, intervals, "step")


def best_null(results: Results) -> AgentResult:
    """Return the null controller with the highest mean return over its whole lifetimes.

    The best of several is chosen on the numbers it is then reported with, which flatters it: the
    floor under an agent is, if anything, too high.

    Raises:
        GlaError: if the results hold no null controller.
    """
    nulls = results.of_kind("null")
    if not nulls:
        raise GlaError(
            f"the results for {results.environment} hold no null controller",
            "at least one agent of kind null",
            "run the meta-test with its null controllers",
        )
    return max(nulls, key=lambda agent: float(whole_lifetime(agent).mean()))


def score(returns: np.ndarray | float, null: float, expert: float) -> np.ndarray:
    """Return (returns - null) / (expert - null): 0 is the best null controller, 1 the expert.

    Args:
        returns: f64[...].
        null: return of the best null controller.
        expert: return of the expert.

    Raises:
        GlaError: if the expert is not better than the null controller.
    """
    if not expert > null:
        raise GlaError(
            f"the expert's return is {expert} and the best null controller's {null}",
            "an expert that is better than doing nothing",
        )
    return (np.asarray(returns, np.float64) - null) / (expert - null)


@dataclass(frozen=True)
class Scale:
    """The two returns that a score is measured between; None where unknown.

    Attributes:
        null: interval of the best null controller over its whole lifetimes, without width where it
            is a stored reference.
        null_name: which controller it is.
        expert: the expert's return.
        expert_name: where the expert's return comes from.
        expert_beats_null: false if the stored reference says that it does not.
    """

    null: Interval | None
    null_name: str
    expert: float | None
    expert_name: str
    expert_beats_null: bool = True

    @property
    def usable(self) -> bool:
        """Whether there are two ends, and the expert's lies above all of the null controller's.

        A score between ends that may be the same would be noise divided by noise.
        """
        if self.null is None or self.expert is None:
            return False
        floor = self.null.high if self.null.known else self.null.estimate
        return self.expert_beats_null and self.expert > floor

    def score(self, values: Interval) -> Interval | None:
        """Return an interval of returns as scores, or None where there is no scale.

        Both ends of the scale are taken as exact: the interval says how sure the agent's return
        is, not how sure the scale is.
        """
        if self.null is None or self.expert is None or not self.usable:
            return None
        low, estimate, high = score(
            np.array([values.low, values.estimate, values.high]), self.null.estimate, self.expert
        )
        return Interval(float(estimate), float(low), float(high))


def scale(results: Results) -> Scale:
    """Return the scale of a results file.

    The null end is the best null controller measured in this very file, on the same tasks, and
    only without one the stored reference. The expert end is the stored reference, and only without
    one an expert measured in this file.
    """
    null, null_name = None, ""
    stored = results.references.get("null")
    if results.of_kind("null"):
        controller = best_null(results)
        null, null_name = bootstrap_interval(whole_lifetime(controller)), controller.name
    elif stored:
        value = float(stored["return"])
        null = Interval(value, value, value)
        null_name = f"{stored.get('controller', 'null controller')}, stored reference"
    expert, expert_name = None, ""
    stored = results.references.get("expert")
    if stored:
        expert = float(stored["return"])
        expert_name = str(stored.get("provenance", "stored reference"))
    elif results.of_kind("expert"):
        measured = results.of_kind("expert")[0]
        expert, expert_name = float(whole_lifetime(measured).mean()), measured.name
    better = results.references.get("expert_beats_null", True) is not False
    return Scale(null, null_name, expert, expert_name, better)


@dataclass(frozen=True)
class Comparison:
    """The last episode of the agent against something.

    Attributes:
        against: what it is compared with.
        label: the same in words, such as `the first`.
        detail: name of the controller where there is a choice, else empty.
        interval: its return; None where it was not measured.
        beaten: whether the agent beats it; None where that cannot be judged.
    """

    against: Literal["first", "null", "masked"]
    label: str
    detail: str
    interval: Interval | None
    beaten: bool | None

    def text(self, digits: int) -> str:
        """Return "the best null controller (zero action, -49.5 [-50.1, -48.9])"."""
        if self.interval is None:
            return self.label
        detail = f"{self.detail}, " if self.detail else ""
        return f"{self.label} ({detail}{self.interval.text(digits)})"


@dataclass(frozen=True)
class Verdict:
    """Whether an agent learned in context, and from what that is seen.

    It learned if its last episode beats its first, the best null controller over whole lifetimes
    and the last episode of its reward-masked twin, each with intervals that do not overlap. With
    one episode per lifetime there is no first against last, and the other two decide.

    Attributes:
        environment: the environment's id.
        agent: name of the agent.
        lifetimes: how many lifetimes the agent had.
        status: `learned`, `did not learn`, or `not judged` where something needed is missing.
        first: return of the first episode.
        last: return of the last episode.
        comparisons: the last episode against its first, the best null and the masked twin.
        score: the last episode's score, or None where there is no scale.
        expert: the expert's return, or None.
        sentence: all of it in plain words.
    """

    environment: str
    agent: str
    lifetimes: int
    status: Status
    first: Interval
    last: Interval
    comparisons: tuple[Comparison, ...]
    score: Interval | None
    expert: float | None
    sentence: str

    @property
    def learned(self) -> bool:
        """Whether the agent learned."""
        return self.status == "learned"

    @property
    def digits(self) -> int:
        """Digits after the point that suit all returns of this verdict."""
        return digits_of(self.first, self.last, *(one.interval for one in self.comparisons))

    def comparison(self, against: Literal["first", "null", "masked"]) -> Comparison:
        """Return the comparison with one thing."""
        return next(one for one in self.comparisons if one.against == against)


def agent_of(results: Results, name: str | None = None) -> AgentResult:
    """Return the agent under test.

    Args:
        results: where to look.
        name: which agent; None if there is only one.

    Raises:
        GlaError: if there is no such agent, or several and no name.
    """
    agents = [one for one in results.of_kind("agent") if name in (None, one.name)]
    if len(agents) == 1:
        return agents[0]
    known = ", ".join(repr(one.name) for one in results.of_kind("agent")) or "none"
    wanted = "one agent under test" if name is None else f"an agent called {name!r}"
    raise GlaError(
        f"the results for {results.environment} hold these agents under test: {known}", wanted
    )


def twin_of(results: Results, agent: AgentResult) -> AgentResult | None:
    """Return the reward-masked twin of an agent, or None.

    A file's only twin belongs to its only agent; among several, a twin's name starts with that of
    its agent.
    """
    twins = results.of_kind("masked")
    if len(results.of_kind("agent")) == 1 and len(twins) == 1:
        return twins[0]
    named = [one for one in twins if one.name.startswith(agent.name)]
    return min(named, key=lambda one: len(one.name), default=None)


def judge(results: Results, name: str | None = None) -> Verdict:
    """Judge whether the agent learned in context.

    Args:
        results: of one environment.
        name: which agent; None if there is only one.

    Raises:
        GlaError: if there is no such agent, or several and no name.
    """
    agent = agent_of(results, name)
    twin = twin_of(results, agent)
    ends = scale(results)
    first, last = (bootstrap_interval(x) for x in (first_episode(agent), last_episode(agent)))
    several = has_several_episodes(agent)
    masked = bootstrap_interval(last_episode(twin)) if twin else None
    comparisons = (
        _compare(last, "first", "the first", "", first, judged=several),
        _compare(last, "null", "the best null controller", ends.null_name, ends.null),
        _compare(last, "masked", "the reward-masked twin", "", masked),
    )
    # One comparison that fails settles it; one that is missing leaves it open.
    needed = [one.beaten for one in comparisons if several or one.against != "first"]
    status: Status = "learned"
    if False in needed:
        status = "did not learn"
    elif None in needed:
        status = "not judged"
    verdict = Verdict(
        environment=results.environment,
        agent=agent.name,
        lifetimes=len(agent.lifetimes),
        status=status,
        first=first,
        last=last,
        comparisons=comparisons,
        score=ends.score(last),
        expert=ends.expert,
        sentence="",
    )
    sentence = _sentence(verdict, several, _cautions(agent, several, ends))
    return replace(verdict, sentence=sentence)


def _compare(
    last: Interval,
    against: Literal["first", "null", "masked"],
    label: str,
    detail: str,
    interval: Interval | None,
    judged: bool = True,
) -> Comparison:
    possible = judged and interval is not None and last.known and interval.known
    beaten = beats(last, interval) if possible and interval is not None else None
    return Comparison(against, label, detail, interval, beaten)


def _cautions(agent: AgentResult, several: bool, ends: Scale) -> list[str]:
    count = len(agent.lifetimes)
    cautions = []
    if not several:
        cautions.append("Each lifetime is one episode, so first against last is not judged.")
    if count == 1:
        cautions.append("A single lifetime gives no interval.")
    elif count < FEW_LIFETIMES:
        cautions.append(f"With only {count} lifetimes the intervals are rough.")
    unfinished = sum(life.unfinished for life in agent.lifetimes)
    if unfinished:
        cautions.append(
            f"In {unfinished} of {count} lifetimes no episode ended and the unfinished one counts."
        )
    if ends.expert is not None and ends.null is not None and not ends.usable:
        cautions.append("The expert does not beat the best null controller, so there is no score.")
    return cautions


def _sentence(verdict: Verdict, several: bool, cautions: list[str]) -> str:
    digits = verdict.digits
    judged = [one for one in verdict.comparisons if one.against != "first" or several]
    won = [one.text(digits) for one in judged if one.beaten]
    lost = [one.text(digits) for one in judged if one.beaten is False]
    open_ = [one for one in judged if one.beaten is None]
    episode = "Last episode" if several else "The episode's return"
    parts = [f"{verdict.environment}: {verdict.status}."]
    clauses = []
    if lost:
        clauses.append(f"does not beat {in_words(lost, 'or')}")
    if won:
        clauses.append(("it beats " if lost else "beats ") + in_words(won))
    text = "; ".join(clauses)
    parts.append(f"{episode} {verdict.last.text(digits)}{' ' + text if text else ''}.")
    for one in open_:
        why = "was not run" if one.interval is None else "cannot be compared"
        parts.append(f"{one.text(digits)[0].upper()}{one.text(digits)[1:]} {why}.")
    if verdict.score is not None:
        parts.append(f"Score {verdict.score.text(2)} (0: best null controller, 1: expert).")
    return " ".join(parts + cautions)


def summarise(verdicts: Sequence[Verdict]) -> str:
    """Return where agents learned and where they did not, in those words."""
    groups: dict[Status, list[str]] = {"learned": [], "did not learn": [], "not judged": []}
    agents = {one.agent for one in verdicts}
    for one in verdicts:
        place = one.environment if len(agents) == 1 else f"{one.environment} ({one.agent})"
        groups[one.status].append(place)
    total = len(verdicts)
    counted = f"{len(groups['learned'])} of {total} environment{'s' if total > 1 else ''}"
    if len(agents) > 1:
        counted = f"{len(groups['learned'])} of {total} runs"
    sentences = [f"Learned on {counted}"]
    if groups["learned"]:
        sentences[0] += f": {in_words(groups['learned'])}"
    if groups["did not learn"]:
        sentences.append(f"Did not learn on {in_words(groups['did not learn'])}")
    if groups["not judged"]:
        sentences.append(f"Not judged on {in_words(groups['not judged'])}")
    return ". ".join(sentences) + "."


def in_words(items: Sequence[str], joiner: str = "and") -> str:
    """Return "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + f" {joiner} {items[-1]}"
