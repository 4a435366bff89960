"""Bodies in random potentials that often have to be swung where they are wanted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep
from gla.envs.checks import check_count
from gla.envs.random_linear import check_number, check_range
from gla.envs.telling import Telling
from gla.errors import GlaError

Body = Literal["hinge", "slider", "pair"]

# Terms of a potential; how many of the objectives there are.
WAVES, OBJECTIVES = 3, 5
SUBSTEPS = 2
# A grid on which the extremes of a potential are found.
GRID = 128
# Where a slider ends on either side.
REACH = 1.0
BONUS = 20.0


@dataclass(frozen=True)
class RandomPotentialConfig:
    """Which bodies, and how hard they are to move.

    Time is measured in units in which the steepest part of the first wave of a potential
    accelerates a body by 1 per unit of time squared, and angles in rad.

    Attributes:
        body: `hinge`, one joint that turns freely: observations (cos q, sin q, v); `slider`, one
            coordinate between walls: (x, v); `pair`, a slider that is driven and a free hinge that
            feels its acceleration: (x, cos q, sin q, v, w).
        horizon: steps in an episode.
        time_step: range of the time that a step takes, drawn per task with a uniform logarithm.
        strength: range of the acceleration of a full action, likewise.
        free: probability that there is no potential.
        damping: range of the damping of a coordinate, likewise.

    Raises:
        GlaError: if a value is out of its range.
    """

    body: Body = "hinge"
    horizon: int = 300
    time_step: tuple[float, float] = (0.04, 0.3)
    strength: tuple[float, float] = (0.2, 2.0)
    free: float = 0.1
    damping: tuple[float, float] = (0.003, 0.3)

    def __post_init__(self):
        if self.body not in get_args(Body):
            raise GlaError(f"body is {self.body!r}", f"one of {', '.join(get_args(Body))}")
        check_count("horizon", self.horizon)
        for name, most in (("time_step", 0.5), ("strength", 100.0), ("damping", 2.0)):
            check_range(name, getattr(self, name), 0.0, most)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_number("free", self.free, 0.0, 1.0)


class PotentialParams(NamedTuple):
    """One task; every leaf f32, of shape [] where none is given.

    Attributes:
        strength: acceleration per unit action, with a random sign.
        damping: f32[2], of the driven coordinate and of the free hinge.
        waves: f32[3], acceleration by the waves of the potential, cos(k q - phase_k), k = 1, 2, 3.
        phases: f32[3], rad.
        track: of a pair, acceleration of the slider by a spring towards its middle.
        lever: f32[2], of a pair, what of the slider's acceleration the hinge feels, along the
            cosine and the sine of its angle; 0 otherwise.
        time_step: of a step.
        top_speed: to which speeds are clipped.
        rest: where episodes start.
        spread: standard deviation of the starts around `rest`; of a hinge uniform where above 1.
        goal: where the body is wanted.
        width: of the goal, in the units of the coordinate.
        objective: f32[5], shares of the objectives, see `RandomPotential`; they sum to 1.
        direction: -1 or 1, in which way speed is rewarded.
        cost: of squared actions.
    """

    strength: jax.Array
    damping: jax.Array
    waves: jax.Array
    phases: jax.Array
    track: jax.Array
    lever: jax.Array
    time_step: jax.Array
    top_speed: jax.Array
    rest: jax.Array
    spread: jax.Array
    goal: jax.Array
    width: jax.Array
    objective: jax.Array
    direction: jax.Array
    cost: jax.Array


class PotentialState(NamedTuple):
    """Coordinates and speeds, f32[1] of a hinge or slider, f32[2] of a pair (slider, hinge)."""

    q: jax.Array
    v: jax.Array


class RandomPotential(Environment):
    """A body in a potential of random waves, weakly driven, with a hidden objective.

    The objective is one of these, sometimes a mixture of two, per step, for the distance d of the
    hinge (or slider) from its goal and its speed v:

    1. slope: -(d / D)^2 - 0.05 v^2, with D the largest distance there is;
    2. cosine: cos(pi d / D);
    3. bump: exp(-(d / width)^2), which is nothing far from a narrow goal;
    4. speed: v in one direction, up to 1;
    5. arrival: 20 once for being within `width` of the goal, which ends the episode.

    less a cost of actions. Goals lie often where the potential is highest, so that the body must be
    swung up and balanced.
    """

    name = "RandomPotential"
    distinct_tasks = math.inf
    can_render = True

    def __init__(self, config: RandomPotentialConfig | None = None):
        self.config = config or RandomPotentialConfig()
        self.horizon = self.config.horizon
        size = {"hinge": 3, "slider": 2, "pair": 5}[self.config.body]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    @property
    def _hinged(self) -> bool:
        return self.config.body != "slider"

    def sample_params(self, key: jax.Array) -> PotentialParams:
        """Draw a body, a potential and an objective."""
        c = self.config
        keys = iter(jax.random.split(key, 24))

        def uniform(low=0.0, high=1.0, shape=()):
            return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

        def spread_log(low, high, shape=()):
            return jnp.exp(uniform(math.log(low), math.log(high), shape))

        def sign():
            return jax.random.rademacher(next(keys), (), jnp.float32)

        free = uniform() < c.free
        waves = jnp.concatenate([jnp.ones(1), uniform(0.0, 0.4, (WAVES - 1,))])
        waves = jnp.where(free, 0.0, waves)
        phases = uniform(-math.pi, math.pi, (WAVES,))
        reach = math.pi if self._hinged else REACH
        grid = jnp.linspace(-reach, reach, GRID)
        height = _potential(grid * (math.pi / reach), waves, phases)
        low, high = grid[jnp.argmin(height)], grid[jnp.argmax(height)]
        anywhere, which = uniform(-0.9 * reach, 0.9 * reach), uniform()
        goal = jnp.where((which < 0.6) & ~free, high, anywhere)
        starts_low = uniform() < 0.6
        rest = jnp.where(starts_low & ~free, low, uniform(-0.8 * reach, 0.8 * reach))
        wide = 2.0 if self._hinged else 0.5
        spread = jnp.where(starts_low, jnp.float32(0.1 * reach / math.pi), jnp.float32(wide))
        arrival = 0.3 if c.body == "slider" else 0.0
        shares = jnp.array([0.25, 0.2, 0.4 - 0.5 * arrival, 0.15 - 0.2 * arrival, arrival])
        first, second = jax.random.categorical(next(keys), jnp.log(shares), shape=(2,))
        share = jnp.where((uniform() < 0.3) & (first < OBJECTIVES - 1), uniform(), 1.0)
        objective = share * jax.nn.one_hot(first, OBJECTIVES)
        second = jnp.minimum(second, OBJECTIVES - 2)
        objective = objective + (1.0 - share) * jax.nn.one_hot(second, OBJECTIVES)
        lever = jnp.zeros(2)
        if c.body == "pair":
            turn = jnp.where(uniform() < 0.5, phases[0], uniform(-math.pi, math.pi))
            lever = uniform(0.5, 2.0) * jnp.stack([jnp.cos(turn), jnp.sin(turn)])
        costly = uniform() < 0.5
        return PotentialParams(
            strength=sign() * spread_log(*c.strength),
            damping=spread_log(*c.damping, (2,)),
            waves=waves,
            phases=phases,
            track=jnp.where(uniform() < 0.3, uniform(0.0, 0.3), 0.0),
            lever=lever,
            time_step=spread_log(*c.time_step),
            top_speed=uniform(2.0, 6.0),
            rest=rest,
            spread=spread,
            goal=goal,
            width=(reach / math.pi) * spread_log(0.2, 1.5),
            objective=objective,
            direction=sign(),
            cost=jnp.where(costly, spread_log(0.003, 0.1), 0.001),
        )

    def _observe(self, state: PotentialState, params: PotentialParams) -> jax.Array:
        q, speed = state.q, state.v / params.top_speed
        if self.config.body == "slider":
            return jnp.concatenate([q, speed])
        turned = jnp.stack([jnp.cos(q[-1]), jnp.sin(q[-1])])
        return jnp.concatenate([q[:-1], turned, speed])

    def tell(self, params: PotentialParams) -> Telling:
        """Describe a task to someone who may know.

        A hinge is seen as turned so that its goal is at angle 0, and pushes to the positive side.
        """
        goal = params.goal if self._hinged else jnp.zeros(())
        turned = params.phases - jnp.arange(1, WAVES + 1) * goal
        along, across = jnp.cos(goal), jnp.sin(goal)
        lever = jnp.stack(
            [
                params.lever[0] * along + params.lever[1] * across,
                params.lever[1] * along - params.lever[0] * across,
            ]
        )
        pushes = jnp.abs(params.strength)
        numbers = jnp.concatenate(
            [
                jnp.stack([pushes, jnp.log(pushes), params.goal - goal, params.track]),
                jnp.log(params.damping),
                params.waves * jnp.cos(turned),
                params.waves * jnp.sin(turned),
                lever,
                jnp.log(jnp.stack([params.time_step, params.width, params.cost])),
                params.top_speed[None],
                params.objective,
                params.objective[3:4] * params.direction,
            ]
        )
        n = self.observation_space.shape[0]
        frame = jnp.eye(n)
        if self._hinged:
            at = n - 3 if self.config.body == "hinge" else 1
            turn = jnp.stack([jnp.stack([along, across]), jnp.stack([-across, along])])
            frame = frame.at[at : at + 2, at : at + 2].set(turn)
        return Telling(numbers, frame, jnp.sign(params.strength)[None])

    def reset(self, key: jax.Array, params: PotentialParams) -> tuple[PotentialState, jax.Array]:
        """Start near the task's place of rest, almost standing."""
        place, around, speed = jax.random.split(key, 3)
        normal = params.rest + params.spread * jax.random.normal(place)
        if self._hinged:
            anywhere = jax.random.uniform(around, minval=-math.pi, maxval=math.pi)
            q = jnp.where(params.spread > 1.0, anywhere, normal)[None]
        else:
            q = jnp.clip(normal, -0.95 * REACH, 0.95 * REACH)[None]
        if self.config.body == "pair":
            q = jnp.concatenate([0.1 * jax.random.normal(around, (1,)), q])
        state = PotentialState(q, 0.05 * jax.random.normal(speed, q.shape))
        return state, self._observe(state, params)

    def step(
        self, key: jax.Array, state: PotentialState, action: jax.Array, params: PotentialParams
    ) -> tuple[PotentialState, Timestep]:
        """Integrate one time step; actions are clipped to [-1, 1]."""
        del key
        action = jnp.clip(action, -1.0, 1.0)
        q, v = state
        dt = params.time_step / SUBSTEPS
        for _ in range(SUBSTEPS):  # semi-implicit Euler
            v = v + dt * self.acceleration(q, v, action[0], params)
            v = jnp.clip(v, -params.top_speed, params.top_speed)
            q = q + dt * v
            if self.config.body != "hinge":  # walls take all speed
                ends = REACH if self.config.body == "slider" else 3.0 * REACH
                v = v.at[0].set(jnp.where(jnp.abs(q[0]) > ends, 0.0, v[0]))
                q = q.at[0].set(jnp.clip(q[0], -ends, ends))
        state = PotentialState(q, v)
        reward, arrived = self.reward(state, params)
        reward = reward - params.cost * action[0] ** 2
        ts = timestep(self._observe(state, params), reward, arrived, jnp.zeros((), bool))
        return state, ts

    def acceleration(
        self, q: jax.Array, v: jax.Array, action: jax.Array, params: PotentialParams
    ) -> jax.Array:
        """Return the accelerations of all coordinates, shaped as they are, under a push f32[]."""
        push = params.strength * action
        if self.config.body == "hinge":
            return (push + _slope(q[0], params) - params.damping[0] * v[0])[None]
        if self.config.body == "slider":
            # A slider is as long as one turn of a hinge, in half as many units.
            pull = _slope(q[0] * (math.pi / REACH), params)
            return ((push + pull) * (REACH / math.pi) - params.damping[0] * v[0])[None]
        slider = push - params.damping[0] * v[0] - params.track * q[0]
        felt = params.lever[0] * jnp.cos(q[1]) + params.lever[1] * jnp.sin(q[1])
        hinge = _slope(q[1], params) - params.damping[1] * v[1] + felt * slider
        return jnp.stack([slider, hinge])

    def reward(self, state: PotentialState, params: PotentialParams) -> tuple[jax.Array, jax.Array]:
        """Return the reward f32[] in a state, costs apart, and whether that ends the episode."""
        away, speed = state.q[-1] - params.goal, state.v[-1]
        farthest = math.pi if self._hinged else REACH
        if self._hinged:
            away = jnp.mod(away + math.pi, 2 * math.pi) - math.pi
        arrived = (jnp.abs(away) < params.width) & (params.objective[4] > 0)
        terms = jnp.stack(
            [
                -((away / farthest) ** 2) - 0.05 * speed**2,
                jnp.cos(math.pi * jnp.minimum(jnp.abs(away) / farthest, 1.0)),
                jnp.exp(-((away / params.width) ** 2)),
                jnp.clip(params.direction * speed, -1.0, 1.0),
                BONUS * arrived,
            ]
        )
        reward = jnp.dot(params.objective, terms)
        if self.config.body == "pair":  # best near the middle of the track
            reward = reward * (1.0 - 0.5 * jnp.sign(reward) * (state.q[0] / (3.0 * REACH)) ** 2)
        return reward, arrived

    def render(self, state: PotentialState, params: PotentialParams) -> np.ndarray:
        """Draw the body and its goal: uint8[256, 256, 3].

        A hinge is a rod on an axle, with its goal as a green disc; shading tells how high the
        potential is. A slider is a ball on the curve of its potential.
        """
        from gla.envs import drawing

        canvas = drawing.Canvas((-1.3, -1.3), (1.3, 1.3))
        waves, phases = np.asarray(params.waves), np.asarray(params.phases)
        q, goal = np.asarray(state.q, float), float(params.goal)

        def height(angle):
            return np.asarray(_potential(angle, waves, phases)) / 2.0

        if self.config.body == "slider":
            xs = np.linspace(-REACH, REACH, GRID)
            curve = np.stack([xs, 0.6 * height(xs * (math.pi / REACH)) - 0.1], 1)
            canvas.line(curve, drawing.WALL, 0.03)
            for x, size, colour in ((goal, 0.1, drawing.GOAL), (q[0], 0.07, drawing.AGENT)):
                y = 0.6 * height(np.array([x * (math.pi / REACH)]))[0] - 0.1
                canvas.disc((x, y + 0.07), size, colour)
            return canvas.array()
        middle = np.zeros(2)
        if self.config.body == "pair":
            middle[0] = 0.3 * q[0]
            canvas.line(np.array([[-0.9, 0.0], [0.9, 0.0]]), drawing.GRID, 0.04)
        draw_hinge(canvas, middle, 1.0, q[-1], params)
        return canvas.array()


def draw_hinge(canvas: Any, middle: np.ndarray, size: float, angle: float, params: Any) -> None:
    """Draw a hinge on a `gla.envs.drawing.Canvas`: a rod on an axle that points up at angle 0.

    Args:
        canvas: where.
        middle: f64[2], where its axle is.
        size: length of everything, 1 for one that fills a square of 2 by 2.
        angle: rad.
        params: `PotentialParams` of its task.
    """
    from gla.envs import drawing

    waves, phases = np.asarray(params.waves), np.asarray(params.phases)

    def at(angle, radius):
        return middle + size * radius * np.array([-math.sin(angle), math.cos(angle)])

    places = np.linspace(-math.pi, math.pi, 48, endpoint=False)
    heights = np.asarray(_potential(places, waves, phases)) / 2.0
    for place, tall in zip(places, heights, strict=True):
        canvas.disc(at(place, 0.95), size * (0.03 + 0.03 * max(float(tall), -0.6)), drawing.GRID)
    canvas.disc(at(float(params.goal), 0.75), size * 0.12, drawing.GOAL)
    canvas.line(np.stack([middle, at(angle, 0.75)]), drawing.BODY, size * 0.07)
    canvas.disc(middle, size * 0.08, drawing.WALL)
    canvas.disc(at(angle, 0.75), size * 0.07, drawing.AGENT)


def _potential(angle: Any, waves: Any, phases: Any) -> jax.Array:
    """Return the potential f32[...] at angles f32[...]: waves of unit steepness."""
    k = jnp.arange(1, WAVES + 1)
    return jnp.sum(waves / k * jnp.cos(k * angle[..., None] - phases), -1)


def _slope(angle: jax.Array, params: PotentialParams) -> jax.Array:
    """Return the acceleration f32[] by the potential: minus its derivative."""
    k = jnp.arange(1, WAVES + 1)
    return jnp.sum(params.waves * jnp.sin(k * angle - params.phases))
