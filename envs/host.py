"""Host simulators (MuJoCo, DeepMind Control) as Gymnasium vector environments.

They run in C on the CPU, outside JAX, and are never wrapped in a callback: whoever drives an
environment takes either kind. No simulator is imported before one is asked for.

`HostNormalized` and `HostProjected` mirror the functional wrappers of `gla.envs.wrappers` and use
their functions and those of `gla.projection`, so that both kinds show an agent the same thing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from gla import projection as proj
from gla.envs.base import action_size, is_discrete, observation_size
from gla.envs.wrappers import (
    OBSERVATION_CLIP,
    Statistics,
    normalize_observation,
    normalize_reward,
    projected_spaces,
    statistics_of,
)
from gla.errors import GlaError, near_matches

# Observations f32[m, n], rewards f64[m], terminated bool[m], truncated bool[m], infos.
VectorStep = tuple[Any, Any, Any, Any, dict[str, Any]]

# Ant-v5 reports 78 contact forces by default; without them it has the 27 numbers of Ant-v4.
DEFAULTS: dict[str, dict[str, Any]] = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}


def check_finite(name: str, step: Any, observation: Any, reward: Any, action: Any = None) -> None:
    """Raise if anything that an environment was given or gave is NaN or infinite.

    Args:
        name: the environment, for the message.
        step: number of the step within the episode, or one number per sub-environment i32[m].
        observation: f32[n] or f32[m, n], or None to skip it.
        reward: a float or f32[m], or None to skip it.
        action: f32[k] or f32[m, k], or any integers, or None to skip it.

    Raises:
        GlaError: naming the environment, what was not finite, its value and its step.
    """
    checks = (("action", action, 1), ("observation", observation, 1), ("reward", reward, 0))
    for what, value, single_ndim in checks:
        if value is None:
            continue
        array = np.asarray(value)
        finite = np.isfinite(array)
        if finite.all():
            continue
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = ""
        if array.ndim > single_ndim:
            where = f" in sub-environment {at[0]}"
            step = int(np.broadcast_to(np.asarray(step), array.shape[:1])[at[0]])
        number = f" (number {at[-1]})" if single_ndim else ""
        article = "a" if what == "reward" else "an"
        verb = "was given" if what == "action" else "returned"
        raise GlaError(
            f"{name} {verb} {article} {what} that is {array[at]}{number} at step {step}{where}",
            "finite numbers",
            "check the agent that chose it"
            if what == "action"
            else "check the environment and its settings, or leave it out",
        )


def check_action(name: str, space: gymnasium.Space, action: Any, step: Any) -> np.ndarray:
    """Return an action, or a batch of them, as an array of its space's type.

    Box actions outside the bounds pass, because environments clip them.

    Args:
        name: the environment, for the message.
        space: a Box, Discrete or MultiDiscrete (a batch of Discrete) space.
        action: what the agent chose.
        step: number of the step, or one number per sub-environment, for the message.

    Raises:
        GlaError: if the shape or type is wrong, a number is not finite, or a discrete action does
            not exist.
    """
    array = _as_array(action)
    if array is None or array.shape != space.shape:
        given = "no array of numbers" if array is None else f"of shape {array.shape}"
        raise GlaError(f"{name} was given an action that is {given}", f"shape {space.shape}")
    if isinstance(space, gymnasium.spaces.Box):
        array = array.astype(space.dtype)
        check_finite(name, step, None, None, action=array)
        return array
    if not np.issubdtype(array.dtype, np.integer):
        raise GlaError(f"{name} was given an action of type {array.dtype}", "a whole number")
    most = np.max(space.nvec if isinstance(space, gymnasium.spaces.MultiDiscrete) else space.n)  # type: ignore[attr-defined]
    if np.any(array < 0) or np.any(array >= most):
        raise GlaError(
            f"{name} was given action {array.tolist()}", f"whole numbers from 0 to {most - 1}"
        )
    return array


def _as_array(value: Any) -> np.ndarray | None:
    """Return `value` as an array of numbers, or None if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if np.issubdtype(array.dtype, np.number) else None


class HostEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One host simulator: flat float32 observations, actions in [-1, 1], float rewards.

    Box actions are clipped to [-1, 1], then scaled to the simulator's range. Time limits are the
    simulator's own. It is an environment of its own rather than a Gymnasium wrapper, so that
    `unwrapped` keeps all this.

    Args:
        simulator: a Gymnasium environment.
        name: for messages.

    Raises:
        GlaError: in `step`, if an action does not fit or anything is not finite.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, simulator: gymnasium.Env, name: str):
        self.simulator, self.name = simulator, name
        # A copy: vector environments write their autoreset mode into it.
        self.metadata = dict(simulator.metadata)
        self.render_mode = simulator.render_mode
        flat = gymnasium.spaces.flatten_space(simulator.observation_space)
        if not isinstance(flat, gymnasium.spaces.Box):
            raise GlaError(f"{name} has observations {flat}", "numbers, as Box spaces")
        self.observation_space = gymnasium.spaces.Box(
            flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32
        )
        space = simulator.action_space
        self._limits: tuple[np.ndarray, np.ndarray] | None = None
        if isinstance(space, gymnasium.spaces.Box):
            self._limits = space.low.reshape(-1), space.high.reshape(-1)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._limits[0].shape, np.float32)
        elif is_discrete(space):
            self.action_space = space
        else:
            raise GlaError(f"{name} has actions {space}", "a Box or Discrete space")
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: return its first observation, f32[n], and the simulator's info."""
        super().reset(seed=seed)
        observation, info = self.simulator.reset(seed=seed, options=options)
        self._steps = 0
        return self._flat(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under `action` (f32[k], or an integer for discrete actions)."""
        self._steps += 1
        action = check_action(self.name, self.action_space, action, self._steps)
        observation, reward, terminated, truncated, info = self.simulator.step(
            self.scale_action(action)
        )
        observation, reward = self._flat(observation), float(reward)
        check_finite(self.name, self._steps, observation, reward)
        return observation, reward, bool(terminated), bool(truncated), info

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Map an action f32[k] in [-1, 1] (clipped) to the simulator's range and type."""
        if self._limits is None:
            return action
        low, high = self._limits
        space = self.simulator.action_space
        scaled = (low + high) / 2 + (high - low) / 2 * action.clip(-1.0, 1.0)
        return scaled.astype(space.dtype).reshape(space.shape)

    def render(self) -> Any:
        """Render with the simulator."""
        return self.simulator.render()

    def close(self) -> None:
        """Close the simulator; a second time does nothing."""
        simulator, self.simulator = self.simulator, _CLOSED
        simulator.close()

    def _flat(self, observation: Any) -> np.ndarray:
        space = self.simulator.observation_space
        return np.asarray(gymnasium.spaces.flatten(space, observation), np.float32)


class _Closed(gymnasium.Env):
    """Stands in for a simulator that was closed."""

    def reset(self, *, seed=None, options=None):
        """Refuse."""
        raise GlaError("the environment is closed", mend="make it again")

    def step(self, action):
        """Refuse."""
        raise GlaError("the environment is closed", mend="make it again")


_CLOSED = _Closed()


class HostVectorEnv(SyncVectorEnv):
    """Host environments stepped one after the other; an episode's end resets in the same step."""

    def __init__(self, factories: Sequence[Callable[[], gymnasium.Env]]):
        super().__init__(factories, autoreset_mode=AutoresetMode.SAME_STEP)
        self.name = getattr(self.envs[0], "name", type(self.envs[0]).__name__)

    def step(self, actions: Any) -> VectorStep:
        """Advance every sub-environment: `actions` f32[num_envs, k] or integers [num_envs]."""
        array = _as_array(actions)
        if array is None or array.shape != self.action_space.shape:
            given = "no array of numbers" if array is None else f"of shape {array.shape}"
            raise GlaError(
                f"{self.name} x {self.num_envs} was given actions that are {given}",
                f"shape {self.action_space.shape}",
            )
        return super().step(array)  # each sub-environment checks its own action


def vectorize(factory: Callable[[], gymnasium.Env], num_envs: int) -> HostVectorEnv:
    """Build `num_envs` host environments as one vector environment (SAME_STEP autoreset).

    Raises:
        GlaError: if `num_envs` is no whole number of at least 1.
    """
    return HostVectorEnv([factory] * check_count("num_envs", num_envs))


def check_count(name: str, value: Any) -> int:
    """Return `value` if it is a whole number of at least 1.

    Raises:
        GlaError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise GlaError(f"{name} is {value!r}", "a whole number of at least 1")
    return int(value)


def mujoco_env(name: str, **kwargs: Any) -> HostEnv:
    """Build one Gymnasium MuJoCo environment, such as `Reacher-v5`, with its own time limit.

    Args:
        name: a Gymnasium id.
        **kwargs: settings of the Gymnasium environment. `Ant-v5` leaves contact forces out of its
            observation unless `include_cfrc_ext_in_observation=True` is given.

    Raises:
        GlaError: if there is no such MuJoCo environment or MuJoCo is not installed.
    """
    known = [
        id for id, spec in gymnasium.registry.items() if "envs.mujoco" in str(spec.entry_point)
    ]
    if name not in known:
        raise GlaError(
            f"Gymnasium has no MuJoCo environment {name!r}{near_matches(name, known)}",
            "an id such as Reacher-v5, HalfCheetah-v5 or Ant-v5",
        )
    try:
        with _quiet_models():
            simulator = gymnasium.make(
                name, disable_env_checker=True, **{**DEFAULTS.get(name, {}), **kwargs}
            )
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise GlaError(
            f"{name} needs MuJoCo, which cannot be imported ({error})",
            mend="pip install 'gymnasium[mujoco]' 'mujoco>=3.17,<4'",
        ) from error
    return HostEnv(simulator, name)


def dmc_env(domain: str, task: str, render_mode: str | None = None, **kwargs: Any) -> HostEnv:
    """Build one DeepMind Control task through Shimmy, with its own time limit.

    Observations are flattened in the order of the task's own dictionary. On a headless Linux
    machine with `MUJOCO_GL` unset, dm_control is imported without a renderer; to render there, set
    `MUJOCO_GL=egl` first.

    Args:
        domain: such as `cartpole`.
        task: such as `swingup`.
        render_mode: as in Shimmy.
        **kwargs: settings of `dm_control.suite.load`.

    Raises:
        GlaError: if there is no such task or dm_control is not installed.
    """
    name = f"dm_control {domain} {task}"
    try:
        with _no_display():
            from dm_control import suite
            from shimmy.dm_control_compatibility import DmControlCompatibilityV0
    except ImportError as error:
        raise GlaError(
            f"{name} needs dm_control and shimmy, which cannot be imported ({error})",
            "Python 3.11 or 3.12 (on 3.13 dm_control's labmaze has no wheel)",
            "pip install dm_control 'shimmy[dm-control]>=2,<3', or leave this id out",
        ) from error
    if (domain, task) not in suite.ALL_TASKS:
        known = [" ".join(pair) for pair in suite.ALL_TASKS]
        raise GlaError(
            f"DeepMind Control has no task {domain} {task}{near_matches(f'{domain} {task}', known)}"
        )
    return HostEnv(
        DmControlCompatibilityV0(suite.load(domain, task, **kwargs), render_mode=render_mode), name
    )


def make_mujoco(name: str, num_envs: int, **kwargs: Any) -> HostVectorEnv:
    """Build `num_envs` copies of a Gymnasium MuJoCo environment; arguments as in `mujoco_env`.

    Raises:
        GlaError: as `mujoco_env`, and if `num_envs` is below 1.
    """
    return vectorize(lambda: mujoco_env(name, **kwargs), num_envs)


def make_dmc(domain: str, task: str, num_envs: int, **kwargs: Any) -> HostVectorEnv:
    """Build `num_envs` copies of a DeepMind Control task; arguments as in `dmc_env`.

    Raises:
        GlaError: as `dmc_env`, and if `num_envs` is below 1.
    """
    return vectorize(lambda: dmc_env(domain, task, **kwargs), num_envs)


@contextlib.contextmanager
def _no_display() -> Iterator[None]:
    """Keep dm_control from trying GLFW, with a warning, where there is no display.

    dm_control reads MUJOCO_GL once, when it is imported, so the variable is set only that long:
    Gymnasium's own renderer, which reads it later, is left as it was.
    """
    chosen = any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"))
    if chosen or not sys.platform.startswith("linux"):
        yield
        return
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)


@contextlib.contextmanager
def _quiet_models() -> Iterator[None]:
    """Drop MuJoCo's note that Gymnasium's half_cheetah.xml uses a deprecated attribute.

    Nobody but Gymnasium can mend it; other warnings of MuJoCo become Python warnings meanwhile.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()

    def say(message: str) -> None:
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    mujoco.set_mju_user_warning(say)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


class _HostWrapper(VectorWrapper):
    """Maps observations of each sub-environment, those of finished episodes in infos as well."""

    def __init__(self, env: VectorEnv):
        super().__init__(env)
        self.name = getattr(env, "name", type(env.unwrapped).__name__)
        self._steps = np.zeros(env.num_envs, np.int32)  # within each episode

    def _set_observation_space(self, space: gymnasium.spaces.Box) -> None:
        self.single_observation_space = space
        self.observation_space = batch_space(space, self.num_envs)

    def _map(self, index: Any, observation: np.ndarray) -> np.ndarray:
        """Map the observation of sub-environment `index`, or all of them for a slice."""
        raise NotImplementedError

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
