"""Host simulators (MuJoCo, DeepMind Control) as Gymnasium vector environments.

They run in C on the CPU, outside JAX, and are never wrapped in a callback: whoever drives an
environment takes either kind. No simulator is imported before one is asked for.

`gla.envs.host_wrappers` normalises and projects them.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        self._parts = _float_parts(simulator.observation_space)
        space = simulator.action_space
        self._scale: tuple[np.ndarray, np.ndarray] | None = None  # centre and half width
        if isinstance(space, gymnasium.spaces.Box):
            low, high = space.low.reshape(-1), space.high.reshape(-1)
            self._scale = (low + high) / 2, (high - low) / 2
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, low.shape, np.float32)
        elif is_discrete(space):
            self.action_space = space
        else:
            raise GlaError(f"{name} has actions {space}", "a Box or Discrete space")
        self._steps, self._running = 0, False
        self.prepared: Any = None  # the scaled action that the next step takes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode: return its first observation, f32[n], and the simulator's info."""
        super().reset(seed=seed)
        observation, info = self.simulator.reset(seed=seed, options=options)
        self._steps, self._running, self.prepared = 0, True, None
        return self._flat(observation), info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance under `action` (f32[k], or an integer for discrete actions)."""
        scaled = self.prepare(action) if self.prepared is None else self.prepared
        self.prepared = None
        self._steps += 1
        observation, reward, terminated, truncated, info = self.simulator.step(scaled)
        observation, reward = self._flat(observation), float(reward)
        if not (math.isfinite(reward) and _all_finite(observation)):
            check_finite(self.name, self._steps, observation, reward)  # says which number it is
        self._running = not (terminated or truncated)
        return observation, reward, bool(terminated), bool(truncated), info

    def prepare(self, action: Any) -> Any:
        """Check an action (f32[k], or an integer) and keep it, scaled, for the next `step`.

        `step` does so by itself. A vector environment that advances the physics first needs what
        the simulator will be given before it is stepped.

        Returns:
            The action in the simulator's range, shape and type.

        Raises:
            GlaError: if the episode is over or has not begun, or the action does not fit.
        """
        if not self._running:
            when = "before its first reset"
            if self._steps:
                when = f"after its episode ended at step {self._steps}"
            raise GlaError(f"{self.name} was stepped {when}", mend="call reset")
        usual = (
            self._scale is not None
            and type(action) is np.ndarray
            and action.dtype == np.float32
            and action.shape == self.action_space.shape
            and _all_finite(action)
        )
        if not usual:  # convert it, or say what is wrong with it
            action = check_action(self.name, self.action_space, action, self._steps + 1)
        self.prepared = self.scale_action(action)
        return self.prepared

    def forget_prepared(self) -> None:
        """Drop the action that `prepare` kept."""
        self.prepared = None

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """Map an action f32[k] in [-1, 1] (clipped) to the simulator's range and type."""
        if self._scale is None:
            return action
        return self.scale_actions(action).reshape(self.simulator.action_space.shape or ())

    def scale_actions(self, actions: np.ndarray) -> np.ndarray:
        """Map Box actions f32[..., k] as `scale_action` maps one, but for its shape."""
        assert self._scale is not None
        centre, half = self._scale
        # The same as actions.clip(-1, 1), which takes three times as long on a few numbers.
        scaled = centre + half * np.minimum(np.maximum(actions, _MINUS_ONE), _ONE)
        return scaled.astype(self.simulator.action_space.dtype)

    @property
    def running(self) -> bool:
        """Whether an episode has begun and not ended."""
        return self._running

    @property
    def steps(self) -> int:
        """How many steps the episode has had."""
        return self._steps

    def count(self, ended: bool) -> None:
        """Count a step that a vector environment took in this one's simulator."""
        self._steps += 1
        self._running = not ended

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
        if self._parts is None:
            space = self.simulator.observation_space
            return np.asarray(gymnasium.spaces.flatten(space, observation), np.float32)
        # What `flatten` does with numbers, without asking each time what the space is.
        arrays = [
            np.asarray(observation if name is None else observation[name], dtype).reshape(-1)
            for name, dtype in self._parts
        ]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return whole.astype(np.float32)


_ONE, _MINUS_ONE = np.float32(1.0), np.float32(-1.0)


def _all_finite(array: np.ndarray) -> bool:
    """Return whether an array holds neither NaN nor infinity; quicker than its method `all`."""
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))


def _float_parts(space: gymnasium.Space) -> list[tuple[str | None, Any]] | None:
    """Return (name, dtype) of the parts of an observation of floats, or None for any other space.

    The name of an observation that is no dictionary is None.
    """
    parts: list[tuple[str | None, gymnasium.Space]] = [(None, space)]
    if isinstance(space, gymnasium.spaces.Dict):
        parts = list(space.spaces.items())
    for _, part in parts:
        if type(part) is not gymnasium.spaces.Box or not np.issubdtype(part.dtype, np.floating):
            return None
    return [(name, part.dtype) for name, part in parts]


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
        self._readers: list[Any] | None = None

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

    def get_state(self) -> dict[str, np.ndarray]:
        """Return all that the sub-environments keep, as arrays whose first axis is theirs.

        `set_state` goes on from there to the bit, in another process too. Shapes depend on the
        environment and its settings alone. `observations` f32[m, n] is what was last seen; the
        other arrays are described in `gla.envs.host_state.Snapshot`.

        Raises:
            GlaError: before the first reset.
            NotImplementedError: if some sub-environment keeps what cannot be saved.
        """
        if any(seen is None for seen in self._env_obs):
            raise GlaError(f"{self.name} has no state before its first reset", mend="call reset")
        rows = [snapshot.read() for snapshot in self._snapshots()]
        state = {part: np.stack([row[part] for row in rows]) for part in rows[0]}
        seen: list[Any] = self._env_obs
        return {**state, "observations": np.stack(seen)}

    def set_state(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        """Go to a state that `get_state` returned, of an environment made with the same settings.

        Returns:
            f32[m, n], the observations from which the next actions are to be chosen.

        Raises:
            GlaError: if the state does not fit this environment.
            NotImplementedError: as `get_state`.
        """
        from gla.envs.host_state import check_fits

        snapshots = self._snapshots()
        self.reset()  # what an environment keeps is all there only then
        check_fits(self.name, state, self.get_state())
        for i, snapshot in enumerate(snapshots):
            snapshot.write({part: rows[i] for part, rows in state.items()})
        seen: Any = np.array(state["observations"])
        self._env_obs, self._observations = list(seen), seen
        return seen.copy()

    def _snapshots(self) -> list[Any]:
        from gla.envs.host_state import Snapshot

        if self._readers is None:
            self._readers = [Snapshot(env) for env in self.envs]
        return self._readers

    def _add_info(
        self, vector_infos: dict[str, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[str, Any]:
        """Gather infos as Gymnasium does; numbers that are already there take a short way."""
        for key, value in env_info.items():
            array = vector_infos.get(key)
            if type(array) is np.ndarray and not isinstance(value, dict):
                array[env_num] = value
                vector_infos[f"_{key}"][env_num] = True
            else:
                super()._add_info(vector_infos, {key: value}, env_num)
        return vector_infos


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
