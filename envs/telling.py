"""What can be told of a task to someone who may know: its hidden numbers.

A family whose environment has a method `tell(params)` returns a `Telling`. Experts that are told
their tasks (`gla.agents.generalist`) act on it, histories record it, and a sequence model may be
asked to find it out (`gla.objectives`).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gla.envs.base import Environment, Params, action_size, observation_size


class Telling(NamedTuple):
    """What sets a task apart.

    Attributes:
        numbers: f32[p], in any form that is easy to learn from.
        frame: f32[n, n], the observations that an expert sees are this times the task's own.
        signs: f32[k], -1 or 1: the actions that the task sees are these times the expert's.
    """

    numbers: jax.Array
    frame: jax.Array
    signs: jax.Array


def telling(env: Environment, params: Params) -> Telling:
    """Return what `env.tell` says; without that method all parameters, in the task's own frame."""
    if can_tell(env):
        return Telling(*env.tell(params))  # type: ignore[attr-defined]
    leaves = [jnp.ravel(jnp.asarray(x, jnp.float32)) for x in jax.tree.leaves(params)]
    numbers = jnp.concatenate([jnp.zeros(0), *leaves])
    return Telling(numbers, jnp.eye(observation_size(env)), jnp.ones(action_size(env)))


def can_tell(env: Environment) -> bool:
    """Return whether a family has a `tell` of its own."""
    return hasattr(env, "tell")


def told_vector(env: Environment, params: Params) -> jax.Array:
    """Return all that is told of a task as one vector f32[p + k + n n]: numbers, signs, frame."""
    told = telling(env, params)
    return jnp.concatenate([told.numbers, told.signs, jnp.ravel(told.frame)])


def told_size(env: Environment) -> int:
    """Return the length of `told_vector`; 0 for a family that tells nothing of its own."""
    if not can_tell(env):
        return 0
    shape = jax.eval_shape(lambda: told_vector(env, env.sample_params(jax.random.key(0))))
    return int(shape.shape[0])
