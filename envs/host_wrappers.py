"""Normalising and projecting wrappers for host environments.

They mirror the functional wrappers of `gla.envs.wrappers` and use the same functions
(`gla.normalization`, `gla.projection`), so that both kinds show an agent the same thing.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from gla import projection as proj
from gla.envs.base import action_size, is_discrete, observation_size
from gla.envs.checks import check_action, check_count
from gla.envs.host import HostEnv, VectorStep
from gla.envs.wrappers import projected_spaces
from gla.errors import GlaError
from gla.normalization import (
    OBSERVATION_CLIP,
    Statistics,
    normalize_observation,
    normalize_reward,
    statistics_of,
)


class _HostWrapper(VectorWrapper, abc.ABC):
    """Maps observations of each sub-environment, those of finished episodes in infos as well."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.name = getattr(env, "name", type(env.unwrapped).__name__)
        self._steps = np.zeros(env.num_envs, np.int32)  # within each episode

    def _set_observation_space(self, space: gymnasium.spaces.Box) -> None:
        self.single_observation_space = space
        self.observation_space = batch_space(space, self.num_envs)

    @abc.abstractmethod
    def _map(self, index: Any, observation: np.ndarray) -> np.ndarray:
        """Map the observation of sub-environment `index`, or all of them for a slice."""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; observations are mapped."""
        mask = (options or {}).get("reset_mask", slice(None))
        observations, infos = self.env.reset(seed=seed, options=options)
        self._steps[mask] = 0
        return self._map(slice(None), observations), infos

    def step(self, actions: Any) -> VectorStep:
        """Advance; observations and `infos["final_obs"]` are mapped."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._steps = np.where(terminated | truncated, 0, self._steps + 1)
        if "final_obs" in infos:
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(infos["_final_obs"]):
                final[i] = self._map(i, infos["final_obs"][i])
            infos = {**infos, "final_obs": final}
        return self._map(slice(None), observations), rewards, terminated, truncated, infos


class HostNormalized(_HostWrapper):
    """Normalises each sub-environment by a short window of uniform random actions of its own.

    The window runs when the wrapper is made, with autoreset, as `gla.envs.wrappers.Normalized`
    does; then the environment is reset. Every sub-environment has statistics of its own, so that
    lifetimes stay independent: those of sub-environment i depend on `seed + i` alone, whatever the
    number of sub-environments.

    Attributes:
        statistics: `Statistics` as numpy arrays: f32[m, n], f32[m, n], f32[m].

    Args:
        env: a vector environment with SAME_STEP autoreset.
        window: number of steps of the window, per sub-environment.
        seed: seed of the window's episodes and actions.

    Raises:
        GlaError: if `window` is no whole number of at least 1.
    """

    def __init__(self, env: VectorEnv, window: int = 200, seed: int = 0):
        super().__init__(env)
        check_count("window", window)
        generators = [np.random.default_rng(seed + i) for i in range(env.num_envs)]
        space: Any = env.single_action_space
        drawn: list[np.ndarray]
        if is_discrete(space):
            drawn = [g.integers(0, int(space.n), window) for g in generators]
        else:
            shape = (window, *(space.shape or ()))
            drawn = [g.uniform(space.low, space.high, shape) for g in generators]
        first, _ = env.reset(seed=seed)
        observations, rewards = [first], []
        for actions in np.stack(drawn, 1):
            observation, reward, *_ = env.step(actions.astype(space.dtype))
            observations.append(observation)
            rewards.append(reward)
        measured = jax.vmap(statistics_of)(
            np.stack(observations, 1), np.stack(rewards, 1).astype(np.float32)
        )
        self.statistics: Statistics = jax.tree.map(np.asarray, measured)
        env.reset(seed=seed)
        self._set_observation_space(
            gymnasium.spaces.Box(
                -OBSERVATION_CLIP, OBSERVATION_CLIP, (observation_size(env),), np.float32
            )
        )

    def _map(self, index: Any, observation: np.ndarray) -> np.ndarray:
        rows = jax.tree.map(lambda part: part[index], self.statistics)
        return np.array(normalize_observation(rows, observation), np.float32)  # type: ignore[arg-type]

    def step(self, actions: Any) -> VectorStep:
        """Advance; observations, `infos["final_obs"]` and rewards (f64[m]) are normalised."""
        observations, rewards, terminated, truncated, infos = super().step(actions)
        rewards = np.array(normalize_reward(self.statistics, rewards), np.float64)
        return observations, rewards, terminated, truncated, infos


def host_projection(
    seed: int, config: proj.ProjectionConfig, observation_size: int, action_size: int
) -> proj.Projection:
    """Draw the projection of a seed, the same as `Projected(projection_seed=seed)`, as numpy."""
    drawn = proj.sample(jax.random.key(seed), config, observation_size, action_size)
    return jax.tree.map(np.asarray, drawn)


class HostProjected(_HostWrapper):
    """Shows each sub-environment through a random projection of its own.

    The functions of `gla.projection` run on numpy arrays here, which spares small steps the trip
    to a device.

    Attributes:
        projections: one `Projection` of numpy arrays per sub-environment.

    Args:
        env: a vector environment whose Box actions span [-1, 1].
        config: dimensions and kind.
        projection_seeds: one seed per sub-environment, or one for all of them.

    Raises:
        GlaError: if a task does not fit, or there are not as many seeds as sub-environments.
    """

    def __init__(
        self,
        env: VectorEnv,
        config: proj.ProjectionConfig | None = None,
        projection_seeds: int | Sequence[int] = 0,
    ):
        super().__init__(env)
        self.config = config or proj.ProjectionConfig()
        observations, actions = projected_spaces(env, self.config, self.name)
        seeds = projection_seeds
        if isinstance(seeds, (int, np.integer)):
            seeds = [int(seeds)] * env.num_envs
        if not isinstance(seeds, (Sequence, np.ndarray)) or len(seeds) != env.num_envs:
            raise GlaError(
                f"projection seeds are {seeds!r}",
                f"one whole number, or {env.num_envs}, one per sub-environment",
            )
        sizes = observation_size(env), action_size(env)
        drawn = {seed: host_projection(int(seed), self.config, *sizes) for seed in set(seeds)}
        self.projections = [drawn[seed] for seed in seeds]
        self._set_observation_space(observations)
        self.single_action_space = actions
        self.action_space = batch_space(actions, env.num_envs)

    def _map(self, index: Any, observation: np.ndarray) -> np.ndarray:
        if not isinstance(index, slice):
            return _project(self.projections[index], observation)
        return np.stack(
            [_project(p, o) for p, o in zip(self.projections, observation, strict=True)]
        )

    def step(self, actions: Any) -> VectorStep:
        """Advance under the lowered actions; observations and final observations are projected."""
        array = check_action(self.name, self.action_space, actions, self._steps + 1)
        pairs = zip(self.projections, array, strict=True)
        return super().step(np.stack([proj.lower_action(p, a) for p, a in pairs]))


def _project(projection: proj.Projection, observation: np.ndarray) -> np.ndarray:
    return np.asarray(proj.project_observation(projection, observation), np.float32)  # type: ignore[arg-type]


class ProjectedHostEnv(gymnasium.Env[np.ndarray, Any]):
    """One host environment through the random projection of a seed.

    Args:
        env: the environment, such as a `HostEnv`.
        config: dimensions and kind.
        projection_seed: seed of the projection.

    Raises:
        GlaError: if the task does not fit; in `step`, if an action does not.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        env: HostEnv,
        config: proj.ProjectionConfig | None = None,
        projection_seed: int = 0,
    ):
        self.env, self.name = env, env.name
        self.metadata, self.render_mode = dict(env.metadata), env.render_mode
        self.config = config or proj.ProjectionConfig()
        self.observation_space, self.action_space = projected_spaces(env, self.config, env.name)
        self.projection = host_projection(
            projection_seed, self.config, observation_size(env), action_size(env)
        )
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the observation f32[observation_dim] is projected."""
        super().reset(seed=seed)
        self._steps = 0
        observation, info = self.env.reset(seed=seed, options=options)
        return _project(self.projection, observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under the lowered action, f32[action_dim] or a slot."""
        self._steps += 1
        action = check_action(self.name, self.action_space, action, self._steps)
        observation, reward, terminated, truncated, info = self.env.step(
            np.asarray(proj.lower_action(self.projection, action))
        )
        return _project(self.projection, observation), reward, terminated, truncated, info

    def render(self) -> Any:
        """Render with the simulator."""
        return self.env.render()

    def close(self) -> None:
        """Close the simulator."""
        self.env.close()
