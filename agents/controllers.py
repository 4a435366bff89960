"""Hand-written controllers: experts for tasks whose solution is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp

from gla.agents.base import View


class Controller:
    """An agent that plays a fixed function of the observation.

    Args:
        name: for tables.
        function: maps raw observations f32[N, n] to actions f32[N, k] or i32[N]; pure.
    """

    jittable = True
    view: View | None = None

    def __init__(self, name: str, function: Callable[[jax.Array], jax.Array]):
        self.name, self.function = name, function

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> tuple[()]:
        """Return an empty state: a controller remembers nothing."""
        del keys, num_envs, observation_space, action_space
        return ()

    def act(
        self,
        state: Any,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[Any, jax.Array]:
        """Choose actions by the observations alone."""
        del reward, terminated, truncated, keys
        return state, self.function(observation)


def swing_up_pendulum(observation: jax.Array) -> jax.Array:
    """Swing DeepMind Control's pendulum up by its energy and hold it by its angle and speed.

    Energy control (Astrom and Furuta 2000): push along the motion while the energy is below that of
    standing upright, against it while it is above. The constants are those of dm_control's model:
    1 kg at 0.5 m, torques up to 1 N m.

    Args:
        observation: f32[N, 3], cosine and sine of the angle from upright, and its speed in rad/s.

    Returns:
        f32[N, 1], torques in [-1, 1].
    """
    cosine, sine, speed = observation[:, 0], observation[:, 1], observation[:, 2]
    inertia, weight = 0.251, 4.905  # kg m^2, and m g l in N m
    energy = 0.5 * inertia * speed**2 + weight * (cosine - 1.0)  # 0 when standing upright
    pump = jnp.clip(-5.0 * energy, -1.0, 1.0) * jnp.where(speed < 0, -1.0, 1.0)
    hold = -8.0 * jnp.arctan2(sine, cosine) - 1.6 * speed
    return jnp.clip(jnp.where(cosine > 0.95, hold, pump), -1.0, 1.0)[:, None]
