"""Collect learning histories: environments x runs -> PPO -> a history store."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gla import policy as pol
from gla.agents import ppo
from gla.agents.backends import map_runs
from gla.agents.blocks import BlockMaker, check_seed, fill, without_emitters
from gla.agents.hyper import HyperRanges, draw_hyper
from gla.envs import registry
from gla.envs.base import action_size, is_discrete, observation_size
from gla.envs.splits import Split
from gla.envs.telling import can_tell, told_size, told_vector
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit, random_action
from gla.errors import GlaError
from gla.histories import (
    HistoryMaker,
    HistoryMeta,
    HistoryStore,
    Storage,
    record,
)
from gla.packages import package_versions


@dataclass(frozen=True)
class CollectConfig:
    """What to collect.

    Attributes:
        environment: id of a plain environment, such as gla/RandomLinear-v0 or gla/HalfCheetah-v0,
            with options if need be, such as gla/RandomMechanics-v0?joints=3
            (`gla.envs.registry.split_options`).
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
        check_seed(self.seed)


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
        environment=registry.resolve(config.environment).id,
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
        arrays=(
            "distribution",
            "value",
            "policy",
            *(("target",) if config.targets else ()),
            *(("told",) if can_tell(env) else ()),
        ),
        told=told_size(env),
        storage=config.storage,
        hyperparameters=ppo.Hyper._fields if config.vary.any else (),
    )


def plain(id: str) -> registry.Named:
    """Return what a plain id names, with or without options.

    Raises:
        GlaError: if it is unknown or projected, or an option is malformed.
    """
    named = registry.resolve(id)
    if named.spec.projected:
        raise GlaError(
            f"{named.spec.full_id} is projected",
            "a plain id, whose histories are projected when they are sampled",
            f"collect {named.spec.id}",
        )
    return named


class PPOMaker(BlockMaker):
    """Makes histories by PPO on a functional environment.

    Args:
        config: what to collect.

    Raises:
        GlaError: if the environment is unknown, projected or a host simulator.
    """

    def __init__(self, config: CollectConfig):
        spec, options, _ = plain(config.environment)
        if spec.kind != "functional":
            raise GlaError(
                f"{spec.full_id} runs in a host simulator",
                "a functional environment",
                "use gla.agents.collect.make_maker, which takes either kind",
            )
        self.config = config
        self._env = registry.make_functional(spec.id, **options)
        self._world = Autoreset(TimeLimit(self._env))
        super().__init__(make_meta(config, self._env, self._env.horizon))
        self.keeps_last_state = config.targets
        label_one = functools.partial(label, discrete=self._meta.discrete)
        self._label = jax.jit(lambda policy, seen: map_runs(label_one, policy, seen))
        # For large environments: acting and learning are compiled apart, each in its own way.
        self._play = jax.jit(
            lambda *block: map_runs(self._play_one, *block),
            donate_argnums=2,
            compiler_options=without_emitters(),
        )
        self._learn = jax.jit(lambda *block: map_runs(self._learn_one, *block), donate_argnums=2)
        self._halves: tuple[Any, Any] | None = None

    def begin_one(self, task: jax.Array, given: Any) -> tuple[_Fixed, ppo.Training]:
        """Draw task number `task` (i32[]), measure its window and draw a learner."""
        del given
        keys, config = self.keys(task), self.config
        params = self._env.sample_params(keys.task)
        statistics = Normalized(self._env, config.window).measure(keys.window, params).statistics
        hyper = draw_hyper(keys.agent, config.vary, ppo.hyper_of(config.ppo))
        fixed = {"params": params, "hyper": hyper, "statistics": statistics}
        return fixed, ppo.begin(keys, self._world, params, config.ppo, hyper)

    def advance_one(
        self, task: jax.Array, fixed: _Fixed, state: ppo.Training, updates: int
    ) -> tuple[ppo.Training, dict[str, jax.Array]]:
        """Go on with a run for some updates."""
        return ppo.advance(
            self.keys(task), self._world, fixed["params"], self.config.ppo, state, updates,
            self.config.streams_per_run, fixed["hyper"],
        )  # fmt: skip

    def _play_one(self, task, fixed, training):
        return ppo.play(self.keys(task), self._world, fixed["params"], self.config.ppo, training)

    def _learn_one(self, task, fixed, training, rollout):
        return ppo.learn(
            self.keys(task), self._world, self.config.ppo, training, rollout,
            self.config.streams_per_run, fixed["hyper"],
        )  # fmt: skip

    def _is_large(self, fixed: _Fixed, training: ppo.Training) -> bool:
        """Return whether the environment's step is a large program, as Brax's are."""

        def one(tree: Any, axes: int) -> Any:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[axes:], x.dtype), tree)

        params, state = one(fixed["params"], 1), one(training.env_state, 2)
        key = jax.eval_shape(lambda: jax.random.key(0))
        action = jax.eval_shape(lambda: random_action(jax.random.key(0), self._env.action_space))
        program = jax.make_jaxpr(self._world.step)(key, state, action, params)
        return str(program).count("\n") > LARGE

    def compile(self, tasks: jax.Array, fixed: Any, state: Any, lengths: set[int]) -> None:
        """Compile the whole of an update, or of large environments on a CPU its two halves."""
        if self._halves is not None:
            return
        if jax.default_backend() != "cpu" or self._programs or not self._is_large(fixed, state):
            super().compile(tasks, fixed, state, lengths)
            return
        after, rollout = jax.eval_shape(self._play, tasks, fixed, state)
        with ThreadPoolExecutor(1) as aside:
            play = aside.submit(self._play.lower(tasks, fixed, state).compile)
            learn = self._learn.lower(tasks, fixed, after, rollout).compile()
            self._halves = play.result(), learn

    def advance(
        self, tasks: jax.Array, fixed: Any, state: Any, updates: int
    ) -> tuple[Any, dict[str, Any]]:
        """Go on with the runs of a block, update by update where acting is compiled apart."""
        if self._halves is None:
            return super().advance(tasks, fixed, state, updates)
        play, learn = self._halves
        made = []
        for _ in range(updates):
            state, rollout = play(tasks, fixed, state)
            state, one = learn(tasks, fixed, state, rollout)
            made.append(one)
        return state, {
            name: np.stack([np.asarray(one[name]) for one in made], 2 if name in ppo.STREAMS else 1)
            for name in made[0]
        }

    def once(self, fixed: _Fixed) -> dict[str, jax.Array]:
        """Return the normalisation of the tasks, and settings that differ."""
        arrays = fixed["statistics"]._asdict()
        if self._meta.told:
            arrays["told"] = jax.vmap(lambda params: told_vector(self._env, params))(
                fixed["params"]
            )
        if self._meta.hyperparameters:
            arrays["hyperparameters"] = jnp.stack(fixed["hyper"], -1)
        return arrays

    def targets(
        self, runs: range, state: Mapping[str, np.ndarray], observation: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Label states with the distribution of each run's last policy."""
        policy = self.state_of(runs, state).learner.policy
        size = len(policy.mean)
        seen = fill(observation.reshape(len(runs), -1, observation.shape[-1]), size)
        target, log_std = jax.tree.map(np.asarray, self._label(policy, seen))
        return {
            "target": target[: len(runs)].reshape(*observation.shape[:-1], -1),
            "target_log_std": log_std[: len(runs)],
        }


# Lines of the program of a step (jaxpr): of Brax thousands, of gymnax and the families a hundred.
LARGE = 1500

_Fixed = dict[str, Any]  # of a run: its params, settings and normalisation


def label(
    policy: pol.PolicyParams, observation: jax.Array, discrete: bool
) -> tuple[jax.Array, jax.Array]:
    """Return a policy's distribution f32[..., k] at raw observations, and its log_std f32[k]."""
    if discrete:
        return pol.output(policy, observation), policy.log_std
    return pol.gaussian(policy, observation)


def make_maker(config: CollectConfig) -> HistoryMaker:
    """Return what makes the histories of a configuration, on an environment of either kind.

    Raises:
        GlaError: if the environment is unknown or projected, or its simulator is not installed.
    """
    if registry.resolve(config.environment).spec.kind == "functional":
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
