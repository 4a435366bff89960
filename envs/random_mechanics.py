"""Random coupled mechanical bodies with hidden objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep
from gla.envs.checks import check_count
from gla.envs.random_linear import check_number


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

    Raises:
        GlaError: if a value is out of its range.
    """

    joints: int = 2
    horizon: int = 50
    time_step: float = 0.1
    gravity: float = 6.0
    coupling: float = 0.3
    max_speed: float = 8.0

    def __post_init__(self):
        for name in ("joints", "horizon"):
            check_count(name, getattr(self, name))
        check_number("time_step", self.time_step, 0.0, above=True)
        check_number("gravity", self.gravity, 0.0)
        check_number("coupling", self.coupling, 0.0, 1.0, below=True)
        check_number("max_speed", self.max_speed, 0.0, above=True)


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
    distinct_tasks = math.inf
    can_render = True

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

    def render(self, state: MechanicsState, params: MechanicsParams) -> np.ndarray:
        """Draw the joints as a chain of links, and the objective: uint8[256, 256, 3].

        The pale chain stands in the goal pose, and the green disc is the point to reach. The bar
        below shows the shares of the pose, reach and velocity rewards, in this order; orange
        arrows beside the joints point the way in which speed is rewarded.
        """
        from gla.envs import drawing

        links = np.asarray(params.links)
        weights = np.asarray(params.weights)
        velocity = np.asarray(params.velocity)

        def chain(q: Any) -> np.ndarray:
            angles = np.cumsum(np.asarray(q))
            steps = links[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])

        canvas = drawing.Canvas((-1.2, -1.3), (1.2, 1.1))
        goal, body = chain(params.pose), chain(state.q)
        canvas.line(goal, drawing.GRID, 0.07)
        canvas.disc(goal[-1], 0.09, drawing.GOAL)
        canvas.line(body, drawing.BODY, 0.07)
        angles = np.cumsum(np.asarray(state.q))
        for joint, (middle, speed) in enumerate(
            zip((body[1:] + body[:-1]) / 2, velocity, strict=True)
        ):
            canvas.disc(body[joint], 0.055, drawing.WALL)
            sideways = np.array([-np.sin(angles[joint]), np.cos(angles[joint])])
            along = np.array([np.cos(angles[joint]), np.sin(angles[joint])])
            length = 0.35 * float(speed) * float(weights[2])
            if abs(length) > 0.02:
                tip = middle + length * sideways
                canvas.polygon([middle - 0.05 * along, tip, middle + 0.05 * along], drawing.HAZARD)
        canvas.disc(body[-1], 0.055, drawing.AGENT)
        left = -1.0
        shades = (drawing.GRID, drawing.GOAL, drawing.HAZARD)
        for share, colour in zip(2.0 * weights, shades, strict=True):
            right = left + float(share)
            canvas.polygon([(left, -1.2), (right, -1.2), (right, -1.12), (left, -1.12)], colour)
            left = right
        return canvas.array()
