"""Every environment through Gymnasium's own interface: `gymnasium.make` and `make_vec`.

Functional environments become a `FunctionalEnv` or a `FunctionalVectorEnv`; host simulators are
Gymnasium environments already (`gla.envs.host`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gla.envs import registry
from gla.envs.base import Environment, Params
from gla.envs.checks import check_action, check_count, check_finite, check_task_seed
from gla.envs.splits import task_key
from gla.envs.vectorized import limited, stack_tasks, step_batch
from gla.errors import GlaError, near_matches

RENDER_MODES = ("rgb_array",)
RENDER_FPS = 30


def make_single(environment_id: str, **kwargs: Any) -> gymnasium.Env:
    """Build any registered environment as a single Gymnasium environment.

    Args:
        environment_id: an id of either kind.
        **kwargs: `task_seed`, `horizon` and `render_mode` of `FunctionalEnv` for functional
            environments, `augmentations`, the projection settings for projected ids, and the
            settings of the environment itself.

    Raises:
        GlaError: as `make_functional` and `make_host_single` of `gla.envs.registry`.
    """
    if registry.find(environment_id).kind == "host":
        return registry.make_host_single(environment_id, **kwargs)
    settings = _take(kwargs, "task_seed", "horizon", "render_mode")
    return FunctionalEnv(registry.make_functional(environment_id, **kwargs), **settings)


def make_vector(environment_id: str, num_envs: int = 1, **kwargs: Any) -> VectorEnv:
    """Build any registered environment as a vector environment with SAME_STEP autoreset.

    Args:
        environment_id: an id of either kind.
        num_envs: number of sub-environments.
        **kwargs: as `make_single`; and `task_seeds`, one task seed per sub-environment.

    Raises:
        GlaError: as `make_single`, and if there are not as many task seeds as sub-environments.
    """
    if registry.find(environment_id).kind == "host":
        if "task_seed" in kwargs:
            kwargs = {"task_seeds": kwargs.pop("task_seed"), **kwargs}
        return registry.make_host(environment_id, num_envs, **kwargs)
    settings = _take(kwargs, "task_seed", "task_seeds", "horizon", "render_mode")
    env = registry.make_functional(environment_id, **kwargs)
    return FunctionalVectorEnv(env, num_envs, **settings)


def _take(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    """Take those of the named settings that are there out of `kwargs`."""
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def _draw_seed(generator: np.random.Generator) -> np.int32:
    """Draw the seed of an episode from Gymnasium's generator, which `reset(seed=...)` seeds."""
    return np.int32(generator.integers(2**31))


def _episode_keys(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the key of an episode's reset and that of its steps, from its seed i32[]."""
    reset_key, steps_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
    return reset_key, steps_key


def _rendering(env: Environment, render_mode: str | None) -> dict[str, Any]:
    """Return the metadata of an environment once its render mode is known to fit.

    Raises:
        GlaError: if there is no such render mode, or the environment cannot be drawn.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise GlaError(
            f"render_mode is {render_mode!r}{near_matches(str(render_mode), RENDER_MODES)}",
            "rgb_array, or None to draw nothing",
        )
    if render_mode is not None and not env.can_render:
        raise GlaError(
            f"{env.name} has no pictures, but render_mode is {render_mode!r}",
            "an environment whose `can_render` is true",
            "leave render_mode out",
        )
    modes = list(RENDER_MODES) if env.can_render else []
    return {"render_modes": modes, "render_fps": RENDER_FPS}


def _check_can_render(name: str, render_mode: str | None, state: Any) -> None:
    if render_mode is None:
        raise GlaError(
            f"{name} was made without a render mode", mend="make it with render_mode='rgb_array'"
        )
    if state is None:
        raise GlaError(f"{name} was rendered before its first reset", mend="call reset")


class FunctionalEnv(gymnasium.Env[np.ndarray, Any]):
    """A functional environment as a plain Gymnasium environment, jitted, with its time limit.

    The task is that of `task_seed` in the `test` split; `reset(seed=...)` seeds the episodes and
    `reset(options={"task_seed": n})` switches to another task from then on.

    Args:
        env: the environment.
        task_seed: which task of the family.
        horizon: steps after which an episode is truncated (default: the environment's own).
        render_mode: `rgb_array`, where the environment can be drawn, or None.

    Raises:
        GlaError: if the environment has no horizon and none is given, a task seed is negative, or
            the render mode does not fit; in `step`, if an action does not fit, anything is not
            finite, or the episode is over.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self,
        env: Environment,
        task_seed: int = 0,
        horizon: int | None = None,
        render_mode: str | None = None,
    ):
        world = limited(env, horizon)
        self.env, self.name = world, env.name
        self.metadata, self.render_mode = _rendering(env, render_mode), render_mode
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.task_seed = check_task_seed(task_seed)
        self._params: Params | None = None  # drawn at the first reset, so that making is quick
        self._sample = jax.jit(world.sample_params)

        def reset(seed, params):
            reset_key, steps_key = _episode_keys(seed)
            state, observation = world.reset(reset_key, params)
            return steps_key, state, observation

        def step(key, count, state, action, params):
            return world.step(jax.random.fold_in(key, count), state, action, params)

        self._reset, self._step = jax.jit(reset), jax.jit(step)
        self._key: Any = None
        self._state: Any = None
        self._steps = 0
        self._over = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: return its first observation, f32[n], and an empty info."""
        super().reset(seed=seed)
        task_seed = check_task_seed((options or {}).get("task_seed", self.task_seed))
        if self._params is None or task_seed != self.task_seed:
            self._params = self._sample(task_key("test", task_seed))
            self.task_seed = task_seed
        seed_now = _draw_seed(self.np_random)
        self._key, self._state, observation = self._reset(seed_now, self._params)
        self._steps, self._over = 0, False
        array = np.array(observation, np.float32)
        check_finite(self.name, 0, array, None)
        return array, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under `action` (f32[k], or an integer for discrete actions)."""
        if self._state is None:
            raise GlaError(f"{self.name} was stepped before its first reset", mend="call reset")
        if self._over:
            raise GlaError(
                f"{self.name} was stepped after its episode ended at step {self._steps}",
                mend="call reset",
            )
        array = check_action(self.name, self.action_space, action, self._steps + 1)
        if np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int32)  # one compilation whatever integers come in
        self._steps += 1
        self._state, ts = self._step(
            self._key, np.int32(self._steps), self._state, array, self._params
        )
        observation, reward = np.array(ts.observation, np.float32), float(ts.reward)
        check_finite(self.name, self._steps, observation, reward)
        terminated, truncated = bool(ts.terminated), bool(ts.truncated)
        self._over = terminated or truncated
        return observation, reward, terminated, truncated, {}

    def render(self) -> np.ndarray:
        """Draw the current state: uint8[height, width, 3].

        Raises:
            GlaError: without a render mode, or before the first reset.
        """
        _check_can_render(self.name, self.render_mode, self._state)
        return self.env.render(self._state, self._params)


class FunctionalVectorEnv(VectorEnv):
    """Many copies of a functional environment, vmapped and jitted, as a vector environment.

    Episodes end in a true reset within the same step (`AutoresetMode.SAME_STEP`); the last
    observation of a finished episode is in `infos["final_obs"]`, masked by `infos["_final_obs"]`
    as in Gymnasium. `reset` takes the options `task_seed`, `task_seeds` and `reset_mask`.

    A step is one dispatch. Resets are computed, and final observations fetched, only where some
    episode ended (`gla.envs.vectorized`).

    Args:
        env: the environment.
        num_envs: m, number of sub-environments.
        task_seed: the task, of the `test` split, of all sub-environments.
        task_seeds: one task seed per sub-environment instead.
        horizon: steps after which an episode is truncated (default: the environment's own).
        render_mode: `rgb_array`, where the environment can be drawn, or None.

    Raises:
        GlaError: as `FunctionalEnv`, and if there are not as many task seeds as sub-environments.
    """

    def __init__(
        self,
        env: Environment,
        num_envs: int,
        task_seed: int = 0,
        task_seeds: Sequence[int] | None = None,
        horizon: int | None = None,
        render_mode: str | None = None,
    ):
        self.num_envs = check_count("num_envs", num_envs)
        world = limited(env, horizon)
        self.env, self.name = world, env.name
        self.metadata = {
            **_rendering(env, render_mode),
            "autoreset_mode": AutoresetMode.SAME_STEP,
        }
        self.render_mode = render_mode
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.task_seeds = self._check_seeds(
            [task_seed] * num_envs if task_seeds is None else task_seeds
        )
        # Drawn one by one: the same tasks, to the bit, as `FunctionalEnv`, and one compilation.
        self._sample = jax.jit(world.sample_params)
        self._params: Params | None = None
        self._axes: Any = None
        self._programs: dict[tuple[int | None, ...], tuple[Any, Any, Any]] = {}
        # Keys of the steps as numbers u32[m, 2]; JAX is slower with key arrays between calls.
        self._keys: Any = None
        # (steps since reset i32[m], states, last observations f32[m, n])
        self._current: Any = None
        self._steps = np.zeros(num_envs, np.int32)  # within each episode, for messages

    def _set_tasks(self, task_seeds: list[int]) -> None:
        """Draw tasks, and compile for which of their parts are shared (`stack_tasks`)."""
        drawn = {seed: self._sample(task_key("test", seed)) for seed in set(task_seeds)}
        self._params, self._axes = stack_tasks([drawn[seed] for seed in task_seeds])
        self.task_seeds = task_seeds
        shared = tuple(jax.tree.leaves(self._axes, is_leaf=lambda axis: axis is None))
        if shared not in self._programs:
            self._programs[shared] = _programs(self.env, self.num_envs, self._axes)
        self._reset, self._step, self._pick = self._programs[shared]

    def _check_seeds(self, seeds: Sequence[int]) -> list[int]:
        if len(seeds) != self.num_envs:
            raise GlaError(
                f"there are {len(seeds)} task seeds for {self.num_envs} sub-environments",
                "one task seed per sub-environment",
            )
        return [check_task_seed(seed) for seed in seeds]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes: return observations f32[m, n] and an empty info.

        Args:
            seed: an integer (sub-environment i gets `seed + i`), one per sub-environment, or None.
            options: `task_seed` or `task_seeds` switch tasks; `reset_mask`, bool[m], resets only
                some sub-environments.
        """
        options = options or {}
        if seed is None or isinstance(seed, (int, np.integer)):
            super().reset(seed=None if seed is None else int(seed))
            seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
            if len(seeds) != self.num_envs:
                raise GlaError(f"there are {len(seeds)} seeds", f"one number, or {self.num_envs}")
        if "task_seed" in options:
            options = {**options, "task_seeds": [options["task_seed"]] * self.num_envs}
        task_seeds = self._check_seeds(options.get("task_seeds", self.task_seeds))
        if self._params is None or task_seeds != self.task_seeds:
            self._set_tasks(task_seeds)
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise GlaError(
                f"reset_mask is {mask.dtype}{list(mask.shape)}", f"bool[{self.num_envs}]"
            )
        generators = (self.np_random if s is None else seeding.np_random(s)[0] for s in seeds)
        drawn = np.stack([_draw_seed(generator) for generator in generators])
        old = None if self._current is None else (self._keys, *self._current)
        self._keys, *current = self._reset(mask, drawn, old, self._params)
        self._current = tuple(current)
        self._steps[mask] = 0
        observation = np.array(self._current[-1], np.float32)
        check_finite(self.name, 0, observation, None)
        return observation, {}

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Advance all sub-environments.

        Args:
            actions: f32[m, k], or integers [m] for discrete actions.

        Returns:
            Observations f32[m, n] (the first of a new episode where one ended), rewards f64[m],
            terminated bool[m], truncated bool[m], infos.
        """
        if self._current is None:
            raise GlaError(f"{self.name} was stepped before its first reset", mend="call reset")
        array = check_action(self.name, self.action_space, actions, self._steps + 1)
        if np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int32)
        self._current, packed, final = self._step(self._current, self._keys, array, self._params)
        # One array, so one trip from the device: observations, rewards, terminated, truncated.
        host, m = np.asarray(packed), self.num_envs
        ends = host[-2 * m :].reshape(2, m) > 0
        observation = host[: -3 * m].reshape(self.observation_space.shape).copy()
        reward = host[-3 * m : -2 * m].astype(np.float64)
        self._steps += 1
        terminated, truncated = ends
        infos = {}
        if ends.any():
            infos = self._finish(terminated | truncated, np.array(final))
        if not np.isfinite(host).all():
            check_finite(self.name, self._steps, observation, reward)
        return observation, reward, terminated, truncated, infos

    def _finish(self, done: np.ndarray, final: np.ndarray) -> dict[str, Any]:
        """Return the infos of a step in which the episodes of `done` ended, as Gymnasium does."""
        check_finite(self.name, self._steps, final, None)
        self._steps[done] = 0
        last = np.full(self.num_envs, None, object)
        last[done] = np.fromiter(final[done], object)
        return {
            "final_obs": last,
            "_final_obs": done,
            "final_info": {},
            "_final_info": done.copy(),
        }

    def render(self) -> tuple[np.ndarray, ...]:
        """Draw every sub-environment: uint8[height, width, 3] each.

        Raises:
            GlaError: without a render mode, or before the first reset.
        """
        _check_can_render(self.name, self.render_mode, self._current)
        pick = functools.partial(self._pick, self._current[1], self._params)
        return tuple(self.env.render(*pick(i)) for i in range(self.num_envs))


def _programs(env: Environment, num_envs: int, axes: Any) -> tuple[Any, Any, Any]:
    """Return the jitted (reset, step, pick) of a batch whose params have these axes."""

    def reset(mask, seeds, old, params):
        """Start episodes where `mask` is set; keep `old` elsewhere."""
        reset_keys, steps_keys = jax.vmap(_episode_keys)(seeds)
        state, observation = jax.vmap(env.reset, in_axes=(0, axes))(reset_keys, params)
        new = jax.random.key_data(steps_keys), jnp.zeros(num_envs, jnp.int32), state, observation
        if old is None:
            return new

        def keep(fresh, kept):
            return jnp.where(mask.reshape((-1,) + (1,) * (fresh.ndim - 1)), fresh, kept)

        return jax.tree.map(keep, new, old)

    def step(old, key_data, actions, params):
        counts, states, _ = old
        keys = jax.random.wrap_key_data(key_data, impl="threefry2x32")

        def step_keys():
            return jax.vmap(jax.random.fold_in)(keys, counts + 1)

        states, ts = step_batch(env, step_keys, states, actions, params, axes)
        parts = (ts.observation, ts.reward, ts.terminated, ts.truncated)
        packed = jnp.concatenate([part.astype(jnp.float32).reshape(-1) for part in parts])
        return (counts + 1, states, ts.observation), packed, ts.final_observation

    def pick(states, params, i):
        """Return the state and params of sub-environment i."""
        leaves, structure = jax.tree.flatten(params)
        flat_axes = jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)
        own = [leaf if a is None else leaf[i] for leaf, a in zip(leaves, flat_axes, strict=True)]
        return jax.tree.map(lambda leaf: leaf[i], states), jax.tree.unflatten(structure, own)

    return jax.jit(reset), jax.jit(step), jax.jit(pick)
