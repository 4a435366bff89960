"""Trees of JAX arrays as named NumPy arrays, and back, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla.errors import GlaError


def to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """Return the leaves of a tree by their paths; random keys as their words."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(_words(leaf)) for path, leaf in leaves}


def from_arrays(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undo `to_arrays`.

    Args:
        like: a tree of the same structure, shapes and types (or `jax.ShapeDtypeStruct`s).
        arrays: from `to_arrays`.

    Raises:
        GlaError: if a leaf is missing or of another shape or type.
    """

    def one(path, leaf):
        name = jax.tree_util.keystr(path)
        random = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        value = arrays.get(name)
        if value is None or (not random and (value.shape, value.dtype) != (leaf.shape, leaf.dtype)):
            raise GlaError(f"the saved state has no {name} that fits", "one of the same program")
        if random:
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(one, like)


def _words(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
