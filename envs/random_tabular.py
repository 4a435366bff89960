"""Finite Markov decision processes: their common form, their exact solution, and a random family.

`TabularEnvironment` steps and solves every task that is given as tables. `RandomTabular` draws
such tables; `gla.envs.gridworld` and `gla.envs.tabular_tasks` write known ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Timestep, timestep
from gla.envs.checks import check_count
from gla.envs.random_linear import check_number
from gla.errors import GlaError


class TabularParams(NamedTuple):
    """One task with S states, A actions and at most K successors of a state under an action.

    Attributes:
        successors: i32[S, A, K], where a step may lead, in 0..S-1.
        cumulative: f32[S, A, K], cumulative probabilities of the successors; the last is 1, and
            successors that never happen repeat the value before them.
        rewards: f32[S, A, K], mean reward of each transition.
        terminal: bool[S], whether entering a state ends the episode.
        starts: f32[S], cumulative probabilities of the start states; the last is 1.
    """

    successors: jax.Array
    cumulative: jax.Array
    rewards: jax.Array
    terminal: jax.Array
    starts: jax.Array


class TabularState(NamedTuple):
    """The number of the current state, i32[] in 0..S-1, and the steps taken so far, i32[]."""

    number: jax.Array
    steps: jax.Array


class TabularSolution(NamedTuple):
    """The best policy of a task.

    Attributes:
        actions: i32[horizon, S], the best action at each step of the episode and state.
        values: f32[S], the best expected return of an episode that starts in each state.
        expected_return: f32[], the same, averaged over the start states.
    """

    actions: jax.Array
    values: jax.Array
    expected_return: jax.Array


def cumulative(probabilities: jax.Array) -> jax.Array:
    """Return cumulative probabilities along the last axis, f32[..., n], exactly 1 at the end.

    Rounding cannot give a successor of probability 0 a share: sums that round to nearly 1 are 1.
    """
    sums = jnp.cumsum(probabilities.astype(jnp.float32), -1)
    return jnp.where(sums > 1.0 - 1e-5, 1.0, sums)


def make_backup(params: TabularParams) -> Callable[[jax.Array], jax.Array]:
    """Return what maps values of states f32[S] to those of actions one step earlier, f32[S, A]."""
    probabilities = jnp.diff(params.cumulative, prepend=0.0)

    def backup(later: jax.Array) -> jax.Array:
        rest = jnp.where(params.terminal, 0.0, later)
        return jnp.sum(probabilities * (params.rewards + rest[params.successors]), -1)

    return backup


class TabularEnvironment(Environment):
    """A task given as tables (`TabularParams`), with exact expert play.

    Observations are one-hot, f32[S], unless a subclass overrides `observe` and
    `observation_space`. Actions are 0..A-1. A step draws one uniform number and looks up a few
    table entries, so the cost of a step does not grow with the number of states except for the
    observation itself.

    The oracle is backward induction over the `horizon` steps of an episode: the score of an
    episode is its undiscounted return until the time limit, so the best action depends on the
    steps that are left, and a stationary discounted policy would fall short of it. Under a time
    limit other than `horizon` it is no longer exact: set the horizon here instead.

    Args:
        name: a short name for messages.
        states: S.
        actions: A.
        horizon: steps after which an episode is truncated.

    Raises:
        GlaError: if a count is not a whole number of at least 1.
    """

    has_oracle = True

    def __init__(self, name: str, states: int, actions: int, horizon: int):
        self.name = name
        self.states = check_count("states", states)
        self.horizon: int = check_count("horizon", horizon)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (states,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(check_count("actions", actions))

    def observe(self, number: jax.Array) -> jax.Array:
        """Return the observation of state `number`, i32[]: one-hot, f32[S]."""
        return (jnp.arange(self.states) == number).astype(jnp.float32)

    def reset(self, key: jax.Array, params: TabularParams) -> tuple[TabularState, jax.Array]:
        """Start an episode in a state drawn from the start distribution."""
        draw = jax.random.uniform(key)
        number = jnp.sum(draw >= params.starts[:-1]).astype(jnp.int32)
        return TabularState(number, jnp.zeros((), jnp.int32)), self.observe(number)

    def step(
        self, key: jax.Array, state: TabularState, action: jax.Array, params: TabularParams
    ) -> tuple[TabularState, Timestep]:
        """Advance one step under `action`, i32[] in 0..A-1."""
        _, actions, branches = params.successors.shape
        # Single numbers from flat tables: under vmap on a CPU this gather is several times as fast
        # as one of rows, and some fifty times as fast as a sum over one-hot masks.
        at = (state.number * actions + action.astype(jnp.int32)) * branches
        if branches > 1:
            draw = jax.random.uniform(key)
            table = params.cumulative.reshape(-1)
            passed = [draw >= table[at + branch] for branch in range(branches - 1)]
            at = at + sum(p.astype(jnp.int32) for p in passed)
        number = params.successors.reshape(-1)[at]
        state = TabularState(number, state.steps + 1)
        return state, timestep(
            self.observe(number),
            params.rewards.reshape(-1)[at],
            params.terminal[number],
            jnp.zeros((), bool),
        )

    def solve(self, params: TabularParams) -> TabularSolution:
        """Compute the best policy by backward induction over the episode's `horizon` steps."""
        returns_before = make_backup(params)

        def earlier(later: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            returns = returns_before(later)
            return jnp.max(returns, -1), jnp.argmax(returns, -1).astype(jnp.int32)

        nothing = jnp.zeros(self.states, jnp.float32)
        values, actions = jax.lax.scan(earlier, nothing, None, self.horizon, reverse=True)
        starts = jnp.diff(params.starts, prepend=0.0)
        return TabularSolution(actions, values, jnp.dot(starts, values))

    def uniform_return(self, params: TabularParams) -> jax.Array:
        """Compute the expected return of an episode of uniform actions, f32[]."""
        returns_before = make_backup(params)

        def earlier(later: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.mean(returns_before(later), -1), None

        nothing = jnp.zeros(self.states, jnp.float32)
        values, _ = jax.lax.scan(earlier, nothing, None, self.horizon)
        return jnp.dot(jnp.diff(params.starts, prepend=0.0), values)

    def best_action(
        self, solution: TabularSolution, state: TabularState, params: TabularParams
    ) -> jax.Array:
        """Return the best action, i32[]; past `horizon` steps, that of the last step."""
        del params
        return solution.actions[jnp.minimum(state.steps, self.horizon - 1), state.number]


@dataclass(frozen=True)
class RandomTabularConfig:
    """Size and difficulty of the family.

    Attributes:
        states: S, number of states, at least 2; observations have S numbers.
        actions: A, number of actions.
        successors: K, number of different states that an action may lead to from a state, at most
            S; 1 makes the tasks deterministic.
        spread: how even the K probabilities are, at least 0.01. They are proportional to
            E^(1 / spread) with E exponentially distributed: 1 is uniform over all probability
            vectors, 0.1 nearly deterministic, 10 nearly even.
        starts: number of start states of a task, each equally likely.
        reward_share: share of the state-action pairs that pay, in [0, 1]; the number of pairs is
            rounded and at least 1. With 0 the task is a search for a goal instead: entering one
            hidden state pays 1 and ends the episode, every other step pays `step_reward`.
        reward_noise: largest deviation of a reward from its mean, drawn uniformly, at least 0.
        horizon: steps in an episode.
        traps: number of states that end the episode; entering one pays as any other step does. The
            hidden cycle does not run through them, and no pair that pays is theirs.
        reach: how far along the hidden cycle a step leads at most, forward or backward, but for the
            step that closes the cycle; at least successors - 1. Small numbers make long chains. 0
            sets no limit.
        step_reward: what a step pays in a search for a goal, at most 0; None for -1 / horizon.

    Raises:
        GlaError: if a value is out of its range.
    """

    states: int = 10
    actions: int = 4
    successors: int = 3
    spread: float = 0.5
    starts: int = 1
    reward_share: float = 0.1
    reward_noise: float = 0.0
    horizon: int = 50
    traps: int = 0
    reach: int = 0
    step_reward: float | None = None

    def __post_init__(self):
        for name in ("states", "actions", "successors", "starts", "horizon"):
            check_count(name, getattr(self, name))
        if self.states < 2:
            raise GlaError(f"states is {self.states}", "a whole number of at least 2")
        check_number("spread", self.spread, 0.01)
        check_number("reward_share", self.reward_share, 0.0, 1.0)
        check_number("reward_noise", self.reward_noise, 0.0)
        if self.successors > self.states:
            raise GlaError(
                f"successors is {self.successors} with {self.states} states",
                "at most as many successors as states",
            )
        for name in ("traps", "reach"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise GlaError(f"{name} is {value!r}", "a whole number of at least 0")
        if self.traps > self.states - 2:
            raise GlaError(
                f"traps is {self.traps} with {self.states} states",
                f"at most {self.states - 2} traps",
            )
        if self.reach and self.reach < self.successors - 1:
            raise GlaError(
                f"reach is {self.reach} with {self.successors} successors",
                f"0, or at least {self.successors - 1}",
            )
        if self.step_reward is not None:
            check_number("step_reward", self.step_reward, high=0.0)
            if self.reward_share > 0:
                raise GlaError(
                    f"step_reward is {self.step_reward} with reward_share {self.reward_share}",
                    "reward_share 0, a search for a goal",
                )
        left = self.states - self.traps
        most = left if self.reward_share > 0 else left - 1
        if self.starts > most:
            raise GlaError(
                f"starts is {self.starts} with {left} states"
                + (" that are no traps" if self.traps else ""),
                f"at most {most} start states",
            )


class RandomTabular(TabularEnvironment):
    """Random Markov decision processes with finitely many states.

    Every state can be reached within an episode that is long enough (and, where nothing ends it,
    from every other state, so that the process is irreducible under a policy that tries all
    actions): a hidden random cycle runs through all states but traps. In each state one hidden
    action has the cycle's next state as its likeliest successor, with probability at least 1/K; the
    start states are the first of the cycle and a goal is its last. All other successors, all
    probabilities and rewards, the cycle and the start states are drawn per task, so the number of
    a state, and with it the place of its 1 in the one-hot observation f32[S], tells nothing.

    Mean rewards lie in [0, 1], and the best state-action pair pays 1, so a return without noise
    lies in [0, horizon]; in a search for a goal, with the default step reward, in [-1, 1]. Noise
    adds at most reward_noise per step. With the defaults the best policy earns 22.6 of the 50 in
    the mean over tasks, uniform actions 3.2.

    Args:
        config: size and difficulty.
    """

    # Probabilities and rewards are continuous. (Deterministic goal searches are finitely many, but
    # far beyond counting for all but the smallest sizes.)
    distinct_tasks = math.inf
    can_render = True

    def __init__(self, config: RandomTabularConfig | None = None):
        self.config = c = config or RandomTabularConfig()
        super().__init__("RandomTabular", c.states, c.actions, c.horizon)

    def sample_params(self, key: jax.Array) -> TabularParams:
        """Draw transitions around a hidden cycle, rewards and start states."""
        c = self.config
        pairs = (c.states, c.actions)
        # One draw, cut into pieces: each call of the generator takes about a second to compile.
        shapes = (
            (c.states,),
            (c.states,),
            (*pairs, c.states),
            (*pairs, c.successors),
            pairs,
            pairs,
        )
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        pieces = jnp.split(jax.random.uniform(key, (int(ends[-1]),)), ends[:-1])
        order, onward, scores, weights, which, pay = (
            piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)
        )
        everything = jnp.argsort(order).astype(jnp.int32)
        cycle, traps = everything[: c.states - c.traps], everything[c.states - c.traps :]
        following = jnp.zeros(c.states, jnp.int32).at[cycle].set(jnp.roll(cycle, -1))
        onward = jnp.floor(onward * c.actions).astype(jnp.int32)

        if c.reach:
            # Traps lie beside the cycle, at even distances. What is too far comes after all else.
            beside = (np.arange(c.traps) + 0.5) * len(cycle) / max(c.traps, 1)
            place = jnp.zeros(c.states).at[cycle].set(jnp.arange(len(cycle), dtype=jnp.float32))
            place = place.at[traps].set(jnp.asarray(beside, jnp.float32))
            far = jnp.abs(place[:, None] - place) > c.reach
            scores = jnp.where(far[:, None, :], 1.0 + scores, scores)
        # The K smallest of random scores are K different states; -1 puts the cycle's state first.
        scores = scores.at[jnp.arange(c.states), onward, following].set(-1.0)
        successors = jax.lax.top_k(-scores, c.successors)[1].astype(jnp.int32)
        exponentials = jnp.maximum(-jnp.log1p(-weights), 1e-9)
        probabilities = jax.nn.softmax(jnp.log(exponentials) / c.spread)
        probabilities = -jnp.sort(-probabilities, -1)  # the first successor is the likeliest

        if c.reward_share > 0:
            count = max(1, round(c.reward_share * c.states * c.actions))
            if c.traps:  # nobody acts there
                which = which.at[traps].set(-1.0)
                count = min(count, len(cycle) * c.actions)
            paying = jax.lax.top_k(which.reshape(-1), count)[1]
            pay = jnp.zeros(pay.size).at[paying].set(1.0 - pay.reshape(-1)[paying])
            most = jnp.max(pay)
            pay = jnp.where(pay == most, 1.0, pay / most).reshape(pairs)
            rewards = jnp.broadcast_to(pay[..., None], successors.shape)
            terminal = jnp.zeros(c.states, bool)
        else:
            terminal = jnp.arange(c.states) == cycle[-1]
            step_reward = -1.0 / c.horizon if c.step_reward is None else c.step_reward
            rewards = jnp.where(terminal[successors], 1.0, jnp.float32(step_reward))
        terminal = terminal.at[traps].set(True)
        starts = jnp.zeros(c.states).at[cycle[: c.starts]].set(1.0 / c.starts)
        return TabularParams(
            successors, cumulative(probabilities), rewards, terminal, cumulative(starts)
        )

    def step(
        self, key: jax.Array, state: TabularState, action: jax.Array, params: TabularParams
    ) -> tuple[TabularState, Timestep]:
        """Advance one step under `action`, i32[] in 0..A-1; add the noise of the reward."""
        noise = self.config.reward_noise
        if noise == 0:
            return super().step(key, state, action, params)
        key, noise_key = jax.random.split(key)
        state, ts = super().step(key, state, action, params)
        deviation = jax.random.uniform(noise_key, (), minval=-noise, maxval=noise)
        return state, ts._replace(reward=ts.reward + deviation)

    def render(self, state: TabularState, params: TabularParams) -> np.ndarray:
        """Draw the states on a circle with their likeliest transitions: uint8[256, 256, 3].

        A line joins a state to the likeliest successor of each action, thick at the end where it
        arrives. A state is the greener the more its best action pays (or is the goal); the ring
        marks the agent.
        """
        from gla.envs import drawing

        n = self.states
        angles = np.pi / 2 - 2 * np.pi * np.arange(n) / n
        places = np.stack([np.cos(angles), np.sin(angles)], 1)
        radius = min(0.16, 2.2 / n)
        tables: Any = jax.tree.map(np.asarray, params)
        here = int(state.number)
        canvas = drawing.Canvas(-1.25, 1.25)

        def edges(source: int, colour: drawing.Colour, width: float) -> None:
            for target in tables.successors[source, :, 0]:
                start, end = places[source], places[target]
                length = np.linalg.norm(end - start)
                if length == 0:
                    continue
                along = (end - start) / length
                across = np.array([-along[1], along[0]])
                tip = end - radius * along
                base = tip - 1.6 * width * across
                canvas.polygon([start, base, tip + 1.6 * width * across], colour)

        for source in range(n):
            if source != here:
                edges(source, drawing.GRID, min(0.022, 0.2 / n))
        edges(here, drawing.TRAIL, 0.028)
        pay = tables.rewards.max((1, 2))
        if tables.terminal.any():
            pay = tables.terminal.astype(np.float32)
        for i, place in enumerate(places):
            if i == here:
                canvas.disc(place, 1.45 * radius, drawing.AGENT)
            colour = drawing.mix((255, 255, 255), drawing.GOAL, pay[i])
            canvas.disc(place, radius, colour, drawing.BODY)
        return canvas.array()
