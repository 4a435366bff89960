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
from collections import OrderedDict
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

MUJOCO_RENDER_MODES = ("rgb_array", "depth_array", "rgbd_tuple", "human")
DMC_RENDER_MODES = ("rgb_array", "depth_array", "multi_camera", "human")


class HostEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One host simulator: flat float32 observations, actions in [-1, 1], float rewards.

    Box actions are clipped to [-1, 1], then scaled to the simulator's range. Time limits are the
    simulator's own. It is an environment of its own rather than a Gymnasium wrapper, so that
    `unwrapped` keeps all this.

    Args:
        simulator: a Gymnasium environment.
        name: for messages.

    Raises:
        GlaError: in `step`, if the episode is over or has not begun, an action does not fit, or
            anything is not finite; in `render`, if there is no render mode or no OpenGL.
    """

    metadata: dict[str, Any] = {"render_modes": []}
    distinct_tasks: float = 1  # how many different tasks a task key can draw

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
        self._steps, self._running = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: return its first observation, f32[n], and the simulator's info."""
        super().reset(seed=seed)
        observation, info = self.simulator.reset(seed=seed, options=options)
        self._steps, self._running = 0, True
        return self._flat(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under `action` (f32[k], or an integer for discrete actions)."""
        if not self._running:
            when = "before its first reset"
            if self._steps:
                when = f"after its episode ended at step {self._steps}"
            raise GlaError(f"{self.name} was stepped {when}", mend="call reset")
        self._steps += 1
        action = check_action(self.name, self.action_space, action, self._steps)
        observation, reward, terminated, truncated, info = self.simulator.step(
            self.scale_action(action)
        )
        observation, reward = self._flat(observation), float(reward)
        check_finite(self.name, self._steps, observation, reward)
        self._running = not (terminated or truncated)
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
        """Render with the simulator: uint8[height, width, 3] for `rgb_array`.

        Raises:
            GlaError: without a render mode, or if no OpenGL can be used.
        """
        if self.render_mode is None:
            raise GlaError(
                f"{self.name} was made without a render mode",
                mend="make it with render_mode='rgb_array'",
            )
        check_display(self.name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # GLFW warns of what the error then says
                return self.simulator.render()
        except GlaError:
            raise
        except Exception as error:  # every OpenGL library has exceptions of its own
            raise no_opengl(self.name, error) from error

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

    def render(self):
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


def mujoco_env(name: str, render_mode: str | None = None, **kwargs: Any) -> HostEnv:
    """Build one Gymnasium MuJoCo environment, such as `Reacher-v5`, with its own time limit.

    To render on a machine without a display, set `MUJOCO_GL=egl` before Python starts.

    Args:
        name: a Gymnasium id.
        render_mode: `rgb_array`, or another mode that Gymnasium's renderer has.
        **kwargs: settings of the Gymnasium environment, `width` and `height` of its pictures among
            them. `Ant-v5` leaves contact forces out of its observation unless
            `include_cfrc_ext_in_observation=True` is given.

    Raises:
        GlaError: if there is no such MuJoCo environment or render mode, or MuJoCo cannot be
            imported.
    """
    known = [
        id for id, spec in gymnasium.registry.items() if "envs.mujoco" in str(spec.entry_point)
    ]
    if name not in known:
        raise GlaError(
            f"Gymnasium has no MuJoCo environment {name!r}{near_matches(name, known)}",
            "an id such as Reacher-v5, HalfCheetah-v5 or Ant-v5",
        )
    _check_render_mode(render_mode, MUJOCO_RENDER_MODES)
    settings = {"render_mode": render_mode, **DEFAULTS.get(name, {}), **kwargs}
    try:
        import mujoco  # noqa: F401
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _not_imported(
            name, "MuJoCo", error, mend="pip install 'gymnasium[mujoco]' 'mujoco>=3.17,<4'"
        ) from error
    with _quiet_models():
        simulator = gymnasium.make(name, disable_env_checker=True, **settings)
    return HostEnv(simulator, name)


def dmc_env(
    domain: str,
    task: str,
    render_mode: str | None = None,
    width: int = 320,
    height: int = 240,
    camera_id: int = 0,
    **kwargs: Any,
) -> HostEnv:
    """Build one DeepMind Control task through Shimmy, with its own time limit.

    Observations are flattened in the order of the task's own dictionary, as dm_control flattens
    them (Gymnasium would sort their names). On a headless Linux machine with `MUJOCO_GL` unset,
    dm_control is imported without a renderer; to render there, set `MUJOCO_GL=egl` before Python
    starts.

    Args:
        domain: such as `cartpole`.
        task: such as `swingup`.
        render_mode: `rgb_array`, or another mode that Shimmy has.
        width: of the pictures, in pixels.
        height: of the pictures, in pixels.
        camera_id: number of the task's camera, or -1 for one that stands free.
        **kwargs: settings of `dm_control.suite.load`.

    Raises:
        GlaError: if there is no such task or render mode, or dm_control cannot be imported.
    """
    name = f"dm_control {domain} {task}"
    _check_render_mode(render_mode, DMC_RENDER_MODES)
    try:
        with _no_display():
            from dm_control import suite
            from shimmy.dm_control_compatibility import DmControlCompatibilityV0
    except (ImportError, RuntimeError, AttributeError) as error:
        raise _not_imported(
            name,
            "dm_control and shimmy",
            error,
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
    size = {"width": width, "height": height}
    if render_mode != "multi_camera":
        size["camera_id"] = camera_id
    with _quiet_models():
        loaded = suite.load(domain, task, **kwargs)
    simulator = DmControlCompatibilityV0(loaded, render_mode=render_mode, render_kwargs=size)
    # Gymnasium sorts the names of a plain dict; an OrderedDict keeps the order of the task.
    parts: Any = simulator.observation_space
    simulator.observation_space = gymnasium.spaces.Dict(
        OrderedDict((part, parts[part]) for part in loaded.observation_spec())
    )
    env = HostEnv(simulator, name)
    # Shimmy writes milliseconds per step where Gymnasium means pictures per second.
    env.metadata["render_fps"] = round(1.0 / simulator.dt)
    return env


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


def _check_render_mode(render_mode: str | None, modes: Sequence[str]) -> None:
    """Raise if a simulator has no such render mode."""
    if render_mode is not None and render_mode not in modes:
        raise GlaError(
            f"render_mode is {render_mode!r}{near_matches(str(render_mode), modes)}",
            "one of " + ", ".join(modes) + ", or None to draw nothing",
        )


def _not_imported(
    name: str, needs: str, error: Exception, expected: str = "", mend: str = ""
) -> GlaError:
    """Return what to say when a simulator cannot be imported."""
    chosen = os.environ.get("MUJOCO_GL")
    if chosen and not isinstance(error, ModuleNotFoundError):
        # It is installed: MuJoCo and dm_control load OpenGL when they are imported.
        expected, mend = f"an OpenGL that works, but MUJOCO_GL is {chosen!r}", "set it to egl"
    return GlaError(f"{name} needs {needs}, which cannot be imported ({error})", expected, mend)


def no_opengl(name: str, error: object) -> GlaError:
    """Return what to say when nothing can be drawn."""
    chosen = os.environ.get("MUJOCO_GL") or "unset"
    return GlaError(
        f"{name} cannot be drawn: no OpenGL with MUJOCO_GL={chosen} ({error})",
        "a display, or a software or GPU renderer",
        "set MUJOCO_GL=egl (or osmesa) before Python starts",
    )


def _headless() -> bool:
    """Return whether this is a Linux machine without a display."""
    shown = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and not shown


def check_display(name: str) -> None:
    """Raise if GLFW would be asked to draw without a display, which can end the process."""
    if _headless() and os.environ.get("MUJOCO_GL", "") in ("", "glfw"):
        raise no_opengl(name, "there is no display")


@contextlib.contextmanager
def _no_display() -> Iterator[None]:
    """Keep dm_control from trying GLFW, with a warning, where there is no display.

    dm_control reads MUJOCO_GL once, when it is imported, so the variable is set only that long:
    Gymnasium's own renderer, which reads it later, is left as it was.
    """
    if os.environ.get("MUJOCO_GL") or not _headless():
        yield
        return
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)


@contextlib.contextmanager
def _quiet_models() -> Iterator[None]:
    """Drop what making an environment says each time and no user can mend.

    That is MuJoCo's note that Gymnasium's and dm_control's cheetahs use a deprecated attribute, and
    Gymnasium's that a version asked for is not its newest. Other warnings of MuJoCo become Python
    warnings meanwhile.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()

    def say(message: str) -> None:
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    mujoco.set_mju_user_warning(say)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(before)
