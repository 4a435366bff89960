"""Stepping a batch of episodes with autoreset, paying for resets only when an episode ended.

`jax.vmap(Autoreset(env).step)` computes a reset for every episode in every step and throws nearly
all of them away. Where resets are dear, that is much of what it costs. Here a step of a batch in
which no episode ended computes none.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla.envs.base import Environment, Params, State, Timestep, observation_size
from gla.envs.wrappers import Augmented, AugmentedState, Autoreset, TimeLimit

# Rows that are reset at a time.
GROUP = 8


def step_batch(
    env: Environment,
    keys: jax.Array | Callable[[], jax.Array],
    states: State,
    actions: jax.Array,
    params: Params,
    params_axes: Any = 0,
) -> tuple[State, Timestep]:
    """Advance m episodes; the same values as `jax.vmap(Autoreset(env).step)`.

    Keys and whole numbers are the same to the bit. Real numbers may differ in their last bit, since
    XLA rounds products and sums by how it fuses them, and the two programs are fused differently.

    Resets are computed only in steps in which some episode ended, a few rows at a time, as many as
    ended. Under an outer `jax.vmap` JAX does so until the last of all batches is done, and selects:
    still right, but less is saved.

    Args:
        env: the environment, with its time limit. An outermost `Autoreset` changes nothing.
        keys: random keys [m], one per episode and step; or a function that returns them, so that
            environments without randomness in `step` need none in a step that ends no episode.
        states: states of the episodes, each leaf [m, ...].
        actions: f32[m, k], or i32[m] for discrete actions.
        params: the tasks, batched as `params_axes` says.
        params_axes: as in `jax.vmap`: 0 for one task per episode, None for one task that all
            share, or a tree of both (`stack_tasks`).

    Returns:
        The states and `Timestep` as `Autoreset` gives them, each leaf [m, ...].
    """
    inner = env.env if isinstance(env, Autoreset) else env
    return _step(inner, keys, states, actions, params, params_axes, _as_it_is)


def _step(
    env: Environment,
    keys: jax.Array | Callable[[], jax.Array],
    states: State,
    actions: jax.Array,
    params: Params,
    axes: Any,
    show: Callable[[jax.Array], jax.Array],
) -> tuple[State, Timestep]:
    """Advance a batch whose observations [m, n] are shown through `show`."""
    if isinstance(env, Augmented) and not env.augmentation.noise_size(observation_size(env.env)):
        return _step_augmented(env, keys, states, actions, params, axes, show)

    def split(number):
        """Return the keys of steps (0) or of resets (1), as `Autoreset` splits them."""
        made = keys() if callable(keys) else keys
        return jax.vmap(lambda key: jax.random.split(key)[number])(made)

    batched = functools.partial(jax.vmap, in_axes=(0, 0, 0, axes))
    states, ts = batched(env.step)(split(0), states, actions, params)
    done = ts.terminated | ts.truncated
    # Strong types: the loop must return what it was given.
    old = jax.tree.map(lambda leaf: _as(leaf, leaf.dtype), (states, ts.observation))
    seen = show(old[1])

    count, group = done.shape[0], min(GROUP, done.shape[0])

    def restart(carry):
        left, old = carry
        rows = jnp.nonzero(left, size=group, fill_value=count)[0]
        there = jnp.minimum(rows, count - 1)  # of those past the end nothing is kept
        # Keys are made again in here: those that only resets use cost nothing in other steps.
        fresh = jax.vmap(env.reset, in_axes=(0, axes))(split(1)[there], _take(params, axes, there))
        new = jax.tree.map(
            lambda new, kept: kept.at[rows].set(_as(new, kept.dtype), mode="drop"), fresh, old
        )
        return left.at[rows].set(False, mode="drop"), new

    # A loop and no branch, whose results XLA would copy in every step.
    _, (states, observation) = jax.lax.while_loop(
        lambda carry: jnp.any(carry[0]), restart, (done, old)
    )
    if show is _as_it_is:
        shown = observation
    else:
        shown = jax.lax.cond(jnp.any(done), show, lambda _: seen, observation)
    return states, ts._replace(observation=shown, final_observation=seen)


def _as_it_is(observation: jax.Array) -> jax.Array:
    return observation


def _take(params: Params, axes: Any, rows: jax.Array) -> Params:
    """Return the params of some rows; what rows share stays as it is."""

    def take(axis, part):
        return part if axis is None else jax.tree.map(lambda leaf: leaf[rows], part)

    return jax.tree.map(take, axes, params, is_leaf=lambda axis: axis is None)


def _step_augmented(
    env: Augmented,
    keys: jax.Array | Callable[[], jax.Array],
    states: State,
    actions: jax.Array,
    params: Params,
    axes: Any,
    show: Callable[[jax.Array], jax.Array],
) -> tuple[State, Timestep]:
    """Autoreset inside the augmentation: what draws no noise shows the same either way.

    It is then the task's few numbers that are selected where an episode ended, instead of a
    projection's many.
    """
    augmentation = env.augmentation
    inner_axes = getattr(axes, "inner", axes)  # of a tree; 0 and None have none
    batched = functools.partial(jax.vmap, in_axes=(0, 0, axes))

    def lower(memory, action, task):
        return augmentation.map_action(env.parameters(task), memory, action)

    def show_augmented(observation):
        def one(row, task):
            return augmentation.map_observation(env.parameters(task), row)

        return show(jax.vmap(one, in_axes=(0, axes))(observation, params))

    def finish(memory, ts, task):
        done = ts.terminated | ts.truncated
        start = augmentation.memory(env.env.action_space)
        memory = jax.tree.map(lambda fresh, old: jnp.where(done, fresh, old), start, memory)
        reward = augmentation.map_reward(env.parameters(task), ts.reward)
        return memory, ts._replace(reward=reward)

    memory, lowered = batched(lower)(states.memory, actions, params)
    inner, ts = _step(
        env.env, keys, states.inner, lowered, params.inner, inner_axes, show_augmented
    )
    memory, ts = batched(finish)(memory, ts, params)
    return AugmentedState(inner, memory), ts


def _as(leaf: Any, dtype: Any) -> jax.Array:
    """Give a leaf a dtype, never weak; random keys stay as they are."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return leaf
    return jax.lax.convert_element_type(leaf, dtype)


def strong_types(tree: Any) -> Any:
    """Make the types of all leaves strong, so that what a program returns may be its argument.

    JAX compiles a program twice for arguments that differ in this alone; gymnax's Pendulum and Brax
    give weak types from a reset and strong ones from a step.
    """
    return jax.tree.map(lambda leaf: _as(jnp.asarray(leaf), jnp.asarray(leaf).dtype), tree)


def limited(env: Environment, horizon: int | None = None) -> Environment:
    """Apply a time limit, inside augmentations, where `step_batch` is fastest.

    Episodes are the same whether the limit is inside an augmentation or around it.

    Args:
        env: an environment; one with a time limit somewhere keeps that if no other is asked for.
        horizon: steps after which an episode is truncated (default: the environment's own).

    Raises:
        GlaError: if there is no horizon.
    """
    chain: Any = env
    while horizon is None and chain is not None:
        if isinstance(chain, TimeLimit):
            return env
        chain = getattr(chain, "env", None)
    if not isinstance(env, Augmented):
        return TimeLimit(env, horizon)
    outside = copy.copy(env)
    outside.env = limited(env.env, horizon)
    outside.horizon = outside.env.horizon
    return outside


def stack_tasks(tasks: Sequence[Params]) -> tuple[Params, Any]:
    """Stack the params of m tasks; what all of them have in common is kept once.

    A simulator's constants, or a projection of a fixed seed, then cost neither m copies nor a
    batched matrix product in every step.

    Args:
        tasks: params of each task, all of the same structure, types and shapes; a task that occurs
            again should be the same object.

    Returns:
        The params and their axes for `jax.vmap`: 0 where a leaf is stacked [m, ...], None where
        it is shared.
    """
    different = list({id(task): task for task in tasks}.values())
    leaves = [jax.tree.leaves(task) for task in different]
    number = {id(task): i for i, task in enumerate(different)}
    params: list[jax.Array] = []
    axes: list[int | None] = []
    for column in zip(*leaves, strict=True):
        values = [_value(leaf) for leaf in column]
        if all(np.array_equal(values[0], value) for value in values[1:]):
            params.append(column[0])
            axes.append(None)
        else:
            params.append(jnp.stack([column[number[id(task)]] for task in tasks]))
            axes.append(0)
    structure = jax.tree.structure(tasks[0])
    return jax.tree.unflatten(structure, params), jax.tree.unflatten(structure, axes)


def _value(leaf: Any) -> np.ndarray:
    """Return a leaf as numpy numbers, random keys as their words."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
