"""Meta-test: let an agent loose on tasks it has never seen, weights frozen (GLA, Algorithm 2).

Any agent meets any registered environment. A pure JAX agent on a functional environment runs as
one compiled scan; every other pairing runs in a loop over steps. Beside the agent run, by default,
its reward-masked twin (the same agent, shown zero rewards) and the null controllers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.agents.base import Agent
from gla.agents.lens import Lens, act_through
from gla.agents.nulls import null_controllers
from gla.benchmarks.results import AgentResult, Kind, Lifetime, Results
from gla.benchmarks.worlds import (
    FunctionalWorld,
    MetaTestConfig,
    World,
    agent_keys,
    make_lens,
    make_world,
    step_all,
)
from gla.envs import registry
from gla.envs.checks import check_action, check_finite
from gla.envs.wrappers import projected_spaces
from gla.errors import GlaError
from gla.packages import package_versions
from gla.progress import Progress

__all__ = [
    "MetaTestConfig",
    "Trace",
    "act_through",
    "lifetimes_of",
    "make_lens",
    "make_world",
    "meta_test",
    "run_agent",
]

CHUNK = 100  # steps in one dispatch of the compiled scan


class Trace(NamedTuple):
    """What happened: rewards f32[K, N], raw, and the steps at which episodes ended, bool[K, N]."""

    reward: np.ndarray
    done: np.ndarray


# The state is given up at each step, so that a model's cache is written in place, not copied.
_jitted_act_through = jax.jit(act_through, static_argnums=0, donate_argnums=3)
_keys_at = jax.jit(jax.vmap(jax.random.fold_in, (0, None)))


# The carry is given up, so that a model's cache is there once and written in place.
@functools.partial(jax.jit, static_argnames=("act", "env", "length"), donate_argnames="carry")
def _scan(carry, start, params, keys, lens, visible, act_keys, *, act, env, length):
    """Run `length` steps: the carry, and rewards, ends and soundness, each [length, N]."""

    def one(carry, number):
        env_state, seen, agent_state = carry
        drawn = _keys_at(act_keys, number)
        agent_state, action = act_through(act, lens, visible, agent_state, seen, drawn)
        env_state, ts = step_all(env, number, env_state, action, params, keys)
        sound = jnp.isfinite(ts.reward) & jnp.all(jnp.isfinite(ts.observation), -1)
        if jnp.issubdtype(action.dtype, jnp.floating):
            sound &= jnp.all(jnp.isfinite(action), -1)
        seen = (ts.observation, ts.reward, ts.terminated, ts.truncated)
        return (env_state, seen, agent_state), (ts.reward, ts.terminated | ts.truncated, sound)

    return jax.lax.scan(one, carry, start + jnp.arange(length))


def _first_sight(observation: Any) -> tuple[Any, Any, Any, Any]:
    rows = observation.shape[0]
    nothing = jnp.zeros(rows, bool)
    return jnp.asarray(observation), jnp.zeros(rows), nothing, nothing


@contextlib.contextmanager
def _blame(agent: Agent, world: World, when: Callable[[], str]) -> Iterator[None]:
    """Say in one line which agent failed, where and when, whatever it raised."""
    try:
        yield
    except GlaError as error:
        where = f"{agent.name!r} on {world.name}"
        raise GlaError(f"{where}, {when()}: {error.what}", error.expected, error.mend) from error
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        what = f"{agent.name!r} on {world.name}, {when()}, raised {type(error).__name__}"
        raise GlaError(f"{what}: {said} ({_place(error)})") from error


def _place(error: BaseException) -> str:
    """Return the file and line that raised, the last one that is in no installed package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f for f in frames if "site-packages" not in f.filename and not f.filename.startswith("<")
    ]
    frame = (own or frames)[-1]
    return f"{os.path.basename(frame.filename)}, line {frame.lineno}"


def _run_compiled(world: FunctionalWorld, agent, lens, visible, steps, keys, begin, tick) -> Trace:
    env_state, observation = world.start()
    seen = _first_sight(observation)
    state = begin()
    with _blame(agent, world, lambda: "at its first step"):
        _, action = jax.eval_shape(
            functools.partial(act_through, agent.act), lens, visible, state, seen, keys
        )
    expected = (world.rows, *(world.action_space.shape or ()))
    if action.shape != expected:
        raise GlaError(
            f"{world.name} was given actions of shape {action.shape} by {agent.name!r}",
            f"shape {expected}",
        )
    # The agent keeps its own weights, and no buffer may be given up twice.
    carry = jax.tree.map(jnp.copy, (env_state, seen, state))
    del env_state, seen, state  # a memory of thousands of lifetimes is not to be there twice
    rewards, ends, start = [], [], 0
    while start < steps:
        length = min(CHUNK, steps - start)
        carry, (reward, done, sound) = _scan(
            carry,
            start,
            world.params,
            world.keys.environment,
            lens,
            visible,
            keys,
            act=agent.act,
            env=world.env,
            length=length,
        )
        bad = np.argwhere(~np.asarray(sound))
        if len(bad):
            step, row = bad[0]
            raise GlaError(
                f"{world.name} met a value that is not finite at step {start + step} of lifetime "
                f"{world.numbers[row]} under {agent.name!r}",
                "finite observations, rewards and actions",
                "bound the environment or the agent's actions",
            )
        rewards.append(np.asarray(reward))
        ends.append(np.asarray(done))
        start += length
        tick(length)
    return Trace(np.concatenate(rewards), np.concatenate(ends))


def _run_loop(world: World, agent, lens, visible, steps, keys, begin, tick) -> Trace:
    act: Callable[..., tuple[Any, jax.Array]] = act_through
    state = begin()
    if agent.jittable:
        act = _jitted_act_through
        state = jax.tree.map(jnp.copy, state)  # the agent keeps its own weights
    rewards, ends = [], []
    try:
        actions = gymnasium.vector.utils.batch_space(world.action_space, world.rows)
        seen: tuple[Any, ...] = _first_sight(world.reset())
        for number in range(steps):
            drawn = _keys_at(keys, number)
            with _blame(agent, world, functools.partial("at step {}".format, number)):
                state, chosen = act(agent.act, lens, visible, state, seen, drawn)
                action = check_action(world.name, actions, chosen, number)
            shown = world.step(np.asarray(action))
            check_finite(world.name, number, shown[0], shown[1])
            # Strong float32, so that the compiled step sees one type from the first call on.
            seen = (shown[0], np.asarray(shown[1], np.float32), shown[2], shown[3])
            rewards.append(seen[1])
            ends.append(shown[2] | shown[3])
            tick(1)
    finally:
        close = getattr(agent, "close", None)
        if close is not None:
            close(state)
    return Trace(np.stack(rewards), np.stack(ends))


def run_agent(
    agent: Agent,
    world: World,
    config: MetaTestConfig,
    lens: Lens | None = None,
    masked: bool = False,
    steps: int | None = None,
    tick: Callable[[int], object] = lambda steps: None,
) -> Trace:
    """Run one agent for all lifetimes of a world.

    Args:
        agent: any `Agent`.
        world: where; it is reset first, so that every agent meets the same tasks.
        config: seed, and steps unless `steps` says otherwise.
        lens: how tasks are shown (`make_lens`), for agents with a view.
        masked: hide the rewards.
        steps: steps of a lifetime.
        tick: called with the number of steps done since the last call.

    Raises:
        GlaError: a value that is not finite, or an action that the environment does not take.
    """
    steps = steps or config.steps
    spaces: tuple[gymnasium.Space, gymnasium.Space]
    if lens is None or agent.view is None:
        spaces = world.observation_space, world.action_space
    else:
        spaces = projected_spaces(world.plain, agent.view.projection, world.name)
    visible = jnp.float32(0.0 if masked else 1.0)
    compiled = agent.jittable and isinstance(world, FunctionalWorld)
    how: Callable[..., Trace] = _run_compiled if compiled else _run_loop

    def begin() -> Any:  # how it is run decides how long the first state lives
        with _blame(agent, world, lambda: "before its first step"):
            return agent.init(agent_keys(config, "init"), world.rows, *spaces)

    return how(world, agent, lens, visible, steps, agent_keys(config, "act"), begin, tick)


def lifetimes_of(trace: Trace) -> tuple[Lifetime, ...]:
    """Cut a trace into whole episodes; a lifetime without one keeps its unfinished one."""
    result = []
    for row in range(trace.reward.shape[1]):
        ends = np.flatnonzero(trace.done[:, row]) + 1
        unfinished = len(ends) == 0
        bounds = np.concatenate([[0], ends]) if not unfinished else np.array([0, len(trace.reward)])
        # Sums in float64: a float32 sum of a thousand rewards depends on its order.
        totals = np.add.reduceat(trace.reward[:, row].astype(np.float64), bounds[:-1])
        if not unfinished:
            last = trace.reward[bounds[-2] : bounds[-1], row].astype(np.float64).sum()
            totals[-1] = last  # reduceat runs its last sum to the end of the trace
        # Nine digits tell any two float32 apart, and more would double the size of a file.
        returns = [float(f"{total:.9g}") for total in totals]
        result.append(Lifetime(tuple(returns), tuple(np.diff(bounds).tolist()), unfinished))
    return tuple(result)


class Stopwatch:
    """Times the steps of a run: how long all took, and how long one takes once compiled."""

    def __init__(self, tick: Callable[[int], object]):
        self._tick, self._began = tick, time.monotonic()
        self._last, self._parts = self._began, list[float]()

    def __call__(self, steps: int) -> None:
        """Note that some more steps are done."""
        now = time.monotonic()
        self._parts.append((now - self._last) / steps)
        self._last = now
        self._tick(steps)

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._began

    @property
    def step_seconds(self) -> float:
        """Median seconds of a step, without the first part, in which programs are compiled."""
        return float(np.median(self._parts[1:] or self._parts))


class _Run(NamedTuple):
    """One row of a results file that is to be made."""

    name: str
    kind: Kind
    agent: Agent
    masked: bool
    steps: int


def _runs(agent: Agent | None, config: MetaTestConfig, action_space: gymnasium.Space) -> list[_Run]:
    runs = []
    if agent is not None:
        runs.append(_Run(agent.name, "agent", agent, False, config.steps))
    if agent is not None and config.masked_twin:
        runs.append(_Run(f"{agent.name} (rewards masked)", "masked", agent, True, config.steps))
    if config.nulls:
        steps = min(config.null_steps or config.steps, config.steps)
        runs += [_Run(n.name, "null", n, False, steps) for n in null_controllers(action_space)]
    return runs


def _batches(config: MetaTestConfig, batch: int | None) -> list[MetaTestConfig]:
    """Cut the lifetimes of a test into tests of at most `batch` lifetimes."""
    size = batch or config.lifetimes
    stop = config.first + config.lifetimes
    return [
        dataclasses.replace(config, first=first, lifetimes=min(size, stop - first))
        for first in range(config.first, stop, size)
    ]


def meta_test(
    agent: Agent | None,
    config: MetaTestConfig,
    training_sources: tuple[str, ...] = (),
    details: dict[str, Any] | None = None,
    progress: bool = True,
    batch: int | None = None,
    suite: str = "",
    tick: Callable[[float, str], object] = lambda share, name: None,
) -> Results:
    """Test an agent, its reward-masked twin and the null controllers on one environment.

    Where tasks can be solved exactly and no expert is stored, the oracle is run beside the null
    controllers.

    Args:
        agent: any `Agent`; None runs the null controllers alone.
        config: on what and for how long.
        training_sources: environment ids that the agent was meta-trained on, for the record.
        details: more about the agent (its checkpoint, say), for the record.
        progress: show a progress bar.
        batch: lifetimes that run at once (None: all of them). It changes memory and speed; what
            happens in a lifetime it changes at most by the rounding of sums.
        suite: name of the suite that the test belongs to, for the record.
        tick: called with the share of all steps that was done since the last call, and by whom.

    Raises:
        GlaError: see `make_world`, `make_lens` and `run_agent`.
    """
    if batch is not None and batch < 1:
        raise GlaError(f"batch is {batch}", "a number >= 1, or none for all lifetimes at once")
    named = registry.resolve(config.environment)
    batches = _batches(config, batch)
    parts: dict[str, list[AgentResult]] = {}
    world = make_world(batches[0])
    try:
        runs = _runs(agent, config, world.action_space)
        total = config.lifetimes * sum(run.steps for run in runs)
        with Progress(f"meta-test on {named.id}", total, "steps", enabled=progress) as bar:
            for own in batches:
                if own is not batches[0]:
                    world.close()
                    world = make_world(own)
                lens = make_lens(world, agent.view, own) if agent and agent.view else None
                for run in runs:

                    def advance(steps: int, name: str = run.name, rows: int = own.lifetimes):
                        bar.advance(steps * rows, name)
                        tick(steps * rows / total, name)

                    part = _timed(run, world, own, lens, advance)
                    parts.setdefault(run.name, []).append(part)
                references = registry.references(config.environment)
                if config.nulls and "expert" not in references and has_oracle(world):
                    began = time.monotonic()
                    lives = solve(world, own.steps)
                    part = AgentResult("oracle", "expert", lives, time.monotonic() - began)
                    parts.setdefault(part.name, []).append(part)
    finally:
        world.close()
    view = dataclasses.asdict(agent.view) if agent and agent.view else None
    return Results(
        environment=named.id,
        split=config.split,
        seed=config.seed,
        steps=config.steps,
        lifetimes=config.lifetimes,
        agents=tuple(_joined(found) for found in parts.values()),
        references=registry.references(config.environment),
        config={
            "meta_test": dataclasses.asdict(config),
            "view": view,
            "batch": batch or config.lifetimes,
            **(details or {}),
        },
        packages=package_versions(),
        training_sources=training_sources,
        suite=suite,
    )


def _timed(
    run: _Run,
    world: World,
    config: MetaTestConfig,
    lens: Lens | None,
    tick: Callable[[int], object],
) -> AgentResult:
    watch = Stopwatch(tick)
    shown = None if run.kind == "null" else lens
    trace = run_agent(run.agent, world, config, shown, run.masked, run.steps, watch)
    lives = lifetimes_of(trace)
    return AgentResult(run.name, run.kind, lives, watch.seconds, watch.step_seconds)


def has_oracle(world: World) -> bool:
    """Return whether the tasks of a world can be solved exactly."""
    return isinstance(world, FunctionalWorld) and world.plain.has_oracle


def solve(world: World, steps: int) -> tuple[Lifetime, ...]:
    """Play the tasks of a world that has an oracle (`has_oracle`) with full knowledge of each."""
    assert isinstance(world, FunctionalWorld)
    return lifetimes_of(Trace(*(np.asarray(part) for part in world.solve(steps))))


def _joined(parts: list[AgentResult]) -> AgentResult:
    """Return the batches of one agent as one."""
    return dataclasses.replace(
        parts[0],
        lifetimes=tuple(life for part in parts for life in part.lifetimes),
        seconds=sum(part.seconds for part in parts),
        step_seconds=float(np.median([part.step_seconds for part in parts])),
    )
