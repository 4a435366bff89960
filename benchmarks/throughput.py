"""How fast the environments step, each figure beside a peer that was measured in the same run.

A comparison is a few programs that do work of the same unit; the first of them is the peer. After
each was called once (which compiles it), rounds follow: every round times every program once, for
about as long, in an order that turns around from round to round. A program's speed is the median
over rounds of its speed divided by the peer's in the same round, so a machine that is slow for a
while is slow for both. Wall-clock time and CPU time (of all threads of this process) are both kept:
where other work shares the machine, CPU time says more.

Comparisons of anything else are added to `COMPARISONS`; they only need functions to call.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gla.errors import GlaError, near_matches
from gla.files import write_json, write_text
from gla.packages import package_versions

SCHEMA = "gla-throughput"
VERSION = 1

# Kinds of goals, by what is compared with `bound`.
GoalKind = Literal["speed", "overhead", "rate"]
Clock = Callable[[], float]


@dataclass(frozen=True)
class ThroughputConfig:
    """What to measure and how carefully.

    Attributes:
        rounds: number of rounds, at least 5; figures are medians over them.
        seconds: about how long each program runs in a round, in seconds of wall-clock time.
        out: folder for `throughput.json` and `throughput.md`, or None to write nothing.

    Raises:
        GlaError: if there are too few rounds or no time.
    """

    rounds: int = 9
    seconds: float = 0.25
    out: Path | None = None

    def __post_init__(self):
        if self.rounds < 5:
            raise GlaError(f"rounds is {self.rounds}", "at least 5, for a median to mean something")
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise GlaError(f"seconds is {self.seconds}", "a time above 0")


class Program(NamedTuple):
    """Something to time.

    Attributes:
        name: what people call it.
        call: does the work and returns once all of it is done.
        work: units of work in one call, such as environment steps.
    """

    name: str
    call: Callable[[], Any]
    work: int


@dataclass(frozen=True)
class Goal:
    """What a program of a comparison should reach.

    Attributes:
        program: its name.
        kind: `speed` (at least `bound` times the peer's), `overhead` (time at most a share `bound`
            longer than the peer's) or `rate` (at least `bound` units per second of wall clock).
        bound: the number.
    """

    program: str
    kind: GoalKind
    bound: float

    def value(self, timing: Timing) -> float:
        """Return the measured number, by wall-clock time."""
        if self.kind == "rate":
            return timing.rate
        return timing.speed.median if self.kind == "speed" else 1 / timing.speed.median - 1

    def met(self, timing: Timing) -> bool:
        """Return whether it was reached."""
        value = self.value(timing)
        return value <= self.bound if self.kind == "overhead" else value >= self.bound

    def text(self, timing: Timing, unit: str) -> str:
        """Return one line for people."""
        value, sign = self.value(timing), "at most" if self.kind == "overhead" else "at least"
        shown = {
            "speed": (f"{value:.3g} times as fast", f"{self.bound:g}"),
            "overhead": (
                f"{100 * abs(value):.1f}% {'more' if value >= 0 else 'less'} time",
                f"{100 * self.bound:g}% more",
            ),
            "rate": (f"{_count(value)} {unit} per second", _count(self.bound)),
        }[self.kind]
        verdict = "met" if self.met(timing) else "missed"
        return f"{self.program}: {shown[0]} (goal: {sign} {shown[1]}, {verdict})"


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
    build: Callable[[], Sequence[Program]]
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


@dataclass(frozen=True)
class Outcome:
    """One comparison: its timings, the peer's first, or why it could not be run."""

    comparison: Comparison
    timings: tuple[Timing, ...] = ()
    skipped: str = ""

    def goals(self) -> list[tuple[Goal, Timing]]:
        """Return each goal with the timing that it speaks of; none where it was not run."""
        by_name = {timing.name: timing for timing in self.timings}
        return [(goal, by_name[goal.program]) for goal in self.comparison.goals if by_name]


@dataclass(frozen=True)
class Report:
    """All comparisons of one run.

    Attributes:
        outcomes: in the order in which they ran.
        config: how they were measured.
        machine: what they ran on (`describe_machine`), its load before and after.
    """

    outcomes: tuple[Outcome, ...]
    config: ThroughputConfig
    machine: dict[str, Any]


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
        cpu: the clock of CPU time, in seconds.

    Raises:
        GlaError: if two programs have the same name or one does no work.
    """
    names = [program.name for program in programs]
    if len(set(names)) < len(names) or any(program.work < 1 for program in programs):
        raise GlaError(
            f"the programs are {names} with {[p.work for p in programs]} units of work",
            "different names, and work of at least 1",
        )

    def timed(program: Program, calls: int) -> tuple[float, float]:
        started = wall(), cpu()
        for _ in range(calls):
            program.call()
        return wall() - started[0], cpu() - started[1]

    first = [timed(program, 1)[0] for program in programs]
    # The second call shows how long one takes once it is compiled.
    calls = [max(1, math.ceil(seconds / max(timed(p, 1)[0], 1e-9))) for p in programs]
    samples: list[list[tuple[float, float]]] = [[] for _ in programs]
    for number in range(rounds):
        order = range(len(programs))
        for i in order if number % 2 == 0 else reversed(order):
            units = calls[i] * programs[i].work
            taken = timed(programs[i], calls[i])
            samples[i].append((taken[0] / units, taken[1] / units))
    peer = samples[0]
    return tuple(
        Timing(
            name,
            first[i],
            tuple(sample[0] for sample in samples[i]),
            tuple(sample[1] for sample in samples[i]),
            _spread([p[0] / max(s[0], 1e-12) for p, s in zip(peer, samples[i], strict=True)]),
            _spread([p[1] / max(s[1], 1e-12) for p, s in zip(peer, samples[i], strict=True)]),
        )
        for i, name in enumerate(names)
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def find(names: Sequence[str]) -> list[Comparison]:
    """Return the comparisons of these names, or all of them for none.

    Raises:
        GlaError: if there is no such comparison.
    """
    for name in names:
        if name not in COMPARISONS:
            raise GlaError(
                f"no throughput comparison is called {name!r}{near_matches(name, COMPARISONS)}",
                f"one of {', '.join(COMPARISONS)}",
            )
    return [COMPARISONS[name] for name in names] or list(COMPARISONS.values())


def run(
    names: Sequence[str] = (),
    config: ThroughputConfig | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measure comparisons one after the other; one that cannot be built here is skipped.

    Args:
        names: which, or all of them for none.
        config: how.
        say: told of each comparison before it starts.

    Raises:
        GlaError: if there is no such comparison.
    """
    config = config or ThroughputConfig()
    outcomes, before = [], _load()
    for comparison in find(names):
        if say:
            say(f"{comparison.name}: {comparison.question}")
        try:
            programs = comparison.build()
        except (GlaError, ImportError) as error:
            outcomes.append(Outcome(comparison, skipped=str(error)))
            continue
        timings = measure(programs, config.rounds, config.seconds)
        outcomes.append(Outcome(comparison, timings))
    machine = {**describe_machine(), "load_before": before, "load_after": _load()}
    return Report(tuple(outcomes), config, machine)


def main(names: Sequence[str] = (), config: ThroughputConfig | None = None) -> Report:
    """Measure, print the tables, and write them if the configuration names a folder.

    Args:
        names: comparisons, or all of them for none.
        config: how to measure, and where to write.

    Raises:
        GlaError: if there is no such comparison, or the folder cannot be written.
    """
    config = config or ThroughputConfig()
    report = run(names, config, lambda line: print(line, file=sys.stderr, flush=True))
    text = to_markdown(report)
    print(text)
    if config.out is not None:
        write_json(Path(config.out) / "throughput.json", to_json(report))
        write_text(Path(config.out) / "throughput.md", text)
    return report


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, JAX's device, package versions."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "system": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "packages": package_versions(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _load() -> float | None:
    """Return how many processes have been running in the last minute, where the system says."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def to_json(report: Report) -> dict[str, Any]:
    """Return everything that was measured as plain values."""

    def one(outcome: Outcome) -> dict[str, Any]:
        comparison = outcome.comparison
        return {
            "name": comparison.name,
            "question": comparison.question,
            "unit": comparison.unit,
            "skipped": outcome.skipped or None,
            "programs": [
                {**asdict(timing), "rate": timing.rate, "cpu_rate": timing.cpu_rate}
                for timing in outcome.timings
            ],
            "goals": [
                {**asdict(goal), "value": goal.value(timing), "met": goal.met(timing)}
                for goal, timing in outcome.goals()
            ],
        }

    return {
        "schema": SCHEMA,
        "version": VERSION,
        "rounds": report.config.rounds,
        "seconds": report.config.seconds,
        "machine": report.machine,
        "comparisons": [one(outcome) for outcome in report.outcomes],
    }


def to_markdown(report: Report) -> str:
    """Return the tables for people, as Markdown."""
    machine = report.machine
    lines = [
        "# Throughput",
        "",
        f"{machine['processor']}, {machine['cores']} cores, JAX on {machine['device']}; load "
        f"{machine['load_before']} before, {machine['load_after']} after. Medians of "
        f"{report.config.rounds} interleaved rounds of about {report.config.seconds:g} s, after "
        "compilation; in brackets the lowest and highest round.",
    ]
    if machine["load_before"] is not None and machine["load_before"] > 0.5 * machine["cores"]:
        lines += ["", "Other work kept this machine busy: trust ratios and CPU time, not rates."]
    for outcome in report.outcomes:
        comparison = outcome.comparison
        lines += ["", f"## {comparison.name}", "", comparison.question, ""]
        if outcome.skipped:
            lines.append(f"Skipped: {outcome.skipped}")
            continue
        lines += [
            f"| program | {comparison.unit} / s | / CPU-s | speed / peer | by CPU time | "
            "first call |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {timing.name} | {_count(timing.rate)} | {_count(timing.cpu_rate)} | "
            f"{_ratio(timing.speed)} | {_ratio(timing.cpu_speed)} | {timing.first_call:.1f} s |"
            for timing in outcome.timings
        ]
        goals = [f"- {goal.text(timing, comparison.unit)}" for goal, timing in outcome.goals()]
        lines += ["", *goals] if goals else []
    return "\n".join(lines) + "\n"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.3g} [{spread.low:.3g}, {spread.high:.3g}]"


def _count(number: float) -> str:
    """Return a rate in words that fit into a table."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def scan_program(
    name: str, env: Any, params: Any, actions: Any, params_axes: Any = None
) -> Program:
    """Make a program that steps a functional environment with autoreset in one jitted scan.

    Random keys are split in every step, as training loops do; actions are drawn beforehand. The
    observation is carried from step to step, so that none can be optimised away.

    Args:
        name: of the program.
        env: an `Environment` with a horizon.
        params: its task, or several.
        actions: f32[steps, m, k] or i32[steps, m].
        params_axes: axes of the params over the m environments, as in `jax.vmap`.
    """
    import jax
    import jax.numpy as jnp

    from gla.envs.vectorized import limited, step_batch

    world = limited(env)
    steps, m = actions.shape[:2]

    def body(carry, inputs):
        states, _, total, params = carry
        number, action = inputs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), m)
        states, ts = step_batch(world, keys, states, action, params, params_axes)
        return (states, ts.observation, total + ts.reward, params), None

    @jax.jit
    def play(states, observation, params, actions):
        start = (states, observation, jnp.zeros(m), params)
        return jax.lax.scan(body, start, (jnp.arange(steps), actions))[0][:3]

    keys = jax.random.split(jax.random.key(1), m)
    reset = jax.jit(jax.vmap(world.reset, in_axes=(0, params_axes)))
    states, observation = reset(keys, params)
    return Program(
        name,
        lambda: jax.block_until_ready(play(states, observation, params, actions)),
        steps * m,
    )


def gymnax_program(name: str, gymnax_id: str, actions: Any) -> Program:
    """Make a program that steps a gymnax environment as its documentation shows.

    Args:
        name: of the program.
        gymnax_id: such as `Pendulum-v1`.
        actions: in gymnax's own units, [steps, m] or [steps, m, k].
    """
    import gymnax
    import jax
    import jax.numpy as jnp

    env, params = gymnax.make(gymnax_id)
    steps, m = actions.shape[:2]

    def body(carry, inputs):
        states, _, total = carry
        number, action = inputs
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), m)
        observation, states, reward, *_ = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
            keys, states, action, params
        )
        states = jax.tree.map(lambda new, old: new.astype(old.dtype), states, carry[0])
        return (states, observation, total + reward), None

    @jax.jit
    def play(states, observation, actions):
        start = (states, observation, jnp.zeros(m))
        return jax.lax.scan(body, start, (jnp.arange(steps), actions))[0]

    keys = jax.random.split(jax.random.key(1), m)
    observation, states = jax.jit(jax.vmap(env.reset, in_axes=(0, None)))(keys, params)
    states = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), states)
    return Program(
        name, lambda: jax.block_until_ready(play(states, observation, actions)), steps * m
    )


def vector_program(name: str, envs: Any, actions: Any) -> Program:
    """Make a program that steps a Gymnasium vector environment; actions [steps, m, ...]."""
    envs.reset(seed=0)

    def call():
        for action in actions:
            envs.step(action)

    return Program(name, call, len(actions) * envs.num_envs)


PLAIN, PROJECTED, OWN = "plain", "projected", "projected, each its own"
ENVS = 256
FAMILY_ENVS = 1024


def projection_programs(environment: str, steps: int) -> list[Program]:
    """Make the programs that show what a projection to 64 and 16 numbers costs.

    All of them play the same episodes: actions are drawn in agent space, and the plain environment
    gets them lowered beforehand.
    """
    import jax
    import jax.numpy as jnp

    from gla.envs import registry
    from gla.envs.wrappers import Projected, random_action

    plain = registry.make_functional(environment)
    fixed, own = Projected(plain, projection_seed=0), Projected(plain)
    task = fixed.sample_params(jax.random.key(2))
    actions = random_action(jax.random.key(3), fixed.action_space, (steps, ENVS))
    _, lowered = fixed.augmentation.map_action(fixed.parameters(task), None, actions)
    tasks = jax.jit(jax.vmap(own.sample_params))(jax.random.split(jax.random.key(2), ENVS))
    # One task for all; only the projections differ.
    tasks = tasks._replace(inner=task.inner)
    axes = jax.tree.map(lambda _: 0, tasks)._replace(inner=None)
    return [
        scan_program(PLAIN, plain, task.inner, jnp.asarray(lowered)),
        scan_program(PROJECTED, fixed, task, actions),
        scan_program(OWN, own, tasks, actions, axes),
    ]


def vector_programs(steps: int = 50) -> list[Program]:
    """Make the programs that step Pendulum through vector environments."""
    import gymnasium
    import numpy as np

    from gla.envs.gym_api import make_vector

    generator = np.random.default_rng(0)
    # In [-1, 1] for ours, in the simulator's own [-2, 2] for the others: the same torques.
    unit = generator.uniform(-1, 1, (steps, ENVS, 1)).astype(np.float32)
    wide = generator.uniform(-4, 4, (steps, ENVS, 16)).astype(np.float32)
    return [
        vector_program(
            "Gymnasium SyncVectorEnv",
            gymnasium.make_vec("Pendulum-v1", ENVS, vectorization_mode="sync"),
            2 * unit,
        ),
        vector_program("gla", make_vector("gla/Pendulum-v0", ENVS), unit),
        vector_program("gla, projected", make_vector("gla/Pendulum-Projected-v0", ENVS), wide),
        gymnax_program("gymnax in a scan", "Pendulum-v1", 2 * unit),
    ]


def family_programs(environment: str, steps: int) -> list[Program]:
    """Make the programs that step 1,024 different tasks of a family in a scan."""
    import jax

    from gla.envs import registry
    from gla.envs.wrappers import random_action

    env = registry.make_functional(environment)
    tasks = jax.jit(jax.vmap(env.sample_params))(jax.random.split(jax.random.key(2), FAMILY_ENVS))
    actions = random_action(jax.random.key(3), env.action_space, (steps, FAMILY_ENVS))
    torques = jax.random.uniform(jax.random.key(3), (steps, FAMILY_ENVS, 1), minval=-2, maxval=2)
    return [
        gymnax_program("gymnax Pendulum", "Pendulum-v1", torques),
        scan_program(environment, env, tasks, actions, 0),
    ]


def _projection(name: str, environment: str, steps: int, bound: float) -> Comparison:
    return Comparison(
        f"projection-{name}",
        f"What does a random projection add to {environment}, {ENVS} environments?",
        lambda: projection_programs(environment, steps),
        goals=(Goal(PROJECTED, "overhead", bound),),
    )


def _family(name: str, environment: str) -> Comparison:
    return Comparison(
        f"family-{name}",
        f"How fast are {FAMILY_ENVS:,} different tasks of {environment}?",
        lambda: family_programs(environment, 500),
        goals=(Goal(environment, "rate", 5e6),),
    )


COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        _projection("cartpole", "gla/CartPole-v0", 500, 0.15),
        _projection("pendulum", "gla/Pendulum-v0", 500, 0.15),
        _projection("brax-pendulum", "gla/BraxInvertedPendulum-v0", 50, 0.05),
        _projection("brax-ant", "gla/BraxAnt-v0", 10, 0.05),
        Comparison(
            "vector-pendulum",
            f"How fast is `gymnasium.make_vec` of Pendulum, {ENVS} environments?",
            vector_programs,
            goals=(Goal("gla", "speed", 20.0),),
        ),
        _family("linear", "gla/RandomLinear-v0"),
        _family("tabular", "gla/RandomTabular-v0"),
    )
}
