"""Ant-Direction on Brax and on MuJoCo: an ant that is paid for running in a hidden direction.

The meta-learning benchmark of Finn et al. (2017). Fig. 4 of the GLA paper uses its
forward/backward version, which has two tasks; with any direction there are infinitely many.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Params
from gla.envs.brax_adapter import BraxEnvironment
from gla.envs.host import HostEnv, mujoco_env
from gla.errors import GlaError, near_matches

Directions = Literal["any", "forward-backward"]


def sample_direction(key: jax.Array, directions: Directions = "any") -> jax.Array:
    """Draw the direction of a task, a unit vector f32[2] in the plane of the floor.

    Both simulators use this function, so the same key gives the same direction in both.

    Args:
        key: key of the task.
        directions: `any` draws an angle uniformly; `forward-backward` draws +x or -x.

    Raises:
        GlaError: if `directions` is neither.
    """
    _check_directions(directions)
    if directions == "forward-backward":
        sign = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return jnp.stack([sign, jnp.zeros(())])
    angle = jax.random.uniform(key, (), jnp.float32, -jnp.pi, jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def unit_vector(degrees: float) -> np.ndarray:
    """Return the direction of an angle, f32[2]: 0 is +x (forward), 90 is +y, 180 is backward."""
    angle = np.deg2rad(degrees)
    # Rounded so that the four main directions are exact; float32 has seven digits.
    return np.round([np.cos(angle), np.sin(angle)], 12).astype(np.float32) + np.float32(0.0)


class BraxAntDirection(BraxEnvironment):
    """Brax's ant, paid for the velocity of its torso along a hidden direction.

    The reward is Ant's with the forward velocity replaced by the velocity (m/s) along the
    direction: velocity + 1 for staying upright - 0.5 * the sum of the squared actions. All else,
    observations, episode ends and actions, is as in `BraxEnvironment("ant")`; the direction is not
    observed. The params of a task are its direction, a unit vector f32[2].

    `distinct_tasks` is infinite for `any`, 2 for `forward-backward` and 1 for a fixed direction.

    Args:
        directions: `any`, or `forward-backward` for +x and -x.
        direction: fixes the task: an angle in degrees, counter-clockwise from +x.
        backend: as in `BraxEnvironment`.
        **kwargs: settings of Brax's ant, such as `ctrl_cost_weight`.

    Raises:
        GlaError: as `BraxEnvironment`, and if `directions` or `direction` is none of these.
    """

    def __init__(
        self,
        directions: Directions = "any",
        direction: float | None = None,
        backend: str | None = None,
        **kwargs: Any,
    ):
        _check_directions(directions)
        _check_direction(directions, direction)
        super().__init__("ant", backend, **kwargs)
        self.name = _name("brax", directions)
        self.directions, self.direction = directions, direction
        self.distinct_tasks = distinct_directions(directions, direction)

    def sample_params(self, key: jax.Array) -> jax.Array:
        """Draw a direction, a unit vector f32[2]; the fixed one where one was given."""
        if self.direction is not None:
            return jnp.asarray(unit_vector(self.direction))
        return sample_direction(key, self.directions)

    def _reward(self, after: Any, params: Params) -> jax.Array:
        parts = after.metrics
        # Two products written out: a dot product may run in lower precision on a GPU.
        velocity = params[0] * parts["x_velocity"] + params[1] * parts["y_velocity"]
        return velocity + parts["reward_survive"] + parts["reward_ctrl"] + parts["reward_contact"]


def mujoco_ant_direction_env(
    directions: Directions = "any",
    direction: float | None = None,
    task_key: jax.Array | None = None,
    show_direction: bool = False,
    **kwargs: Any,
) -> HostEnv:
    """Build MuJoCo's Ant-v5, paid for the velocity of its torso along a hidden direction.

    The reward is Ant-v5's with the forward velocity replaced by the velocity (m/s) along the
    direction. All else is as in `mujoco_env("Ant-v5")`, without contact forces in the observation.
    `info["reward_forward"]` is the new term, and the direction is `simulator.direction`, f32[2].

    Args:
        directions: `any`, or `forward-backward` for +x and -x.
        direction: fixes the task, whatever the key: an angle in degrees, counter-clockwise from +x.
        task_key: the key that draws the direction, as `BraxAntDirection.sample_params` does.
        show_direction: append the direction to the observation, which makes the task an ordinary
            one; the expert of the reference scores learns so.
        **kwargs: settings of Ant-v5; `forward_reward_weight` weighs the velocity.

    Raises:
        GlaError: as `mujoco_env`, if `directions` or `direction` is none of these, or if there is
            neither a direction nor a key.
    """
    _check_directions(directions)
    _check_direction(directions, direction)
    if direction is not None:
        vector = unit_vector(direction)
    elif task_key is not None:
        vector = np.asarray(sample_direction(task_key, directions))
    else:
        raise GlaError(
            "Ant-Direction was given no task",
            "task_key, which draws a direction, or direction in degrees",
            "pass task_key=gla.envs.splits.task_key('train', 0)",
        )
    weight = kwargs.get("forward_reward_weight", 1.0)
    simulator = mujoco_env("Ant-v5", **kwargs).simulator
    rewarded: gymnasium.Env = _DirectionReward(simulator, vector, weight)
    if show_direction:
        space: Any = simulator.observation_space
        ones = np.ones(2)
        low, high = np.concatenate([space.low, -ones]), np.concatenate([space.high, ones])
        rewarded = gymnasium.wrappers.TransformObservation(
            rewarded,
            lambda observation: np.concatenate([observation, vector]),
            gymnasium.spaces.Box(low, high, dtype=np.float64),
        )
    env = HostEnv(rewarded, _name("mujoco", directions))
    env.distinct_tasks = distinct_directions(directions, direction)
    return env


class _DirectionReward(gymnasium.Wrapper):
    """Replaces Ant's forward reward by `weight` times the velocity along `direction` f32[2]."""

    def __init__(self, env: gymnasium.Env, direction: np.ndarray, weight: float):
        super().__init__(env)
        self.direction, self.weight = direction, weight

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance; the reward's other terms are those of Ant-v5."""
        observation, _, terminated, truncated, info = self.env.step(action)
        velocity = self.direction @ np.array([info["x_velocity"], info["y_velocity"]])
        forward = float(self.weight * velocity)
        reward = forward + info["reward_survive"] + info["reward_ctrl"] + info["reward_contact"]
        return observation, reward, terminated, truncated, {**info, "reward_forward": forward}


def distinct_directions(directions: Directions, direction: float | None = None) -> float:
    """Return how many tasks there are: 1 if one is fixed, 2 forward and backward, or infinity."""
    if direction is not None:
        return 1
    return 2 if directions == "forward-backward" else math.inf


def _name(simulator: str, directions: Directions) -> str:
    return f"{simulator} ant, {'any direction' if directions == 'any' else directions}"


def _check_directions(directions: Any) -> None:
    known = get_args(Directions)
    if directions not in known:
        raise GlaError(
            f"directions is {directions!r}{near_matches(str(directions), known)}",
            " or ".join(known),
        )


def _check_direction(directions: Directions, direction: Any) -> None:
    if direction is None:
        return
    number = isinstance(direction, (int, float, np.number)) and not isinstance(direction, bool)
    if not number or not math.isfinite(direction):
        raise GlaError(f"direction is {direction!r}", "an angle in degrees, such as 90")
    if directions == "forward-backward" and float(direction) % 360 not in (0.0, 180.0):
        raise GlaError(
            f"direction is {direction} degrees", "0 or 180", "use directions='any' for the others"
        )
