"""Timing programs side by side: what `gla throughput` and its comparisons are made of.

A comparison is a few programs that do work of the same unit; the first of them is the peer. After
each was called once (which compiles it), rounds follow: every round times every program once, for
about as long, in an order that turns around from round to round. A program's speed is the median
over rounds of its speed divided by the peer's in the same round, so a machine that is slow for a
while is slow for both. Wall-clock time and CPU time (of all threads of the process that works) are
both kept: where other work shares the machine, CPU time says more.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gla.errors import GlaError

# Kinds of goals, by what is compared with `bound`.
GoalKind = Literal["speed", "overhead", "rate", "first call"]
ClockName = Literal["wall", "cpu"]
Clock = Callable[[], float]


@dataclass(frozen=True)
class ThroughputConfig:
    """What to measure and how carefully.

    Attributes:
        rounds: number of rounds, at least 5; figures are medians over them.
        seconds: about how long each program runs in a round, in seconds of wall-clock time; a
            program is called at least once.
        out: folder for `throughput.json` and `throughput.md`, or None to write nothing.
        peers: Python with rejax and gymnax 0.0.9 in it, for the `ppo-` comparisons.
        purejaxrl: folder of a purejaxrl checkout, which `peers` runs.
        sb3: Python with Stable-Baselines3 in it.
        torch: Python with PyTorch in it, for the comparisons of models; this one by default.
        updates: PPO updates of one training, or None for each comparison's own number.

    Raises:
        GlaError: if there are too few rounds or updates, or no time.
    """

    rounds: int = 9
    seconds: float = 0.25
    out: Path | None = None
    peers: Path | None = None
    purejaxrl: Path | None = None
    sb3: Path | None = None
    torch: Path | None = None
    updates: int | None = None

    def __post_init__(self):
        if self.rounds < 5:
            raise GlaError(f"rounds is {self.rounds}", "at least 5, for a median to mean something")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise GlaError(f"seconds is {self.seconds}", "a time above 0")
        if self.updates is not None and self.updates < 1:
            raise GlaError(f"updates is {self.updates}", "a whole number >= 1")


class Measured(NamedTuple):
    """What a call took by its own clocks, where it works in another process.

    Attributes:
        wall: seconds of wall clock.
        cpu: seconds of CPU, of all threads.
    """

    wall: float
    cpu: float


class Program(NamedTuple):
    """Something to time.

    Attributes:
        name: what people call it.
        call: does the work and returns once all of it is done; if it returns `Measured`, that is
            taken for its time.
        work: units of work in one call, such as environment steps.
    """

    name: str
    call: Callable[[], Any]
    work: int


@dataclass
class Bench:
    """What a comparison is built with.

    Attributes:
        config: how it is going to be measured.
        stack: closes what the programs need once they have been measured.
        notes: lines for people, shown below the comparison's question.
    """

    config: ThroughputConfig
    stack: contextlib.ExitStack
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Goal:
    """What a program of a comparison should reach.

    Attributes:
        program: its name.
        kind: `speed` (at least `bound` times the other's), `overhead` (time at most a share `bound`
            longer than the other's), `rate` (at least `bound` units per second) or `first call`
            (which takes at most `bound` times as long as the other's).
        bound: the number.
        than: name of the other program, or an empty string for the peer.
        clock: `wall` or `cpu`; first calls are always timed by wall clock.
    """

    program: str
    kind: GoalKind
    bound: float
    than: str = ""
    clock: ClockName = "wall"

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.kind in ("overhead", "first call")

    def value(self, timing: Timing, other: Timing) -> float:
        """Return the measured number.

        Args:
            timing: of the program.
            other: of the program that it is compared with.
        """
        if self.kind == "rate":
            return timing.rate if self.clock == "wall" else timing.cpu_rate
        if self.kind == "first call":
            return timing.first_call / max(other.first_call, 1e-12)
        speed = timing.against(other, self.clock).median
        return speed if self.kind == "speed" else 1 / speed - 1

    def met(self, timing: Timing, other: Timing) -> bool:
        """Return whether it was reached."""
        value = self.value(timing, other)
        return value <= self.bound if self.at_most else value >= self.bound

    def text(self, timing: Timing, other: Timing, unit: str) -> str:
        """Return one line for people."""
        value, sign = self.value(timing, other), "at most" if self.at_most else "at least"
        than = f" as {self.than}" if self.than else ""
        whose = f"{than}'s" if than else ""
        by = " by CPU time" if self.clock == "cpu" else ""
        shown, bound = {
            "speed": (f"{value:.3g} times as fast{than}{by}", f"{self.bound:g}"),
            "overhead": (
                f"{100 * abs(value):.1f}% {'more' if value >= 0 else 'less'} time"
                f"{f' than {self.than}' if self.than else ''}{by}",
                f"{100 * self.bound:g}% more",
            ),
            "rate": (
                f"{count(value)} {unit} per {'CPU-second' if by else 'second'}",
                count(self.bound),
            ),
            "first call": (
                f"the first call takes {value:.3g} times as long{whose}",
                f"{self.bound:g}",
            ),
        }[self.kind]
        verdict = "met" if self.met(timing, other) else "missed"
        return f"{self.program}: {shown} (goal: {sign} {bound}, {verdict})"


@dataclass(frozen=True)
class Comparison:
    """Programs to be compared.

    Attributes:
        name: by which it is asked for.
        question: one line for people.
        build: makes the programs, the peer first; called only when it is asked for.
        unit: of work.
        goals: what should be reached.
    """

    name: str
    question: str
    build: Callable[[Bench], Sequence[Program]]
    unit: str = "environment steps"
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Spread:
    """A median over rounds with the lowest and highest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Timing:
    """What was measured of one program.

    Attributes:
        name: of the program.
        first_call: seconds of its first call, mostly compilation.
        wall: seconds of wall clock per unit of work, one per round.
        cpu: seconds of CPU per unit of work, one per round.
        speed: its speed divided by the peer's in the same round, by wall clock.
        cpu_speed: likewise by CPU time.
    """

    name: str
    first_call: float
    wall: tuple[float, ...]
    cpu: tuple[float, ...]
    speed: Spread
    cpu_speed: Spread

    @property
    def rate(self) -> float:
        """Median units of work per second of wall clock."""
        return 1 / statistics.median(self.wall)

    @property
    def cpu_rate(self) -> float:
        """Median units of work per second of CPU."""
        return 1 / max(statistics.median(self.cpu), 1e-12)

    def against(self, other: Timing, clock: ClockName = "wall") -> Spread:
        """Return its speed divided by another program's in the same round."""
        return _ratios(getattr(other, clock), getattr(self, clock))


@dataclass(frozen=True)
class Outcome:
    """One comparison.

    Attributes:
        comparison: which.
        timings: the peer's first; none if it was skipped.
        skipped: why it could not be run, or an empty string.
        notes: lines for people.
    """

    comparison: Comparison
    timings: tuple[Timing, ...] = ()
    skipped: str = ""
    notes: tuple[str, ...] = ()

    def goals(self) -> list[tuple[Goal, Timing, Timing]]:
        """Return each goal with the timings of its program and of the one it is compared with.

        Goals that speak of a program that was not run are left out.
        """
        by_name = {timing.name: timing for timing in self.timings}
        peer = self.timings[0].name if self.timings else ""
        return [
            (goal, by_name[goal.program], by_name[goal.than or peer])
            for goal in self.comparison.goals
            if {goal.program, goal.than or peer} <= by_name.keys()
        ]


def measure(
    programs: Sequence[Program],
    rounds: int,
    seconds: float,
    wall: Clock = time.perf_counter,
    cpu: Clock = time.process_time,
) -> tuple[Timing, ...]:
    """Time programs side by side.

    Args:
        programs: what to time, the peer first.
        rounds: how often.
        seconds: about how long each runs in a round.
        wall: the clock on the wall, in seconds.
        cpu: the clock of CPU time, in seconds; both are for programs that have none of their own.

    Raises:
        GlaError: if two programs have the same name or one does no work.
    """
    names = [program.name for program in programs]
    if len(set(names)) < len(names) or any(program.work < 1 for program in programs):
        raise GlaError(
            f"the programs are {names} with {[p.work for p in programs]} units of work",
            "different names, and work of at least 1",
        )

    def timed(program: Program, calls: int) -> Measured:
        total = Measured(0.0, 0.0)
        for _ in range(calls):
            started = wall(), cpu()
            result = program.call()
            taken = Measured(wall() - started[0], cpu() - started[1])
            if isinstance(result, Measured):
                taken = result
            total = Measured(total.wall + taken.wall, total.cpu + taken.cpu)
        return total

    first = [timed(program, 1).wall for program in programs]
    # The second call shows how long one takes once it is compiled.
    calls = [max(1, math.ceil(seconds / max(timed(p, 1).wall, 1e-9))) for p in programs]
    samples: list[list[Measured]] = [[] for _ in programs]
    for number in range(rounds):
        order = range(len(programs))
        for i in order if number % 2 == 0 else reversed(order):
            units = calls[i] * programs[i].work
            taken = timed(programs[i], calls[i])
            samples[i].append(Measured(taken.wall / units, taken.cpu / units))
    walls = [tuple(sample.wall for sample in mine) for mine in samples]
    cpus = [tuple(sample.cpu for sample in mine) for mine in samples]
    return tuple(
        Timing(
            name,
            first[i],
            walls[i],
            cpus[i],
            _ratios(walls[0], walls[i]),
            _ratios(cpus[0], cpus[i]),
        )
        for i, name in enumerate(names)
    )


def _ratios(peer: Sequence[float], mine: Sequence[float]) -> Spread:
    """Return how many times as fast as the peer, round by round, given times of either."""
    values = [p / max(m, 1e-12) for p, m in zip(peer, mine, strict=True)]
    return Spread(statistics.median(values), min(values), max(values))


def count(number: float) -> str:
    """Return a rate in words that fit into a table."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
