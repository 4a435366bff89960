"""Gradients and updates by tensor: what GPICL looks at inside a plateau (Figs. 12 to 14)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_NONE = 1e-30  # keeps the cosine of a zero vector at zero


class Statistics(NamedTuple):
    """Means over the steps of a dispatch; each is a tree like the parameters, f32[] per tensor.

    Attributes:
        gradient_norm: L2 norm of the gradient, before clipping.
        gradient_cosine: cosine between the gradients of consecutive steps.
        update_norm: L2 norm of what was added to the weights.
        update_cosine: cosine between consecutive updates.
        first_moment_norm: L2 norm of the optimiser's averaged gradient after the last step; None
            where it keeps none.
        second_moment_norm: likewise of the averaged squared gradient.
    """

    gradient_norm: Any
    gradient_cosine: Any
    update_norm: Any
    update_cosine: Any
    first_moment_norm: Any
    second_moment_norm: Any


class Seen(NamedTuple):
    """Sums while a dispatch runs.

    Attributes:
        steps: i32[], steps seen.
        gradient: of the last step.
        update: of the last step.
        sums: of the four that are measured at every step.
    """

    steps: jax.Array
    gradient: Any
    update: Any
    sums: tuple[Any, Any, Any, Any]


def begin(params: Any) -> Seen:
    """Return the sums before the first step of a dispatch."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    none = jax.tree.map(lambda _: jnp.zeros(()), params)
    return Seen(jnp.zeros((), jnp.int32), zeros, zeros, (none,) * 4)


def observe(seen: Seen, gradient: Any, update: Any) -> Seen:
    """Add one step. The first of a dispatch has none before it and adds no cosine."""
    new = (
        jax.tree.map(_norm, gradient),
        jax.tree.map(_cosine, gradient, seen.gradient),
        jax.tree.map(_norm, update),
        jax.tree.map(_cosine, update, seen.update),
    )
    sums = jax.tree.map(jnp.add, seen.sums, new)
    return Seen(seen.steps + 1, gradient, update, sums)


def end(seen: Seen, optimizer: Any) -> Statistics:
    """Return the means, and the norms of what the optimiser remembers.

    Args:
        seen: after the last step of a dispatch.
        optimizer: its state then.
    """
    steps, pairs = jnp.maximum(seen.steps, 1), jnp.maximum(seen.steps - 1, 1)
    counts = (steps, pairs, steps, pairs)
    means = [
        jax.tree.map(lambda x, n=n: x / n, tree) for tree, n in zip(seen.sums, counts, strict=True)
    ]
    like: Any = jax.tree.structure(seen.gradient)
    moments = []
    for name in ("mu", "nu"):
        found = [value for _, value in optax.tree.get_all_with_path(optimizer, name)]
        # Optimisers that treat tensors differently keep trees of another form.
        fitting = [value for value in found if jax.tree.structure(value) == like]
        moments.append(jax.tree.map(_norm, fitting[0]) if fitting else None)
    return Statistics(*means, *moments)


def by_tensor(statistics: Statistics) -> dict[str, dict[str, Any]]:
    """Return {tensor: {what: value}}, tensors by their path in the parameters."""
    found: dict[str, dict[str, Any]] = {}
    for what, tree in statistics._asdict().items():
        for path, value in jax.tree_util.tree_leaves_with_path(tree):
            name = "/".join(str(getattr(p, "key", getattr(p, "idx", p))) for p in path)
            found.setdefault(name, {})[what] = value
    return found


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b) / jnp.maximum(_norm(a) * _norm(b), _NONE)
