"""Collect learning histories: environments x runs -> PPO -> a history store."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla.agents import ppo
from gla.agents.backends import map_runs
from gla.envs import registry
from gla.envs.base import Environment, action_size, is_discrete, observation_size
from gla.envs.splits import Split, run_keys, task_key
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore
from gla.packages import package_versions
from gla.progress import Progress


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Attributes:
        environment: id of a functional environment, such as gla/RandomLinear-v0.
        runs: number of PPO runs, each on a task of its own.
        streams_per_run: parallel environments recorded per run, at most ppo.num_envs.
        seed: seed of the set of tasks and of everything random in the runs.
        split: `train`, `validation` or `test` tasks.
        block: runs that are collected, written and resumed as one.
        window: steps of the random-policy window that gives a task's normalisation.
        ppo: PPO's settings.
    """

    environment: str = "gla/RandomLinear-v0"
    runs: int = 128
    streams_per_run: int = 1
    seed: int = 0
    split: Split = "train"
    block: int = 16
    window: int = 200
    ppo: ppo.PPOConfig = field(default_factory=ppo.PPOConfig)

    def __post_init__(self):
        for name in ("runs", "streams_per_run", "block", "window"):
            if getattr(self, name) < 1:
                raise GlaError(f"collect {name} is {getattr(self, name)}", "a whole number >= 1")
        if self.streams_per_run > self.ppo.num_envs:
            raise GlaError(
                f"streams_per_run is {self.streams_per_run}",
                f"at most ppo num_envs, {self.ppo.num_envs}",
            )
        if not 0 <= self.seed < 2**31:
            raise GlaError(f"seed is {self.seed}", "a whole number from 0 to 2^31 - 1")


def _meta(config: CollectConfig, env: Environment) -> HistoryMeta:
    settings = dataclasses.asdict(config)
    for known in ("runs", "streams_per_run", "seed", "split", "block", "environment"):
        settings.pop(known)
    return HistoryMeta(
        environment=registry.find(config.environment).id,
        observation_size=observation_size(env),
        action_size=action_size(env),
        discrete=is_discrete(env.action_space),
        horizon=int(env.horizon or config.ppo.num_steps),
        runs=config.runs,
        streams_per_run=config.streams_per_run,
        updates=config.ppo.num_updates,
        steps=config.ppo.num_steps,
        parallel_envs=config.ppo.num_envs,
        hidden=config.ppo.hidden,
        split=config.split,
        seed=config.seed,
        block=config.block,
        settings=settings,
        packages=package_versions(),
    )


def run_one(task: jax.Array, env: Environment, config: CollectConfig) -> dict[str, jax.Array]:
    """Train PPO on task number `task` (i32[]) and return its record, run-level arrays included.

    Args:
        task: index of the task within the split and seed.
        env: the bare environment.
        config: settings.
    """
    keys = run_keys(task_key(config.split, config.seed, task))
    params = env.sample_params(keys.task)
    statistics = Normalized(env, config.window).measure(keys.window, params).statistics
    wrapped = Autoreset(TimeLimit(env))
    _, record = ppo.train(keys, wrapped, params, config.ppo, config.streams_per_run)
    record["log_std"] = jnp.broadcast_to(
        record["log_std"], (config.ppo.num_updates, record["log_std"].shape[-1])
    )
    return {**record, **statistics._asdict()}


def _check_finite(record: dict[str, np.ndarray], first_run: int, name: str):
    """Raise `GlaError` naming the first value that is not finite: all others may follow from it."""
    found: list[tuple[int, int, int, int, str]] = []  # run, update, step, order, array
    # In the order in which one step makes them.
    for order, array in enumerate(("policy", "observation", "action", "reward")):
        bad = ~np.isfinite(record[array])
        if array == "policy":
            places = np.argwhere(bad.any(-1))  # run, update
        else:
            features = tuple(range(4, bad.ndim))
            places = np.argwhere(bad.any((1, *features)))  # run, update, step
        if len(places):
            where = [int(x) for x in places[0]] + [0]
            found.append((where[0], where[1], where[2], order, array))
    if found:
        run, update, step, _, array = min(found)
        raise GlaError(
            f"{name} gave {'an' if array[0] in 'ao' else 'a'} {array} that is not finite in run "
            f"{first_run + run}, update {update}, step {step}",
            "finite numbers",
            "bound the environment, or lower PPO's learning rate if only the policy diverged",
        )


def collect(
    config: CollectConfig, path: str | os.PathLike, fresh: bool = False, progress: bool = True
) -> HistoryStore:
    """Collect learning histories into the store at `path`; go on where it stopped.

    Args:
        config: what to collect.
        path: folder of the store.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: unknown or host environment, a store with other settings, a value that is not
            finite (environment, run, update and step are named), a disk that cannot be written.
    """
    spec = registry.find(config.environment)
    if spec.kind != "functional":
        raise GlaError(
            f"{spec.id} runs in a host simulator, which `gla collect` cannot record",
            "a functional environment",
            "see `gla envs list`",
        )
    env = registry.make_functional(spec.id)
    store = HistoryStore.create_or_resume(path, _meta(config, env), fresh)
    missing = store.missing_blocks()
    if not missing:
        return store
    block_function = jax.jit(lambda tasks: map_runs(lambda task: run_one(task, env, config), tasks))
    steps_per_run = config.ppo.num_updates * config.ppo.num_steps * config.ppo.num_envs
    total = config.runs * steps_per_run
    done = total - sum(len(store.meta.block_runs(b)) for b in missing) * steps_per_run
    with Progress(f"collect {spec.id}", total, "steps", done, enabled=progress) as bar:
        for block in missing:
            runs = store.meta.block_runs(block)
            # A short last block is padded, so that only one program is compiled.
            tasks = jnp.minimum(jnp.arange(config.block) + runs.start, runs.stop - 1)
            record = jax.tree.map(np.asarray, block_function(tasks))
            record = {name: value[: len(runs)] for name, value in record.items()}
            _check_finite(record, runs.start, spec.id)
            store.write_block(block, _as_streams(record))
            returns = record["mean_return"].mean(0)
            bar.advance(len(runs) * steps_per_run, f"return {returns[0]:.1f} to {returns[-1]:.1f}")
    return store


def _as_streams(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """Merge the run and stream axes of the per-stream arrays."""
    return {
        name: value.reshape(-1, *value.shape[2:]) if name in STREAM_ARRAYS else value
        for name, value in record.items()
    }
