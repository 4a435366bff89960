"""Every environment through Gymnasium's own interface: `gymnasium.make` and `make_vec`.

Functional environments become a `FunctionalEnv` or a `FunctionalVectorEnv`; host simulators are
Gymnasium environments already (`gla.envs.host`).
"""

from __future__ import annotations

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
from gla.envs.checks import check_action, check_count, check_finite
from gla.envs.splits import task_key
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError


def make_single(environment_id: str, **kwargs: Any) -> gymnasium.Env:
    """Build any registered environment as a single Gymnasium environment.

    Args:
        environment_id: an id of either kind.
        **kwargs: `task_seed` and `horizon` of `FunctionalEnv` for functional environments, the
            projection settings for projected ids, and the settings of the environment itself.

    Raises:
        GlaError: as `make_functional` and `make_host` of `gla.envs.registry`.
    """
    if registry.find(environment_id).kind == "host":
        return registry.make_host_single(environment_id, **kwargs)
    settings = {name: kwargs.pop(name) for name in ("task_seed", "horizon") if name in kwargs}
    return FunctionalEnv(registry.make_functional(environment_id, **kwargs), **settings)


def make_vector(environment_id: str, num_envs: int = 1, **kwargs: Any) -> VectorEnv:
    """Build any registered environment as a vector environment with SAME_STEP autoreset.

    Args:
        environment_id: an id of either kind.
        num_envs: number of sub-environments.
        **kwargs: as `make_single`, and `task_seeds` of `FunctionalVectorEnv`.

    Raises:
        GlaError: as `make_single`.
    """
    if registry.find(environment_id).kind == "host":
        return registry.make_host(environment_id, num_envs, **kwargs)
    names = ("task_seed", "task_seeds", "horizon")
    settings = {name: kwargs.pop(name) for name in names if name in kwargs}
    env = registry.make_functional(environment_id, **kwargs)
    return FunctionalVectorEnv(env, num_envs, **settings)


def _limited(env: Environment, horizon: int | None) -> Environment:
    """Apply a time limit unless one is in the chain of wrappers and no other is asked for."""
    inner: Any = env
    while horizon is None and inner is not None:
        if isinstance(inner, TimeLimit):
            return env
        inner = getattr(inner, "env", None)
    return TimeLimit(env, horizon)


def _draw_key(generator: np.random.Generator) -> jax.Array:
    """Draw a JAX key from Gymnasium's generator, which `reset(seed=...)` seeds."""
    return jax.random.key(int(generator.integers(2**31)))


def _check_seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise GlaError(f"task seed is {value!r}", "a whole number of at least 0")
    return int(value)


class FunctionalEnv(gymnasium.Env[np.ndarray, Any]):
    """A functional environment as a plain Gymnasium environment, jitted, with its time limit.

    The task is that of `task_seed` in the `test` split; `reset(seed=...)` seeds the episodes and
    `reset(options={"task_seed": n})` switches to another task from then on.

    Args:
        env: the environment.
        task_seed: which task of the family.
        horizon: steps after which an episode is truncated (default: the environment's own).

    Raises:
        GlaError: if the environment has no horizon and none is given, or a task seed is negative;
            in `step`, if an action does not fit or anything is not finite.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, env: Environment, task_seed: int = 0, horizon: int | None = None):
        limited = _limited(env, horizon)
        self.env, self.name = limited, env.name
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.task_seed = _check_seed(task_seed)
        self._params: Params | None = None  # drawn at the first reset, so that making is quick
        self._sample = jax.jit(limited.sample_params)
        self._reset = jax.jit(limited.reset)

        def step(key, count, state, action, params):
            return limited.step(jax.random.fold_in(key, count), state, action, params)

        self._step = jax.jit(step)
        self._state: Any = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: return its first observation, f32[n], and an empty info."""
        super().reset(seed=seed)
        task_seed = _check_seed((options or {}).get("task_seed", self.task_seed))
        if self._params is None or task_seed != self.task_seed:
            self._params = self._sample(task_key("test", task_seed))
            self.task_seed = task_seed
        reset_key, self._key = jax.random.split(_draw_key(self.np_random))
        self._state, observation = self._reset(reset_key, self._params)
        self._steps = 0
        array = np.array(observation, np.float32)
        check_finite(self.name, 0, array, None)
        return array, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under `action` (f32[k], or an integer for discrete actions)."""
        if self._state is None:
            raise GlaError(f"{self.name} was stepped before its first reset", mend="call reset")
        self._steps += 1
        array = check_action(self.name, self.action_space, action, self._steps)
        if np.issubdtype(array.dtype, np.integer):
            array = array.astype(np.int32)  # one compilation whatever integers come in
        self._state, ts = self._step(
            self._key, np.int32(self._steps), self._state, array, self._params
        )
        observation, reward = np.array(ts.observation, np.float32), float(ts.reward)
        check_finite(self.name, self._steps, observation, reward)
        return observation, reward, bool(ts.terminated), bool(ts.truncated), {}


class FunctionalVectorEnv(VectorEnv):
    """Many copies of a functional environment, vmapped and jitted, as a vector environment.

    Episodes end in a true reset within the same step (`AutoresetMode.SAME_STEP`); the last
    observation of a finished episode is in `infos["final_obs"]`, masked by `infos["_final_obs"]`
    as in Gymnasium. `reset` takes the options `task_seed`, `task_seeds` and `reset_mask`.

    Args:
        env: the environment.
        num_envs: m, number of sub-environments.
        task_seed: the task, of the `test` split, of all sub-environments.
        task_seeds: one task seed per sub-environment instead.
        horizon: steps after which an episode is truncated (default: the environment's own).

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
    ):
        self.num_envs = check_count("num_envs", num_envs)
        limited = Autoreset(_limited(env, horizon))
        self.env, self.name = limited, env.name
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = None
        self.single_observation_space = env.observation_space
        self.single_action_space = env.action_space
        self.observation_space = batch_space(env.observation_space, num_envs)
        self.action_space = batch_space(env.action_space, num_envs)
        self.task_seeds = self._check_seeds(
            [task_seed] * num_envs if task_seeds is None else task_seeds
        )
        self._params: Params | None = None
        # Drawn one by one: the same tasks, to the bit, as `FunctionalEnv`, and one compilation.
        self._sample = jax.jit(limited.sample_params)

        def reset(mask, keys, old, params):
            """Start episodes where `mask` is set; keep `old` elsewhere."""
            pairs = jax.vmap(jax.random.split)(keys)
            state, observation = jax.vmap(limited.reset)(pairs[:, 0], params)
            new = pairs[:, 1], jnp.zeros(num_envs, jnp.int32), state, observation
            if old is None:
                return new

            def pick(fresh, kept):
                return jnp.where(mask.reshape((-1,) + (1,) * (fresh.ndim - 1)), fresh, kept)

            return jax.tree.map(pick, new, old)

        def step_one(key, count, state, action, params):
            return limited.step(jax.random.fold_in(key, count + 1), state, action, params)

        def step(old, actions, params):
            keys, counts, state, _ = old
            state, ts = jax.vmap(step_one)(keys, counts, state, actions, params)
            return (keys, counts + 1, state, ts.observation), ts

        self._reset, self._step = jax.jit(reset), jax.jit(step)
        # (keys, steps since reset i32[m], states, last observations f32[m, n])
        self._current: Any = None
        self._steps = np.zeros(num_envs, np.int32)  # within each episode, for messages

    def _check_seeds(self, seeds: Sequence[int]) -> list[int]:
        if len(seeds) != self.num_envs:
            raise GlaError(
                f"there are {len(seeds)} task seeds for {self.num_envs} sub-environments",
                "one task seed per sub-environment",
            )
        return [_check_seed(seed) for seed in seeds]

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
            drawn = {s: self._sample(task_key("test", s)) for s in set(task_seeds)}
            self._params = jax.tree.map(lambda *t: jnp.stack(t), *(drawn[s] for s in task_seeds))
            self.task_seeds = task_seeds
        mask = np.asarray(options.get("reset_mask", np.ones(self.num_envs, bool)))
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise GlaError(
                f"reset_mask is {mask.dtype}{list(mask.shape)}", f"bool[{self.num_envs}]"
            )
        generators = (self.np_random if s is None else seeding.np_random(s)[0] for s in seeds)
        keys = jnp.stack([_draw_key(generator) for generator in generators])
        self._current = self._reset(mask, keys, self._current, self._params)
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
        self._current, ts = self._step(self._current, array, self._params)
        observation, final = np.array(ts.observation), np.array(ts.final_observation)
        reward = np.array(ts.reward, np.float64)
        terminated, truncated = np.array(ts.terminated), np.array(ts.truncated)
        check_finite(self.name, self._steps + 1, final, reward)
        done = terminated | truncated
        self._steps = np.where(done, 0, self._steps + 1)
        infos: dict[str, Any] = {}
        for i in np.flatnonzero(done):
            infos = self._add_info(infos, {"final_obs": final[i], "final_info": {}}, int(i))
        return observation, reward, terminated, truncated, infos
