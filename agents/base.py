"""The protocol of everything that acts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium
import jax

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

    Attributes:
        name: for tables.
        jittable: whether `act` is a pure function of arrays.
        view: how tasks are shown, or None for raw observations, rewards and actions.
    """

    name: str
    jittable: bool
    view: View | None

    def init(
        self,
        key: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> Any:
        """Return the state of `num_envs` new lifetimes.

        The spaces are those of one environment, as the agent sees it.
        """
        ...

    def act(
        self,
        state: Any,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        key: jax.Array,
    ) -> tuple[Any, jax.Array]:
        """Choose actions.

        Args:
            state: from `init` or the last call.
            observation: f32[num_envs, n]; the first of a new episode after an end.
            reward: f32[num_envs], of the previous step; 0 at the start of a lifetime.
            terminated: bool[num_envs], whether the previous step ended the task.
            truncated: bool[num_envs], whether the previous step was cut off.
            key: random key.

        Returns:
            The new state and actions, f32[num_envs, k] or i32[num_envs].
        """
        ...
