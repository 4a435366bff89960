"""gymnax environments behind the `Environment` protocol."""

from __future__ import annotations

from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Params, State, Timestep, timestep
from gla.envs.gymnax_drawing import DRAWINGS
from gla.errors import GlaError, near_matches

# gymnax writes "unbounded" as the largest float32; anything near it means infinity.
UNBOUNDED = 1e30

PICTURE_SIZE = 256
"""Height and width of pictures, in pixels."""

# Where gymnax 1.0 declares ranges that its own observations leave: (entries, low, high).
_RANGES: dict[str, tuple[tuple[slice, float, float], ...]] = {
    # 1 - time / length, a hair below 0 at the end in float32; the query; bits as -1 or 1.
    "MemoryChain-bsuite": ((slice(0, 1), -1.0, 1.0), (slice(2, None), -1.0, 1.0)),
    "UmbrellaChain-bsuite": ((slice(2, 3), -1.0, 1.0),),  # 1 - time / length, likewise
    # The last reward, which is `params.reward` or `params.punishment`; the number of steps.
    "MetaMaze-misc": ((slice(-2, None), -np.inf, np.inf),),
    # The last reward, a Gaussian; then the last action and the time in [-1, 1] per 100 steps.
    "GaussianBandit-misc": ((slice(0, 1), -np.inf, np.inf), (slice(3, 4), -1.0, np.inf)),
    "BernoulliBandit-misc": ((slice(3, 4), -1.0, np.inf),),
    "SimpleBandit-bsuite": ((slice(None), 0.0, 1.0),),  # always 1; a range must not be empty
}


def _strong(leaf: Any) -> jax.Array:
    """Give a Python number or a weakly typed array a fixed, strong type.

    gymnax starts episodes with Python numbers and steps them into arrays; without this, reset and
    step return different types and every jitted caller compiles twice.
    """
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


class GymnaxEnvironment(Environment):
    """A gymnax environment as pure functions, without gymnax's autoreset and time limit.

    - Observations are flattened to float32, discrete ones are one-hot. Box actions lie in [-1, 1]:
      they are clipped, then scaled to the simulator's range. Discrete actions pass through.
    - `step_env` and `reset_env` are called directly, so gymnax's own autoreset never runs.
      `terminated` is the natural end of the task alone (since gymnax 1.0 `step_env` returns just
      that, and only the `step` that is not called here looks at the time limit); `horizon` is
      gymnax's default `max_steps_in_episode`, for our `TimeLimit` to apply. The params keep
      gymnax's own limit, because `DiscountingChain-bsuite` measures its clock by it.
    - The task is fixed: `sample_params` returns gymnax's default parameters, as arrays, whatever
      the key. What gymnax draws in its reset is drawn there and is new in every *episode*, not
      fixed for a lifetime: start states; the goals of Reacher-misc and Swimmer-misc (visible) and
      of PointRobot-misc and MetaMaze-misc (hidden); the arms of the bandits. An episode of
      SimpleBandit-bsuite is a single pull, so nothing about its arms can be learned.
      FourRooms-misc and DeepSea-bsuite keep one goal and one action map by default.
    - Classic control, Reacher, PointRobot and Swimmer are drawn by `gla.envs.gymnax_drawing`;
      Catch, FourRooms, MetaMaze and Pong by gymnax with Matplotlib. The others have no pictures.

    Args:
        name: a gymnax id such as `Pendulum-v1`.
        **kwargs: settings of the gymnax constructor (`Reacher-misc` takes `num_joints`).

    Raises:
        GlaError: if gymnax knows no such id, or its spaces are neither Box nor Discrete.
    """

    distinct_tasks = 1

    def __init__(self, name: str, **kwargs: Any):
        import gymnax
        from gymnax.environments import spaces

        if name not in gymnax.registered_envs:
            raise GlaError(
                f"gymnax has no environment {name!r}{near_matches(name, gymnax.registered_envs)}",
                "one of gymnax.registered_envs",
            )
        self.name = name
        self.simulator, defaults = gymnax.make(name, **kwargs)
        self._defaults = defaults
        self._draw = DRAWINGS.get(name)
        self.can_render = self._draw is not None or hasattr(self.simulator, "render")
        self._state_dtypes: Any = None  # of a state that was stepped; found at the first reset
        self.horizon = int(defaults.max_steps_in_episode)
        observations = self.simulator.observation_space(defaults)
        actions = self.simulator.action_space(defaults)
        self._categories: int | None = None  # of a discrete observation
        if isinstance(observations, spaces.Discrete):
            self._categories = int(observations.n)
            low, high = np.zeros(self._categories), np.ones(self._categories)
        elif isinstance(observations, spaces.Box):
            low, high = (np.array(bound) for bound in _bounds(observations))
            for entries, least, most in _RANGES.get(name, ()):
                low[entries], high[entries] = least, most
        else:
            raise GlaError(
                f"{name} has {type(observations).__name__} observations", "a Box or Discrete"
            )
        self.observation_space = gymnasium.spaces.Box(
            np.where(low < -UNBOUNDED, -np.inf, low).astype(np.float32),
            np.where(high > UNBOUNDED, np.inf, high).astype(np.float32),
            dtype=np.float32,
        )
        if isinstance(actions, spaces.Discrete):
            self.action_space = gymnasium.spaces.Discrete(int(actions.n))
        elif isinstance(actions, spaces.Box):
            # Tuples of numbers: an environment holds no array.
            action_low, action_high = _bounds(actions)
            self._action_shape = tuple(actions.shape)
            self._action_low, self._action_high = tuple(action_low), tuple(action_high)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, action_low.shape, np.float32)
        else:
            raise GlaError(f"{name} has {type(actions).__name__} actions", "a Box or Discrete")

    def sample_params(self, key: jax.Array) -> Params:
        """Return gymnax's default parameters as arrays, whatever the key."""
        del key
        return jax.tree.map(_strong, self._defaults)

    def reset(self, key: jax.Array, params: Params) -> tuple[State, jax.Array]:
        """Start an episode with gymnax's `reset_env`; goals that it draws are drawn anew."""
        observation, state = self.simulator.reset_env(key, params)
        if self._state_dtypes is None:
            action = self.scale_action(jnp.zeros(self.action_space.shape))
            _, stepped, *_ = jax.eval_shape(self.simulator.step_env, key, state, action, params)
            self._state_dtypes = jax.tree.map(lambda leaf: leaf.dtype, stepped)
        # Some states start with whole numbers and go on with floats.
        state = jax.tree.map(
            lambda leaf, dtype: jax.lax.convert_element_type(jnp.asarray(leaf), dtype),
            state,
            self._state_dtypes,
        )
        return state, self._flat(observation)

    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[State, Timestep]:
        """Advance with gymnax's `step_env`; it never truncates."""
        observation, state, reward, terminated, _ = self.simulator.step_env(
            key, state, self.scale_action(action), params
        )
        return jax.tree.map(_strong, state), timestep(
            self._flat(observation),
            jax.lax.convert_element_type(jnp.reshape(reward, ()), jnp.float32),
            jax.lax.convert_element_type(jnp.reshape(terminated, ()), bool),
            jnp.zeros((), bool),
        )

    def render(self, state: State, params: Params) -> np.ndarray:
        """Draw without a display: uint8[256, 256, 3].

        Raises:
            GlaError: if there are no pictures of this environment.
        """
        if not self.can_render:
            return super().render(state, params)
        if self._draw is not None:
            return self._draw(state, params)
        import matplotlib.pyplot as plt
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with plt.ioff():
            drawn = self.simulator.render(state, params)
        figure = drawn[0] if isinstance(drawn, tuple) else drawn.figure
        figure.set_size_inches(PICTURE_SIZE / figure.dpi, PICTURE_SIZE / figure.dpi)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = np.array(canvas.buffer_rgba(), np.uint8)[..., :3]
        plt.close(figure)
        return picture

    def scale_action(self, action: jax.Array) -> jax.Array:
        """Map an action f32[k] in [-1, 1] (clipped) to the simulator's range; Discrete as it is."""
        if isinstance(self.action_space, gymnasium.spaces.Discrete):
            return jax.lax.convert_element_type(jnp.asarray(action), jnp.int32)
        low, high = (np.asarray(b, np.float32) for b in (self._action_low, self._action_high))
        scaled = (low + high) / 2 + (high - low) / 2 * jnp.clip(action, -1.0, 1.0)
        return jnp.reshape(scaled, self._action_shape)

    def _flat(self, observation: Any) -> jax.Array:
        """Flatten an observation to f32[n], or to a one-hot vector where it is a number."""
        if self._categories is not None:
            return jax.nn.one_hot(observation, self._categories, dtype=jnp.float32)
        return jax.lax.convert_element_type(jnp.reshape(observation, (-1,)), jnp.float32)


def _bounds(box: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat (low, high) bounds of a gymnax Box, f32[n] each."""
    shape = tuple(box.shape)
    low, high = (np.broadcast_to(np.asarray(b, np.float32), shape) for b in (box.low, box.high))
    return low.reshape(-1), high.reshape(-1)
