"""Controllers that never look: the floor that every learning agent has to rise above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from gla.agents.base import Agent, View, each


class NullState(NamedTuple):
    """What a null controller plays.

    Attributes:
        centre: f32[N, k], or i32[N] for discrete actions.
        sigma: f32[], standard deviation of the noise around it.
        uniform: bool[], play uniform actions instead.
        choices: i32[], number of discrete actions.
    """

    centre: jax.Array
    sigma: jax.Array
    uniform: jax.Array
    choices: jax.Array


def _play(state, observation, reward, terminated, truncated, keys):
    """Act without looking. All null controllers share this one compiled program."""
    del observation, reward, terminated, truncated
    centre = state.centre
    if jnp.issubdtype(centre.dtype, jnp.integer):
        drawn = each(lambda key: jax.random.randint(key, (), 0, state.choices), keys)
        return state, jnp.where(state.uniform, drawn, centre)
    shape = centre.shape[1:]
    noise = each(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape), keys)
    drawn = each(
        lambda key: jax.random.uniform(jax.random.fold_in(key, 1), shape, minval=-1.0), keys
    )
    return state, jnp.where(state.uniform, drawn, centre + state.sigma * noise)


class Null:
    """Plays `centre + sigma * N(0, 1)`, or uniformly, whatever happens.

    Args:
        name: for tables.
        centre: constant action, f32[k], or an action number for discrete spaces.
        sigma: standard deviation of the noise around it.
        uniform: play uniform actions instead.
    """

    jittable = True
    view: View | None = None

    def __init__(
        self,
        name: str,
        centre: np.ndarray | int = 0,
        sigma: float = 0.0,
        uniform: bool = False,
    ):
        self.name, self.centre, self.sigma, self.uniform = name, centre, sigma, uniform
        self.act = _play

    def init(
        self,
        keys: jax.Array,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> NullState:
        """Return what is played; nothing is ever remembered."""
        del keys, observation_space
        if isinstance(action_space, gymnasium.spaces.Discrete):
            centre = jnp.full((num_envs,), int(self.centre), jnp.int32)
            count = int(action_space.n)
        else:
            shape = (num_envs, *(action_space.shape or ()))
            centre = jnp.broadcast_to(jnp.asarray(self.centre, jnp.float32), shape)
            count = 0
        return NullState(
            centre, jnp.float32(self.sigma), jnp.asarray(self.uniform), jnp.int32(count)
        )


def null_controllers(
    action_space: gymnasium.Space, sigmas: Sequence[float] = (0.1, 0.3, 1.0)
) -> list[Agent]:
    """Return the null controllers of a space: zero, constants, N(0, sigma) and uniform.

    Constants are plus and minus a half and one along all axes at once and, where there are
    several axes, plus and minus one along each. Discrete spaces: every action held, and uniform.

    Args:
        action_space: a Box over [-1, 1] or a Discrete space.
        sigmas: standard deviations to try.
    """
    if isinstance(action_space, gymnasium.spaces.Discrete):
        held: list[Agent] = [Null(f"always action {i}", i) for i in range(int(action_space.n))]
        return [*held, Null("uniform", uniform=True)]
    (size,) = action_space.shape or (1,)
    constants = {f"constant {c:+g}": np.full(size, c, np.float32) for c in (-1, -0.5, 0.5, 1)}
    if size > 1:
        for axis in range(size):
            for sign in (-1.0, 1.0):
                vector = np.zeros(size, np.float32)
                vector[axis] = sign
                constants[f"constant {sign:+g} on axis {axis}"] = vector
    return [
        Null("zero action", np.zeros(size, np.float32)),
        *(Null(name, centre) for name, centre in constants.items()),
        *(Null(f"N(0, {s:g})", np.zeros(size, np.float32), s) for s in sigmas),
        Null("uniform", uniform=True),
    ]
