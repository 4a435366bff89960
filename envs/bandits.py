"""Bandits: arms whose payments are hidden, the smallest tasks that must be learned from rewards.

A lifetime of pulls on one task shows how an agent trades exploration against exploitation. The
classic families of meta-RL are here: Bernoulli arms with uniform probabilities (RL^2, Duan et al.
2016), Gaussian arms with uniform means (DPT, Lee et al. 2023), and linear contextual arms.
"""

from __future__ import annotations

import abc
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
from gla.errors import GlaError


def _check_arms(arms: Any) -> None:
    if check_count("arms", arms) < 2:
        raise GlaError(f"arms is {arms}", "at least 2, so that there is a choice")


@dataclass(frozen=True)
class BernoulliBanditConfig:
    """Size and difficulty of the family.

    Attributes:
        arms: number of arms, at least 2.
        horizon: pulls in an episode.
        prior: the parameters (a, b) of the Beta distribution from which the probability of every
            arm is drawn; (1, 1) is uniform, both below 1 make easy tasks, both above 1 hard ones.

    Raises:
        GlaError: if a value is out of its range.
    """

    arms: int = 10
    horizon: int = 100
    prior: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        _check_arms(self.arms)
        check_count("horizon", self.horizon)
        if len(self.prior) != 2:
            raise GlaError(f"prior is {self.prior!r}", "a pair (a, b)")
        for value in self.prior:
            check_number("a parameter of prior", value, 0.0, above=True)


@dataclass(frozen=True)
class GaussianBanditConfig:
    """Size and difficulty of the family.

    Attributes:
        arms: number of arms, at least 2.
        horizon: pulls in an episode.
        prior: (low, high), the range from which the mean of every arm is drawn uniformly.
        noise: standard deviation of a payment about its mean, at least 0.

    Raises:
        GlaError: if a value is out of its range.
    """

    arms: int = 10
    horizon: int = 100
    prior: tuple[float, float] = (0.0, 1.0)
    noise: float = 0.3

    def __post_init__(self):
        _check_arms(self.arms)
        check_count("horizon", self.horizon)
        if len(self.prior) != 2:
            raise GlaError(f"prior is {self.prior!r}", "a pair (low, high)")
        for value in self.prior:
            check_number("a bound of prior", value)
        if not self.prior[0] < self.prior[1]:
            raise GlaError(f"prior is {self.prior!r}", "the lower bound first")
        check_number("noise", self.noise, 0.0)


@dataclass(frozen=True)
class LinearBanditConfig:
    """Size and difficulty of the family.

    Attributes:
        arms: number of arms, at least 2.
        context_size: d, the length of the context that is observed before every pull.
        horizon: pulls in an episode.
        prior: length of the hidden weights of every arm, whose direction is drawn uniformly; it is
            also the standard deviation of an arm's mean payment over contexts.
        noise: standard deviation of a payment about its mean, at least 0.

    Raises:
        GlaError: if a value is out of its range.
    """

    arms: int = 5
    context_size: int = 4
    horizon: int = 100
    prior: float = 1.0
    noise: float = 0.3

    def __post_init__(self):
        _check_arms(self.arms)
        check_count("context_size", self.context_size)
        check_count("horizon", self.horizon)
        check_number("prior", self.prior, 0.0, above=True)
        check_number("noise", self.noise, 0.0)


class BanditParams(NamedTuple):
    """One task: the mean payment of every arm, f32[arms]."""

    means: jax.Array


class BanditState(NamedTuple):
    """The last pull, kept to be drawn: its arm i32[] (-1 before the first), its payment f32[]."""

    arm: jax.Array
    reward: jax.Array


class LinearBanditParams(NamedTuple):
    """One task: the weights of every arm, f32[arms, d]."""

    weights: jax.Array


class LinearBanditState(NamedTuple):
    """The context f32[d] of the next pull, and the last pull as in `BanditState`."""

    context: jax.Array
    arm: jax.Array
    reward: jax.Array


def _no_pull() -> BanditState:
    return BanditState(jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.float32))


class _ArmedBandit(Environment):
    """What Bernoulli and Gaussian bandits share: arms that only have a mean, and no context."""

    distinct_tasks = math.inf
    can_render = True
    has_oracle = True

    def __init__(self, arms: int, horizon: int):
        self.horizon = horizon
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(arms)

    @abc.abstractmethod
    def _pay(self, key: jax.Array, mean: jax.Array) -> jax.Array:
        """Draw a payment f32[] of an arm with this mean f32[]."""

    @abc.abstractmethod
    def _axis(self) -> tuple[float, float]:
        """Return the lowest and highest payment to draw."""

    def reset(self, key: jax.Array, params: BanditParams) -> tuple[BanditState, jax.Array]:
        """Start an episode; there is nothing to observe but a constant 1, f32[1]."""
        del key, params
        return _no_pull(), jnp.ones((1,), jnp.float32)

    def step(
        self, key: jax.Array, state: BanditState, action: jax.Array, params: BanditParams
    ) -> tuple[BanditState, Timestep]:
        """Pull the arm `action`, i32[] in 0..arms-1; episodes never terminate."""
        del state
        reward = self._pay(key, params.means[action])
        false = jnp.zeros((), bool)
        return (
            BanditState(jnp.asarray(action, jnp.int32), reward),
            timestep(jnp.ones((1,), jnp.float32), reward, false, false),
        )

    def solve(self, params: BanditParams) -> jax.Array:
        """Return the arm of the highest mean, i32[]."""
        return jnp.argmax(params.means).astype(jnp.int32)

    def best_action(
        self, solution: jax.Array, state: BanditState, params: BanditParams
    ) -> jax.Array:
        """Return the arm of the highest mean, i32[]."""
        del state, params
        return solution

    def render(self, state: BanditState, params: BanditParams) -> np.ndarray:
        """Draw the mean of every arm, the best in green, and the last payment as a disc.

        Returns:
            uint8[256, 256, 3].
        """
        return _draw_arms(np.asarray(params.means), state.arm, state.reward, *self._axis())


class BernoulliBandit(_ArmedBandit):
    """Arms that pay 1 with a hidden probability each, else 0.

    The probabilities are drawn from a Beta prior once per task. Observation: a constant 1, f32[1];
    action: the arm. An episode is `horizon` pulls. Defaults are a setting of RL^2 (Duan et al.
    2016, section 3.1): ten arms, uniform probabilities, a hundred pulls.

    Args:
        config: size and difficulty.
    """

    name = "BernoulliBandit"

    def __init__(self, config: BernoulliBanditConfig | None = None):
        self.config = config or BernoulliBanditConfig()
        super().__init__(self.config.arms, self.config.horizon)

    def sample_params(self, key: jax.Array) -> BanditParams:
        """Draw the probability of every arm, in [0, 1]."""
        return BanditParams(jax.random.beta(key, *self.config.prior, (self.config.arms,)))

    def _pay(self, key: jax.Array, mean: jax.Array) -> jax.Array:
        return (jax.random.uniform(key) < mean).astype(jnp.float32)

    def _axis(self) -> tuple[float, float]:
        return 0.0, 1.0


class GaussianBandit(_ArmedBandit):
    """Arms that pay a hidden mean each, plus Gaussian noise.

    The means are drawn uniformly from a range once per task, so expected rewards stay within it.
    Observation: a constant 1, f32[1]; action: the arm. An episode is `horizon` pulls. Means in
    [0, 1] and a noise of 0.3 are those of DPT (Lee et al. 2023, section 4.1).

    Args:
        config: size and difficulty.
    """

    name = "GaussianBandit"

    def __init__(self, config: GaussianBanditConfig | None = None):
        self.config = config or GaussianBanditConfig()
        super().__init__(self.config.arms, self.config.horizon)

    def sample_params(self, key: jax.Array) -> BanditParams:
        """Draw the mean of every arm, within the bounds of the prior."""
        low, high = self.config.prior
        return BanditParams(jax.random.uniform(key, (self.config.arms,), minval=low, maxval=high))

    def _pay(self, key: jax.Array, mean: jax.Array) -> jax.Array:
        return mean + self.config.noise * jax.random.normal(key)

    def _axis(self) -> tuple[float, float]:
        low, high = self.config.prior
        return low - 3.0 * self.config.noise, high + 3.0 * self.config.noise


class LinearBandit(Environment):
    """Arms that pay a hidden linear function of a visible context, plus Gaussian noise.

    Arm a pays x . theta_a + noise. The context x, f32[d], is the observation: drawn anew for every
    pull, uniformly on the sphere of radius sqrt(d), so that its numbers have unit variance. The
    weights theta_a lie on a sphere of radius `prior`, so expected rewards lie within
    [-prior sqrt(d), prior sqrt(d)] with a standard deviation of `prior` over contexts. Action: the
    arm. An episode is `horizon` pulls.

    Args:
        config: size and difficulty.
    """

    name = "LinearBandit"
    distinct_tasks = math.inf
    can_render = True
    has_oracle = True

    def __init__(self, config: LinearBanditConfig | None = None):
        self.config = config or LinearBanditConfig()
        self.horizon = self.config.horizon
        d = self.config.context_size
        bound = float(np.sqrt(d)) * (1.0 + 1e-5)  # leaves room for rounding
        self.observation_space = gymnasium.spaces.Box(-bound, bound, (d,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(self.config.arms)

    def sample_params(self, key: jax.Array) -> LinearBanditParams:
        """Draw the direction of every arm's weights."""
        c = self.config
        return LinearBanditParams(c.prior * _on_sphere(key, (c.arms, c.context_size)))

    def _context(self, key: jax.Array) -> jax.Array:
        d = self.config.context_size
        return d**0.5 * _on_sphere(key, (d,))

    def reset(
        self, key: jax.Array, params: LinearBanditParams
    ) -> tuple[LinearBanditState, jax.Array]:
        """Start an episode with a first context."""
        del params
        context = self._context(key)
        return LinearBanditState(context, *_no_pull()), context

    def step(
        self,
        key: jax.Array,
        state: LinearBanditState,
        action: jax.Array,
        params: LinearBanditParams,
    ) -> tuple[LinearBanditState, Timestep]:
        """Pull the arm `action`, i32[] in 0..arms-1, and draw the next context."""
        noise_key, context_key = jax.random.split(key)
        mean = jnp.sum(params.weights[action] * state.context)
        reward = mean + self.config.noise * jax.random.normal(noise_key)
        context = self._context(context_key)
        false = jnp.zeros((), bool)
        return (
            LinearBanditState(context, jnp.asarray(action, jnp.int32), reward),
            timestep(context, reward, false, false),
        )

    def solve(self, params: LinearBanditParams) -> jax.Array:
        """Return the weights, f32[arms, d]: all that the best choice needs besides the context."""
        return params.weights

    def best_action(
        self, solution: jax.Array, state: LinearBanditState, params: LinearBanditParams
    ) -> jax.Array:
        """Return the arm of the highest mean in the current context, i32[]."""
        del params
        return jnp.argmax(jnp.sum(solution * state.context, -1)).astype(jnp.int32)

    def render(self, state: LinearBanditState, params: LinearBanditParams) -> np.ndarray:
        """Draw the mean of every arm in the current context, the best in green.

        The disc is the last payment, which was made in the context before this one.

        Returns:
            uint8[256, 256, 3].
        """
        means = np.asarray(params.weights) @ np.asarray(state.context)
        bound = self.config.prior * float(np.sqrt(self.config.context_size))
        bound += 3.0 * self.config.noise
        return _draw_arms(means, state.arm, state.reward, -bound, bound)


def _on_sphere(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draw unit vectors along the last axis, uniformly, f32[*shape]."""
    direction = jax.random.normal(key, shape)
    return direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)


def _draw_arms(means: np.ndarray, arm: Any, reward: Any, low: float, high: float) -> np.ndarray:
    """Draw means f32[arms] as bars from 0 and the last payment as a disc, uint8[256, 256, 3]."""
    from gla.envs import drawing

    low, high = min(low, 0.0), max(high, 0.0)

    def height(value: float) -> float:
        """Put a payment on a picture of the unit square, with a margin."""
        return 0.08 + 0.84 * float(np.clip((value - low) / (high - low), 0.0, 1.0))

    canvas = drawing.Canvas(0.0, 1.0)
    width = 0.9 / len(means)
    for i, mean in enumerate(means):
        left, right = 0.05 + (i + 0.1) * width, 0.05 + (i + 0.9) * width
        colour = drawing.GOAL if i == int(np.argmax(means)) else drawing.BODY
        base, top = height(0.0), height(mean)
        canvas.polygon([(left, base), (right, base), (right, top), (left, top)], colour)
    canvas.line([(0.05, height(0.0)), (0.95, height(0.0))], drawing.WALL)
    if int(arm) >= 0:
        middle = 0.05 + (int(arm) + 0.5) * width
        canvas.disc((middle, height(float(reward))), 0.025, drawing.AGENT, drawing.BACKGROUND)
    return canvas.array()
