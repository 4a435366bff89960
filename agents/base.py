"""The protocol of everything that acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax
import numpy as np

from gla.projection import ProjectionConfig


@dataclass(frozen=True)
class View:
    """How an agent wants tasks to be shown: normalised, and projected into its agent space.

    Attributes:
        projection: agent space; every lifetime gets a projection of its own.
        window: steps of random actions before a lifetime that give its normalisation.
    """

    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    window: int = 200


@runtime_checkable
class Agent(Protocol):
    """Something that acts in `num_envs` lifetimes at once, each on a task of its own.

    The state is whatever the agent remembers; a fresh state is an empty history. JAX agents are
    pure (`jittable` is True), so that agent and functional environment run as one program; any
    Python object with these two methods works in the host loop.

    Every lifetime has random keys of its own. An agent whose lifetime `i` draws from `keys[i]`
    alone does the same there in whatever company it runs (`each`, or `seeds_of` without JAX).

    An agent that holds threads or connections may have a third method, `close(state)`, which is
    called once the lifetimes are over, whether they ended well or not.

    Attributes:
        name: for tables.
        jittable: whether `act` is a pure function of arrays.
        view: how tasks are shown, or None for raw observations, rewards and actions.

    An attribute `training_sources`, ids of the environments that it was meta-trained on, is asked
    for where there is one: leaderboards show it, and suites say what is allowed.
    """

    name: str
    jittable: bool
    view: View | None

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> Any:
        """Return the state of `num_envs` new lifetimes.

        Args:
            keys: random keys, key[num_envs].
            num_envs: lifetimes.
            observation_space: of one environment, as the agent sees it.
            action_space: likewise.
        """
        ...

    def act(
        self,
        state: Any,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[Any, jax.Array]:
        """Choose actions.

        Args:
            state: from `init` or the last call.
            observation: f32[num_envs, n]; the first of a new episode after an end.
            reward: f32[num_envs], of the previous step; 0 at the start of a lifetime.
            terminated: bool[num_envs], whether the previous step ended the task.
            truncated: bool[num_envs], whether the previous step was cut off.
            keys: random keys, key[num_envs], others at every step.

        Returns:
            The new state and actions, f32[num_envs, k] or i32[num_envs].
        """
        ...


def each(draw: Callable[[jax.Array], jax.Array], keys: jax.Array) -> jax.Array:
    """Draw for every lifetime with its own key.

    Args:
        draw: maps one key to an array, such as `lambda key: jax.random.normal(key, (3,))`.
        keys: key[num_envs].

    Returns:
        The arrays, stacked along a new leading axis.
    """
    return jax.vmap(draw)(keys)


def seeds_of(keys: jax.Array) -> list[int]:
    """Return a whole number in [0, 2^32) for every key, for generators other than JAX's.

    Args:
        keys: key[num_envs].
    """
    return [int(word) for word in np.asarray(jax.random.key_data(keys))[..., -1]]
