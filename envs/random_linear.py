"""Random linear systems with a hidden goal."""

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
from gla.errors import GlaError


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> float:
    """Return `value` if it is a finite number between `low` and `high`.

    Args:
        name: of the setting, for the message.
        value: what was given.
        low: smallest value.
        high: largest value.
        above: whether `low` itself is refused.
        below: whether `high` itself is refused.

    Raises:
        GlaError: if it is not.
    """
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )
    open_end = (above and value == low) or (below and value == high)
    if number and math.isfinite(value) and low <= value <= high and not open_end:
        return float(value)
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if below else 'at most'} {high:g}")
    raise GlaError(f"{name} is {value!r}", " ".join(["a finite number", " and ".join(bounds)]))


def check_range(name: str, value: Any, low: float, high: float, below: bool = False) -> None:
    """Raise a `GlaError` unless `value` is a pair (least, most) with low < least <= most <= high.

    With `below`, `high` itself is refused.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise GlaError(f"{name} is {value!r}", "a pair of numbers (least, most)")
    for number in value:
        check_number(f"a bound of {name}", number, low, high, above=True, below=below)
    if value[0] > value[1]:
        raise GlaError(f"{name} is {value!r}", "the smaller number first")


def draw_dials(values: np.ndarray, goals: np.ndarray, reach: float) -> np.ndarray:
    """Draw state variables as marks on vertical tracks, beside their goals: uint8[256, 256, 3].

    Args:
        values: f[n], shown as blue discs and as bars from 0.
        goals: f[n], shown as green bands.
        reach: the value at the ends of a track; larger ones are drawn there.
    """
    from gla.envs import drawing

    n = len(values)
    canvas = drawing.Canvas((0.0, -1.15), (2.3, 1.15))
    width = 2.3 / n
    half = min(0.3 * width, 0.12)
    clipped = np.clip(np.stack([values, goals]) / reach, -1.0, 1.0)
    canvas.line([(0.08, 0.0), (2.22, 0.0)], drawing.GRID, 0.012)
    for i, (value, goal) in enumerate(clipped.T):
        x = (i + 0.5) * width
        canvas.line([(x, -1.0), (x, 1.0)], drawing.GRID, 0.03)
        box = np.array([(-half, -0.05), (half, -0.05), (half, 0.05), (-half, 0.05)])
        canvas.polygon(box + (x, goal), drawing.GOAL)
        if abs(value) > 0.01:
            canvas.line([(x, 0.0), (x, value)], drawing.TRAIL, 0.4 * half)
        canvas.disc((x, value), 0.6 * half, drawing.AGENT)
    return canvas.array()


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
            held for ever can reach; at most 1.

    Raises:
        GlaError: if a value is out of its range.
    """

    state_size: int = 4
    action_size: int = 2
    horizon: int = 50
    contraction: tuple[float, float] = (0.6, 0.9)
    goal_radius: float = 0.8

    def __post_init__(self):
        for name in ("state_size", "action_size", "horizon"):
            check_count(name, getattr(self, name))
        check_range("contraction", self.contraction, 0.0, 1.0, below=True)
        check_number("goal_radius", self.goal_radius, 0.0, 1.0, above=True)


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
    distinct_tasks = math.inf
    can_render = True

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

    def render(self, state: LinearState, params: LinearParams) -> np.ndarray:
        """Draw each state variable beside its goal: uint8[256, 256, 3]."""
        goals = np.asarray(params.goal)
        return draw_dials(np.asarray(state.x), goals, max(1.0, 1.5 * float(np.abs(goals).max())))
