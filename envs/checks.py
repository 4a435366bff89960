"""Checks of what environments are given and give, in plain words."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from gla.errors import GlaError


def check_finite(name: str, step: Any, observation: Any, reward: Any, action: Any = None) -> None:
    """Raise if anything that an environment was given or gave is NaN or infinite.

    Args:
        name: the environment, for the message.
        step: number of the step within the episode, or one number per sub-environment i32[m].
        observation: f32[n] or f32[m, n], or None to skip it.
        reward: a float or f32[m], or None to skip it.
        action: f32[k] or f32[m, k], or any integers, or None to skip it.

    Raises:
        GlaError: naming the environment, what was not finite, its value and its step.
    """
    checks = (("action", action, 1), ("observation", observation, 1), ("reward", reward, 0))
    for what, value, single_ndim in checks:
        if value is None:
            continue
        array = np.asarray(value)
        finite = np.isfinite(array)
        if finite.all():
            continue
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        where = ""
        if array.ndim > single_ndim:
            where = f" in sub-environment {at[0]}"
            step = int(np.broadcast_to(np.asarray(step), array.shape[:1])[at[0]])
        number = f" (number {at[-1]})" if single_ndim else ""
        article = "a" if what == "reward" else "an"
        verb = "was given" if what == "action" else "returned"
        raise GlaError(
            f"{name} {verb} {article} {what} that is {array[at]}{number} at step {step}{where}",
            "finite numbers",
            "check the agent that chose it"
            if what == "action"
            else "check the environment and its settings, or leave it out",
        )


def check_action(name: str, space: gymnasium.Space, action: Any, step: Any) -> np.ndarray:
    """Return an action, or a batch of them, as an array of its space's type.

    Box actions outside the bounds pass, because environments clip them.

    Args:
        name: the environment, for the message.
        space: a Box, Discrete or MultiDiscrete (a batch of Discrete) space.
        action: what the agent chose.
        step: number of the step, or one number per sub-environment, for the message.

    Raises:
        GlaError: if the shape or type is wrong, a number is not finite, or a discrete action does
            not exist.
    """
    array = as_array(action)
    if array is None or array.shape != space.shape:
        given = "no array of numbers" if array is None else f"of shape {array.shape}"
        raise GlaError(f"{name} was given an action that is {given}", f"shape {space.shape}")
    if isinstance(space, gymnasium.spaces.Box):
        array = array.astype(space.dtype)
        check_finite(name, step, None, None, action=array)
        return array
    if not np.issubdtype(array.dtype, np.integer):
        raise GlaError(f"{name} was given an action of type {array.dtype}", "a whole number")
    most = np.max(space.nvec if isinstance(space, gymnasium.spaces.MultiDiscrete) else space.n)  # type: ignore[attr-defined]
    if np.any(array < 0) or np.any(array >= most):
        raise GlaError(
            f"{name} was given action {array.tolist()}", f"whole numbers from 0 to {most - 1}"
        )
    return array


def as_array(value: Any) -> np.ndarray | None:
    """Return `value` as an array of numbers, or None if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        return None
    return array if np.issubdtype(array.dtype, np.number) else None


def check_count(name: str, value: Any) -> int:
    """Return `value` if it is a whole number of at least 1.

    Raises:
        GlaError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise GlaError(f"{name} is {value!r}", "a whole number of at least 1")
    return int(value)


def check_task_seed(value: Any) -> int:
    """Return `value` if it is a whole number of at least 0.

    Raises:
        GlaError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise GlaError(f"task seed is {value!r}", "a whole number of at least 0")
    return int(value)
