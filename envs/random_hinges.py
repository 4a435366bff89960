"""Several hinges in random potentials, moved together through mixed motors."""

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
from gla.envs.random_linear import check_number
from gla.envs.random_potential import (
    SUBSTEPS,
    PotentialParams,
    PotentialState,
    RandomPotential,
    RandomPotentialConfig,
    draw_hinge,
)


@dataclass(frozen=True)
class RandomHingesConfig:
    """How many hinges, and how hard they are to move.

    Units are those of `RandomPotentialConfig`, of which a hinge is the body.

    Attributes:
        joints: d, number of hinges; observations have 3 d numbers, actions d.
        horizon: steps in an episode.
        time_step: range of the time that a step takes, drawn per task with a uniform logarithm.
        strength: range of the acceleration of a full action, likewise for each hinge.
        damping: range of the damping, likewise.
        free: probability that a hinge has no potential.
        coupling: largest acceleration of a hinge by another one, at least 0.

    Raises:
        GlaError: if a value is out of its range.
    """

    joints: int = 2
    horizon: int = 100
    time_step: tuple[float, float] = (0.1, 0.3)
    strength: tuple[float, float] = (0.7, 7.0)
    damping: tuple[float, float] = (0.03, 1.0)
    free: float = 0.3
    coupling: float = 0.3

    def __post_init__(self):
        check_count("joints", self.joints)
        check_number("coupling", self.coupling, 0.0)
        hinge = self.hinge
        for name in ("time_step", "strength", "damping"):
            object.__setattr__(self, name, getattr(hinge, name))

    @property
    def hinge(self) -> RandomPotentialConfig:
        """One of them."""
        return RandomPotentialConfig(
            "hinge", self.horizon, self.time_step, self.strength, self.free, self.damping
        )


class HingesParams(NamedTuple):
    """One task.

    Attributes:
        hinges: d tasks of one hinge each, stacked; they share time step and top speed.
        motors: f32[d, d], an orthogonal matrix: the push on each hinge per unit action.
        coupling: f32[d, d], symmetric, 0 on the diagonal: springs between hinges.
        shares: f32[d], shares of the hinges in the reward; they sum to 1.
    """

    hinges: PotentialParams
    motors: jax.Array
    coupling: jax.Array
    shares: jax.Array


class RandomHinges(Environment):
    """Hinges of `RandomPotential` side by side, each with its own potential, motor and objective.

    An action moves all hinges at once: the pushes are an orthogonal matrix times the actions,
    which are clipped to [-1, 1]. A spring pulls the angles q and p of any two hinges by the sine
    of their difference. The reward is a random mean of the hinges' rewards (objectives 1 to 4 of
    `RandomPotential`), often of one hinge alone. Observations are cos q of all hinges, then sin q,
    then v / top speed.
    """

    name = "RandomHinges"
    distinct_tasks = math.inf
    can_render = True

    def __init__(self, config: RandomHingesConfig | None = None):
        self.config = config or RandomHingesConfig()
        self.hinge = RandomPotential(self.config.hinge)
        self.horizon = self.config.horizon
        d = self.config.joints
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3 * d,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (d,), np.float32)

    def sample_params(self, key: jax.Array) -> HingesParams:
        """Draw hinges, motors, springs and what counts."""
        d = self.config.joints
        one, turn, springs, counts = jax.random.split(key, 4)
        hinges = jax.vmap(self.hinge.sample_params)(jax.random.split(one, d))
        first = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], leaf.shape), hinges)
        hinges = hinges._replace(time_step=first.time_step, top_speed=first.top_speed)
        motors, _ = jnp.linalg.qr(jax.random.normal(turn, (d, d)))
        spring = jax.random.uniform(springs, (d, d), minval=-1.0, maxval=1.0)
        spring = jnp.triu(self.config.coupling * spring, 1)
        shares = jax.random.dirichlet(counts, jnp.full((d,), 0.3))
        return HingesParams(hinges, motors, spring + spring.T, shares)

    def _observe(self, state: PotentialState, params: HingesParams) -> jax.Array:
        speed = state.v / params.hinges.top_speed
        return jnp.concatenate([jnp.cos(state.q), jnp.sin(state.q), speed])

    def reset(self, key: jax.Array, params: HingesParams) -> tuple[PotentialState, jax.Array]:
        """Start every hinge near its place of rest, almost standing."""
        keys = jax.random.split(key, self.config.joints)
        states, _ = jax.vmap(self.hinge.reset)(keys, params.hinges)
        state = PotentialState(states.q[:, 0], states.v[:, 0])
        return state, self._observe(state, params)

    def step(
        self, key: jax.Array, state: PotentialState, action: jax.Array, params: HingesParams
    ) -> tuple[PotentialState, Timestep]:
        """Integrate one time step; actions are clipped to [-1, 1]."""
        del key
        action = jnp.clip(action, -1.0, 1.0)
        push = params.motors @ action
        q, v = state
        hinges = params.hinges
        dt = hinges.time_step / SUBSTEPS
        for _ in range(SUBSTEPS):  # semi-implicit Euler
            pulls = jnp.sum(params.coupling * jnp.sin(q[None] - q[:, None]), 1)
            own = jax.vmap(self.hinge.acceleration)(q[:, None], v[:, None], push, hinges)
            v = jnp.clip(v + dt * (own[:, 0] + pulls), -hinges.top_speed, hinges.top_speed)
            q = q + dt * v
        state = PotentialState(q, v)
        each = PotentialState(q[:, None], v[:, None])
        rewards, _ = jax.vmap(self.hinge.reward)(each, hinges)
        rewards = rewards - hinges.cost * jnp.mean(action**2)
        false = jnp.zeros((), bool)
        reward = jnp.dot(params.shares, rewards)
        return state, timestep(self._observe(state, params), reward, false, false)

    def render(self, state: PotentialState, params: HingesParams) -> np.ndarray:
        """Draw the hinges side by side, as `RandomPotential` draws one: uint8[256, 256, 3].

        The bars below tell how much each counts.
        """
        from gla.envs import drawing

        d = self.config.joints
        columns = math.ceil(math.sqrt(d))
        rows = math.ceil(d / columns)
        canvas = drawing.Canvas((0.0, 0.0), (1.0, 1.0))
        size = 1.0 / columns
        for joint in range(d):
            row, column = divmod(joint, columns)
            left = size * column
            bottom = 0.5 + size * (0.5 * rows - row - 1)
            middle = np.array([left + 0.5 * size, bottom + 0.55 * size])
            own = jax.tree.map(lambda leaf, joint=joint: np.asarray(leaf[joint]), params.hinges)
            draw_hinge(canvas, middle, 0.4 * size, float(state.q[joint]), own)
            start, width = left + 0.1 * size, 0.8 * size * float(params.shares[joint])
            if width > 0.005:
                ends = np.array([[start, bottom], [start + width, bottom]]) + 0.05 * size
                canvas.line(ends - [[0.05 * size, 0.0]], drawing.GOAL, 0.03 * size)
        return canvas.array()
