"""What the makers of histories that are not PPO have in common: rolling out, recording, resuming.

`RolloutMaker` lets parallel environments of one task be acted in for as many updates as asked for,
cut wherever a store wants it cut. Who acts, and what is learned from it, is up to its subclasses:
`gla.agents.distillation` and `gla.agents.tabular_learning`.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gla.agents.blocks import BlockMaker
from gla.envs import registry
from gla.envs.base import (
    Environment,
    Params,
    State,
    Timestep,
    action_size,
    is_discrete,
    observation_size,
)
from gla.envs.splits import RunKeys, step_key
from gla.envs.telling import can_tell, told_size, told_vector
from gla.envs.vectorized import step_batch, strong_types
from gla.envs.wrappers import Autoreset, Normalized, TimeLimit
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, Storage, episode_return
from gla.normalization import Statistics
from gla.packages import package_versions

Shape = Literal["linear", "cosine", "power"]
Rows = dict[str, jax.Array]


@dataclass(frozen=True)
class Schedule:
    """A number that goes from `start` to `end` over a history, in every step anew.

    At the share x of the history it is start f(x) + end (1 - f(x)), with f(x) = 1 - x (`linear`),
    (1 + cos(pi x)) / 2 (`cosine`) or (1 - x)^power (`power`), so exactly `start` in the first step
    and exactly `end` in the last.

    Attributes:
        start: the value in the first step.
        end: the value in the last step.
        shape: how it gets there.
        power: exponent of the shape `power`, above 0; above 1 most of the way is gone early.
        hold: share of the history, at its end, that is spent at `end`, in [0, 1).

    Raises:
        GlaError: if a value is out of its range.
    """

    start: float = 1.0
    end: float = 0.0
    shape: Shape = "linear"
    power: float = 2.0
    hold: float = 0.0

    def __post_init__(self):
        for name in ("start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise GlaError(f"schedule {name} is {getattr(self, name)}", "a finite number")
        if self.shape not in get_args(Shape):
            raise GlaError(f"schedule shape is {self.shape!r}", "linear, cosine or power")
        if not 0 < self.power < math.inf:
            raise GlaError(f"schedule power is {self.power}", "a number above 0")
        if not 0 <= self.hold < 1:
            raise GlaError(f"schedule hold is {self.hold}", "a share in [0, 1)")

    def check(self, name: str, low: float, high: float) -> None:
        """Raise a `GlaError` that names the setting unless both ends lie in [low, high]."""
        for end in ("start", "end"):
            if not low <= getattr(self, end) <= high:
                raise GlaError(f"{name} {end} is {getattr(self, end)}", f"from {low} to {high}")

    def at(self, share: jax.Array) -> jax.Array:
        """Return the value f32[...] at a share f32[...] of the history, in [0, 1]."""
        left = jnp.maximum(1.0 - share / (1.0 - self.hold), 0.0)
        if self.shape == "cosine":
            left = 0.5 - 0.5 * jnp.cos(jnp.pi * left)
        elif self.shape == "power":
            left = left**self.power
        return self.start * left + self.end * (1.0 - left)


@dataclass(frozen=True)
class RolloutConfig:
    """What all such histories have in common.

    Attributes:
        streams_per_run: recorded environments per run.
        updates: updates per run.
        steps: steps of one environment per update.
        block: runs that are made as one; on an accelerator all of them at the same time.
        chunk: updates that are made, written and resumed as one; 0 for all of a run.
        window: steps of the random-policy window that gives a task's normalisation.
        storage: type of observations, actions and distributions on disk: float32, float16
            (relative error 2^-11) or bfloat16 (2^-8).

    Raises:
        GlaError: if a value is out of its range.
    """

    streams_per_run: int = 1
    updates: int = 60
    steps: int = 50
    block: int = 16
    chunk: int = 0
    window: int = 200
    storage: Storage = "float32"

    def __post_init__(self):
        self._check_counts("streams_per_run", "updates", "steps", "block", "window")
        if self.chunk < 0:
            raise GlaError(f"chunk is {self.chunk}", "a number of updates, or 0 for all")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise GlaError(f"{name} is {getattr(self, name)}", "a whole number >= 1")


def plain_environment(id: str, method: str, **settings: Any) -> Environment:
    """Build the functional environment that histories are recorded on.

    Args:
        id: of a plain environment, with or without options (`gla.envs.registry.split_options`).
        method: who asks, for messages.
        **settings: of the environment.

    Raises:
        GlaError: if there is none of that id, or it is projected, or a host simulator, or a setting
            does not fit.
    """
    spec, options, _ = registry.resolve(id)
    if spec.kind != "functional":
        raise GlaError(
            f"{method} cannot record {spec.full_id}, a host simulator",
            "a functional environment",
            "`gla envs list` shows the kind of each",
        )
    if spec.projected:
        raise GlaError(
            f"{method} cannot record {spec.full_id}",
            f"the plain {spec.id}",
            "histories are projected when they are sampled",
        )
    return registry.make_functional(spec.id, **{**options, **settings})


def make_meta(
    config: RolloutConfig,
    env: Environment,
    method: str,
    environment: str,
    runs: int,
    split: str,
    seed: int,
    parallel_envs: int,
    arrays: tuple[str, ...] = ("distribution", "target"),
    **replaced: Any,
) -> HistoryMeta:
    """Describe the store that a configuration fills.

    Args:
        config: settings; those that `HistoryMeta` has fields for are not repeated in its settings.
        env: the bare environment.
        method: the maker's name.
        environment: id.
        runs: number of runs.
        split: of the tasks.
        seed: of the tasks.
        parallel_envs: of a run, recorded or not.
        arrays: optional arrays that the maker records.
        **replaced: settings that are recorded otherwise than `config` has them.
    """
    fields = {field.name for field in dataclasses.fields(HistoryMeta)}
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in fields
    }
    return HistoryMeta(
        environment=registry.resolve(environment).id,
        observation_size=observation_size(env),
        action_size=action_size(env),
        discrete=is_discrete(env.action_space),
        horizon=int(env.horizon or config.steps),
        runs=runs,
        streams_per_run=config.streams_per_run,
        updates=config.updates,
        steps=config.steps,
        parallel_envs=parallel_envs,
        hidden=0,  # no policies are recorded
        split=split,
        seed=seed,
        block=config.block,
        settings=settings | replaced,
        packages=package_versions(),
        method=method,
        chunk=config.chunk,
        arrays=(*arrays, "told") if can_tell(env) else arrays,
        storage=config.storage,
        told=told_size(env),
    )


class Fixed(NamedTuple):
    """What stays the same throughout a run.

    Attributes:
        params: the task.
        statistics: its normalisation window.
        own: what the maker prepared for this run.
    """

    params: Params
    statistics: Statistics
    own: Any


class Rolling(NamedTuple):
    """A run under way, from which it can be continued.

    Attributes:
        memory: whatever the maker carries from step to step, such as a Q table.
        env_state: states of the parallel environments, each leaf [N, ...].
        observation: f32[N, n], to be acted on next.
        update: i32[], updates done.
    """

    memory: Any
    env_state: State
    observation: jax.Array
    update: jax.Array


class RolloutMaker(BlockMaker):
    """Makes histories by acting in parallel environments of each run's task.

    Everything random is drawn from the keys of the run (`run_keys`) and the number of the update,
    so that a run does not depend on the block that it is in, nor on how it is cut into parts.

    Subclasses say what is prepared for a run (`prepare`, `start`), drawn for an update (`draw`),
    done (`act`), learned (`learn`) and added to the record (`complete`).

    Args:
        env: the bare environment.
        meta: what the store is to hold.
        window: steps of the normalisation window.
    """

    def __init__(self, env: Environment, meta: HistoryMeta, window: int):
        super().__init__(meta)
        self._env, self._window = env, window
        self._world = Autoreset(TimeLimit(env, meta.horizon))

    # What subclasses say

    def prepare(self, keys: RunKeys, params: Params, given: Any) -> Any:
        """Return what stays the same throughout a run, as a tree of arrays.

        Args:
            keys: of the run.
            params: its task.
            given: this run's part of `given`.
        """
        del keys, params, given
        return ()

    def start(self, keys: RunKeys, fixed: Fixed) -> Any:
        """Return what is carried from step to step, as it is before the first."""
        del keys, fixed
        return ()

    @abc.abstractmethod
    def draw(self, key: jax.Array) -> Any:
        """Draw all randomness of the behaviour in one update: a tree of arrays [T, ...]."""

    @abc.abstractmethod
    def act(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        noise: Any,
        env_state: State,
        observation: jax.Array,
    ) -> tuple[Any, jax.Array, Rows]:
        """Act for one step in N parallel environments.

        Args:
            fixed: of the run.
            memory: what is carried.
            step: i32[], steps of the history so far, 0 .. updates * steps - 1.
            noise: of this step, from `draw`.
            env_state: each leaf [N, ...], with a `TimeLimitState` outside.
            observation: f32[N, n].

        Returns:
            The memory, the actions f32[N, k] or i32[N], and rows [N, ...] to be recorded, with
            those of the store's optional arrays among them that `complete` does not add.
        """

    def learn(
        self,
        fixed: Fixed,
        memory: Any,
        step: jax.Array,
        env_state: State,
        action: jax.Array,
        ts: Timestep,
    ) -> Any:
        """Return the memory after a step: `env_state` and `action` led to `ts`, leaves [N, ...]."""
        del fixed, step, env_state, action, ts
        return memory

    @abc.abstractmethod
    def complete(self, fixed: Fixed, update: jax.Array, rows: Rows) -> tuple[Rows, jax.Array]:
        """Add to the record of one update what can be computed for all its steps at once.

        Args:
            fixed: of the run.
            update: i32[], its number.
            rows: [T, N, ...].

        Returns:
            The rows that are recorded, and `log_std` f32[k].
        """

    def target_log_std(self, fixed: Fixed) -> jax.Array:
        """Return the target's log standard deviation f32[k]; zeros for discrete actions."""
        del fixed
        return jnp.zeros(self._meta.action_size)

    # What is done with it

    def share(self, step: jax.Array) -> jax.Array:
        """Return the share f32[...] of the history that lies before a step: 0 first, 1 last."""
        return step / jnp.float32(max(self._meta.updates * self._meta.steps - 1, 1))

    def _step_keys(self, keys: RunKeys, step: jax.Array | int) -> jax.Array:
        envs = jnp.arange(self._meta.parallel_envs)
        return jax.vmap(lambda env: step_key(keys.environment, step, env))(envs)

    def begin_one(self, task: jax.Array, given: Any) -> tuple[Fixed, Rolling]:
        """Draw task number `task` (i32[]) and what acts in it."""
        keys = self.keys(task)
        params = self._env.sample_params(keys.task)
        statistics = Normalized(self._env, self._window).measure(keys.window, params).statistics
        fixed = Fixed(params, statistics, self.prepare(keys, params, given))
        state, observation = jax.vmap(self._world.reset, (0, None))(
            self._step_keys(keys, -1), params
        )
        rolling = Rolling(self.start(keys, fixed), state, observation, jnp.int32(0))
        return fixed, strong_types(rolling)

    def advance_one(
        self, task: jax.Array, fixed: Fixed, state: Rolling, updates: int
    ) -> tuple[Rolling, Rows]:
        """Go on with a run; its record is [streams, updates, ...] or [updates, ...]."""
        meta, keys = self._meta, self.keys(task)
        _, run_key = jax.random.split(keys.agent)

        def interact(carry, inputs):
            memory, env_state, observation = carry
            noise, step = inputs
            memory, action, rows = self.act(fixed, memory, step, noise, env_state, observation)
            after, ts = step_batch(
                self._world, lambda: self._step_keys(keys, step), env_state, action,
                fixed.params, None,
            )  # fmt: skip
            memory = self.learn(fixed, memory, step, env_state, action, ts)
            rows = rows | {
                "observation": observation,
                "action": action,
                "reward": ts.reward,
                "terminated": ts.terminated,
                "truncated": ts.truncated,
            }
            return strong_types((memory, after, ts.observation)), rows

        def one_update(rolling: Rolling, _):
            steps = rolling.update * meta.steps + jnp.arange(meta.steps)
            noise = self.draw(jax.random.fold_in(run_key, rolling.update))
            carry, rows = jax.lax.scan(interact, rolling[:3], (noise, steps))
            mean_return = episode_return(
                rows["reward"], rows["terminated"], float(meta.horizon), (0, 1)
            )
            rows, log_std = self.complete(fixed, rolling.update, rows)
            record = {
                name: jnp.swapaxes(value[:, : meta.streams_per_run], 0, 1)
                for name, value in rows.items()
            }
            record["mean_return"] = mean_return
            if "distribution" in meta.arrays:
                record["log_std"] = log_std
            return strong_types(Rolling(*carry, rolling.update + 1)), record

        rolling, record = jax.lax.scan(one_update, state, None, length=updates)
        return rolling, {
            name: jnp.swapaxes(value, 0, 1) if name in STREAM_ARRAYS else value
            for name, value in record.items()
        }

    def once(self, fixed: Fixed) -> Rows:
        """Return the normalisation of the tasks, and the targets' log standard deviation."""
        arrays = fixed.statistics._asdict()
        if self._meta.told:
            arrays["told"] = jax.vmap(lambda params: told_vector(self._env, params))(fixed.params)
        # Where the last state is kept, it comes with the targets, at the end.
        if "target" in self._meta.arrays and not self.keeps_last_state:
            arrays["target_log_std"] = jax.vmap(self.target_log_std)(fixed)
        return arrays
