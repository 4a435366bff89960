"""The functional protocol that every JAX environment of the package follows.

An environment is a description of a *family* of tasks. It holds no array: a task is the pytree
`params`, an episode the pytree `state`. All three methods are pure, so they can be jitted and
vmapped over keys, states, actions and params.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from gla.errors import GlaError

Params = Any
State = Any
Solution = Any


class Timestep(NamedTuple):
    """What one step returns.

    Attributes:
        observation: f32[*observation_space.shape]; after an autoreset, the first observation of
            the new episode.
        reward: f32[].
        terminated: bool[], the task itself ended (no bootstrapping past here).
        truncated: bool[], the episode was cut off (bootstrap from `final_observation`).
        final_observation: f32[*observation_space.shape], the last observation of the episode that
            this step belongs to. Only the autoreset wrapper tells it apart from `observation`.
    """

    observation: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    final_observation: jax.Array


def timestep(
    observation: jax.Array, reward: jax.Array, terminated: jax.Array, truncated: jax.Array
) -> Timestep:
    """Build a `Timestep` whose final observation is its observation (no autoreset)."""
    return Timestep(observation, reward, terminated, truncated, observation)


class Environment(abc.ABC):
    """A family of tasks as pure functions.

    Attributes:
        name: a short name for messages.
        observation_space: a Gymnasium Box (1-D, float32).
        action_space: a Gymnasium Box (1-D, float32) or Discrete.
        horizon: steps after which an episode is truncated, or None where the task has no limit of
            its own. `step` itself never truncates; the `TimeLimit` wrapper does.
        distinct_tasks: how many different tasks `sample_params` can draw: 1 for a fixed task,
            `math.inf` for a continuous family.
        can_render: whether `render` draws pictures.
        has_oracle: whether `solve` and `best_action` exist.
    """

    name: str
    observation_space: gymnasium.spaces.Box
    action_space: gymnasium.spaces.Space
    horizon: int | None
    distinct_tasks: float = 1
    can_render: bool = False
    has_oracle: bool = False

    @abc.abstractmethod
    def sample_params(self, key: jax.Array) -> Params:
        """Draw a task of the family; a fixed task returns its constants whatever the key."""

    @abc.abstractmethod
    def reset(self, key: jax.Array, params: Params) -> tuple[State, jax.Array]:
        """Start an episode: return its state and first observation, f32[observation_size]."""

    @abc.abstractmethod
    def step(
        self, key: jax.Array, state: State, action: jax.Array, params: Params
    ) -> tuple[State, Timestep]:
        """Advance one step under `action` (f32[action_size], or i32[] for discrete actions)."""

    def render(self, state: State, params: Params) -> np.ndarray:
        """Draw a state of one episode, outside of jit: uint8[height, width, 3].

        Raises:
            GlaError: if the environment cannot be drawn, or not on this machine.
        """
        del state, params
        raise GlaError(f"{self.name} has no pictures", "an environment whose `can_render` is true")

    def solve(self, params: Params) -> Solution:
        """Compute what `best_action` needs, once per task; pure and jittable.

        Raises:
            GlaError: if the environment has no oracle.
        """
        del params
        raise GlaError(f"{self.name} has no oracle", "an environment whose `has_oracle` is true")

    def best_action(self, solution: Solution, state: State, params: Params) -> jax.Array:
        """Return the best action of one who knows the task and its state; pure and jittable.

        Expert reference scores of tabular tasks and bandits come from it.

        Raises:
            GlaError: if the environment has no oracle.
        """
        del solution, state, params
        raise GlaError(f"{self.name} has no oracle", "an environment whose `has_oracle` is true")


def observation_size(env: Any) -> int:
    """Return the length of the flat observation of an environment of either kind."""
    space = getattr(env, "single_observation_space", None) or env.observation_space
    return int(space.shape[0])


def action_size(env: Any) -> int:
    """Return the length of the action vector, or the number of discrete actions."""
    space = getattr(env, "single_action_space", None) or env.action_space
    return int(space.n) if is_discrete(space) else int(space.shape[0])


def is_discrete(space: gymnasium.Space) -> bool:
    """Return whether an action space is a finite set of actions."""
    return isinstance(space, gymnasium.spaces.Discrete)
