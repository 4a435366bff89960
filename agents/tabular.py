"""An agent for finite decision processes: it counts, plans over its counts, and acts by a rule.

The memory (`gla.tabular.tables`) and the planning (`gla.tabular.rule`) are built in; what is
meta-trained is the rule by which the unknown is valued and values become actions. Its domain is
discrete actions and finitely many observations that recur: each observation is a state to it, and
one that is never met again teaches it nothing.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp

from gla.agents.base import View
from gla.agents.online import repeated, sizes_of
from gla.checkpoints import Which
from gla.envs.base import is_discrete
from gla.envs.vectorized import strong_types
from gla.errors import GlaError
from gla.tabular import tables as memory
from gla.tabular.rule import (
    CHANNELS,
    Rule,
    initial_rule,
    optimistic_rule,
    plan,
    wary_rule,
)
from gla.tabular.tables import Tables, TablesConfig


class TabularState(NamedTuple):
    """What N lifetimes know.

    Attributes:
        rule: never changed; it travels in the state, so that a compiled program takes it as an
            argument.
        tables: each leaf [N, ...].
        values: f32[N, 3, M], of the step before.
    """

    rule: Rule
    tables: Tables
    values: jax.Array


class TabularAgent:
    """Acts in raw observations and rewards, by one rule in all lifetimes.

    Args:
        rule: what is learned.
        config: size of the memory.
        sweeps: backups of all states in a step.
        name: for tables.
        stacked: whether each leaf of the rule has a leading axis N, a rule for every lifetime.
    """

    jittable = True
    view: View | None = None

    def __init__(
        self,
        rule: Rule,
        config: TablesConfig | None = None,
        sweeps: int = 2,
        name: str = "tabular",
        stacked: bool = False,
    ):
        self.rule, self.config = rule, config or TablesConfig()
        self.sweeps, self.name, self.stacked = sweeps, name, stacked

    def init(
        self,
        keys: jax.Array | None,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> TabularState:
        """Return empty tables.

        Raises:
            GlaError: if actions are continuous.
        """
        del keys
        if not is_discrete(action_space):
            raise GlaError(
                f"the agent {self.name!r} keeps tables and this environment's actions are "
                "continuous",
                "discrete actions, and observations that recur",
            )
        observations, actions, _ = sizes_of(observation_space, action_space)
        tables = repeated(memory.empty(self.config, observations, actions), num_envs)
        values = jnp.zeros((num_envs, CHANNELS, self.config.slots))
        return strong_types(TabularState(self.rule, tables, values))

    def act(
        self,
        state: TabularState,
        observation: jax.Array,
        reward: jax.Array,
        terminated: jax.Array,
        truncated: jax.Array,
        keys: jax.Array,
    ) -> tuple[TabularState, jax.Array]:
        """Take note of what the last action led to, plan, and draw an action, i32[N]."""

        def one(rule, tables, values, observation, reward, terminated, truncated, key):
            tables = memory.observe(
                tables, observation, reward, terminated, truncated, self.config.tolerance
            )
            values, logits = plan(rule, tables, values, self.sweeps)
            action = jax.random.categorical(key, logits).astype(jnp.int32)
            return memory.decide(tables, action), values, action

        axes = (0 if self.stacked else None, *[0] * 7)
        tables, values, action = jax.vmap(one, in_axes=axes)(
            state.rule, state.tables, state.values, observation, reward, terminated, truncated, keys
        )
        return strong_types(TabularState(state.rule, tables, values)), action


def load(path: str | os.PathLike, name: str = "tabular", which: Which = "latest") -> TabularAgent:
    """Load the agent of a folder that `gla meta-train evolve` wrote.

    Args:
        path: the folder.
        name: for tables.
        which: `latest`, or `best` for the rule of the best validation.

    Raises:
        GlaError: if the folder is none, or holds no checkpoint or one that does not fit.
    """
    from gla.tabular.trained import load_rule

    found = load_rule(path, which)
    return TabularAgent(found.params, found.config.tables, found.config.sweeps, name)


def untrained() -> TabularAgent:
    """Return the agent with the rule that evolution begins from by default, for comparison."""
    return TabularAgent(initial_rule(jax.random.key(0)), name="tabular, untrained")


def by_hand() -> TabularAgent:
    """Return the agent with a rule that was set by hand (`optimistic_rule`), for comparison."""
    return TabularAgent(optimistic_rule(), name="tabular, set by hand")


def wary() -> TabularAgent:
    """Return the agent with the other rule that was set by hand (`wary_rule`), for comparison."""
    return TabularAgent(wary_rule(), name="tabular, wary")
