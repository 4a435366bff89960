"""What agents that learn within one lifetime share."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla import policy as pol
from gla.agents.ppo import Moments
from gla.envs.base import is_discrete


class Sizes(NamedTuple):
    """Sizes of one environment.

    Attributes:
        observations: length n of an observation.
        actions: length k of an action vector, or the number of discrete actions.
        discrete: whether actions are discrete.
    """

    observations: int
    actions: int
    discrete: bool


def sizes_of(observation_space: gymnasium.Space, action_space: gymnasium.Space) -> Sizes:
    """Return the sizes of an environment, from its spaces as an agent's `init` is given them."""
    (observations,) = observation_space.shape or (1,)
    discrete = is_discrete(action_space)
    actions = action_space.n if discrete else (action_space.shape or (1,))[0]  # type: ignore[attr-defined]
    return Sizes(int(observations), int(actions), discrete)


def split_each(keys: jax.Array, number: int) -> tuple[jax.Array, ...]:
    """Split every lifetime's key: keys [N] -> `number` arrays of keys [N]."""
    parts = jax.vmap(lambda key: jax.random.split(key, number))(keys)
    return tuple(parts[:, i] for i in range(number))


def repeated(tree: Any, num_envs: int) -> Any:
    """Give every lifetime its own copy: arrays [...] -> [num_envs, ...]."""
    return jax.tree.map(lambda leaf: jnp.tile(leaf, (num_envs,) + (1,) * leaf.ndim), tree)


def put_row(rows: Any, number: jax.Array, row: Any) -> Any:
    """Write one row into arrays of rows, in place where the compiler may.

    Args:
        rows: tree of arrays [T, ...].
        number: i32[], of the row.
        row: tree of arrays [...].
    """
    return jax.tree.map(
        lambda all_rows, one: jax.lax.dynamic_update_index_in_dim(
            all_rows, one.astype(all_rows.dtype), number, 0
        ),
        rows,
        row,
    )


def fresh_moments(*shape: int) -> Moments:
    """Return running moments of arrays f32[*shape] of which none has been seen."""
    return Moments(jnp.float32(1e-4), jnp.zeros(shape), jnp.ones(shape))


def normalize(moments: Moments, observation: jax.Array) -> jax.Array:
    """Centre and scale observations f32[..., n] by running moments f32[n], clipped to +-10."""
    deviation = jnp.maximum(jnp.sqrt(moments.variance), 1e-3)
    scaled = (observation - moments.mean) / deviation
    return jnp.clip(scaled, -pol.OBSERVATION_CLIP, pol.OBSERVATION_CLIP)
