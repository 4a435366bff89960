"""Find an agent by what a user typed: a folder, `module:factory`, `sb3:PPO`, `tcp://HOST:PORT`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gla import pretrained
from gla.agents.base import Agent
from gla.checkpoints import Which
from gla.errors import GlaError, near_matches

# Learners that begin anew in every lifetime, by the names that a user may type.
BUILT_IN = {
    "ppo": "gla.agents.online_ppo:ppo",
    "sac": "gla.agents.online_sac:sac",
    "random-search": "gla.agents.random_search:random_search",
}
# What names an agent, for messages.
KINDS = (
    f"a checkpoint folder, an agent that `gla models list` names, one of {', '.join(BUILT_IN)}, "
    "sb3:ALGORITHM, tcp://HOST:PORT, or module:factory"
)


def folder_of(spec: str) -> Path | None:
    """Return the folder of a trained agent that `spec` names, or None where it names none.

    What is there on disk comes before the agents that come with the package.
    """
    if Path(spec).exists():
        return Path(spec)
    return pretrained.find(spec) if spec in pretrained.names() else None


def load_agent(spec: str, which: Which = "latest", ask: Mapping[str, float] | None = None) -> Agent:
    """Return the agent behind `spec`.

    Args:
        spec: a folder written by `gla meta-train` or `gla gpicl train`, or `module:factory`, where
            calling the factory without arguments gives an `Agent`; modules are also looked for in
            the current folder. Or the name of an agent that comes with gla (`gla.pretrained`). Or
            `ppo`, `sac` or `random-search`, which learn online; `sb3:` and
            an algorithm or a saved model of Stable-Baselines3 (`gla.agents.sb3`); or
            `tcp://HOST:PORT` of an agent in another process (`gla.agents.sockets`).
        which: of a folder, the `latest` weights or the `best`.
        ask: of a folder, how much improvement is asked for (`gla.agents.gla.GLAAgent`).

    Raises:
        GlaError: if there is no such folder, module, factory, algorithm or socket, or it gives no
            agent, or something is asked for that it does not read.
    """
    folder = folder_of(spec)
    if ":" not in spec and spec not in BUILT_IN and folder is None:
        near = near_matches(spec, [*BUILT_IN, *pretrained.names()])
        raise GlaError(
            f"{spec!r} is not a checkpoint folder and no agent has that name{near}",
            KINDS,
            "`gla meta-test` also takes nulls",
        )
    if folder is not None:
        from gla.agents import gla, gpicl, tabular
        from gla.checkpoints import describe
        from gla.gpicl.training import KIND as GPICL
        from gla.tabular.trained import KIND as EVOLUTION

        kind = describe(folder).get("kind")
        if kind not in (GPICL, EVOLUTION):
            return gla.load(folder, which=which, ask=ask)
        if ask:
            what = "a learner of data sets" if kind == GPICL else "a tabular agent"
            raise GlaError(
                f"{spec} holds {what}, which reads no conditions", mend="leave --ask away"
            )
        return (gpicl if kind == GPICL else tabular).load(folder, which=which)
    if ask or which != "latest":
        raise GlaError(
            f"the agent {spec!r} is no checkpoint folder, and only those are asked for "
            "something or have best weights",
        )
    spec = BUILT_IN.get(spec, spec)
    if spec.startswith("sb3:"):
        from gla.agents import sb3

        return sb3.load(spec.removeprefix("sb3:"))
    if spec.startswith("tcp:"):
        from gla.agents.sockets import SocketAgent

        return SocketAgent(spec)
    factory = load_factory(spec, "agent", KINDS)
    try:
        agent = factory()
    except GlaError:
        raise
    except Exception as error:
        raise GlaError(
            f"the agent {spec!r} cannot be made ({type(error).__name__}: {error})",
            "a factory that works without arguments",
        ) from error
    return check_agent(agent, spec)


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

    `name` (default: the spec), `jittable` (False), `view` (None) and `training_sources` (()) may be
    left out.

    Raises:
        GlaError: if `init` or `act` is missing.
    """
    for method in ("init", "act"):
        if not callable(getattr(agent, method, None)):
            raise GlaError(
                f"agent {name!r} has no method {method}",
                "an object with init(keys, num_envs, observation_space, action_space) and "
                "act(state, observation, reward, terminated, truncated, keys)",
            )
    for attribute, default in (
        ("name", name), ("jittable", False), ("view", None), ("training_sources", ())
    ):  # fmt: skip
        if not hasattr(agent, attribute):
            setattr(agent, attribute, default)
    return agent
