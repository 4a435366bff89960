"""Host simulators (MuJoCo, DeepMind Control) as Gymnasium vector environments.

They run in C on the CPU, outside JAX, and are never wrapped in a callback: whoever drives an
environment takes either kind. No simulator is imported before one is asked for.

`gla.envs.host_wrappers` normalises and projects them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from gla.envs.base import is_discrete
from gla.envs.checks import as_array, check_action, check_count, check_finite
from gla.errors import GlaError, near_matches

# Observations f32[m, n], rewards f64[m], terminated bool[m], truncated bool[m], infos.
VectorStep = tuple[Any, Any, Any, Any, dict[str, Any]]

# Ant-v5 reports 78 contact forces by default; without them it has the 27 numbers of Ant-v4.
DEFAULTS: dict[str, dict[str, Any]] = {"Ant-v5": {"include_cfrc_ext_in_observation": False}}


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
        array = as_array(actions)
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
    # dm_control 1.0.50 sets array shapes in a way that NumPy 2.5 deprecates, in every new task.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"dm_control\.")
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
