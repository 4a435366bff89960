"""Lifetimes of many rules on the same tabular tasks, and how good they were.

Returns are put between those of uniform actions and of the best policy, which are known exactly, so
that tasks of all scales count alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gla.agents.tabular import TabularAgent
from gla.envs import registry
from gla.envs.random_tabular import TabularEnvironment, TabularParams
from gla.envs.splits import RunKeys, Split, run_keys, step_key, task_key
from gla.envs.vectorized import step_batch, strong_types
from gla.envs.wrappers import TimeLimit
from gla.errors import GlaError
from gla.tabular.rule import Rule
from gla.tabular.tables import TablesConfig

ACT = 2  # what an agent's random numbers are for, as the meta-test numbers its purposes
LEAST = 0.02  # of the difference between best and uniform returns, as a divisor
BOUND = 2.0  # of normalised returns, so that no task outweighs the others
LATE = 0.2  # share of a lifetime that is its late part


class Tasks(NamedTuple):
    """B tasks of one environment.

    Attributes:
        keys: random keys of each lifetime.
        params: of the environment.
        uniform: f32[B], expected return of an episode of uniform actions.
        best: f32[B], expected return of an episode of the best policy.
    """

    keys: RunKeys
    params: TabularParams
    uniform: jax.Array
    best: jax.Array


class Fitness(NamedTuple):
    """How good lifetimes were; 0 is uniform actions, 1 the best policy.

    Attributes:
        life: f32[...], mean over the steps of a lifetime of the return of their episode.
        late: f32[...], mean return of the episodes that ended in the last fifth.
        by_segment: f32[..., S], as `life`, early to late in the lifetime.
    """

    life: jax.Array
    late: jax.Array
    by_segment: jax.Array


def open_environments(ids: Sequence[str], what: str = "evolve") -> list[TabularEnvironment]:
    """Build tabular environments.

    Args:
        ids: with options if need be.
        what: was given them, for messages.

    Raises:
        GlaError: if there is none, or one is unknown or not tabular.
    """
    if not ids:
        raise GlaError(f"{what} was given no environments", "ids such as gla/RandomTabular-v0")
    envs = []
    for id in ids:
        spec, options, _ = registry.resolve(id)
        env = None
        if spec.kind == "functional" and not spec.projected:
            env = registry.make_functional(spec.id, **options)
        if not isinstance(env, TabularEnvironment):
            raise GlaError(
                f"{spec.full_id} is no tabular environment",
                "one whose best policy is known exactly, such as gla/RandomTabular-v0",
            )
        envs.append(env)
    return envs


def draw_tasks(env: TabularEnvironment, split: Split, seed: int, indices: jax.Array) -> Tasks:
    """Draw tasks, the same as a meta-test with this split and seed, and solve them.

    Args:
        env: the environment.
        split: of the tasks.
        seed: of the set of tasks.
        indices: i32[B], numbers of the tasks in that set.
    """

    def one(index: jax.Array) -> Tasks:
        keys = run_keys(task_key(split, seed, index))
        params = env.sample_params(keys.task)
        best = env.solve(params).expected_return
        return Tasks(keys, params, env.uniform_return(params), best)

    return jax.vmap(one)(indices)


def live(
    rules: Rule,
    env: TabularEnvironment,
    tasks: Tasks,
    tables: TablesConfig,
    sweeps: int,
    steps: int,
) -> tuple[jax.Array, jax.Array]:
    """Live whole lifetimes, in each row with its own rule, on its own task.

    Args:
        rules: each leaf [N, ...].
        env: the bare environment.
        tasks: N of them.
        tables: size of the memory.
        sweeps: backups of all states in a step.
        steps: of a lifetime.

    Returns:
        Rewards f32[N, T], and whether an episode ended with each step, bool[N, T].
    """
    slots = min(tables.slots, env.states)
    agent = TabularAgent(rules, dataclasses.replace(tables, slots=max(slots, 2)), sweeps, "", True)
    limited, rows = TimeLimit(env, env.horizon), tasks.uniform.shape[0]

    def keys_of(keys: jax.Array, number: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: step_key(key, number, 0))(keys)

    acting = jax.vmap(lambda key: jax.random.fold_in(key, ACT))(tasks.keys.agent)

    def one(carry: Any, number: jax.Array):
        states, seen, memory = carry
        drawn = jax.vmap(lambda key: jax.random.fold_in(key, number))(acting)
        observation, reward, terminated, truncated = seen
        memory, action = agent.act(memory, observation, reward, terminated, truncated, drawn)
        step_keys = keys_of(tasks.keys.environment, number)
        states, ts = step_batch(limited, step_keys, states, action, tasks.params)
        seen = (ts.observation, ts.reward, ts.terminated, ts.truncated)
        return strong_types((states, seen, memory)), (ts.reward, ts.terminated | ts.truncated)

    first_keys = keys_of(tasks.keys.environment, jnp.int32(-1))
    states, observation = jax.vmap(limited.reset)(first_keys, tasks.params)
    nothing = jnp.zeros(rows, bool)
    seen = (observation, jnp.zeros(rows), nothing, nothing)
    memory = agent.init(None, rows, env.observation_space, env.action_space)
    carry = strong_types((states, seen, memory))
    _, (reward, ended) = jax.lax.scan(one, carry, jnp.arange(steps))
    return reward.T, ended.T


def episode_returns(reward: jax.Array, ended: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return for every step the return of its episode, f32[T], and whether it ended, bool[T].

    Args:
        reward: f32[T].
        ended: bool[T], whether an episode ended with a step; the last may be unfinished.
    """

    def add(total: jax.Array, step: tuple[jax.Array, jax.Array]):
        total = total + step[0]
        return jnp.where(step[1], 0.0, total), total

    def spread(carry: tuple[jax.Array, jax.Array], step: tuple[jax.Array, jax.Array]):
        total, finished = carry
        carry = jnp.where(step[1], step[0], total), finished | step[1]
        return carry, carry

    _, so_far = jax.lax.scan(add, jnp.zeros(()), (reward, ended))
    start = jnp.zeros(()), jnp.zeros((), bool)
    _, found = jax.lax.scan(spread, start, (so_far, ended), reverse=True)
    return found


def judge(reward: jax.Array, ended: jax.Array, tasks: Tasks, segments: int) -> Fitness:
    """Say how good lifetimes were.

    Args:
        reward: f32[N, T].
        ended: bool[N, T].
        tasks: N of them.
        segments: parts of a lifetime in `by_segment`, at most T.
    """
    steps = reward.shape[1]
    late = jnp.arange(steps) >= steps - max(1, round(LATE * steps))
    part = jnp.arange(steps) * segments // steps

    def mean(values: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(jnp.sum(where), 1)

    def one(reward, ended, uniform, best):
        returns, finished = episode_returns(reward, ended)
        score = (returns - uniform) / jnp.maximum(best - uniform, LEAST)
        score = jnp.clip(score, -BOUND, BOUND)
        life = mean(score, finished)
        ends = ended & late
        # Where no episode ended late, the whole lifetime stands in.
        return Fitness(
            life,
            jnp.where(jnp.any(ends), mean(score, ends), life),
            jnp.stack([mean(score, finished & (part == i)) for i in range(segments)]),
        )

    return jax.vmap(one)(reward, ended, tasks.uniform, tasks.best)
