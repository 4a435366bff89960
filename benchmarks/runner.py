"""Meta-test: let an agent loose on tasks it has never seen, weights frozen (GLA, Algorithm 2).

Any agent meets any registered environment. A pure JAX agent on a functional environment runs as
one compiled scan; every other pairing runs in a loop over steps. Beside the agent run, by default,
its reward-masked twin (the same agent, shown zero rewards) and the null controllers.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.agents.base import Agent, View
from gla.agents.nulls import null_controllers
from gla.benchmarks.results import AgentResult, Lifetime, Results
from gla.envs import registry
from gla.envs.base import Environment, action_size, observation_size
from gla.envs.checks import check_action, check_finite
from gla.envs.host_wrappers import HostNormalized
from gla.envs.splits import Split, run_keys, step_key, task_key
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit, projected_spaces
from gla.errors import GlaError
from gla.normalization import Statistics, normalize_observation, normalize_reward
from gla.packages import package_versions
from gla.progress import Progress

CHUNK = 100  # steps in one dispatch of the compiled scan


@dataclass(frozen=True)
class MetaTestConfig:
    """On what, how often and for how long agents are tested.

    Attributes:
        environment: id of any registered environment.
        lifetimes: independent runs, each on a task (and projection) of its own.
        steps: environment steps of a lifetime.
        seed: seed of tasks, projections, episodes and actions.
        split: task split; `test` tasks are never trained on.
        masked_twin: also run the agent with its rewards hidden.
        nulls: also run the null controllers.
        null_steps: steps of a null controller's lifetime (None: as the agent's). Null controllers
            do not change, so fewer steps cost precision only.
    """

    environment: str = "gla/RandomLinear-v0"
    lifetimes: int = 32
    steps: int = 400
    seed: int = 0
    split: Split = "test"
    masked_twin: bool = True
    nulls: bool = True
    null_steps: int | None = None

    def __post_init__(self):
        for name in ("lifetimes", "steps"):
            if getattr(self, name) < 1:
                raise GlaError(f"meta-test {name} is {getattr(self, name)}", "a number >= 1")
        if self.null_steps is not None and self.null_steps < 1:
            raise GlaError(f"null_steps is {self.null_steps}", "a number >= 1")
        if not 0 <= self.seed < 2**31:
            raise GlaError(f"seed is {self.seed}", "a whole number from 0 to 2^31 - 1")


class Lens(NamedTuple):
    """How each of N lifetimes is shown: stacked normalisations and projections."""

    statistics: Statistics
    projection: proj.Projection


class Trace(NamedTuple):
    """What happened: rewards f32[K, N], raw, and the steps at which episodes ended, bool[K, N]."""

    reward: np.ndarray
    done: np.ndarray


def act_through(
    act: Callable[..., tuple[Any, jax.Array]],
    lens: Lens | None,
    visible: jax.Array | float,
    state: Any,
    seen: tuple[Any, Any, Any, Any],
    key: jax.Array,
) -> tuple[Any, jax.Array]:
    """Show one step of N tasks to an agent through its lens and bring its actions back.

    Args:
        act: the agent's `act`.
        lens: normalisation and projection, or None to show the task as it is.
        visible: 1 to show rewards, 0 to hide them.
        state: the agent's state.
        seen: raw (observation f32[N, n], reward f32[N], terminated bool[N], truncated bool[N]).
        key: random key.

    Returns:
        The agent's new state and task-space actions, f32[N, k] or i32[N].
    """
    observation, reward, terminated, truncated = seen
    if lens is not None:
        observation = normalize_observation(lens.statistics, observation)
        observation = jax.vmap(proj.project_observation)(lens.projection, observation)
        reward = normalize_reward(lens.statistics, reward)
    state, action = act(state, observation, reward * visible, terminated, truncated, key)
    if lens is not None:
        action = jax.vmap(proj.lower_action)(lens.projection, action)
    return state, action


# The state is given up at each step, so that a model's cache is written in place, not copied.
_jitted_act_through = jax.jit(act_through, static_argnums=0, donate_argnums=3)


class FunctionalWorld:
    """N lifetimes on a functional environment.

    Args:
        env: the bare environment.
        config: number of lifetimes, seed and split.
    """

    def __init__(self, env: Environment, config: MetaTestConfig):
        self.bare, self.name, self.rows = env, env.name, config.lifetimes
        self.env = Autoreset(TimeLimit(env))
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.keys = jax.vmap(lambda i: run_keys(task_key(config.split, config.seed, i)))(
            jnp.arange(self.rows)
        )
        self.params = jax.jit(jax.vmap(env.sample_params))(self.keys.task)
        self._reset = jax.jit(
            lambda: jax.vmap(lambda k, p: self.env.reset(step_key(k, -1, 0), p))(
                self.keys.environment, self.params
            )
        )
        self._step = jax.jit(functools.partial(_env_step, self.env))

    def statistics(self, window: int) -> Statistics:
        """Measure every task by a window of random actions."""
        measure = Normalized(self.bare, window).measure
        return jax.jit(jax.vmap(measure))(self.keys.window, self.params).statistics

    def reset(self) -> np.ndarray:
        """Start every lifetime: f32[N, n]."""
        self._state, observation = self._reset()
        self._number = 0
        return np.asarray(observation)

    def step(self, action: Any) -> tuple[np.ndarray, ...]:
        """Advance every lifetime: (observation, reward, terminated, truncated)."""
        self._state, ts = self._step(
            self._number, self._state, jnp.asarray(action), self.params, self.keys.environment
        )
        self._number += 1
        parts = (ts.observation, ts.reward, ts.terminated, ts.truncated)
        return tuple(np.asarray(part) for part in parts)

    def close(self):
        """Nothing to give back."""


def _env_step(env: Environment, number, state, action, params, environment_keys):
    keys = jax.vmap(lambda k: step_key(k, number, 0))(environment_keys)
    return jax.vmap(env.step)(keys, state, action, params)


class HostWorld:
    """N lifetimes on copies of a host simulator.

    Args:
        id: environment id.
        config: number of lifetimes, seed and split.
        **settings: of the simulator.
    """

    def __init__(self, id: str, config: MetaTestConfig, **settings: Any):
        self.name, self.rows = id, config.lifetimes
        tasks = [task_key(config.split, config.seed, i) for i in range(self.rows)]
        self.env = registry.make_host(id, config.lifetimes, task_keys=tasks, **settings)
        self.observation_space = self.env.single_observation_space
        self.action_space = self.env.single_action_space
        # Seeds of different splits are far apart, as the keys of tasks are.
        draw = jax.random.randint(task_key(config.split, config.seed), (), 0, 2**30)
        self.seed = int(draw)

    def statistics(self, window: int) -> Statistics:
        """Measure every copy by a window of random actions."""
        return HostNormalized(self.env, window, self.seed).statistics

    def reset(self) -> np.ndarray:
        """Start every lifetime: f32[N, n]."""
        observation, _ = self.env.reset(seed=self.seed + 1)
        return observation

    def step(self, action: Any) -> tuple[np.ndarray, ...]:
        """Advance every lifetime: (observation, reward, terminated, truncated)."""
        return self.env.step(np.asarray(action))[:4]

    def close(self):
        """Close the simulators."""
        self.env.close()


World = FunctionalWorld | HostWorld


# The carry is given up, so that a model's cache is there once and written in place.
@functools.partial(jax.jit, static_argnames=("act", "env", "length"), donate_argnames="carry")
def _scan(carry, start, params, keys, lens, visible, agent_key, *, act, env, length):
    """Run `length` steps: the carry, and rewards, ends and soundness, each [length, N]."""

    def one(carry, number):
        env_state, seen, agent_state = carry
        key = jax.random.fold_in(agent_key, number)
        agent_state, action = act_through(act, lens, visible, agent_state, seen, key)
        env_state, ts = _env_step(env, number, env_state, action, params, keys)
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


def _run_compiled(world: FunctionalWorld, agent, lens, visible, steps, key, state, tick) -> Trace:
    seen = _first_sight(world.reset())
    _, action = jax.eval_shape(
        functools.partial(act_through, agent.act), lens, visible, state, seen, key
    )
    expected = (world.rows, *(world.action_space.shape or ()))
    if action.shape != expected:
        raise GlaError(
            f"{world.name} was given actions of shape {action.shape} by {agent.name!r}",
            f"shape {expected}",
        )
    # The agent keeps its own weights, and no buffer may be given up twice.
    carry = jax.tree.map(jnp.copy, (world._state, seen, state))
    del seen, state  # a memory of thousands of lifetimes is not to be there twice
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
            key,
            act=agent.act,
            env=world.env,
            length=length,
        )
        sound = np.asarray(sound)
        if not sound.all():
            step, row = np.argwhere(~sound)[0]
            raise GlaError(
                f"{world.name} met a value that is not finite at step {start + step} of lifetime "
                f"{row} under {agent.name!r}",
                "finite observations, rewards and actions",
                "bound the environment or the agent's actions",
            )
        rewards.append(np.asarray(reward))
        ends.append(np.asarray(done))
        start += length
        tick(length)
    return Trace(np.concatenate(rewards), np.concatenate(ends))


def _run_loop(world: World, agent, lens, visible, steps, key, state, tick) -> Trace:
    act: Callable[..., tuple[Any, jax.Array]] = act_through
    if agent.jittable:
        act = _jitted_act_through
        state = jax.tree.map(jnp.copy, state)  # the agent keeps its own weights
    actions = gymnasium.vector.utils.batch_space(world.action_space, world.rows)
    seen: tuple[Any, ...] = _first_sight(world.reset())
    rewards, ends = [], []
    for number in range(steps):
        state, action = act(
            agent.act, lens, visible, state, tuple(seen), jax.random.fold_in(key, number)
        )
        seen = world.step(check_action(world.name, actions, action, number))
        check_finite(world.name, number, seen[0], seen[1])
        # Strong float32, so that the compiled step sees one type from the first call on.
        seen = (seen[0], np.asarray(seen[1], np.float32), seen[2], seen[3])
        rewards.append(seen[1])
        ends.append(seen[2] | seen[3])
        tick(1)
    return Trace(np.stack(rewards), np.stack(ends))


def make_world(config: MetaTestConfig, **settings: Any) -> World:
    """Build the lifetimes of a meta-test on an environment of either kind.

    Args:
        config: on what, and how many.
        **settings: of the environment's factory.

    Raises:
        GlaError: if the id is unknown or projected, or a setting does not fit.
    """
    spec = registry.find(config.environment)
    if spec.projected:
        raise GlaError(
            f"{config.environment} is already projected",
            "a plain id",
            "agents that live in agent space are given projections of their own",
        )
    if spec.kind == "functional":
        return FunctionalWorld(registry.make_functional(spec.id, **settings), config)
    return HostWorld(spec.id, config, **settings)


def make_lens(world: World, view: View, config: MetaTestConfig) -> Lens:
    """Measure every task and draw a projection for every lifetime.

    Raises:
        GlaError: if the task does not fit into the agent's space.
    """
    projected_spaces(world.bare if isinstance(world, FunctionalWorld) else world.env,
                     view.projection, world.name)  # fmt: skip

    def draw(index):
        key = run_keys(task_key(config.split, config.seed, index)).agent
        space = world.bare if isinstance(world, FunctionalWorld) else world.env
        return proj.sample(
            jax.random.fold_in(key, 0), view.projection, observation_size(space), action_size(space)
        )

    projection = jax.vmap(draw)(jnp.arange(world.rows))
    return Lens(jax.tree.map(jnp.asarray, world.statistics(view.window)), projection)


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
    key = jax.random.fold_in(task_key(config.split, config.seed), 2**31 - 1)
    spaces: tuple[gymnasium.Space, gymnasium.Space]
    if lens is None or agent.view is None:
        spaces = world.observation_space, world.action_space
    else:
        env = world.bare if isinstance(world, FunctionalWorld) else world.env
        spaces = projected_spaces(env, agent.view.projection, world.name)
    visible = jnp.float32(0.0 if masked else 1.0)
    compiled = agent.jittable and isinstance(world, FunctionalWorld)
    how: Callable[..., Trace] = _run_compiled if compiled else _run_loop
    # No name for the first state here: how it is run decides how long it lives.
    return how(
        world, agent, lens, visible, steps, jax.random.fold_in(key, 1),
        agent.init(jax.random.fold_in(key, 0), world.rows, *spaces), tick,
    )  # fmt: skip


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
        result.append(Lifetime(tuple(totals.tolist()), tuple(np.diff(bounds).tolist()), unfinished))
    return tuple(result)


def meta_test(
    agent: Agent,
    config: MetaTestConfig,
    training_sources: tuple[str, ...] = (),
    details: dict[str, Any] | None = None,
    progress: bool = True,
) -> Results:
    """Test an agent, its reward-masked twin and the null controllers on one environment.

    Args:
        agent: any `Agent`.
        config: on what and for how long.
        training_sources: environment ids that the agent was meta-trained on, for the record.
        details: more about the agent (its checkpoint, say), for the record.
        progress: show a progress bar.

    Raises:
        GlaError: see `make_world`, `make_lens` and `run_agent`.
    """
    spec = registry.find(config.environment)
    world = make_world(config)
    lens = None if agent.view is None else make_lens(world, agent.view, config)
    nulls = null_controllers(world.action_space) if config.nulls else []
    null_steps = min(config.null_steps or config.steps, config.steps)
    total = config.steps * (2 if config.masked_twin else 1) + null_steps * len(nulls)
    results = []
    with Progress(f"meta-test on {spec.id}", total * world.rows, "steps", enabled=progress) as bar:

        def run(name, kind, agent, lens, masked, steps):
            began = time.monotonic()
            trace = run_agent(
                agent, world, config, lens, masked, steps,
                tick=lambda n: bar.advance(n * world.rows, name),
            )  # fmt: skip
            seconds = time.monotonic() - began
            results.append(AgentResult(name, kind, lifetimes_of(trace), seconds))

        try:
            run(agent.name, "agent", agent, lens, False, config.steps)
            if config.masked_twin:
                name = f"{agent.name} (rewards masked)"
                run(name, "masked", agent, lens, True, config.steps)
            for null in nulls:
                run(null.name, "null", null, None, False, null_steps)
        finally:
            world.close()
    view = None if agent.view is None else dataclasses.asdict(agent.view)
    return Results(
        environment=spec.id,
        split=config.split,
        seed=config.seed,
        steps=config.steps,
        lifetimes=config.lifetimes,
        agents=tuple(results),
        references=registry.references(spec.id),
        config={"meta_test": dataclasses.asdict(config), "view": view, **(details or {})},
        packages=package_versions(),
        training_sources=training_sources,
    )
