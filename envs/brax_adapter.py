"""Brax environments behind the `Environment` protocol.

Brax is an optional package, imported when the first of its environments is made.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Params, State, Timestep, timestep
from gla.errors import GlaError, near_matches

BACKENDS = ("spring", "positional", "generalized", "mjx")
NAMES = (
    "ant",
    "halfcheetah",
    "hopper",
    "humanoid",
    "humanoidstandup",
    "inverted_double_pendulum",
    "inverted_pendulum",
    "pusher",
    "reacher",
    "swimmer",
    "walker2d",
)
HORIZON = 1000
"""Steps of an episode: the default of `brax.envs.create` and of Brax's training, for all bodies."""

PICTURE_SIZE = 240, 320
"""Height and width of rendered pictures, in pixels."""

# Brax's swimmer refuses the other three when it is made.
_ONLY_BACKEND = {"swimmer": "generalized"}


def backends_of(name: str) -> tuple[str, ...]:
    """Return the physics backends on which Brax's environment `name` runs, the default first."""
    return (_ONLY_BACKEND[name],) if name in _ONLY_BACKEND else BACKENDS


class BraxEnvironment(Environment):
    """A Brax environment as pure functions, without Brax's autoreset and time limit.

    - Observations are flat float32. Actions lie in [-1, 1]: they are clipped, and [-1, 1] spans the
      range of every actuator (Brax's own environments scale them where that range differs).
    - The raw environment is called, never Brax's wrappers: their autoreset brings back the first
      start for ever, whereas every `reset` here draws a new start, and in reacher and pusher a new
      goal or object (seen in the observation), from its key. `terminated` is Brax's `done`;
      `step` never truncates. `horizon` is 1000, Brax's default for all its bodies; note that the
      reacher and the pusher of Gymnasium stop after 50 and 100 steps.
    - The task is fixed: `sample_params` returns the empty tuple. The body (Brax's `sys`, about a
      hundred small arrays) is a constant of the Brax environment and becomes one of the compiled
      program; it is the only thing on this object that holds arrays.
    - An episode's state is Brax's pipeline state, whose `q` and `qd` are the joint positions and
      velocities (metres and radians, and per second).

    All pairs of a name and a backend run, except that the swimmer runs on `generalized` only. The
    backends are different simulators: returns compare within one backend alone.

    Args:
        name: a Brax name such as `ant` (see `NAMES`).
        backend: `spring`, `positional`, `generalized` or `mjx`; by default `spring`, which is the
            fastest, and `generalized` for the swimmer.
        **kwargs: settings of the Brax constructor, such as `ctrl_cost_weight`.

    Raises:
        GlaError: if Brax is not installed, there is no such name or backend, the two do not go
            together, or Brax refuses the settings.
    """

    can_render = True

    def __init__(self, name: str, backend: str | None = None, **kwargs: Any):
        if name not in NAMES:
            raise GlaError(
                f"Brax has no environment {name!r}{near_matches(str(name), NAMES)}",
                "one of " + ", ".join(NAMES),
            )
        if backend is None:
            backend = backends_of(name)[0]
        if backend not in BACKENDS:
            raise GlaError(
                f"Brax has no backend {backend!r}{near_matches(str(backend), BACKENDS)}",
                "one of " + ", ".join(BACKENDS),
            )
        if backend not in backends_of(name):
            raise GlaError(
                f"Brax's {name} does not run on backend {backend!r}",
                f"backend {backends_of(name)[0]!r}",
            )
        brax_envs()
        self.name, self.backend = f"brax {name}", backend
        self.horizon = HORIZON
        try:
            with _quiet_models():
                self.simulator = self._make(name, backend=backend, **kwargs)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise GlaError(
                f"Brax cannot make {name} with these settings ({error})",
                mend=f"see the arguments of brax.envs.{type_of(name)}",
            ) from error
        self.action_space = gymnasium.spaces.Box(
            -1.0, 1.0, (int(self.simulator.action_size),), np.float32
        )
        started = jax.eval_shape(self.simulator.reset, jax.eval_shape(jax.random.key, 0))
        self.observation_space = gymnasium.spaces.Box(
            -np.inf, np.inf, (int(started.obs.size),), np.float32
        )

    def sample_params(self, key: jax.Array) -> Params:
        """Return (): the task is fixed, and its constants belong to Brax's own environment."""
        del key
        return ()

    def reset(self, key: jax.Array, params: Params) -> tuple[State, jax.Array]:
        """Start an episode as Brax does; starts and goals are drawn anew from the key."""
        started = self._simulator(params).reset(key)
        return jax.tree.map(_strong, started.pipeline_state), _flat(started.obs)

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[State, Timestep]:
        """Advance one control step of Brax (several physics steps); it never truncates."""
        del key
        envs, zero = brax_envs(), jnp.zeros(())
        # Brax's environments read nothing but the pipeline state; the rest is what they return.
        before = envs.State(pipeline_state=state, obs=None, reward=zero, done=zero)
        after = self._simulator(params).step(before, jnp.clip(action, -1.0, 1.0))
        return jax.tree.map(_strong, after.pipeline_state), timestep(
            _flat(after.obs),
            _scalar(self._reward(after, params), jnp.float32),
            _scalar(after.done, bool),
            jnp.zeros((), bool),
        )

    def render(self, state: State, params: Params) -> np.ndarray:
        """Draw the body with MuJoCo's renderer: uint8[240, 320, 3], the camera following it.

        Raises:
            GlaError: if no OpenGL can be used; on a machine without a display, set
                `MUJOCO_GL=egl` before Python starts.
        """
        return draw_model(self._drawn_model(params), np.asarray(state.q), self.name)

    def _make(self, name: str, **kwargs: Any) -> Any:
        """Make the Brax environment."""
        return brax_envs().get_environment(name, **kwargs)

    def _simulator(self, params: Params) -> Any:
        """Return the Brax environment of a task."""
        del params
        return self.simulator

    def _reward(self, after: Any, params: Params) -> Any:
        """Return the reward f32[] of a step, given the Brax state that it led to."""
        del params
        return after.reward

    def _drawn_model(self, params: Params) -> Any:
        """Return the MuJoCo model that shows the body of a task."""
        del params
        return self.simulator.sys.mj_model


def type_of(name: str) -> str:
    """Return the Brax class of an environment, such as `ant.Ant`, for messages."""
    made = brax_envs()._envs[name]
    return f"{made.__module__.rpartition('.')[2]}.{made.__name__}"


def _strong(leaf: Any) -> jax.Array:
    """Give a Python number or a weakly typed array a fixed, strong type."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def _flat(observation: jax.Array) -> jax.Array:
    """Flatten an observation to f32[n]."""
    return jax.lax.convert_element_type(jnp.reshape(observation, (-1,)), jnp.float32)


def _scalar(value: Any, dtype: Any) -> jax.Array:
    """Return a number as a strongly typed scalar."""
    return jax.lax.convert_element_type(jnp.reshape(value, ()), dtype)


@functools.cache
def brax_envs() -> Any:
    """Import `brax.envs` quietly and return it.

    MuJoCo's JAX port prints two lines whenever NVIDIA Warp, which Brax never uses, is not
    installed; anything else that is printed meanwhile is passed on.

    Raises:
        GlaError: if Brax cannot be imported.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            import brax.envs
            import brax.fluid
    except ImportError as error:
        raise GlaError(
            f"Brax cannot be imported ({error})",
            mend="pip install 'brax>=0.14.2'",
        ) from error
    finally:
        for line in said.getvalue().splitlines():
            if not (line.startswith("Failed to import") and "No module named 'warp'" in line):
                print(line)
    brax.fluid.jp = _OldClip()
    return brax.envs


class _OldClip:
    """`jax.numpy` whose `clip` takes `a_min` and `a_max`.

    jax 0.10 dropped those two names, by which Brax 0.14.2's fluid forces call it: without this, the
    swimmer, the one body in a fluid, cannot be stepped.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: Any, a_min: Any = None, a_max: Any = None) -> jax.Array:
        return jnp.clip(x, a_min, a_max)


@contextlib.contextmanager
def _quiet_models() -> Iterator[None]:
    """Drop what loading a body says each time and no user can mend.

    That is Brax's notice that it is no longer developed, and MuJoCo's note that Brax's
    half_cheetah.xml uses a deprecated attribute. Other warnings pass.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()

    def say(message: str) -> None:
        if "settotalmass" not in message:
            warnings.warn(f"MuJoCo: {message}", stacklevel=2)

    mujoco.set_mju_user_warning(say)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Brax System", category=UserWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(before)


def draw_model(model: Any, positions: np.ndarray, name: str) -> np.ndarray:
    """Draw a MuJoCo model at joint positions f[nq]: uint8[240, 320, 3].

    The camera keeps the first body in the middle, whole. A geometry named `target` is green.

    Args:
        model: a `mujoco.MjModel`; its colours change. The renderer of the model drawn last is
            kept, because making one takes longer than many pictures.
        positions: its joint positions, f[nq].
        name: the environment, for the message.

    Raises:
        GlaError: if no OpenGL can be used.
    """
    import mujoco

    data = mujoco.MjData(model)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    # The farthest point of the bodies from the first one, as the model was made, gives the
    # distance; following its extent in every pose would make the camera jump.
    mujoco.mj_kinematics(model, data)
    own = model.geom_bodyid > 0
    reach = np.linalg.norm(data.geom_xpos - data.xpos[1], axis=1) + model.geom_rbound
    camera.distance = 3.0 * float(np.max(reach[own]))
    data.qpos[:] = positions
    mujoco.mj_kinematics(model, data)
    camera.lookat[:] = data.xpos[1]
    target = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, "target")
    if target >= 0:
        model.geom_rgba[target] = 0.1, 0.6, 0.3, 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW warns of what the error then says
            renderer = _renderer(model)
            mujoco.mj_forward(model, data)  # lights and cameras
            renderer.update_scene(data, camera)
            return np.array(renderer.render(), np.uint8)
    except (AttributeError, ImportError, OSError, RuntimeError, mujoco.FatalError) as error:
        chosen = os.environ.get("MUJOCO_GL")
        raise GlaError(
            f"{name} cannot be drawn: no OpenGL with MUJOCO_GL={chosen or 'unset'} ({error})",
            "a display, or a software or GPU renderer",
            "set MUJOCO_GL=egl (or osmesa) before Python starts",
        ) from error


_kept = threading.local()  # an OpenGL context belongs to one thread


def _renderer(model: Any) -> Any:
    """Return the renderer of a model, which is kept until another model is drawn."""
    import mujoco

    if getattr(_kept, "renderer", None) is None or _kept.renderer.model is not model:
        _close_renderer()
        _kept.renderer = mujoco.Renderer(model, *PICTURE_SIZE)
        # Registered after MuJoCo's own, so that it runs before MuJoCo takes OpenGL down.
        atexit.unregister(_close_at_exit)
        atexit.register(_close_at_exit)
    return _kept.renderer


def _close_renderer() -> None:
    """Free the kept renderer."""
    renderer, _kept.renderer = getattr(_kept, "renderer", None), None
    if renderer is not None:
        renderer.render()  # what is freed is taken from the current context, so make it its own
        renderer.close()


def _close_at_exit() -> None:
    """Free the kept renderer; another library may have taken OpenGL down before."""
    with contextlib.suppress(Exception):
        _close_renderer()
