"""Wrappers that turn one functional environment into another.

Each is again an `Environment`, so they compose; order from the inside out is usually
`TimeLimit`, `Normalized`, `Augmented` (or `Projected`), `Autoreset`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.envs.augmentations import (
    Augmentation,
    Memory,
    Parameters,
    RandomProjection,
    check_augmentation,
    depth_of,
    fixed_parameters,
    noise_key,
    per_task,
    sizes,
    task_parameters,
)
from gla.envs.base import (
    Environment,
    Params,
    Solution,
    State,
    Timestep,
    is_discrete,
    observation_size,
)
from gla.errors import GlaError
from gla.normalization import (
    OBSERVATION_CLIP,
    Statistics,
    normalize_observation,
    normalize_reward,
    statistics_of,
)


class Wrapper(Environment):
    """Passes everything through to the wrapped environment `env`.

    Pictures and oracles are those of the wrapped environment, which is given its own state and
    params: a wrapper that adds to them overrides `inner_state` and `inner_params`.
    """

    def __init__(self, env: Environment):
        self.env = env
        self.name = env.name
        self.horizon = env.horizon
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.distinct_tasks = env.distinct_tasks
        self.can_render = env.can_render
        self.has_oracle = env.has_oracle

    def inner_state(self, state: State) -> State:
        """Return the wrapped environment's part of a state."""
        return state

    def inner_params(self, params: Params) -> Params:
        """Return the wrapped environment's part of the params."""
        return params

    def sample_params(self, key: jax.Array) -> Params:
        """Draw a task of the wrapped family."""
        return self.env.sample_params(key)

    def reset(self, key: jax.Array, params: Params) -> tuple[State, jax.Array]:
        """Start an episode of the wrapped environment."""
        return self.env.reset(key, params)

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[State, Timestep]:
        """Advance the wrapped environment."""
        return self.env.step(key, state, action, params)

    def render(self, state: State, params: Params) -> np.ndarray:
        """Draw the wrapped environment, outside of jit: uint8[height, width, 3].

        Raises:
            GlaError: if it cannot be drawn.
        """
        if not self.can_render:
            return super().render(state, params)
        return self.env.render(self.inner_state(state), self.inner_params(params))

    def solve(self, params: Params) -> Solution:
        """Solve the wrapped task.

        Raises:
            GlaError: if there is no oracle.
        """
        if not self.has_oracle:
            return super().solve(params)
        return self.env.solve(self.inner_params(params))

    def best_action(self, solution: Solution, state: State, params: Params) -> jax.Array:
        """Return the best action of the wrapped task.

        Raises:
            GlaError: if there is no oracle.
        """
        if not self.has_oracle:
            return super().best_action(solution, state, params)
        return self.env.best_action(solution, self.inner_state(state), self.inner_params(params))


class TimeLimitState(NamedTuple):
    """Inner state and the number of steps taken in this episode, i32[]."""

    inner: State
    steps: jax.Array


class TimeLimit(Wrapper):
    """Truncates an episode after `horizon` steps (default: the environment's own horizon)."""

    def __init__(self, env: Environment, horizon: int | None = None):
        super().__init__(env)
        limit = env.horizon if horizon is None else horizon
        if limit is None or limit < 1:
            raise GlaError(
                f"{env.name} has an episode length of {env.horizon} and horizon is {horizon}",
                "a whole number of steps, at least 1",
            )
        self.limit = self.horizon = limit

    def inner_state(self, state: TimeLimitState) -> State:
        """Return the state without the count of steps."""
        return state.inner

    def reset(self, key: jax.Array, params: Params) -> tuple[TimeLimitState, jax.Array]:
        """Start an episode at step 0."""
        inner, observation = self.env.reset(key, params)
        return TimeLimitState(inner, jnp.zeros((), jnp.int32)), observation

    def step(
        self, key: jax.Array, state: TimeLimitState, action: jax.Array, params: Params
    ) -> tuple[TimeLimitState, Timestep]:
        """Advance; `truncated` is set at the limit unless the task ended by itself there."""
        inner, ts = self.env.step(key, state.inner, action, params)
        steps = state.steps + 1
        truncated = ts.truncated | ((steps >= self.limit) & ~ts.terminated)
        return TimeLimitState(inner, steps), ts._replace(truncated=truncated)


class Autoreset(Wrapper):
    """Starts a new episode, truly reset with a fresh key, in the step that ends one.

    `observation` is then the first of the new episode, `final_observation` the last of the old.
    """

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[State, Timestep]:
        """Advance, then reset where the episode ended."""
        step_key, reset_key = jax.random.split(key)
        state, ts = self.env.step(step_key, state, action, params)
        done = ts.terminated | ts.truncated
        fresh_state, fresh_observation = self.env.reset(reset_key, params)

        def pick(fresh, old):
            # Reset must not change dtypes or weak types, or every caller compiles twice.
            return jnp.where(done, jax.lax.convert_element_type(fresh, old.dtype), old)

        state = jax.tree.map(pick, fresh_state, state)
        observation = pick(fresh_observation, ts.observation)
        return state, ts._replace(observation=observation, final_observation=ts.observation)


def random_action(key: jax.Array, space: Any, shape: tuple[int, ...] = ()) -> jax.Array:
    """Draw uniform actions of a Box (f32[*shape, k]) or Discrete (i32[*shape]) space."""
    if is_discrete(space):
        return jax.random.randint(key, shape, 0, space.n)
    low, high = jnp.asarray(space.low), jnp.asarray(space.high)
    return jax.random.uniform(key, (*shape, *space.shape), minval=low, maxval=high)


class NormalizedParams(NamedTuple):
    """Params of the wrapped environment and the statistics of that task."""

    inner: Params
    statistics: Statistics


class Normalized(Wrapper):
    """Normalises observations and rewards of each task by a short random-policy window.

    The window is measured in `sample_params`, before the first episode: `window` steps of uniform
    actions with autoreset. The same statistics therefore exist for a task never seen before.

    Args:
        env: the environment.
        window: number of steps of the window.
    """

    def __init__(self, env: Environment, window: int = 200):
        super().__init__(env)
        self.window = window
        n = observation_size(env)
        self.observation_space = gymnasium.spaces.Box(
            -OBSERVATION_CLIP, OBSERVATION_CLIP, (n,), np.float32
        )

    def inner_params(self, params: NormalizedParams) -> Params:
        """Return the params without the statistics."""
        return params.inner

    def sample_params(self, key: jax.Array) -> NormalizedParams:
        """Draw a task and measure its statistics."""
        task_key, window_key = jax.random.split(key)
        return self.measure(window_key, self.env.sample_params(task_key))

    def measure(self, key: jax.Array, params: Params) -> NormalizedParams:
        """Attach statistics to a task that was drawn elsewhere."""
        limited = self.env if self.env.horizon is None else TimeLimit(self.env)
        env = Autoreset(limited)
        reset_key, scan_key = jax.random.split(key)
        state, first = env.reset(reset_key, params)

        def body(carry, key):
            state = carry
            action_key, step_key = jax.random.split(key)
            action = random_action(action_key, env.action_space)
            state, ts = env.step(step_key, state, action, params)
            return state, (ts.observation, ts.reward)

        _, (observations, rewards) = jax.lax.scan(
            body, state, jax.random.split(scan_key, self.window)
        )
        observations = jnp.concatenate([first[None], observations])
        return NormalizedParams(params, statistics_of(observations, rewards))

    def reset(self, key: jax.Array, params: NormalizedParams) -> tuple[State, jax.Array]:
        """Start an episode; the observation is normalised."""
        state, observation = self.env.reset(key, params.inner)
        return state, normalize_observation(params.statistics, observation)

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: NormalizedParams
    ) -> tuple[State, Timestep]:
        """Advance; observation and reward are normalised."""
        state, ts = self.env.step(key, state, action, params.inner)
        return state, ts._replace(
            observation=normalize_observation(params.statistics, ts.observation),
            final_observation=normalize_observation(params.statistics, ts.final_observation),
            reward=normalize_reward(params.statistics, ts.reward),
        )


class AugmentedParams(NamedTuple):
    """Params of the wrapped environment and what the augmentation drew for this task.

    Attributes:
        inner: params of the wrapped environment.
        augmentation: the drawn parameters, or () where the augmentation has a seed or draws
            nothing: then they belong to the environment and are constants of the program, the same
            for every task and shared by all rows of a vmapped batch.
    """

    inner: Params
    augmentation: Parameters = ()


class AugmentedState(NamedTuple):
    """State of the wrapped environment and the augmentation's memory of the episode."""

    inner: State
    memory: Memory


class Augmented(Wrapper):
    """Shows the task through an augmentation (`gla.envs.augmentations`).

    The task of a key is that of the bare environment, whatever the augmentation. The inner
    environment gets the same keys too, so that an episode can be replayed without the augmentation.

    A fixed seed is also the fast way: 256 environments in a jitted scan then share one constant
    projection, which XLA folds into their step, where `seed=None` reads a map for each of them.

    Args:
        env: the environment; with `Autoreset` inside or outside.
        augmentation: what to change.

    Raises:
        GlaError: if the augmentation does not fit the environment.
    """

    def __init__(self, env: Environment, augmentation: Augmentation):
        super().__init__(env)
        self.augmentation = check_augmentation(augmentation)
        self.observation_space, self.action_space = augmentation.spaces(
            env.name, env.observation_space, env.action_space
        )
        self.depth = depth_of(env)
        if per_task(augmentation):
            self.distinct_tasks = env.distinct_tasks * augmentation.distinct(*self._sizes)
        self.has_oracle = env.has_oracle and augmentation.keeps_optimum

    @property
    def _sizes(self) -> tuple[int, int]:
        return sizes(self.env.observation_space, self.env.action_space)

    def inner_state(self, state: AugmentedState) -> State:
        """Return the state without the memory."""
        return state.inner

    def inner_params(self, params: AugmentedParams) -> Params:
        """Return the params without the augmentation's."""
        return params.inner

    def parameters(self, params: AugmentedParams) -> Parameters:
        """Return the augmentation's parameters in force: the task's own, or those of its seed."""
        if jax.tree.leaves(params.augmentation):
            return params.augmentation
        return jax.tree.map(jnp.asarray, fixed_parameters(self.augmentation, *self._sizes))

    def sample_params(self, key: jax.Array) -> AugmentedParams:
        """Draw the task of the wrapped environment, and the augmentation where it has no seed."""
        inner = self.env.sample_params(key)
        if not per_task(self.augmentation):
            return AugmentedParams(inner)
        return AugmentedParams(
            inner, task_parameters(self.augmentation, key, *self._sizes, self.depth)
        )

    def reset(self, key: jax.Array, params: AugmentedParams) -> tuple[AugmentedState, jax.Array]:
        """Start an episode with a fresh memory; the observation is mapped."""
        inner, observation = self.env.reset(key, params.inner)
        seen = self.augmentation.map_observation(
            self.parameters(params), observation, self._noise(noise_key(key, self.depth))
        )
        return AugmentedState(inner, self._fresh_memory()), seen

    def step(
        self, key: jax.Array, state: AugmentedState, action: jax.Array, params: AugmentedParams
    ) -> tuple[AugmentedState, Timestep]:
        """Advance under the mapped action; observations and reward are mapped.

        The memory starts anew where the episode ended, should an `Autoreset` inside have begun
        another.
        """
        augmentation, parameters = self.augmentation, self.parameters(params)
        memory, action = augmentation.map_action(parameters, state.memory, jnp.asarray(action))
        inner, ts = self.env.step(key, state.inner, action, params.inner)
        done = ts.terminated | ts.truncated
        memory = jax.tree.map(
            lambda fresh, old: jnp.where(done, fresh, old), self._fresh_memory(), memory
        )
        key = noise_key(key, self.depth)
        noise = self._noise(key)
        observation = final = augmentation.map_observation(parameters, ts.observation, noise)
        if ts.final_observation is not ts.observation:  # one traced value is mapped once
            last = self._noise(jax.random.fold_in(key, 1))
            noise = jax.tree.map(lambda a, b: jnp.where(done, a, b), last, noise)
            final = augmentation.map_observation(parameters, ts.final_observation, noise)
        return AugmentedState(inner, memory), ts._replace(
            observation=observation,
            final_observation=final,
            reward=augmentation.map_reward(parameters, ts.reward),
        )

    def _fresh_memory(self) -> Memory:
        return jax.tree.map(jnp.asarray, self.augmentation.memory(self.env.action_space))

    def _noise(self, key: jax.Array) -> jax.Array | None:
        size = self.augmentation.noise_size(self._sizes[0])
        return jax.random.normal(key, (size,), jnp.float32) if size else None


def projected_spaces(
    env: Any, config: proj.ProjectionConfig, name: str
) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
    """Return the (observation, action) spaces of `env` seen through a projection.

    Raises:
        GlaError: if an observation or action is larger than the projection takes.
    """
    return projection_of(config, None).spaces(
        name,
        getattr(env, "single_observation_space", None) or env.observation_space,
        getattr(env, "single_action_space", None) or env.action_space,
    )


def projection_of(config: proj.ProjectionConfig | None, seed: int | None) -> RandomProjection:
    """Return the augmentation of a projection's settings (None: the defaults) and its seed."""
    config = config or proj.ProjectionConfig()
    return RandomProjection(config.observation_dim, config.action_dim, config.kind, seed=seed)


class Projected(Augmented):
    """Shows the task through a random projection (`gla.projection`).

    Args:
        env: the environment; its Box actions should span [-1, 1].
        config: dimensions and kind.
        projection_seed: if given, all tasks are seen through the projection of this seed;
            otherwise each sampled task gets a projection of its own.

    Raises:
        GlaError: if the task is larger than the projection.
    """

    def __init__(
        self,
        env: Environment,
        config: proj.ProjectionConfig | None = None,
        projection_seed: int | None = None,
    ):
        super().__init__(env, projection_of(config, projection_seed))
