"""What a leaderboard says: figures of every agent on a suite, and on each of its environments.

Every agent is measured between the same two ends of an environment: the best of all null
controllers that any submission ran on the very same tasks (the stored reference without one), and
the stored expert (a measured one without). Both ends are held fixed, so an interval is about the
agent, not about the scale.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from gla.benchmarks.aggregates import (
    Profile,
    Reach,
    aggregate,
    area_under_curve,
    last_tenth,
    performance_profile,
    probability_of_improvement,
    reach,
    speed,
    steps_to,
)
from gla.benchmarks.board_input import own_agent
from gla.benchmarks.board_names import Name
from gla.benchmarks.results import AgentResult, Results
from gla.benchmarks.statistics import (
    Curve,
    Interval,
    Scale,
    Verdict,
    beats,
    bootstrap_interval,
    episode_curve,
    first_episode,
    has_several_episodes,
    improvement,
    judge,
    scale,
    score,
    twin_of,
    whole_lifetime,
)
from gla.benchmarks.submissions import Read
from gla.benchmarks.suites import Suite
from gla.envs import registry

ONLINE = "PPO, online"  # the agent that others are held against
HALF = 0.5  # of the scale, for the steps that it takes
_MOST_POINTS = 50  # of a curve; more episodes are put together in windows of steps
THRESHOLDS = np.round(np.arange(-0.5, 1.2501, 0.05), 2)  # of the performance profile


def ranks(intervals: Sequence[Interval]) -> list[tuple[int, int] | None]:
    """Return the best and the worst rank of each that its interval allows.

    The best is 1 plus the number that beat it, the worst leaves below it only those that it beats.
    Whatever overlaps has overlapping ranks, so nothing is ordered that the intervals leave open,
    and nothing that overlaps with the highest lower bound has a best rank other than 1. Without
    bounds there is no rank, nor an influence on others' ranks.

    Source: the rank bounds that Chatbot Arena shows (Chiang et al. 2024, arXiv 2403.04132).
    """
    known = [one for one in intervals if one.known]
    return [
        (
            1 + sum(beats(other, one) for other in known),
            len(known) - sum(beats(one, other) for other in known),
        )
        if one.known
        else None
        for one in intervals
    ]


@dataclass(frozen=True)
class Place:
    """What one agent did on one environment.

    Attributes:
        results: its results, with the board's null controllers and expert in place of its own.
        agent: the agent.
        twin: its reward-masked twin, or None.
        first: return of the first episode.
        last: return of the last tenth of the lifetime.
        twin_last: the same of the twin.
        gain: `last` minus that of the twin, within each lifetime.
        improvement: `last` minus `first`, within each lifetime.
        score: of `last`, or None where there is no scale.
        verdict: whether it learned.
    """

    results: Results
    agent: AgentResult
    twin: AgentResult | None
    first: Interval
    last: Interval
    twin_last: Interval | None
    gain: Interval | None
    improvement: Interval | None
    score: Interval | None
    verdict: Verdict


class Half(NamedTuple):
    """How soon an agent reaches half of the scale.

    Attributes:
        reach: steps (median) and share of lifetimes.
        speed: how many times sooner than the online PPO, or None without a PPO, or if neither
            gets there.
        bound: `=`, or `>` and `<` where one of the two never gets there and the other's lifetime
            bounds the ratio.
    """

    reach: Reach
    speed: Interval | None
    bound: str


@dataclass(frozen=True)
class Row:
    """One agent on a suite. Figures are over the scored environments that it has results of.

    Attributes:
        label: its name, told apart from others of that name.
        page: name of the agent's page.
        read: its submission.
        places: by environment.
        foreign: training sources that the suite does not allow.
        failures: what went wrong, by environment, where there are no results.
        rank: best and worst rank, or None if it is not ranked.
        score: interquartile mean over the last tenth of lifetimes.
        gain: the same of what it gains over its twin.
        improvement: the same of the last tenth minus the first episode.
        area: the same of the area under the curve.
        better: probability that it does better than the online PPO.
        half: how soon it reaches half of the scale.
        learned: environments on which it learned.
        seconds: that it ran on all environments, without its twin.
        step_seconds: median over environments of the median seconds of a step; None if not
            measured.
    """

    label: str
    page: str
    read: Read
    places: dict[str, Place]
    foreign: tuple[str, ...]
    failures: dict[str, str]
    rank: tuple[int, int] | None
    score: Interval | None
    gain: Interval | None
    improvement: Interval | None
    area: Interval | None
    better: Interval | None
    half: Half | None
    learned: int
    seconds: float
    step_seconds: float | None

    @property
    def complete(self) -> bool:
        """Whether it has results of every environment."""
        return len(self.places) == len(self.read.suite.tasks)

    @property
    def why_unranked(self) -> str:
        """Why it has no rank, in words; empty if it has one."""
        if self.rank is not None:
            return ""
        if not self.complete:
            return f"{len(self.places)} of {len(self.read.suite.tasks)} environments"
        if self.foreign:
            return "training sources not allowed"
        return "no interval" if self.score is not None else "no score"


@dataclass(frozen=True)
class Board:
    """Everything that is known of one suite.

    Attributes:
        suite: the suite.
        nulls: all null controllers that were measured, by environment.
        scales: by environment.
        scored: environments with a scale, which figures of the whole suite are made of.
        rows: ranked agents, then the others.
        online: the online PPO that others are held against, or None.
        notes: what else has to be said.
    """

    suite: Suite
    nulls: dict[str, tuple[AgentResult, ...]]
    scales: dict[str, Scale]
    scored: tuple[str, ...]
    rows: tuple[Row, ...]
    online: Row | None
    notes: tuple[str, ...]

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The agents that have ranks."""
        return tuple(row for row in self.rows if row.rank is not None)

    @property
    def leaders(self) -> tuple[Row, ...]:
        """The ranked agents that no other beats."""
        return tuple(row for row in self.ranked if row.rank and row.rank[0] == 1)


def board(suite: Suite, given: Sequence[tuple[Read, Name]]) -> Board:
    """Put all submissions of a suite together.

    Args:
        suite: the suite.
        given: its submissions, sound, and what their agents are called.
    """
    notes: list[str] = []
    reads = [read for read, _ in given]
    nulls = {env: _pooled(reads, env, "null") for env in suite.environments}
    references = {env: _references(reads, env, notes) for env in suite.environments}
    frames = {env: _frame(reads, env, nulls[env], references[env]) for env in suite.environments}
    scales = {env: frame[1] if frame else _stored(references[env]) for env, frame in frames.items()}
    scored = tuple(env for env in suite.environments if scales[env].usable)
    placed = []
    for read, name in given:
        places = {}
        for env, results in read.results.items():
            agent = own_agent(read, results)
            frame = frames[env]
            if agent is not None and frame is not None:
                places[env] = _place(results, agent, frame[0])
        failed = {e: f for e, f in read.submission.failures.items() if e not in read.results}
        if places or failed:
            placed.append((read, name, places, failed))
    complete = [
        (read, places)
        for read, _, places, failed in placed
        if read.submission.agent == ONLINE and not failed and not _foreign(read)
    ]
    online = max(complete, key=lambda one: one[0].submission.created, default=None)
    rows = [
        _row(read, name, places, failed, suite, scales, scored, online[1] if online else None)
        for read, name, places, failed in placed
    ]
    rows = _ranked(rows, len(scored) > 0)
    held = [row for row in rows if online and row.read is online[0]]
    if len(complete) > 1 and held:
        notes.append(
            f"{len(complete)} submissions are called {ONLINE!r}; the newest, {held[0].label}, is "
            "the one that others are held against."
        )
    return Board(suite, nulls, scales, scored, tuple(rows), held[0] if held else None, tuple(notes))


def _foreign(read: Read) -> tuple[str, ...]:
    return tuple(read.suite.foreign(read.submission.training_sources))


def _pooled(reads: Sequence[Read], environment: str, kind: str) -> tuple[AgentResult, ...]:
    """Return all controllers of a kind that were run on the tasks of an environment, each once."""
    found: dict[object, AgentResult] = {}
    for read in reads:
        results = read.results.get(environment)
        for one in results.agents if results else ():
            if one.kind == kind:
                found.setdefault((one.name, one.lifetimes), one)
    return tuple(found.values())


def _references(reads: Sequence[Read], environment: str, notes: list[str]) -> dict:
    """Return the stored scores of an environment: those of this release, else the newest file's."""
    own = registry.references(environment)
    if own:
        return own
    stored = [read.results[environment] for read in reads if environment in read.results]
    stored = sorted((one for one in stored if one.references), key=lambda one: one.created)
    if len({json.dumps(one.references, sort_keys=True) for one in stored}) > 1:
        notes.append(
            f"Submissions store different reference scores of {environment}; the newest is used."
        )
    return stored[-1].references if stored else {}


def _frame(
    reads: Sequence[Read], environment: str, nulls: tuple[AgentResult, ...], references: dict
) -> tuple[Results, Scale] | None:
    """Return results that hold nothing but the two ends of the scale, and that scale."""
    some = [read.results[environment] for read in reads if environment in read.results]
    if not some:
        return None
    ends = (*nulls, *_pooled(reads, environment, "expert"))
    frame = replace(some[0], agents=ends, references=references)
    return frame, scale(frame)


def _stored(references: dict) -> Scale:
    """Return the scale of an environment that nobody has results of."""
    null, expert = references.get("null"), references.get("expert")
    value = Interval(*(3 * (float(null["return"]),))) if null else None
    return Scale(
        value,
        f"{null.get('controller', 'null controller')}, stored reference" if null else "",
        float(expert["return"]) if expert else None,
        str(expert.get("provenance", "stored reference")) if expert else "",
        references.get("expert_beats_null", True) is not False,
    )


def _place(results: Results, agent: AgentResult, frame: Results) -> Place:
    twin = twin_of(results, agent)
    judged = replace(
        results,
        agents=(agent, *((twin,) if twin else ()), *frame.agents),
        references=frame.references,
    )
    last = bootstrap_interval(last_tenth(agent))
    return Place(
        results=judged,
        agent=agent,
        twin=twin,
        first=bootstrap_interval(first_episode(agent)),
        last=last,
        twin_last=bootstrap_interval(last_tenth(twin)) if twin else None,
        gain=bootstrap_interval(last_tenth(agent) - last_tenth(twin)) if twin else None,
        improvement=improvement(agent),
        score=scale(judged).score(last),
        verdict=judge(judged, agent.name),
    )


def _row(
    read: Read,
    name: Name,
    places: dict[str, Place],
    failures: dict[str, str],
    suite: Suite,
    scales: dict[str, Scale],
    scored: tuple[str, ...],
    online: dict[str, Place] | None,
) -> Row:
    def over(of: Callable[[Place], np.ndarray | None], relative: bool = False) -> Interval | None:
        """Return the interquartile mean of what is f64[N] in returns, as scores."""
        tables = []
        for env in scored:
            values = of(places[env]) if env in places else None
            if values is not None:
                tables.append(as_score(env, values, relative))
        return aggregate(tables) if tables else None

    def as_score(env: str, values: np.ndarray, relative: bool = False) -> np.ndarray:
        ends = scales[env]
        assert ends.null is not None and ends.expert is not None  # it is usable
        if relative:
            return values / (ends.expert - ends.null.estimate)
        return score(values, ends.null.estimate, ends.expert)

    def gained(place: Place) -> np.ndarray | None:
        return last_tenth(place.agent) - last_tenth(place.twin) if place.twin else None

    def improved(place: Place) -> np.ndarray | None:
        if not has_several_episodes(place.agent):
            return None
        return last_tenth(place.agent) - first_episode(place.agent)

    both = [env for env in suite.environments if env in places and online and env in online]
    better = None
    if online is not None and both and places is not online:
        better = probability_of_improvement(
            [last_tenth(places[env].agent) for env in both],
            [last_tenth(online[env].agent) for env in both],
        )
    timed = [p.agent.step_seconds for p in places.values() if p.agent.step_seconds > 0]
    return Row(
        label=name.label,
        page=name.page,
        read=read,
        places=places,
        foreign=_foreign(read),
        failures=failures,
        rank=None,
        score=over(lambda place: last_tenth(place.agent)),
        gain=over(gained, relative=True),
        improvement=over(improved, relative=True),
        area=over(lambda place: area_under_curve(place.agent)),
        better=better,
        half=_half(places, scales, [env for env in scored if env in places], online),
        learned=sum(place.verdict.learned for place in places.values()),
        seconds=sum(place.agent.seconds for place in places.values()),
        step_seconds=float(np.median(timed)) if timed else None,
    )


def _half(
    places: dict[str, Place],
    scales: dict[str, Scale],
    scored: list[str],
    online: dict[str, Place] | None,
) -> Half | None:
    if not scored:
        return None
    limit = float(max(places[env].results.steps for env in scored))

    def of(where: dict[str, Place]) -> list[np.ndarray]:
        found = []
        for env in scored:
            ends = scales[env]
            assert ends.null is not None and ends.expert is not None
            middle = ends.null.estimate + HALF * (ends.expert - ends.null.estimate)
            found.append(steps_to(where[env].agent, middle, window=None))
        return found

    steps = of(places)
    own = reach(steps, limit)
    if online is None:
        return Half(own, None, "=")
    others = of(online)
    never, they_never = (math.isinf(r.median.estimate) for r in (own, reach(others, limit)))
    if never and they_never:
        return Half(own, None, "=")
    bound = "<" if never else ">" if they_never else "="
    return Half(own, speed(steps, others, limit), bound)


def _ranked(rows: list[Row], scored: bool) -> list[Row]:
    """Give ranks to those that can have one, and put them first."""
    able = [row for row in rows if scored and row.complete and not row.foreign and row.score]
    found = ranks([row.score for row in able if row.score])
    given = {id(row): rank for row, rank in zip(able, found, strict=True)}
    rows = [replace(row, rank=given.get(id(row))) for row in rows]
    return sorted(
        rows,
        key=lambda row: (
            row.rank is None,
            row.rank or (0, 0),
            not row.complete,
            -(row.score.estimate if row.score else -math.inf),
            row.label,
        ),
    )


def profile_of(row: Row, board: Board) -> Profile:
    """Return the performance profile of an agent over the scored environments."""
    tables = []
    for env in board.scored:
        ends = board.scales[env]
        assert ends.null is not None and ends.expert is not None
        values = last_tenth(row.places[env].agent)
        tables.append(score(values, ends.null.estimate, ends.expert))
    return performance_profile(tables, THRESHOLDS)


def null_means(board: Board, environment: str) -> list[tuple[str, Interval]]:
    """Return the mean return of every null controller over whole lifetimes, the best first."""
    found = [
        (one.name, bootstrap_interval(whole_lifetime(one))) for one in board.nulls[environment]
    ]
    return sorted(found, key=lambda one: (-one[1].estimate, one[0]))


def curves(
    places: Sequence[Place],
) -> tuple[list[tuple[Curve, Curve | None]], Literal["episode", "step"]]:
    """Return the curves of agents and of their twins over the same unit, and that unit.

    Points are episodes where everyone has equally many and not too many to draw, else windows of
    steps, as many as the median lifetime has episodes and at most 20.
    """
    everyone = [one for place in places for one in (place.agent, place.twin) if one is not None]
    counts = [len(life.episode_returns) for one in everyone for life in one.lifetimes]
    unit: Literal["episode", "step"] = "step"
    if len(set(counts)) == 1 and counts[0] <= _MOST_POINTS:
        unit = "episode"
    bins = max(1, min(20, int(np.median(counts))))

    def of(place: Place, agent: AgentResult) -> Curve:
        return episode_curve(agent, bins=bins, steps=place.results.steps, unit=unit)

    return [
        (of(place, place.agent), of(place, place.twin) if place.twin else None) for place in places
    ], unit
