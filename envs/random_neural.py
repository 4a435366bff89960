"""Random neural networks as dynamics, with a hidden goal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep
from gla.envs.checks import check_count
from gla.envs.random_linear import check_number, check_range, draw_dials


@dataclass(frozen=True)
class RandomNeuralConfig:
    """Size and difficulty of the family.

    Attributes:
        state_size: n, number of state variables, all observed.
        action_size: k, number of actuators.
        hidden: units of the random network.
        horizon: steps in an episode.
        leak: (low, high) range of the share of the state that is replaced in a step.
        nonlinearity: scale of the network's input weights, above 0; small is nearly linear.

    Raises:
        GlaError: if a value is out of its range.
    """

    state_size: int = 5
    action_size: int = 2
    hidden: int = 16
    horizon: int = 50
    leak: tuple[float, float] = (0.1, 0.4)
    nonlinearity: float = 1.0

    def __post_init__(self):
        for name in ("state_size", "action_size", "hidden", "horizon"):
            check_count(name, getattr(self, name))
        check_range("leak", self.leak, 0.0, 1.0)
        check_number("nonlinearity", self.nonlinearity, 0.0, above=True)


class NeuralParams(NamedTuple):
    """One system: weights f32[n + k, h] and f32[h, n], leak f32[], goal f32[n], scale f32[]."""

    w1: jax.Array
    w2: jax.Array
    leak: jax.Array
    goal: jax.Array
    scale: jax.Array


class NeuralState(NamedTuple):
    """The state f32[n] of one episode."""

    x: jax.Array


class RandomNeural(Environment):
    """x' = (1 - l) x + l W2 tanh(W1 [x, u]); the reward is minus the distance to a hidden goal.

    The goal is where a hidden constant action leads after an episode, so that it is within reach.
    States stay in the hypercube that W2's rows allow, about [-3, 3]; rewards lie in about [-3, 0]
    (distance, in units of the goal's distance from where the system drifts by itself).
    """

    name = "RandomNeural"
    distinct_tasks = math.inf
    can_render = True

    def __init__(self, config: RandomNeuralConfig | None = None):
        self.config = config or RandomNeuralConfig()
        self.horizon = self.config.horizon
        n, k = self.config.state_size, self.config.action_size
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (k,), np.float32)

    def sample_params(self, key: jax.Array) -> NeuralParams:
        """Draw a network and a reachable goal."""
        c = self.config
        n, k, h = c.state_size, c.action_size, c.hidden
        keys = jax.random.split(key, 5)
        state_weights = 0.5 * jax.random.normal(keys[0], (n, h)) / jnp.sqrt(float(n))
        action_weights = 1.5 * jax.random.normal(keys[1], (k, h)) / jnp.sqrt(float(k))
        w1 = c.nonlinearity * jnp.concatenate([state_weights, action_weights])
        w2 = 1.5 * jax.random.normal(keys[2], (h, n)) / jnp.sqrt(float(h))
        leak = jax.random.uniform(keys[3], (), minval=c.leak[0], maxval=c.leak[1])
        zero = jnp.zeros(n)
        params = NeuralParams(w1, w2, leak, zero, jnp.ones(()))
        direction = jax.random.normal(keys[4], (k,))
        hold = 0.8 * direction / jnp.max(jnp.abs(direction))

        def settle(action):
            body = lambda x, _: (self._move(x, action, params), None)  # noqa: E731
            return jax.lax.scan(body, zero, None, length=50)[0]

        goal = settle(hold)
        scale = jnp.maximum(jnp.linalg.norm(goal - settle(jnp.zeros(k))), 0.2)
        return params._replace(goal=goal, scale=scale)

    @staticmethod
    def _move(x: jax.Array, action: jax.Array, params: NeuralParams) -> jax.Array:
        drive = jnp.tanh(jnp.concatenate([x, action]) @ params.w1) @ params.w2
        return (1.0 - params.leak) * x + params.leak * drive

    def reset(self, key: jax.Array, params: NeuralParams) -> tuple[NeuralState, jax.Array]:
        """Start near the origin, N(0, 0.3^2) per state variable."""
        x = 0.3 * jax.random.normal(key, params.goal.shape)
        return NeuralState(x), x

    def step(
        self, key: jax.Array, state: NeuralState, action: jax.Array, params: NeuralParams
    ) -> tuple[NeuralState, Timestep]:
        """Advance one step; actions are clipped to [-1, 1]."""
        del key
        x = self._move(state.x, jnp.clip(action, -1.0, 1.0), params)
        reward = -jnp.linalg.norm(x - params.goal) / params.scale
        false = jnp.zeros((), bool)
        return NeuralState(x), timestep(x, reward, false, false)

    def render(self, state: NeuralState, params: NeuralParams) -> np.ndarray:
        """Draw each state variable beside its goal: uint8[256, 256, 3]."""
        goals = np.asarray(params.goal)
        return draw_dials(np.asarray(state.x), goals, max(1.0, 1.5 * float(np.abs(goals).max())))
