"""How tasks are shown to agents that live in agent space: normalised and projected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla import projection as proj
from gla.errors import GlaError
from gla.normalization import Statistics, normalize_observation, normalize_reward


class Lens(NamedTuple):
    """How each of N lifetimes is shown.

    Attributes:
        statistics: stacked normalisations.
        projection: stacked projections.
        logarithmic: bool[], whether large numbers are bounded by a logarithm.
    """

    statistics: Statistics
    projection: proj.Projection
    logarithmic: jax.Array


def act_through(
    act: Callable[..., tuple[Any, jax.Array]],
    lens: Lens | None,
    visible: jax.Array | float,
    state: Any,
    seen: tuple[Any, Any, Any, Any],
    keys: jax.Array,
) -> tuple[Any, jax.Array]:
    """Show one step of N tasks to an agent through its lens and bring its actions back.

    Args:
        act: the agent's `act`.
        lens: normalisation and projection, or None to show the task as it is.
        visible: 1 to show rewards, 0 to hide them.
        state: the agent's state.
        seen: raw (observation f32[N, n], reward f32[N], terminated bool[N], truncated bool[N]).
        keys: key[N].

    Returns:
        The agent's new state and task-space actions, f32[N, k] or i32[N].

    Raises:
        GlaError: if the agent gives no pair, or actions of the wrong shape for its agent space.
    """
    observation, reward, terminated, truncated = seen
    if lens is not None:
        observation = normalize_observation(lens.statistics, observation, lens.logarithmic)
        observation = jax.vmap(proj.project_observation)(lens.projection, observation)
        reward = normalize_reward(lens.statistics, reward, lens.logarithmic)
    given = act(state, observation, reward * visible, terminated, truncated, keys)
    if not isinstance(given, tuple) or len(given) != 2:
        raise GlaError(f"act gave a {type(given).__name__}", "a pair of new state and actions")
    state, action = given
    if lens is not None:
        _check_lifted(lens, action)
        action = jax.vmap(proj.lower_action)(lens.projection, jnp.asarray(action))
    return state, action


def _check_lifted(lens: Lens, action: Any) -> None:
    """Refuse actions that are none of agent space."""
    rows, size = lens.projection.action_map.shape[:2]
    slots = jnp.issubdtype(jnp.result_type(action), jnp.integer)
    wanted = (rows,) if slots else (rows, size)
    if np.shape(action) != wanted:
        raise GlaError(
            f"act gave actions of shape {np.shape(action)} in agent space", f"shape {wanted}"
        )
