"""Normalising and augmenting wrappers for host environments.

They mirror the functional wrappers of `gla.envs.wrappers` and use the same functions
(`gla.normalization`, `gla.envs.augmentations`), so that both kinds show an agent the same thing.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from gla import projection as proj
from gla.envs.augmentations import (
    Augmentation,
    check_augmentation,
    check_seed,
    check_spaces,
    depth_of,
    host_parameters,
    noise_generator,
    sizes,
)
from gla.envs.base import is_discrete, observation_size
from gla.envs.checks import check_action, check_count
from gla.envs.host import VectorStep
from gla.envs.host_state import check_fits, random_words, set_random_words
from gla.envs.wrappers import projection_of
from gla.errors import GlaError
from gla.normalization import (
    OBSERVATION_CLIP,
    Statistics,
    normalize_observation,
    normalize_reward,
    statistics_of,
)


class _HostWrapper(VectorWrapper, abc.ABC):
    """Maps observations of each sub-environment, those of finished episodes in infos as well.

    Raises:
        GlaError: if episodes are reset in the step after the one that ends them.
    """

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.name = getattr(env, "name", type(env.unwrapped).__name__)
        if env.metadata.get("autoreset_mode") is AutoresetMode.NEXT_STEP:
            raise GlaError(
                f"{self.name} resets in the step after the one that ends an episode",
                "a reset in the same step",
                "make it with autoreset_mode=AutoresetMode.SAME_STEP",
            )
        self._steps = np.zeros(env.num_envs, np.int32)  # within each episode
        self._rows = np.arange(env.num_envs)
        self._seen: np.ndarray | None = None  # the last mapped observations

    def _set_observation_space(self, space: gymnasium.spaces.Box) -> None:
        self.single_observation_space = space
        self.observation_space = batch_space(space, self.num_envs)

    @abc.abstractmethod
    def _map(self, rows: np.ndarray, observation: np.ndarray) -> np.ndarray:
        """Map observations f32[r, n] of the sub-environments with numbers `rows`, i64[r]."""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; observations are mapped, but for those that a `reset_mask` leaves out."""
        rows = self._rows
        if options and "reset_mask" in options:
            rows = np.flatnonzero(options["reset_mask"])
        observations, infos = self.env.reset(seed=seed, options=options)
        self._steps[rows] = 0
        if self._seen is None or len(rows) == self.num_envs:
            rows = self._rows
            self._seen = np.empty(self.observation_space.shape or (), np.float32)
        self._seen[rows] = self._map(rows, observations[rows])
        return self._seen.copy(), infos

    def step(self, actions: Any) -> VectorStep:
        """Advance; observations and `infos["final_obs"]` are mapped."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._steps = np.where(terminated | truncated, 0, self._steps + 1)
        if "final_obs" in infos:
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(infos["_final_obs"]):
                final[i] = self._map(self._rows[i : i + 1], infos["final_obs"][i][None])[0]
            infos = {**infos, "final_obs": final}
        self._seen = self._map(self._rows, observations)
        return self._seen.copy(), rewards, terminated, truncated, infos

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all that sub-environments and wrappers keep, as `HostVectorEnv.get_state` does.

        Raises:
            GlaError: before the first reset.
            NotImplementedError: if something keeps what cannot be saved.
        """
        inner: Any = self.env
        if not hasattr(inner, "get_state"):
            raise NotImplementedError(f"the state of a {type(inner).__name__} cannot be saved")
        state = inner.get_state()
        return {**state, **{self._key(part): kept for part, kept in self._kept().items()}}

    def set_state(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Go to a state that `get_state` returned, as `HostVectorEnv.set_state` does.

        Returns:
            f32[m, n], the mapped observations from which the next actions are to be chosen.

        Raises:
            GlaError: if the state does not fit this environment.
            NotImplementedError: as `get_state`.
        """
        self.reset()
        expected = {self._key(part): kept for part, kept in self._kept().items()}
        own = {part: kept for part, kept in state.items() if part in expected}
        check_fits(self.name, own, expected)
        inner: Any = self.env
        if not hasattr(inner, "set_state"):
            raise NotImplementedError(f"the state of a {type(inner).__name__} cannot be saved")
        inner.set_state({part: kept for part, kept in state.items() if part not in expected})
        self._keep({part: np.array(own[self._key(part)]) for part in self._kept()})
        return np.array(self._seen)

    def _key(self, part: str) -> str:
        """Return the name of one of this wrapper's parts, apart from those of the inner ones."""
        depth, env = 0, self.env
        while isinstance(env, _HostWrapper):
            depth, env = depth + 1, env.env
        return f"wrapper{depth}_{part}"

    def _kept(self) -> dict[str, np.ndarray]:
        """Return copies of what this wrapper keeps from step to step."""
        if self._seen is None:
            raise GlaError(f"{self.name} has no state before its first reset", mend="call reset")
        return {"steps": self._steps.copy(), "seen": self._seen.copy()}

    def _keep(self, kept: Mapping[str, np.ndarray]) -> None:
        """Keep what `_kept` returned."""
        self._steps, self._seen = kept["steps"], kept["seen"]


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

    def _map(self, rows: np.ndarray, observation: np.ndarray) -> np.ndarray:
        statistics = jax.tree.map(lambda part: part[rows], self.statistics)
        return np.array(normalize_observation(statistics, observation), np.float32)  # type: ignore[arg-type]

    def step(self, actions: Any) -> VectorStep:
        """Advance; observations, `infos["final_obs"]` and rewards (f64[m]) are normalised."""
        observations, rewards, terminated, truncated, infos = super().step(actions)
        rewards = np.array(normalize_reward(self.statistics, rewards), np.float64)
        return observations, rewards, terminated, truncated, infos


class HostAugmented(_HostWrapper):
    """Shows each sub-environment through an augmentation (`gla.envs.augmentations`).

    Its functions run on numpy arrays here, which spares small steps the trip to a device. Where all
    sub-environments share a seed they are mapped as one batch. Noise of sub-environment i follows
    `reset(seed=s)` as that of a single environment follows `reset(seed=s + i)`.

    Attributes:
        augmentation: what is changed.
        parameters: what the augmentation drew, one per sub-environment, as numpy arrays.

    Args:
        env: a vector environment with SAME_STEP autoreset.
        augmentation: what to change.
        seeds: one seed per sub-environment, or one for all of them, instead of the
            augmentation's own.

    Raises:
        GlaError: if the augmentation does not fit, there are not as many seeds as
            sub-environments, or a draw has no seed; in `step`, if an action does not fit.
    """

    def __init__(
        self,
        env: VectorEnv,
        augmentation: Augmentation,
        seeds: int | Sequence[int] | None = None,
    ):
        super().__init__(env)
        # The number of augmentations inside, before this wrapper counts as one.
        self._depth = depth_of(env)
        self.augmentation = check_augmentation(augmentation)
        task = env.single_observation_space, env.single_action_space
        check_spaces(self.name, *task)
        observations, actions = augmentation.spaces(self.name, *task)  # type: ignore[arg-type]
        size, each = sizes(*task), self._one_seed_each(seeds)
        self.parameters = [host_parameters(augmentation, seed, *size) for seed in each]
        self._shared = len(set(each)) == 1 or not augmentation.random
        self._noise_size = augmentation.noise_size(size[0])
        self._generators = [noise_generator(None, self._depth) for _ in each]
        rest = augmentation.memory(task[1])
        # The memory's own axis comes first, then sub-environments.
        self._rest = None if rest is None else rest[:, None].repeat(self.num_envs, 1)
        self._memory = None if self._rest is None else self._rest.copy()
        self._set_observation_space(observations)
        self.single_action_space = actions
        self.action_space = batch_space(actions, self.num_envs)

    def _one_seed_each(self, seeds: Any) -> list[int | None]:
        """Return a seed for each sub-environment."""
        name = type(self.augmentation).__name__
        if seeds is None:
            return [self.augmentation.seed] * self.num_envs
        if isinstance(seeds, (int, np.integer)):
            seeds = [seeds] * self.num_envs
        if not isinstance(seeds, (Sequence, np.ndarray)) or len(seeds) != self.num_envs:
            raise GlaError(
                f"seeds of {name} are {seeds!r}",
                f"one whole number, or {self.num_envs}, one per sub-environment",
            )
        return [check_seed(name, seed) for seed in seeds]

    def _each(self, rows: np.ndarray, function: Any, *arrays: Any) -> np.ndarray:
        """Call `function(parameters, *arrays)` on all rows at once if they share a draw."""
        if self._shared:
            return np.asarray(function(self.parameters[0], *arrays))
        return np.stack(
            [function(self.parameters[i], *(a[j] for a in arrays)) for j, i in enumerate(rows)]
        )

    def _map(self, rows: np.ndarray, observation: np.ndarray) -> np.ndarray:
        arrays, size = [observation], self._noise_size
        if size:
            noise = [self._generators[i].standard_normal(size, np.float32) for i in rows]
            arrays.append(np.stack(noise))
        return self._each(rows, self.augmentation.map_observation, *arrays).astype(np.float32)

    def _map_actions(self, actions: np.ndarray) -> np.ndarray:
        function = self.augmentation.map_action
        if self._memory is None:
            return self._each(self._rows, lambda p, a: function(p, None, a)[1], actions)
        if self._shared:
            self._memory, actions = function(self.parameters[0], self._memory, actions)
            return actions
        pairs = [
            function(p, self._memory[:, i], action)
            for i, (p, action) in enumerate(zip(self.parameters, actions, strict=True))
        ]
        self._memory = np.stack([memory for memory, _ in pairs], 1)
        return np.stack([action for _, action in pairs])

    def _forget(self, rows: Any) -> None:
        """Start the memory of some sub-environments anew."""
        if self._memory is not None and self._rest is not None:
            self._memory = self._memory.copy()
            self._memory[:, rows] = self._rest[:, rows]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset; observations are mapped. A seed, or one each, also seeds the noise."""
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)), bool)
        self._forget(mask)
        whole = isinstance(seed, (int, np.integer))
        seeds = [seed + i for i in range(self.num_envs)] if whole else seed
        for i, one in enumerate(seeds or ()):
            if one is not None and mask[i]:
                self._generators[i] = noise_generator(one, self._depth)
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> VectorStep:
        """Advance under the mapped actions; observations and rewards (f64[m]) are mapped."""
        array = check_action(self.name, self.action_space, actions, self._steps + 1)
        observations, rewards, terminated, truncated, infos = super().step(self._map_actions(array))
        rewards = self._each(self._rows, self.augmentation.map_reward, np.asarray(rewards))
        self._forget(terminated | truncated)
        return observations, rewards.astype(np.float64), terminated, truncated, infos

    def _kept(self) -> dict[str, np.ndarray]:
        kept = super()._kept()
        kept["noise"] = np.stack([random_words(each) for each in self._generators])
        if self._memory is not None:
            kept["memory"] = np.array(self._memory)
        return kept

    def _keep(self, kept: Mapping[str, np.ndarray]) -> None:
        super()._keep(kept)
        for generator, words in zip(self._generators, kept["noise"], strict=True):
            set_random_words(generator, words)
        if "memory" in kept:
            self._memory = kept["memory"]


class HostProjected(HostAugmented):
    """Shows each sub-environment through a random projection of its own.

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
        super().__init__(env, projection_of(config, None), projection_seeds)


class AugmentedHostEnv(gymnasium.Env[np.ndarray, Any]):
    """One host environment through an augmentation (`gla.envs.augmentations`).

    It is an environment of its own rather than a Gymnasium wrapper, as `HostEnv` is.

    Attributes:
        augmentation: what is changed.
        parameters: what the augmentation drew, as numpy arrays.

    Args:
        env: the environment, such as a `HostEnv`.
        augmentation: what to change; its seed must be a whole number if it draws something.

    Raises:
        GlaError: if the augmentation does not fit, or a draw has no seed; in `step`, if an action
            does not fit.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, env: gymnasium.Env, augmentation: Augmentation):
        self._depth = depth_of(env)
        self.env, self.name = env, getattr(env, "name", type(env.unwrapped).__name__)
        self.metadata, self.render_mode = dict(env.metadata), env.render_mode
        self.distinct_tasks: float = getattr(env, "distinct_tasks", 1)
        self.augmentation = check_augmentation(augmentation)
        check_spaces(self.name, env.observation_space, env.action_space)
        self.observation_space, self.action_space = augmentation.spaces(
            self.name,
            env.observation_space,  # type: ignore[arg-type]
            env.action_space,
        )
        size = sizes(env.observation_space, env.action_space)
        self.parameters = host_parameters(augmentation, augmentation.seed, *size)
        self._noise_size = augmentation.noise_size(size[0])
        self._generator = noise_generator(None, self._depth)
        self._memory = augmentation.memory(env.action_space)
        self._steps = 0

    def _map(self, observation: np.ndarray) -> np.ndarray:
        noise = None
        if self._noise_size:
            noise = self._generator.standard_normal(self._noise_size, np.float32)
        mapped = self.augmentation.map_observation(self.parameters, observation, noise)
        return np.asarray(mapped, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; the observation is mapped. A seed also seeds the noise."""
        super().reset(seed=seed)
        if seed is not None:
            self._generator = noise_generator(seed, self._depth)
        self._steps, self._memory = 0, self.augmentation.memory(self.env.action_space)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._map(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under the mapped action; observation and reward are mapped."""
        self._steps += 1
        array = check_action(self.name, self.action_space, action, self._steps)
        self._memory, mapped = self.augmentation.map_action(self.parameters, self._memory, array)
        observation, reward, terminated, truncated, info = self.env.step(np.asarray(mapped))
        # In double precision, as rewards of vector environments are.
        seen = float(self.augmentation.map_reward(self.parameters, np.float64(reward)))
        return self._map(observation), seen, terminated, truncated, info

    def render(self) -> Any:
        """Render with the simulator."""
        return self.env.render()

    def close(self) -> None:
        """Close the simulator."""
        self.env.close()


class ProjectedHostEnv(AugmentedHostEnv):
    """One host environment through the random projection of a seed.

    Args:
        env: the environment, such as a `HostEnv`.
        config: dimensions and kind.
        projection_seed: seed of the projection.

    Raises:
        GlaError: if the task does not fit; in `step`, if an action does not.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        config: proj.ProjectionConfig | None = None,
        projection_seed: int = 0,
    ):
        super().__init__(env, projection_of(config, projection_seed))
