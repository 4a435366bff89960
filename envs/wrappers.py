"""Wrappers that turn one functional environment into another.

Each is again an `Environment`, so they compose; order from the inside out is usually
`TimeLimit`, `Normalized`, `Projected`, `Autoreset`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.envs.base import (
    Environment,
    Params,
    State,
    Timestep,
    action_size,
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
    """Passes everything through to the wrapped environment `env`."""

    def __init__(self, env: Environment):
        self.env = env
        self.name = env.name
        self.horizon = env.horizon
        self.observation_space = env.observation_space
        self.action_space = env.action_space

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


class ProjectedParams(NamedTuple):
    """Params of the wrapped environment and one sampled projection."""

    inner: Params
    projection: proj.Projection


def projected_spaces(
    env: Any, config: proj.ProjectionConfig, name: str
) -> tuple[gymnasium.spaces.Box, gymnasium.Space]:
    """Return the (observation, action) spaces of `env` seen through a projection.

    Raises:
        GlaError: if an observation or action is larger than the projection takes.
    """
    proj.check_sizes(config, observation_size(env), action_size(env), name)
    observations = gymnasium.spaces.Box(-np.inf, np.inf, (config.observation_dim,), np.float32)
    space = getattr(env, "single_action_space", None) or env.action_space
    if is_discrete(space):
        return observations, gymnasium.spaces.Discrete(config.action_dim)
    # Task actions are clipped by the task, so agent actions need no tighter bound than this.
    bound = float(np.sqrt(config.action_dim))
    return observations, gymnasium.spaces.Box(-bound, bound, (config.action_dim,), np.float32)


class Projected(Wrapper):
    """Shows the task through a random projection (`gla.projection`).

    Args:
        env: the environment; its Box actions should span [-1, 1].
        config: dimensions and kind.
        projection_seed: if given, `sample_params` always uses the projection of this seed;
            otherwise each sampled task gets a projection of its own.
    """

    def __init__(
        self,
        env: Environment,
        config: proj.ProjectionConfig | None = None,
        projection_seed: int | None = None,
    ):
        super().__init__(env)
        self.config = config or proj.ProjectionConfig()
        self.projection_seed = projection_seed
        self.observation_space, self.action_space = projected_spaces(env, self.config, env.name)

    def sample_params(self, key: jax.Array) -> ProjectedParams:
        """Draw a task and a projection."""
        task_key, projection_key = jax.random.split(key)
        if self.projection_seed is not None:
            projection_key = jax.random.key(self.projection_seed)
        projection = proj.sample(
            projection_key, self.config, observation_size(self.env), action_size(self.env)
        )
        return ProjectedParams(self.env.sample_params(task_key), projection)

    def reset(self, key: jax.Array, params: ProjectedParams) -> tuple[State, jax.Array]:
        """Start an episode; the observation is projected."""
        state, observation = self.env.reset(key, params.inner)
        return state, proj.project_observation(params.projection, observation)

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: ProjectedParams
    ) -> tuple[State, Timestep]:
        """Advance under the lowered action; observations are projected."""
        action = proj.lower_action(params.projection, action)
        state, ts = self.env.step(key, state, action, params.inner)
        return state, ts._replace(
            observation=proj.project_observation(params.projection, ts.observation),
            final_observation=proj.project_observation(params.projection, ts.final_observation),
        )
