"""gla: in-context reinforcement learning in JAX.

Importing this package registers every environment id with Gymnasium, by string, and imports no
JAX and no simulator: `gymnasium.make("gla:gla/Ant-v0")` works in a fresh process.
"""

# Imports go one way, gla <- gla.envs <- gla.agents <- gla.benchmarks. This file and gla/cli.py are
# the front doors and are exempt: `module:id` in Gymnasium imports `gla`, so `gla` must register.
from gla.envs import registry as _registry

__version__ = "0.1.0"

_registry.register_all()
