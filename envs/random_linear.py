"""Random linear systems with a hidden goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep


@dataclass(frozen=True)
class RandomLinearConfig:
    """Size and difficulty of the family.

    Attributes:
        state_size: n, number of state variables, all observed.
        action_size: k, number of actuators.
        horizon: steps in an episode.
        contraction: (low, high) range of the spectral radius of the drift matrix, below 1, so that
            every system is bounded.
        goal_radius: largest distance of the goal from the origin, in units of what a full action
            held for ever can reach.
    """

    state_size: int = 4
    action_size: int = 2
    horizon: int = 50
    contraction: tuple[float, float] = (0.6, 0.9)
    goal_radius: float = 0.8


class LinearParams(NamedTuple):
    """One system: drift f32[n, n], actuators f32[n, k], goal f32[n], scale f32[]."""

    drift: jax.Array
    actuators: jax.Array
    goal: jax.Array
    scale: jax.Array


class LinearState(NamedTuple):
    """The state f32[n] of one episode."""

    x: jax.Array


class RandomLinear(Environment):
    """x' = A x + B u; the reward is minus the distance to a goal that must be found by trying.

    The goal is the fixed point of a constant action u*, so that it can be reached and held; the
    agent is told neither A, B nor the goal. Rewards lie in about [-3, 0] (distance, in units of
    the typical distance of the goal from the origin); states in about [-4, 4].
    """

    name = "RandomLinear"

    def __init__(self, config: RandomLinearConfig | None = None):
        self.config = config or RandomLinearConfig()
        self.horizon = self.config.horizon
        n, k = self.config.state_size, self.config.action_size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (k,), np.float32)

    def sample_params(self, key: jax.Array) -> LinearParams:
        """Draw a stable system, scaled so that full actions move it by about one unit."""
        c = self.config
        drift_key, radius_key, actuator_key, direction_key, reach_key = jax.random.split(key, 5)
        n, k = c.state_size, c.action_size
        # A scaled rotation mixed with noise of spectral norm below 1: stable by its norm.
        q, _ = jnp.linalg.qr(jax.random.normal(drift_key, (n, n)))
        low, high = c.contraction
        decay = jax.random.uniform(radius_key, (n,), minval=low, maxval=high)
        drift = 0.5 * (q * decay) + 0.5 * (q @ jnp.diag(decay) @ q.T)
        actuators = jax.random.normal(actuator_key, (n, k)) / jnp.sqrt(float(n))
        gain = jnp.linalg.solve(jnp.eye(n) - drift, actuators)  # steady state of a constant action
        size = jnp.sqrt(jnp.mean(jnp.sum(gain**2, 0)))
        gain, actuators = gain / size, actuators / size
        direction = jax.random.normal(direction_key, (k,))
        reach = jax.random.uniform(reach_key, (), minval=0.5 * c.goal_radius, maxval=c.goal_radius)
        hold = reach * direction / jnp.max(jnp.abs(direction))
        goal = gain @ hold
        return LinearParams(drift, actuators, goal, jnp.maximum(jnp.linalg.norm(goal), 0.1))

    def reset(self, key: jax.Array, params: LinearParams) -> tuple[LinearState, jax.Array]:
        """Start near the origin, N(0, 0.3^2) per state variable."""
        x = 0.3 * jax.random.normal(key, params.goal.shape)
        return LinearState(x), x

    def step(
        self, key: jax.Array, state: LinearState, action: jax.Array, params: LinearParams
    ) -> tuple[LinearState, Timestep]:
        """Advance one step; actions are clipped to [-1, 1]."""
        del key
        action = jnp.clip(action, -1.0, 1.0)
        x = params.drift @ state.x + params.actuators @ action
        reward = -jnp.linalg.norm(x - params.goal) / params.scale
        false = jnp.zeros((), bool)
        return LinearState(x), timestep(x, reward, false, false)
