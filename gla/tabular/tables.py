"""What one lifetime in a finite decision process showed, as tables: nothing here is learned.

Distinct observations get numbers in the order in which they are first met. For each of them and
each action the tables count what followed: successors, ends of episodes, rewards. All of it is
equivariant to how the states of the task are numbered, and to how its actions are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gla.errors import GlaError


@dataclass(frozen=True)
class TablesConfig:
    """Size of the memory of one lifetime.

    Attributes:
        slots: M, distinct observations that are told apart; all that come later share the last.
        successors: K, different successors that are counted of an observation under an action.
            Where there are more, a new one takes the place of the rarest.
        tolerance: largest difference in any number of two observations that count as one, >= 0.

    Raises:
        GlaError: if a value is out of its range.
    """

    slots: int = 128
    successors: int = 8
    tolerance: float = 1e-4

    def __post_init__(self):
        for name, least in (("slots", 2), ("successors", 1)):
            if getattr(self, name) < least:
                raise GlaError(
                    f"tables {name} is {getattr(self, name)}", f"a whole number >= {least}"
                )
        if not 0.0 <= self.tolerance < 1e30:
            raise GlaError(f"tables tolerance is {self.tolerance}", "a number >= 0")


class Tables(NamedTuple):
    """Of one lifetime: M slots, A actions, K successors.

    Slots come last: sums over successors and actions are then sums of vectors, which a CPU does
    several times as fast.

    Attributes:
        observations: f32[M, n], of each slot that is in use; zeros elsewhere.
        known: i32[], slots in use.
        visits: f32[A, M], how often each action was taken.
        rewards: f32[A, M], sum of the rewards that followed at once.
        terminations: f32[A, M], how often the episode terminated.
        successors: i32[K, A, M], slots that followed.
        counts: f32[K, A, M], how often each did. After a truncation the successor is not shown, and
            none is counted.
        starts: f32[M], how often an episode began there.
        ends: f32[], episodes that terminated.
        age: i32[], steps of the lifetime that were taken.
        slot: i32[], the current one.
        action: i32[], that was taken last.
    """

    observations: jax.Array
    known: jax.Array
    visits: jax.Array
    rewards: jax.Array
    terminations: jax.Array
    successors: jax.Array
    counts: jax.Array
    starts: jax.Array
    ends: jax.Array
    age: jax.Array
    slot: jax.Array
    action: jax.Array


def empty(config: TablesConfig, observations: int, actions: int) -> Tables:
    """Return the tables of a lifetime that has not begun.

    Args:
        config: sizes.
        observations: n, length of an observation.
        actions: A.
    """
    pairs = (actions, config.slots)
    whole, real = jnp.int32(0), jnp.zeros(())
    return Tables(
        jnp.zeros((config.slots, observations)), whole,
        jnp.zeros(pairs), jnp.zeros(pairs), jnp.zeros(pairs),
        jnp.zeros((config.successors, *pairs), jnp.int32), jnp.zeros((config.successors, *pairs)),
        jnp.zeros(config.slots), real, whole, whole, whole,
    )  # fmt: skip


def find(tables: Tables, observation: jax.Array, tolerance: float) -> tuple[Tables, jax.Array]:
    """Return the slot i32[] of an observation f32[n], and the tables with it if it is new."""
    slots = tables.observations.shape[0]
    near = jnp.max(jnp.abs(tables.observations - observation), -1) <= tolerance
    near &= jnp.arange(slots) < tables.known
    met = jnp.any(near)
    new = ~met & (tables.known < slots)
    slot = jnp.where(met, jnp.argmax(near), jnp.minimum(tables.known, slots - 1)).astype(jnp.int32)
    row = jnp.where(new, observation, tables.observations[slot])
    return tables._replace(
        observations=tables.observations.at[slot].set(row),
        known=tables.known + new.astype(jnp.int32),
    ), slot


def observe(
    tables: Tables,
    observation: jax.Array,
    reward: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    tolerance: float = 0.0,
) -> Tables:
    """Take note of what the last action led to, and where the lifetime is now.

    Args:
        tables: of one lifetime, with the last `slot` and `action`.
        observation: f32[n], the first of a new episode after an end.
        reward: f32[], of the last step.
        terminated: bool[], whether it ended the task.
        truncated: bool[], whether it was cut off.
        tolerance: see `TablesConfig`.
    """
    before, action = tables.slot, tables.action
    tables, slot = find(tables, observation, tolerance)
    acted = tables.age > 0  # nothing came before the first observation of a lifetime
    once = acted.astype(jnp.float32)
    ended = once * terminated
    went = acted & ~terminated & ~truncated

    successors, counts = tables.successors[:, action, before], tables.counts[:, action, before]
    same = (successors == slot) & (counts > 0)
    place = jnp.where(jnp.any(same), jnp.argmax(same), jnp.argmin(counts))
    count = jnp.where(jnp.any(same), counts[place] + 1.0, 1.0)
    began = (~acted | terminated | truncated).astype(jnp.float32)
    return tables._replace(
        visits=tables.visits.at[action, before].add(once),
        rewards=tables.rewards.at[action, before].add(once * reward),
        terminations=tables.terminations.at[action, before].add(ended),
        successors=tables.successors.at[place, action, before].set(
            jnp.where(went, slot, successors[place])
        ),
        counts=tables.counts.at[place, action, before].set(jnp.where(went, count, counts[place])),
        starts=tables.starts.at[slot].add(began),
        ends=tables.ends + ended,
        slot=slot,
    )


def decide(tables: Tables, action: jax.Array) -> Tables:
    """Take note of the action i32[] that is taken now."""
    return tables._replace(action=action.astype(jnp.int32), age=tables.age + 1)
