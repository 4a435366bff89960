"""Random search over linear policies within one lifetime, an episode at a time.

In the spirit of Mania et al. (2018): a linear policy on observations that are normalised by running
statistics, changed at random, judged by the return of whole episodes. What cannot beat it has
learned nothing that takes more than trial and error. Here one policy, the incumbent, is held. A
random change of it is played for an episode and kept if it earned more than the incumbent does on
average; if it earned less, the opposite change is tried next. The incumbent is played again now and
then, so that a policy that was kept for one lucky episode is soon known for what it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla.agents.base import View
from gla.agents.online import fresh_moments, normalize, repeated, sizes_of
from gla.agents.ppo import Moments, merge_moments
from gla.envs.vectorized import strong_types
from gla.errors import GlaError


@dataclass(frozen=True)
class RandomSearchConfig:
    """Settings of random search.

    Attributes:
        scale: standard deviation that a change gives the policy's outputs at the start, where
            observations have their typical size; actions lie in [-1, 1].
        grow: factor of the scale after a change that was kept, >= 1.
        shrink: factor of the scale after one that was not, in (0, 1].
        smallest: below which the scale does not fall.
        period: of so many trials, one plays the incumbent, >= 2.
        longest: steps after which a trial ends even where the episode goes on, so that there is
            something to compare where episodes are long or never end.

    Raises:
        GlaError: if a value is out of its range.
    """

    scale: float = 0.5
    grow: float = 1.2
    shrink: float = 0.95
    smallest: float = 0.05
    period: int = 6
    longest: int = 500

    def __post_init__(self):
        for name, least in (("period", 2), ("longest", 1)):
            if getattr(self, name) < least:
                raise GlaError(
                    f"random search {name} is {getattr(self, name)}", f"a whole number >= {least}"
                )
        for name, low, high in (
            ("smallest", 0.0, math.inf),
            ("scale", self.smallest, math.inf),
            ("grow", 1.0, math.inf),
            ("shrink", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not (low <= value <= high and 0.0 < value < math.inf):
                raise GlaError(
                    f"random search {name} is {value}",
                    f"a finite number above 0, from {low:g} to {high:g}",
                )


class RandomSearchState(NamedTuple):
    """What N lifetimes have found; each leaf has a leading axis N.

    Attributes:
        moments: of observations.
        weights: f32[n + 1, k], the incumbent; the last row is its bias.
        change: f32[n + 1, k], added to it in the trial under way; zeros play the incumbent.
        scale: f32[], of changes.
        mean: f32[], mean return of the incumbent.
        plays: f32[], trials in that mean.
        trial: i32[], number of the trial under way.
        mirrored: bool[], whether its change is the opposite of the one before.
        total: f32[], what it has earned.
        steps: i32[], how many steps it has taken.
        action: f32[k], or i32[] for discrete actions, of the last step.
    """

    moments: Moments
    weights: jax.Array
    change: jax.Array
    scale: jax.Array
    mean: jax.Array
    plays: jax.Array
    trial: jax.Array
    mirrored: jax.Array
    total: jax.Array
    steps: jax.Array
    action: jax.Array


def judge(
    state: RandomSearchState, key: jax.Array, config: RandomSearchConfig
) -> RandomSearchState:
    """End the trial of one lifetime and begin another."""
    incumbent = state.trial % config.period == 0
    plays = state.plays + 1.0
    mean = state.mean + (state.total - state.mean) / plays
    kept = ~incumbent & (state.total > state.mean)
    failed = ~incumbent & ~kept
    weights = jnp.where(kept, state.weights + state.change, state.weights)
    scale = jnp.where(kept, state.scale * config.grow, state.scale)
    scale = jnp.where(failed, jnp.maximum(scale * config.shrink, config.smallest), scale)
    # Observations have about unit size once they are normalised, and the bias reads a one.
    drawn = jax.random.normal(key, weights.shape) * scale * weights.shape[0] ** -0.5
    trial = state.trial + 1
    again = trial % config.period == 0
    mirrored = failed & ~state.mirrored & ~again
    change = jnp.where(mirrored, -state.change, drawn)
    return state._replace(
        weights=weights,
        change=jnp.where(again, 0.0, change),
        scale=scale,
        mean=jnp.where(kept, state.total, jnp.where(incumbent, mean, state.mean)),
        plays=jnp.where(kept, 1.0, jnp.where(incumbent, plays, state.plays)),
        trial=trial,
        mirrored=mirrored,
        total=jnp.zeros_like(state.total),
        steps=jnp.zeros_like(state.steps),
    )


class RandomSearch:
    """Random search that starts anew in every lifetime, from a policy that does nothing.

    Args:
        config: settings.
    """

    name = "random search"
    jittable = True
    view: View | None = None

    def __init__(self, config: RandomSearchConfig | None = None):
        self.config = config or RandomSearchConfig()

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> RandomSearchState:
        """Return policies that output zero, which come first."""
        del keys
        n, k, discrete = sizes_of(observation_space, action_space)
        zero, none, weights = jnp.float32(0.0), jnp.int32(0), jnp.zeros((n + 1, k))
        one = RandomSearchState(
            moments=fresh_moments(n),
            weights=weights,
            change=weights,
            scale=jnp.float32(self.config.scale),
            mean=zero,
            plays=zero,
            trial=none,
            mirrored=jnp.asarray(False),
            total=zero,
            steps=none,
            action=none if discrete else jnp.zeros(k),
        )
        return repeated(one, num_envs)

    def act(
        self,
        state: RandomSearchState,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[RandomSearchState, jax.Array]:
        """Add up what the trial earns, judge it if it is over, and act."""
        state = jax.vmap(self._step)(state, observation, reward, terminated | truncated, keys)
        return strong_types(state), state.action

    def _step(
        self,
        state: RandomSearchState,
        observation: jax.Array,
        reward: jax.Array,
        ended: jax.Array,
        key: jax.Array,
    ) -> RandomSearchState:
        state = state._replace(
            moments=merge_moments(state.moments, observation[None]), total=state.total + reward
        )
        over = ended | (state.steps >= self.config.longest)
        next_trial = judge(state, key, self.config)
        state = jax.tree.map(lambda new, old: jnp.where(over, new, old), next_trial, state)
        inputs = jnp.append(normalize(state.moments, observation), 1.0)
        outputs = inputs @ (state.weights + state.change)
        if state.action.ndim == 0:
            action = jnp.argmax(outputs, -1).astype(jnp.int32)
        else:
            action = jnp.clip(outputs, -1.0, 1.0)
        return state._replace(action=action, steps=state.steps + 1)


def random_search() -> RandomSearch:
    """Return random search with its default settings."""
    return RandomSearch()
