"""Optimiser steps on the device: from gradients to new weights, whatever is minimised.

A step whose loss, gradient or update is not finite changes nothing but the step count. What
decides whether training goes on, the `Watch`, is part of the state, so that a run that goes on
decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from gla import parallel
from gla.errors import GlaError
from gla.gradient_statistics import Statistics, end, observe
from gla.gradient_statistics import begin as begin_statistics
from gla.optimizers import OptimizerConfig, average, make_optimizer, make_schedule

# The smoothed loss is 0.98 of itself and 0.02 of the new one.
SMOOTHING = 0.98
# Why training stopped, in `Watch.stopped`.
GOING, SKIPPED, DIVERGED = 0, 1, 2


class Watch(NamedTuple):
    """What decides whether training goes on.

    Attributes:
        in_row: i32[], skipped steps in a row up to now.
        skipped: i32[], skipped steps in all.
        first: f32[], first finite loss; 0 before.
        smoothed: f32[], smoothed loss; 0 before.
        stopped: i32[], GOING, SKIPPED or DIVERGED.
        best: f32[], best score of a validation; -inf before.
        best_step: i32[], its step.
        worse: i32[], validations since.
        validated: i32[], step of the last validation.
    """

    in_row: jax.Array
    skipped: jax.Array
    first: jax.Array
    smoothed: jax.Array
    stopped: jax.Array
    best: jax.Array
    best_step: jax.Array
    worse: jax.Array
    validated: jax.Array


class TrainState(NamedTuple):
    """Everything that training goes on from.

    Attributes:
        params: the model's parameters, f32.
        optimizer: the optimiser's state.
        ema: average of the parameters, f32, or None.
        step: i32[], steps done, skipped ones included.
        watch: see there.
    """

    params: Any
    optimizer: Any
    ema: Any
    step: jax.Array
    watch: Watch

    @property
    def acting(self) -> Any:
        """The parameters to act with and to validate: the average where there is one."""
        return self.params if self.ema is None else self.ema


class Metrics(NamedTuple):
    """Of a dispatch. Means are over its steps that were not skipped, 0 if there were none.

    Attributes:
        terms: mean of the loss and of each of its terms, f32[] each.
        gradient_norm: f32[], mean, before clipping.
        learning_rate: f32[], of the last step.
        by_segment: f32[segments], mean loss by segment, that is early to late in the lifetime.
        taken: i32[], steps that were not skipped.
        statistics: of gradients and updates by tensor, or None where they are not measured.
    """

    terms: dict[str, jax.Array]
    gradient_norm: jax.Array
    learning_rate: jax.Array
    by_segment: jax.Array
    taken: jax.Array
    statistics: Statistics | None


class Settings(Protocol):
    """What all configs of trainings have; see `gla.training_config.MetaTrainConfig`."""

    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def accumulate(self) -> int: ...  # noqa: D102
    @property
    def checkpoint_every(self) -> int: ...  # noqa: D102

    @property
    def optimizer(self) -> OptimizerConfig: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def steps_per_dispatch(self) -> int: ...  # noqa: D102
    @property
    def max_skips(self) -> int: ...  # noqa: D102
    @property
    def diverged(self) -> float: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102


def check_settings(config: Settings, periods: Mapping[str, int]) -> None:
    """Raise `GlaError` where a setting of steps is out of range.

    Args:
        config: of a training.
        periods: further numbers of steps, by name, that must be multiples of `steps_per_dispatch`.
    """
    for name in (
        "batch_size", "accumulate", "steps", "steps_per_dispatch", "checkpoint_every", "max_skips",
    ):  # fmt: skip
        if getattr(config, name) < 1:
            raise GlaError(f"{name} is {getattr(config, name)}", "a number >= 1")
    if config.seed < 0:
        raise GlaError(f"seed is {config.seed}", "a number >= 0")
    if not 0 <= config.diverged < math.inf:
        raise GlaError(f"diverged is {config.diverged}", "a number >= 0")
    for name, value in {"checkpoint_every": config.checkpoint_every, **periods}.items():
        if value % config.steps_per_dispatch:
            whole = f"steps_per_dispatch={config.steps_per_dispatch}"
            raise GlaError(f"{name}={value} is not a multiple of {whole}")


# Maps (parameters, key, progress f32[] in [0, 1]) to the gradient, the mean of each term f32[] with
# the `loss` among them, and the loss by segment f32[S].
Gradient = Callable[[Any, jax.Array, jax.Array], tuple[Any, dict[str, jax.Array], jax.Array]]


def begin(params: Any, config: Settings) -> TrainState:
    """Return the state of a training that has not begun, from initial weights."""
    optimizer = make_optimizer(config.optimizer, config.steps).init(params)
    ema = jax.tree.map(jnp.copy, params) if config.optimizer.ema else None
    whole, real = jnp.zeros((), jnp.int32), jnp.zeros(())
    watch = Watch(
        whole, whole, real, real, whole, jnp.full((), -jnp.inf, jnp.float32), *[whole] * 3
    )
    # Every leaf its own buffer, so that all may be given away.
    return TrainState(params, optimizer, ema, whole, jax.tree.map(jnp.copy, watch))


def _watched(watch: Watch, taken: jax.Array, loss: jax.Array, first: jax.Array, config) -> Watch:
    """Take note of a step: whether it was taken, and its loss."""
    in_row = jnp.where(taken, 0, watch.in_row + 1)
    start = jnp.where(taken & first, loss, watch.first)
    smoothed = jnp.where(first, loss, SMOOTHING * watch.smoothed + (1 - SMOOTHING) * loss)
    smoothed = jnp.where(taken, smoothed, watch.smoothed)
    stopped = jnp.where(in_row >= config.max_skips, SKIPPED, watch.stopped)
    if config.diverged:
        above = smoothed > config.diverged * jnp.maximum(start, 1.0)
        stopped = jnp.where(taken & above, DIVERGED, stopped)
    return watch._replace(
        in_row=in_row, skipped=watch.skipped + ~taken, first=start, smoothed=smoothed,
        stopped=stopped.astype(jnp.int32),
    )  # fmt: skip


def take_steps(
    state: TrainState,
    gradient: Gradient,
    config: Settings,
    mesh: Mesh | None = None,
    statistics: bool = False,
) -> tuple[TrainState, Metrics]:
    """Run `steps_per_dispatch` optimiser steps, or as many as are left.

    Nothing changes any more once the watch has stopped training. Every random number of step i
    comes from the seed and i alone.

    Args:
        state: where to go on from.
        gradient: of what is minimised, on a batch that its key decides.
        config: of the training.
        mesh: devices over which the state is divided.
        statistics: whether to measure gradients and updates tensor by tensor.
    """
    optimizer = make_optimizer(config.optimizer, config.steps)
    schedule = make_schedule(config.optimizer, config.steps)
    root = jax.random.fold_in(jax.random.key(config.seed), 1)

    def one(carry: tuple[TrainState, Any], _):
        state, seen = carry
        going = (state.watch.stopped == GOING) & (state.step < config.steps)
        key = jax.random.fold_in(root, state.step)
        progress = state.step.astype(jnp.float32) / config.steps
        grads, terms, by_segment = gradient(state.params, key, progress)
        norm = optax.tree.norm(grads)
        updates, new_optimizer = optimizer.update(grads, state.optimizer, state.params)
        finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        taken = going & finite
        done = state.step - state.watch.skipped  # steps taken before, as the optimiser counts
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = average(ema, params, config.optimizer.ema, done)
        watch = _watched(state.watch, taken, terms["loss"], done == 0, config)

        def choose(condition: jax.Array, new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)

        new = TrainState(
            choose(taken, params, state.params),
            choose(taken, new_optimizer, state.optimizer),
            choose(taken, ema, state.ema),
            state.step + going,
            choose(going, watch, state.watch),
        )
        if mesh is not None:
            new = jax.lax.with_sharding_constraint(new, parallel.divided(new, mesh))
        if statistics:
            seen = choose(taken, observe(seen, grads, updates), seen)
        rate = jnp.asarray(schedule(done), jnp.float32)
        found = Metrics(terms, norm, rate, by_segment, taken.astype(jnp.int32), None)
        return (new, seen), (found, going)

    seen = begin_statistics(state.params) if statistics else None
    (state, seen), (metrics, going) = jax.lax.scan(
        one, (state, seen), None, length=config.steps_per_dispatch
    )
    taken = metrics.taken
    count = jnp.maximum(jnp.sum(taken), 1)

    def mean(x: jax.Array) -> jax.Array:
        kept = jnp.where(taken.reshape((-1,) + (1,) * (x.ndim - 1)), x, 0.0)
        return jnp.sum(kept, 0) / count

    return state, Metrics(
        jax.tree.map(mean, metrics.terms),
        mean(metrics.gradient_norm),
        metrics.learning_rate[jnp.maximum(jnp.sum(going) - 1, 0)],
        mean(metrics.by_segment),
        jnp.sum(taken),
        end(seen, state.optimizer) if seen is not None else None,
    )
