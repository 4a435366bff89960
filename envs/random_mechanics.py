"""Random coupled mechanical bodies with hidden objectives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep


@dataclass(frozen=True)
class RandomMechanicsConfig:
    """Size and difficulty of the family.

    Attributes:
        joints: d, number of joints; observations have 3 d numbers, actions d.
        horizon: steps in an episode.
        time_step: seconds per step, split into two integration steps.
        gravity: largest gravity-like angular acceleration, rad/s^2; full actions accelerate a
            joint by 4 to 10 rad/s^2, so a gravity above 10 may ask for a swing-up.
        coupling: share of a joint's motion that the other joints feel, in [0, 1).
        max_speed: joint speeds are clipped to this, rad/s.
    """

    joints: int = 2
    horizon: int = 50
    time_step: float = 0.1
    gravity: float = 6.0
    coupling: float = 0.3
    max_speed: float = 8.0


class MechanicsParams(NamedTuple):
    """One task.

    Attributes:
        actuators: f32[d, d], acceleration of each joint per unit action.
        damping: f32[d], 1/s.
        gravity: f32[d], rad/s^2.
        tilt: f32[d], angle at which gravity vanishes, rad.
        coupling: f32[d, d], symmetric spring between joints, 1/s^2.
        pose: f32[d], goal angles, rad.
        velocity: f32[d], direction in which speed is rewarded.
        weights: f32[3], shares of pose, reach and velocity rewards; they sum to 1.
        links: f32[d], link lengths of the reaching arm, summing to 1.
    """

    actuators: jax.Array
    damping: jax.Array
    gravity: jax.Array
    tilt: jax.Array
    coupling: jax.Array
    pose: jax.Array
    velocity: jax.Array
    weights: jax.Array
    links: jax.Array


class MechanicsState(NamedTuple):
    """Joint angles f32[d] (rad) and speeds f32[d] (rad/s)."""

    q: jax.Array
    v: jax.Array


class RandomMechanics(Environment):
    """Joints under random gravity, springs, damping and actuators, with a hidden objective.

    The objective is one of three (sometimes a mixture): hold a pose (cosines, like a balance
    task), reach a point with the tip of a chain of links (like a reacher), move joints in a
    direction (like running). Observations are cos q, sin q and v / max_speed; rewards lie in
    [-1, 1] per step, less a small cost of actions.
    """

    name = "RandomMechanics"

    def __init__(self, config: RandomMechanicsConfig | None = None):
        self.config = config or RandomMechanicsConfig()
        self.horizon = self.config.horizon
        d = self.config.joints
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3 * d,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (d,), np.float32)

    def sample_params(self, key: jax.Array) -> MechanicsParams:
        """Draw bodies and an objective."""
        c, d = self.config, self.config.joints
        keys = jax.random.split(key, 10)
        uniform = jax.random.uniform
        strength = uniform(keys[0], (d,), minval=4.0, maxval=10.0)
        q, _ = jnp.linalg.qr(jax.random.normal(keys[1], (d, d)))
        spring = jax.random.normal(keys[4], (d, d))
        spring = c.coupling * (spring + spring.T) * (1.0 - jnp.eye(d))
        kind = jax.random.dirichlet(keys[5], jnp.full((3,), 0.3))
        links = uniform(keys[8], (d,), minval=0.5, maxval=1.0)
        velocity = jax.random.normal(keys[7], (d,))
        return MechanicsParams(
            actuators=q * strength,
            damping=uniform(keys[2], (d,), minval=0.5, maxval=2.0),
            gravity=c.gravity * uniform(keys[3], (d,)) ** 2,
            tilt=uniform(keys[9], (d,), minval=-jnp.pi, maxval=jnp.pi),
            coupling=spring,
            pose=uniform(keys[6], (d,), minval=-2.0, maxval=2.0),
            velocity=velocity / jnp.linalg.norm(velocity),
            weights=kind,
            links=links / jnp.sum(links),
        )

    def _observe(self, state: MechanicsState) -> jax.Array:
        return jnp.concatenate(
            [jnp.cos(state.q), jnp.sin(state.q), state.v / self.config.max_speed]
        )

    def reset(self, key: jax.Array, params: MechanicsParams) -> tuple[MechanicsState, jax.Array]:
        """Start near angle zero, at rest up to small noise."""
        q_key, v_key = jax.random.split(key)
        d = self.config.joints
        state = MechanicsState(
            0.2 * jax.random.normal(q_key, (d,)), 0.1 * jax.random.normal(v_key, (d,))
        )
        return state, self._observe(state)

    def step(
        self, key: jax.Array, state: MechanicsState, action: jax.Array, params: MechanicsParams
    ) -> tuple[MechanicsState, Timestep]:
        """Integrate one time step; actions are clipped to [-1, 1]."""
        del key
        c = self.config
        action = jnp.clip(action, -1.0, 1.0)
        q, v = state
        dt = 0.5 * c.time_step
        for _ in range(2):  # semi-implicit Euler
            force = params.actuators @ action - params.damping * v
            force = force - params.gravity * jnp.sin(q - params.tilt)
            force = force + params.coupling @ jnp.sin(q)
            v = jnp.clip(v + dt * force, -c.max_speed, c.max_speed)
            q = q + dt * v
        state = MechanicsState(q, v)
        reward = self._reward(state, params) - 0.01 * jnp.mean(action**2)
        false = jnp.zeros((), bool)
        return state, timestep(self._observe(state), reward, false, false)

    def _reward(self, state: MechanicsState, params: MechanicsParams) -> jax.Array:
        def tip(q):
            angles = jnp.cumsum(q)
            return jnp.stack(
                [jnp.sum(params.links * jnp.cos(angles)), jnp.sum(params.links * jnp.sin(angles))]
            )

        pose = jnp.mean(jnp.cos(state.q - params.pose))
        reach = 1.0 - jnp.linalg.norm(tip(state.q) - tip(params.pose))
        speed = jnp.dot(params.velocity, state.v) / (0.5 * self.config.max_speed)
        terms = jnp.stack([pose, reach, jnp.clip(speed, -1.0, 1.0)])
        return jnp.dot(params.weights, terms)
