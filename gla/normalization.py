"""Normalisation of a task by statistics that exist before any learning.

Every task, whether its history is recorded or it is met for the first time, is normalised by what a
short window of random actions showed of it. So meta-training and meta-test agree, and no statistic
leaks from a trained agent.

Where random actions show little, later numbers are large: those of a pole that hangs in the window
and stands later, say. They are bounded, so that none drowns the others: cut at +-10, or by a
logarithm, which still tells large numbers apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

OBSERVATION_CLIP = 10.0
REWARD_CLIP = 10.0


class Statistics(NamedTuple):
    """Normalisation statistics of one task, measured in a short window of random actions.

    Attributes:
        observation_mean: f32[n].
        observation_std: f32[n], at least 1e-3.
        reward_scale: f32[], standard deviation of the rewards, or 1 where they never vary.
    """

    observation_mean: jax.Array
    observation_std: jax.Array
    reward_scale: jax.Array


def statistics_of(observations: Any, rewards: Any) -> Statistics:
    """Compute `Statistics` from a window: observations f32[..., n], rewards f32[...]."""
    observations = jnp.reshape(jnp.asarray(observations, jnp.float32), (-1, observations.shape[-1]))
    deviation = jnp.std(jnp.asarray(rewards, jnp.float32))
    return Statistics(
        jnp.mean(observations, 0),
        jnp.maximum(jnp.std(observations, 0), 1e-3),
        jnp.where(deviation > 1e-6, deviation, 1.0),
    )


def normalize_observation(
    statistics: Statistics, observation: jax.Array, logarithmic: bool | jax.Array = False
) -> jax.Array:
    """Centre and scale observations f32[..., n], clipped to +-10 or `compressed`."""
    scaled = (observation - statistics.observation_mean) / statistics.observation_std
    return _bounded(scaled, OBSERVATION_CLIP, logarithmic)


def normalize_reward(
    statistics: Statistics, reward: jax.Array, logarithmic: bool | jax.Array = False
) -> jax.Array:
    """Scale rewards f32[...] without moving zero, clipped to +-10 or `compressed`."""
    return _bounded(reward / statistics.reward_scale, REWARD_CLIP, logarithmic)


def compressed(x: jax.Array) -> jax.Array:
    """Return sign(x) log(1 + |x|): small numbers stay, of large ones the magnitude is left."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def expanded(x: jax.Array) -> jax.Array:
    """Undo `compressed`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def _bounded(x: jax.Array, most: float, logarithmic: bool | jax.Array) -> jax.Array:
    clipped = jnp.clip(x, -most, most)
    if logarithmic is False:
        return clipped
    return jnp.where(logarithmic, compressed(x), clipped)
