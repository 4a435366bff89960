"""Find an agent by what a user typed: a checkpoint folder or `module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gla.agents.base import Agent
from gla.checkpoints import Which
from gla.errors import GlaError


def load_agent(spec: str, which: Which = "latest", ask: Mapping[str, float] | None = None) -> Agent:
    """Return the agent behind `spec`.

    Args:
        spec: a folder written by `gla meta-train` or `gla gpicl train`, or `module:factory`, where
            calling the factory without arguments gives an `Agent`. Modules are also looked for in
            the current folder.
        which: of a folder, the `latest` weights or the `best`.
        ask: of a folder, how much improvement is asked for (`gla.agents.gla.GLAAgent`).

    Raises:
        GlaError: if there is no such folder, module or factory, or it gives no agent, or something
            is asked for that it does not read.
    """
    if ":" not in spec or Path(spec).exists():
        from gla.agents import gla, gpicl
        from gla.checkpoints import describe
        from gla.gpicl.training import KIND

        if describe(spec).get("kind") != KIND:
            return gla.load(spec, which=which, ask=ask)
        if ask:
            raise GlaError(
                f"{spec} holds a learner of data sets, which reads no conditions",
                mend="leave --ask away",
            )
        return gpicl.load(spec, which=which)
    if ask or which != "latest":
        raise GlaError(
            f"the agent {spec!r} is no checkpoint folder, and only those are asked for "
            "something or have best weights",
        )
    factory = load_factory(spec, "agent", "a checkpoint folder, or module:factory")
    return check_agent(factory(), spec)


def load_factory(spec: str, kind: str, expected: str) -> Any:
    """Import `module:factory`, the module also from the current folder.

    Args:
        spec: what the user typed.
        kind: what the factory makes, for messages.
        expected: what might have been typed, for messages.

    Raises:
        GlaError: if there is no such module or factory.
    """
    module, _, name = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides no installed package
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise GlaError(
            f"{kind} {spec!r} cannot be loaded ({error})",
            f"{expected} of a module that can be imported",
        ) from None


def check_agent(agent: Any, name: str) -> Agent:
    """Return `agent` if it has what the protocol asks for, with defaults for what may be left out.

    `name` (default: the spec), `jittable` (False) and `view` (None) may be left out.

    Raises:
        GlaError: if `init` or `act` is missing.
    """
    for method in ("init", "act"):
        if not callable(getattr(agent, method, None)):
            raise GlaError(
                f"agent {name!r} has no method {method}",
                "an object with init(key, num_envs, observation_space, action_space) and "
                "act(state, observation, reward, terminated, truncated, key)",
            )
    for attribute, default in (("name", name), ("jittable", False), ("view", None)):
        if not hasattr(agent, attribute):
            setattr(agent, attribute, default)
    return agent
