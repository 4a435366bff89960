"""gla: in-context reinforcement learning in JAX.

Importing this package registers every environment id with Gymnasium, by string, and imports no
JAX and no simulator: `gymnasium.make("gla:gla/Ant-v0")` works in a fresh process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

# Imports go one way, gla <- gla.envs <- gla.agents <- gla.benchmarks. This file and gla/cli.py are
# the front doors and are exempt: `module:id` in Gymnasium imports `gla`, so `gla` must register.
from gla.envs import registry as _registry

if TYPE_CHECKING:
    from gla.agents.base import Agent

__version__ = "0.1.0"

_registry.register_all()


def load(agent: str, which: Literal["latest", "best"] = "latest") -> Agent:
    """Return an agent.

    Args:
        agent: the name of one that comes with gla (`gla models` lists them), the folder of one of
            your own, or anything else that `gla.agents.external.load_agent` takes.
        which: of the folder of a training, the `latest` weights or the `best`.

    Raises:
        GlaError: if there is no such agent.
    """
    from gla.agents.external import load_agent

    return load_agent(agent, which)
