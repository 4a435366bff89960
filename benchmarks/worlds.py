"""Where agents are tested: many lifetimes on one environment, of either kind.

Lifetime `i` of a seed is always the same task, projection, episodes and random numbers, so that
lifetimes may run all at once, in batches, or one of them again on its own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.agents.base import View
from gla.agents.lens import Lens
from gla.envs import registry
from gla.envs.base import Environment, action_size, observation_size
from gla.envs.host_wrappers import HostNormalized
from gla.envs.splits import RunKeys, Split, run_keys, step_key, task_key
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit, projected_spaces
from gla.errors import GlaError
from gla.normalization import Statistics

MOST_LIFETIMES = 2**20

# What an agent's random numbers of a lifetime are for.
_PURPOSES = ("projection", "init", "act")


@dataclass(frozen=True)
class MetaTestConfig:
    """On what, how often and for how long agents are tested.

    Attributes:
        environment: id of any registered environment, with options if need be, such as
            `gla/SupervisedBandit-v0?dataset=mnist` (`gla.envs.registry.split_options`).
        lifetimes: independent runs, each on a task (and projection) of its own.
        steps: environment steps of a lifetime.
        seed: seed of tasks, projections, episodes and actions.
        first: number of the first lifetime; the others follow it.
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
    first: int = 0
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
        if not 0 <= self.first <= MOST_LIFETIMES - self.lifetimes:
            raise GlaError(
                f"lifetimes {self.first:,} to {self.first + self.lifetimes - 1:,} were asked for",
                f"numbers from 0 to {MOST_LIFETIMES - 1:,}",
            )

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of the lifetimes, i64[lifetimes]."""
        return np.arange(self.first, self.first + self.lifetimes)


def agent_keys(config: MetaTestConfig, purpose: Literal["projection", "init", "act"]) -> jax.Array:
    """Return the keys of one purpose, key[lifetimes], each from the number of its lifetime."""

    def one(number: jax.Array) -> jax.Array:
        key = run_keys(task_key(config.split, config.seed, number)).agent
        return jax.random.fold_in(key, _PURPOSES.index(purpose))

    return jax.vmap(one)(jnp.asarray(config.numbers))


@functools.lru_cache(maxsize=16)
def _functional(id: str) -> tuple[Environment, Environment]:
    """Return an environment, bare and as it is run; one object, so that programs compile once."""
    env = registry.make_functional(id)
    return env, Autoreset(TimeLimit(env))


@functools.partial(jax.jit, static_argnums=0)
def _sample_params(env: Environment, keys: jax.Array) -> Any:
    return jax.vmap(env.sample_params)(keys)


@functools.partial(jax.jit, static_argnums=0)
def _reset(env: Environment, keys: jax.Array, params: Any) -> Any:
    return jax.vmap(lambda k, p: env.reset(step_key(k, -1, 0), p))(keys, params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(env: Environment, window: int, keys: jax.Array, params: Any) -> Statistics:
    return jax.vmap(Normalized(env, window).measure)(keys, params).statistics


def step_all(env: Environment, number: Any, state: Any, action: Any, params: Any, keys: Any) -> Any:
    """Advance N lifetimes by one step; `keys` are those of their environments, key[N]."""
    drawn = jax.vmap(lambda k: step_key(k, number, 0))(keys)
    return jax.vmap(env.step)(drawn, state, action, params)


_step = jax.jit(step_all, static_argnums=0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solve(env: Environment, steps: int, keys: jax.Array, params: Any) -> Any:
    solution = jax.vmap(env.solve)(params)

    def one(state: Any, number: jax.Array) -> tuple[Any, Any]:
        action = jax.vmap(env.best_action)(solution, state, params)
        state, ts = step_all(env, number, state, action, params, keys)
        return state, (ts.reward, ts.terminated | ts.truncated)

    state, _ = _reset(env, keys, params)
    return jax.lax.scan(one, state, jnp.arange(steps))[1]


class FunctionalWorld:
    """N lifetimes on a functional environment.

    Args:
        bare: the bare environment.
        env: the same as it is run, with time limit and autoreset.
        config: which lifetimes.
    """

    def __init__(self, bare: Environment, env: Environment, config: MetaTestConfig):
        self.plain, self.env, self.name, self.rows = bare, env, bare.name, config.lifetimes
        self.numbers = config.numbers
        self.observation_space, self.action_space = bare.observation_space, bare.action_space
        self.keys: RunKeys = jax.vmap(
            lambda i: run_keys(task_key(config.split, config.seed, i))
        )(jnp.asarray(config.numbers))  # fmt: skip
        self.params = _sample_params(bare, self.keys.task)

    def statistics(self, window: int) -> Statistics:
        """Measure every task by a window of random actions."""
        return _measure(self.plain, window, self.keys.window, self.params)

    def start(self) -> tuple[Any, jax.Array]:
        """Return the first states and observations, f32[N, n]."""
        return _reset(self.env, self.keys.environment, self.params)

    def reset(self) -> np.ndarray:
        """Start every lifetime: f32[N, n]."""
        self._state, observation = self.start()
        self._number = 0
        return np.asarray(observation)

    def step(self, action: Any) -> tuple[np.ndarray, ...]:
        """Advance every lifetime: (observation, reward, terminated, truncated)."""
        action = jnp.asarray(action)
        self._state, ts = _step(
            self.env, self._number, self._state, action, self.params, self.keys.environment
        )
        self._number += 1
        parts = (ts.observation, ts.reward, ts.terminated, ts.truncated)
        return tuple(np.asarray(part) for part in parts)

    def solve(self, steps: int) -> tuple[jax.Array, jax.Array]:
        """Play with full knowledge of every task: (rewards f32[T, N], ends of episodes bool[T, N]).

        The environment must have an oracle (`Environment.solve`).
        """
        return _solve(self.env, steps, self.keys.environment, self.params)

    def close(self):
        """Nothing to give back."""


class HostWorld:
    """N lifetimes on copies of a host simulator.

    Args:
        id: environment id.
        config: which lifetimes.
        **settings: of the simulator.
    """

    def __init__(self, id: str, config: MetaTestConfig, **settings: Any):
        self.name, self.rows, self.numbers = id, config.lifetimes, config.numbers
        tasks = [task_key(config.split, config.seed, int(i)) for i in config.numbers]
        self.env = registry.make_host(id, config.lifetimes, task_keys=tasks, **settings)
        self.plain = self.env
        self.observation_space = self.env.single_observation_space
        self.action_space = self.env.single_action_space
        # Seeds of different splits are far apart, as the keys of tasks are. A copy's seed is this
        # one plus its place.
        draw = jax.random.randint(task_key(config.split, config.seed), (), 0, 2**30)
        self.seed = int(draw) + config.first

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


def make_world(config: MetaTestConfig, **settings: Any) -> World:
    """Build the lifetimes of a meta-test on an environment of either kind.

    Args:
        config: on what, and how many.
        **settings: of the environment's factory.

    Raises:
        GlaError: if the id is unknown or projected, or a setting does not fit.
    """
    spec, options, _ = registry.resolve(config.environment)
    settings = {**options, **settings}
    if spec.projected:
        raise GlaError(
            f"{config.environment} is already projected",
            "a plain id",
            "agents that live in agent space are given projections of their own",
        )
    if spec.kind == "functional":
        if not settings:
            return FunctionalWorld(*_functional(spec.id), config)
        env = registry.make_functional(spec.id, **settings)
        return FunctionalWorld(env, Autoreset(TimeLimit(env)), config)
    return HostWorld(spec.id, config, **settings)


def make_lens(world: World, view: View, config: MetaTestConfig) -> Lens:
    """Measure every task and draw a projection for every lifetime.

    Raises:
        GlaError: if the task does not fit into the agent's space.
    """
    env = world.plain
    projected_spaces(env, view.projection, world.name)
    sizes = observation_size(env), action_size(env)
    keys = agent_keys(config, "projection")
    projection = jax.vmap(lambda key: proj.sample(key, view.projection, *sizes))(keys)
    statistics = jax.tree.map(jnp.asarray, world.statistics(view.window))
    return Lens(statistics, projection, jnp.asarray(view.projection.logarithmic))
