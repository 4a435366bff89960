"""Learning histories of PPO on host simulators (MuJoCo, DeepMind Control)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from gymnasium.vector import VectorEnv

from gla import policy as pol
from gla.agents import ppo
from gla.agents.blocks import as_streams
from gla.agents.collect import CollectConfig, label, make_meta, plain
from gla.agents.hyper import draw_hyper
from gla.agents.ppo_host import (
    HostTraining,
    HostUpdate,
    advance_host,
    begin_host,
    check_vector,
    host_keys,
)
from gla.envs import registry
from gla.envs.host_wrappers import HostNormalized
from gla.envs.splits import run_keys, task_key
from gla.histories import HistoryMeta, Part
from gla.trees import from_arrays, to_arrays


class HostPPOMaker:
    """Makes histories by PPO on a host simulator: the runs of a block in turns, a part each.

    The simulator itself uses all cores (`gla.envs.make_host`).

    Args:
        config: what to collect.

    Raises:
        GlaError: if the environment is unknown, projected or functional, or its simulator is not
            installed.
    """

    def __init__(self, config: CollectConfig):
        self._named = plain(config.environment)
        self.config = config
        probe = self._make(1)
        try:
            self._meta = make_meta(config, probe, self._named.spec.horizon)
        finally:
            probe.close()
        self._label = jax.jit(functools.partial(label, discrete=self._meta.discrete))

    def _make(self, num_envs: int, **settings: Any) -> VectorEnv:
        return registry.make_host(
            self._named.spec.id, num_envs, **{**self._named.options, **settings}
        )

    @property
    def meta(self) -> HistoryMeta:
        """What the store is to hold."""
        return self._meta

    def parts(
        self, runs: range, first: int = 0, state: Mapping[str, np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Make a block of runs; see `gla.histories.HistoryMaker`."""
        horizon = self._named.spec.horizon
        block = [_Run(self.config, self._make, horizon, run) for run in runs]
        try:
            for number, run in enumerate(block):
                run.begin(None if state is None else _of_run(state, number))
            for part in range(first, self._meta.parts):
                made = [run.advance(len(self._meta.updates_of(part))) for run in block]
                arrays = {name: np.stack([m[name] for m in made]) for name in made[0]}
                if part == 0:
                    for name in ("observation_mean", "observation_std", "reward_scale"):
                        arrays[name] = np.stack([run.statistics[name] for run in block])
                    if self._meta.hyperparameters:
                        arrays["hyperparameters"] = np.stack([np.stack(r.hyper) for r in block])
                last = part == self._meta.parts - 1
                kept: dict[str, np.ndarray] = {}
                if not last or self.config.targets:
                    kept = _joined([run.state(environment=not last) for run in block])
                yield Part(as_streams(arrays), kept)
        finally:
            for run in block:
                run.close()

    def targets(
        self, runs: range, state: Mapping[str, np.ndarray], observation: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Label states with the distribution of each run's last policy."""
        streams, labels = self._meta.streams_per_run, []
        meta = self._meta
        shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
        like = jax.eval_shape(lambda: ppo.init(jax.random.key(0), shape, self.config.ppo))
        for number in range(len(runs)):
            learner = from_arrays(like, _under(_of_run(state, number), "learner"))
            seen = observation[number * streams : (number + 1) * streams]
            labels.append(jax.tree.map(np.asarray, self._label(learner.policy, seen)))
        return {
            "target": np.concatenate([target for target, _ in labels]),
            "target_log_std": np.stack([log_std for _, log_std in labels]),
        }


class _Run:
    """One PPO run with its simulator."""

    def __init__(
        self, config: CollectConfig, make: Callable[..., VectorEnv], horizon: int | None, run: int
    ):
        self._config, self._horizon = config, horizon
        keys = run_keys(task_key(config.split, config.seed, run))
        window = int(jax.random.randint(keys.window, (), 0, 2**30))
        one = make(1, task_keys=[keys.task])
        try:
            measured = HostNormalized(one, config.window, window).statistics
        finally:
            one.close()
        self.statistics = {name: value[0] for name, value in measured._asdict().items()}
        envs = config.ppo.num_envs
        self._vec: VectorEnv = make(envs, task_keys=[keys.task] * envs)
        check_vector(self._vec, config.ppo, config.environment)
        default = ppo.hyper_of(config.ppo)
        self.hyper = draw_hyper(keys.agent, config.vary, default)
        self._keys = host_keys(jax.random.fold_in(keys.agent, 0))
        self._training: HostTraining | None = None

    def begin(self, state: Mapping[str, np.ndarray] | None) -> None:
        """Start, or go on from a state."""
        fresh = begin_host(self._vec, self._config.ppo, self._keys, self.hyper)
        if state is None:
            self._training = fresh
            return
        self._training = HostTraining(
            from_arrays(fresh.learner, _under(state, "learner")),
            state["observation"],
            state["running"],
            int(state["update"]),
        )
        vec: Any = self._vec
        vec.set_state(_under(state, "environment"))

    def state(self, environment: bool) -> dict[str, np.ndarray]:
        """Return all that `begin` needs, or {} if the simulator's state cannot be kept.

        Args:
            environment: include the simulator, which is not needed once the run is over.
        """
        assert self._training is not None
        kept: dict[str, np.ndarray] = {
            "observation": self._training.observation,
            "running": self._training.running,
            "update": np.asarray(self._training.update),
            **{f"learner/{k}": v for k, v in to_arrays(self._training.learner).items()},
        }
        if environment:
            vec: Any = self._vec
            try:
                inner = vec.get_state()
            except NotImplementedError:
                return {}
            kept |= {f"environment/{name}": value for name, value in inner.items()}
        return kept

    def advance(self, updates: int) -> dict[str, np.ndarray]:
        """Make some updates and return their record, [streams, U, T, ...] and [U, ...]."""
        assert self._training is not None
        made = []
        for _ in range(updates):
            self._training, done = advance_host(
                self._vec, self._config.ppo, self._keys, self._training, self._horizon, self.hyper
            )
            made.append(_record(done, self._config.streams_per_run))
        streams = made[0].keys() - {"log_std", "policy", "mean_return", "reward_deviation"}
        return {
            name: np.stack([one[name] for one in made], 1 if name in streams else 0)
            for name in made[0]
        }

    def close(self) -> None:
        self._vec.close()


def _record(done: HostUpdate, streams: int) -> dict[str, np.ndarray]:
    names = ("observation", "action", "distribution", "reward", "value", "terminated", "truncated")
    return {
        **{name: getattr(done.rollout, name)[:, :streams].swapaxes(0, 1) for name in names},
        "log_std": done.log_std,
        "policy": done.policy,
        "mean_return": done.mean_return,
        "reward_deviation": done.reward_deviation,
    }


def _joined(states: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Put the states of several runs into one, or {} if one of them has none."""
    if not all(states):
        return {}
    return {f"{i}/{name}": value for i, s in enumerate(states) for name, value in s.items()}


def _of_run(state: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    return _under(state, str(number))


def _under(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}
