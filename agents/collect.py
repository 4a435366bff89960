"""Collect learning histories: environments x runs -> PPO -> a history store."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla.agents import ppo
from gla.agents.backends import map_runs, padded
from gla.agents.hyper import HyperRanges, draw_hyper
from gla.envs import registry
from gla.envs.base import action_size, is_discrete, observation_size
from gla.envs.splits import RunKeys, Split, run_keys, task_key
from gla.envs.table import EnvironmentSpec
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit
from gla.errors import GlaError
from gla.histories import (
    STREAM_ARRAYS,
    HistoryMaker,
    HistoryMeta,
    HistoryStore,
    Part,
    Storage,
    record,
)
from gla.packages import package_versions
from gla.trees import from_arrays, to_arrays


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Attributes:
        environment: id of a plain environment, such as gla/RandomLinear-v0 or gla/HalfCheetah-v0.
        runs: number of PPO runs, each on a task of its own.
        streams_per_run: parallel environments recorded per run, at most ppo.num_envs.
        seed: seed of the set of tasks and of everything random in the runs.
        split: `train`, `validation` or `test` tasks.
        block: runs that are collected as one; on an accelerator all of them at the same time.
        chunk: updates that are collected, written and resumed as one; 0 for all of a run. Memory
            holds this much of every recorded stream of a block.
        window: steps of the random-policy window that gives a task's normalisation.
        targets: also record the distribution of a run's last policy at every visited state.
        storage: type of observations, actions, distributions and values on disk: float32, float16
            (relative error 2^-11) or bfloat16 (2^-8).
        ppo: PPO's settings.
        vary: settings that are drawn for each run from a range.
    """

    environment: str = "gla/RandomLinear-v0"
    runs: int = 128
    streams_per_run: int = 1
    seed: int = 0
    split: Split = "train"
    block: int = 16
    chunk: int = 0
    window: int = 200
    targets: bool = False
    storage: Storage = "float32"
    ppo: ppo.PPOConfig = field(default_factory=ppo.PPOConfig)
    vary: HyperRanges = field(default_factory=HyperRanges)

    def __post_init__(self):
        for name in ("runs", "streams_per_run", "block", "window"):
            if getattr(self, name) < 1:
                raise GlaError(f"collect {name} is {getattr(self, name)}", "a whole number >= 1")
        if self.chunk < 0:
            raise GlaError(f"collect chunk is {self.chunk}", "a number of updates, or 0 for all")
        if self.streams_per_run > self.ppo.num_envs:
            raise GlaError(
                f"streams_per_run is {self.streams_per_run}",
                f"at most ppo num_envs, {self.ppo.num_envs}",
            )
        if not 0 <= self.seed < 2**31:
            raise GlaError(f"seed is {self.seed}", "a whole number from 0 to 2^31 - 1")


def make_meta(config: CollectConfig, env: Any, horizon: int | None) -> HistoryMeta:
    """Describe the store that a collection fills.

    Args:
        config: what is collected.
        env: the bare environment of either kind, whose sizes count.
        horizon: its episode length, or None.
    """
    settings = dataclasses.asdict(config)
    for known in (
        "runs", "streams_per_run", "seed", "split", "block", "environment", "chunk", "storage",
    ):  # fmt: skip
        settings.pop(known)
    space = getattr(env, "single_action_space", None) or env.action_space
    return HistoryMeta(
        environment=registry.find(config.environment).id,
        observation_size=observation_size(env),
        action_size=action_size(env),
        discrete=is_discrete(space),
        horizon=int(horizon or config.ppo.num_steps),
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
        method="ppo",
        chunk=config.chunk,
        arrays=("distribution", "value", "policy", *(("target",) if config.targets else ())),
        storage=config.storage,
        hyperparameters=ppo.Hyper._fields if config.vary.any else (),
    )


def plain_spec(id: str) -> EnvironmentSpec:
    """Return the table's row of a plain id.

    Raises:
        GlaError: if it is unknown or projected.
    """
    spec = registry.find(id)
    if spec.projected:
        raise GlaError(
            f"{spec.full_id} is projected",
            "a plain id, whose histories are projected when they are sampled",
            f"collect {spec.id}",
        )
    return spec


class PPOMaker:
    """Makes histories by PPO on a functional environment, compiled once for all blocks.

    Runs of a block go on together: on an accelerator at the same time, on a CPU one after the other
    on each device (`gla.agents.backends`).

    Args:
        config: what to collect.

    Raises:
        GlaError: if the environment is unknown, projected or a host simulator.
    """

    def __init__(self, config: CollectConfig):
        spec = plain_spec(config.environment)
        if spec.kind != "functional":
            raise GlaError(
                f"{spec.full_id} runs in a host simulator",
                "a functional environment",
                "use gla.agents.collect.make_maker, which takes either kind",
            )
        self.config = config
        self._env = registry.make_functional(spec.id)
        self._meta = make_meta(config, self._env, self._env.horizon)
        # Run once per block: it is not worth optimising.
        self._begin = jax.jit(
            lambda tasks: map_runs(self._begin_one, tasks), compiler_options=_quickly()
        )
        self._advance = jax.jit(self._advance_all, static_argnums=3, donate_argnums=2)
        self._programs: dict[int, Any] = {}  # by number of updates
        label_one = functools.partial(label, discrete=self._meta.discrete)
        self._label = jax.jit(lambda policy, seen: map_runs(label_one, policy, seen))

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        return self._meta

    def _keys(self, task: jax.Array) -> RunKeys:
        return run_keys(task_key(self.config.split, self.config.seed, task))

    def _begin_one(self, task: jax.Array) -> tuple[_Fixed, ppo.Training]:
        """Draw task number `task` (i32[]), measure its window and draw a learner."""
        keys, config = self._keys(task), self.config
        params = self._env.sample_params(keys.task)
        statistics = Normalized(self._env, config.window).measure(keys.window, params).statistics
        hyper = draw_hyper(keys.agent, config.vary, ppo.hyper_of(config.ppo))
        world = Autoreset(TimeLimit(self._env))
        fixed = {"params": params, "hyper": hyper, "statistics": statistics}
        return fixed, ppo.begin(keys, world, params, config.ppo, hyper)

    def _advance_all(self, tasks: jax.Array, fixed: _Fixed, training: ppo.Training, updates: int):
        world, config = Autoreset(TimeLimit(self._env)), self.config

        def one(task, fixed, training):
            return ppo.advance(
                self._keys(task), world, fixed["params"], config.ppo, training, updates,
                config.streams_per_run, fixed["hyper"],
            )  # fmt: skip

        return map_runs(one, tasks, fixed, training)

    def _compile(self, tasks: jax.Array, like: Any, lengths: set[int]) -> None:
        """Compile the program for parts of so many updates, where that is not done yet."""
        for updates in lengths - self._programs.keys():
            self._programs[updates] = self._advance.lower(tasks, *like, updates).compile()

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        # A short last block is filled up, so that only one program is compiled.
        size = padded(min(self.config.block, self.config.runs))
        tasks = jnp.asarray(np.minimum(np.arange(size) + runs.start, runs.stop - 1))
        like = jax.eval_shape(self._begin, tasks)
        lengths = {len(self._meta.updates_of(part)) for part in range(first, self._meta.parts)}
        with ThreadPoolExecutor(1) as aside:
            # The large program is compiled while the small one is.
            compiled = aside.submit(self._compile, tasks, like, lengths)
            fixed, training = self._begin(tasks)
            compiled.result()
        if state is not None:
            training = from_arrays(training, state)
        for part in range(first, self._meta.parts):
            updates = len(self._meta.updates_of(part))
            training, made = self._programs[updates](tasks, fixed, training)
            if part == 0:
                made |= fixed["statistics"]._asdict()
                if self._meta.hyperparameters:
                    made["hyperparameters"] = jnp.stack(fixed["hyper"], -1)
            arrays = {name: np.asarray(value)[: len(runs)] for name, value in made.items()}
            last = part == self._meta.parts - 1
            # The state is only read again after a kill, or for the targets.
            kept = to_arrays(training) if not last or self.config.targets else {}
            yield Part(as_streams(arrays), kept)

    def targets(
        self, runs: range, state: Mapping[str, np.ndarray], observation: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Label states with the distribution of each run's last policy."""
        size = padded(min(self.config.block, self.config.runs))
        tasks = jnp.asarray(np.minimum(np.arange(size) + runs.start, runs.stop - 1))
        like = jax.eval_shape(self._begin, tasks)[1]
        policy = from_arrays(like, state).learner.policy
        seen = observation.reshape(len(runs), -1, observation.shape[-1])
        seen = np.concatenate([seen, np.repeat(seen[-1:], size - len(runs), 0)])
        target, log_std = jax.tree.map(np.asarray, self._label(policy, seen))
        return {
            "target": target[: len(runs)].reshape(*observation.shape[:-1], -1),
            "target_log_std": log_std[: len(runs)],
        }


_Fixed = dict[str, Any]  # of a run: its params, settings and normalisation


def _quickly() -> dict[str, Any]:
    """Return options by which XLA compiles sooner what then runs slower."""
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def label(
    policy: pol.PolicyParams, observation: jax.Array, discrete: bool
) -> tuple[jax.Array, jax.Array]:
    """Return a policy's distribution f32[..., k] at raw observations, and its log_std f32[k]."""
    if discrete:
        return pol.output(policy, observation), policy.log_std
    return pol.gaussian(policy, observation)


def as_streams(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Merge the run and stream axes [runs, streams, ...] of arrays over streams."""
    return {
        name: value.reshape(-1, *value.shape[2:]) if name in STREAM_ARRAYS else value
        for name, value in arrays.items()
    }


def make_maker(config: CollectConfig) -> HistoryMaker:
    """Return what makes the histories of a configuration, on an environment of either kind.

    Raises:
        GlaError: if the environment is unknown or projected, or its simulator is not installed.
    """
    if registry.find(config.environment).kind == "functional":
        return PPOMaker(config)
    from gla.agents.collect_host import HostPPOMaker

    return HostPPOMaker(config)


def collect(
    config: CollectConfig,
    path: str | os.PathLike[str],
    fresh: bool = False,
    progress: bool = True,
) -> HistoryStore:
    """Collect learning histories by PPO into the store at `path`; go on where it stopped.

    Args:
        config: what to collect.
        path: folder of the store, or a URL that TensorStore knows.
        fresh: delete a store that is there first.
        progress: show a progress bar on standard error.

    Raises:
        GlaError: unknown environment, a store with other settings or another writer, a value that
            is not finite (environment, run, update and step are named), a disk that cannot be
            written.
    """
    return record(make_maker(config), path, fresh, progress)
