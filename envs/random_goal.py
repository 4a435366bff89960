"""A damped body that has to be brought to a small place, which is another one in every episode."""

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
from gla.envs.random_linear import check_number, check_range
from gla.envs.telling import Telling

OBJECTIVES = 3


@dataclass(frozen=True)
class RandomGoalConfig:
    """How many coordinates, how fast the body is, and how the goal shows.

    Coordinates lie between walls at -1 and 1.

    Attributes:
        dims: d, number of coordinates; observations have 3 d numbers, actions d.
        horizon: steps in an episode.
        crossing: range of the steps in which a full push carries the body from wall to wall, drawn
            per task with a uniform logarithm.
        lag: range of the steps in which its speed follows a push, likewise.
        width: range of the goal's radius, likewise.
        seen: probability that the goal is drawn anew in every episode and observations show where
            it is; otherwise it stays where it is and nothing shows it.
        costly: probability that actions are costly.
        cost: range of what squared actions cost then, likewise.
        cheap: what they cost otherwise. At 0, rewards are all alike until the goal is found.

    Raises:
        GlaError: if a value is out of its range.
    """

    dims: int = 2
    horizon: int = 200
    crossing: tuple[float, float] = (10.0, 80.0)
    lag: tuple[float, float] = (0.5, 10.0)
    width: tuple[float, float] = (0.05, 0.4)
    seen: float = 0.75
    costly: float = 0.8
    cost: tuple[float, float] = (0.03, 0.5)
    cheap: float = 0.001

    def __post_init__(self):
        check_count("dims", self.dims)
        check_count("horizon", self.horizon)
        ranges = {
            "crossing": (1.0, 1e4),
            "lag": (0.0, 1e3),
            "width": (0.0, 2.0),
            "cost": (0.0, 1e3),
        }
        for name, (low, high) in ranges.items():
            check_range(name, getattr(self, name), low, high)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("seen", "costly", "cheap"):
            check_number(name, getattr(self, name), 0.0, 1.0)


class GoalParams(NamedTuple):
    """One task; every leaf f32, of shape [] where none is given.

    Attributes:
        crossing: steps from wall to wall under a full push.
        lag: steps in which the speed follows.
        motors: f32[d], what an action is multiplied by: a share of 0.5 to 1, with a random sign.
        width: radius of the goal.
        turn: f32[d, d], an orthogonal matrix: how the way to the goal is turned in observations.
        offset: f32[d], what observations show when the body is at its goal.
        seen: 1 if the goal is another one in every episode and is shown, 0 if neither.
        goal: f32[d], where it is if it stays.
        objective: f32[3], one-hot, see `RandomGoal`.
        shift: what every step pays besides, 0 or -1.
        cost: of squared actions.
    """

    crossing: jax.Array
    lag: jax.Array
    motors: jax.Array
    width: jax.Array
    turn: jax.Array
    offset: jax.Array
    seen: jax.Array
    goal: jax.Array
    objective: jax.Array
    shift: jax.Array
    cost: jax.Array


class GoalState(NamedTuple):
    """Coordinates f32[d] in [-1, 1], speeds f32[d] per step, and the episode's goal f32[d]."""

    q: jax.Array
    v: jax.Array
    goal: jax.Array


class RandomGoal(Environment):
    """A damped body between walls, to be brought to a hidden or half-hidden place and left there.

    Observations are the coordinates q, what shows of the goal, and the speeds as shares of the
    largest. Where the goal is seen, it shows as an offset plus an orthogonal matrix times the way
    from goal to body: both are the task's own, so that only rewards tell what is to be seen at the
    goal. Where it is not seen, zeros stand there.

    The objective is one of these, per step, for the distance d of the body from its goal:

    1. inside: 1 within the goal's width, else 0;
    2. bump: exp(-(d / width)^2);
    3. slope: minus d, in units of the largest distance there is;

    in some tasks less 1 in every step (1 and 2), and less a cost of actions. A body that is not
    pushed soon stands still, so whoever has found the goal does best to stop.
    """

    name = "RandomGoal"
    distinct_tasks = math.inf
    can_render = True

    def __init__(self, config: RandomGoalConfig | None = None):
        self.config = config or RandomGoalConfig()
        self.horizon = self.config.horizon
        d = self.config.dims
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3 * d,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (d,), np.float32)

    def sample_params(self, key: jax.Array) -> GoalParams:
        """Draw a body, a goal or how it shows, and an objective."""
        c, d = self.config, self.config.dims
        keys = iter(jax.random.split(key, 13))

        def uniform(low=0.0, high=1.0, shape=()):
            return jax.random.uniform(next(keys), shape, minval=low, maxval=high)

        def spread_log(low, high):
            return jnp.exp(uniform(math.log(low), math.log(high)))

        sign = jax.random.rademacher(next(keys), (d,), jnp.float32)
        turn, _ = jnp.linalg.qr(jax.random.normal(next(keys), (d, d)))
        seen = jnp.float32(uniform() < c.seen)
        which = jax.random.categorical(next(keys), jnp.log(jnp.array([0.5, 0.2, 0.3])))
        shifted = (uniform() < 0.3) & (which < OBJECTIVES - 1)
        costly = uniform() < c.costly
        return GoalParams(
            crossing=spread_log(*c.crossing),
            lag=spread_log(*c.lag),
            motors=sign * uniform(0.5, 1.0, (d,)),
            width=spread_log(*c.width),
            turn=turn,
            offset=seen * uniform(-0.5, 0.5, (d,)),
            seen=seen,
            goal=(1.0 - seen) * uniform(-1.0, 1.0, (d,)),
            objective=jax.nn.one_hot(which, OBJECTIVES),
            shift=-jnp.float32(shifted),
            cost=jnp.where(costly, spread_log(*c.cost), c.cheap),
        )

    def _observe(self, state: GoalState, params: GoalParams) -> jax.Array:
        shown = params.seen * (params.turn @ (state.q - state.goal) + params.offset)
        return jnp.concatenate([state.q, shown, state.v * (0.5 * params.crossing)])

    def tell(self, params: GoalParams) -> Telling:
        """Describe a task to someone who may know: the goal not turned, motors of one sign."""
        d = self.config.dims
        back = jnp.eye(3 * d).at[d : 2 * d, d : 2 * d].set(params.turn.T)
        cost = jnp.maximum(params.cost, 0.001)
        logs = jnp.log(jnp.stack([params.crossing, params.lag, params.width, cost]))
        numbers = jnp.concatenate(
            [
                jnp.abs(params.motors),
                params.turn.T @ params.offset,
                params.goal,
                params.objective,
                logs,
                jnp.stack([params.seen, params.shift]),
            ]
        )
        return Telling(numbers, back, jnp.sign(params.motors))

    def reset(self, key: jax.Array, params: GoalParams) -> tuple[GoalState, jax.Array]:
        """Start anywhere, standing."""
        d = self.config.dims
        place, goal = jax.random.uniform(key, (2, d), minval=-1.0)
        goal = jnp.where(params.seen > 0.0, goal, params.goal)
        state = GoalState(place, jnp.zeros(d), goal)
        return state, self._observe(state, params)

    def step(
        self, key: jax.Array, state: GoalState, action: jax.Array, params: GoalParams
    ) -> tuple[GoalState, Timestep]:
        """Push for one step; actions are clipped to [-1, 1]."""
        del key
        action = jnp.clip(action, -1.0, 1.0)
        kept = jnp.exp(-1.0 / params.lag)
        v = kept * state.v + (1.0 - kept) * (2.0 / params.crossing) * params.motors * action
        moved = state.q + v
        v = jnp.where(jnp.abs(moved) > 1.0, 0.0, v)  # walls take all speed
        state = state._replace(q=jnp.clip(moved, -1.0, 1.0), v=v)
        reward = self.reward(state, params) - params.cost * jnp.mean(action**2)
        false = jnp.zeros((), bool)
        return state, timestep(self._observe(state, params), reward, false, false)

    def reward(self, state: GoalState, params: GoalParams) -> jax.Array:
        """Return the reward f32[] in a state, the cost of actions apart."""
        away = jnp.sqrt(jnp.sum((state.q - state.goal) ** 2))
        farthest = 2.0 * math.sqrt(self.config.dims)
        terms = jnp.stack(
            [
                jnp.float32(away < params.width),
                jnp.exp(-((away / params.width) ** 2)),
                -away / farthest,
            ]
        )
        return jnp.dot(params.objective, terms) + params.shift

    def render(self, state: GoalState, params: GoalParams) -> np.ndarray:
        """Draw the body and its goal in the first two coordinates: uint8[256, 256, 3]."""
        from gla.envs import drawing

        canvas = drawing.Canvas(-1.15, 1.15)
        corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        canvas.polygon(corners * 1.05, drawing.BACKGROUND, drawing.WALL)

        def place(x):
            return np.append(np.asarray(x, float), 0.0)[:2]

        canvas.disc(place(state.goal), max(float(params.width), 0.03), drawing.GOAL)
        canvas.disc(place(state.q), 0.06, drawing.AGENT)
        return canvas.array()
