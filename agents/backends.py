"""The one place that decides how many PPO runs share a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def map_runs(function: Callable[[Any], Any], runs: Any) -> Any:
    """Map a function over the leading axis of `runs`, in the way that suits the backend.

    On an accelerator the runs are vmapped. On a CPU they go one after the other: with jax 0.10.2 a
    vmapped PPO of two runs deadlocks there, and where it does not, it is no faster.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(function, runs)
    return jax.vmap(function)(runs)
