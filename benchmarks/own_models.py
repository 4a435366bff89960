"""Our sequence models, trained and stepped when asked to; what `own_worker` runs them for.

Settings are those of `gla.benchmarks.peer_models`, and `backbone`, for acting `how` (a key of
`STEPPERS`) and `after`, the number of tokens that every lifetime has seen when it starts to act.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gla.benchmarks.peer_worker import Settings, Training
from gla.models import ModelConfig, SequenceModel, State, make_model
from gla.optimizers import OptimizerConfig, make_optimizer

OPTIMIZER = OptimizerConfig(
    "adamw", 3e-4, "constant", warmup=0, weight_decay=1e-4, max_grad_norm=1.0
)
"""The same as `peer_models` has."""

SEGMENT = 1024
"""Tokens at a time when a lifetime is brought to its place."""

SCAN = 16
"""Tokens in one call of a compiled scan."""


def model_of(settings: Settings) -> SequenceModel:
    """Return the model of these sizes."""
    names = ("backbone", "width", "layers", "heads", "mlp", "window")
    config = ModelConfig(**{name: settings[name] for name in names})
    return make_model(config, settings["inputs"], settings["outputs"])


def make_update(
    model: SequenceModel, tokens: jax.Array, targets: jax.Array, dispatch: int = 1
) -> tuple[Any, Any]:
    """Return what starts training, params -> state, and compiled steps, state -> state and loss.

    Args:
        model: to train.
        tokens: f32[B, T, F].
        targets: f32[B, T, O], to which the squared error is averaged.
        dispatch: steps in one call, as `steps_per_dispatch` of meta-training; the loss is the last.
    """
    # The number of steps only matters to schedules that end.
    optimizer = make_optimizer(OPTIMIZER, 1000)

    def error(params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(model.apply(params, tokens)[0] - targets))

    def update(state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        params, moments = state
        loss, gradient = jax.value_and_grad(error)(params, tokens, targets)
        change, moments = optimizer.update(gradient, moments, params)
        return (jax.tree.map(jnp.add, params, change), moments), loss

    def updates(state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        one = lambda state, _: update(state, tokens, targets)  # noqa: E731
        state, losses = jax.lax.scan(one, state, None, length=dispatch)
        return state, losses[-1]

    compiled = jax.jit(updates, donate_argnums=0)
    return lambda params: (params, optimizer.init(params)), lambda state: compiled(
        state, tokens, targets
    )


def train(settings: Settings) -> Training:
    """Make training on random numbers: a call is `dispatch` steps and returns their tokens."""
    _start()
    model, keys = model_of(settings), jax.random.split(jax.random.key(0), 3)
    rows, length, dispatch = settings["rows"], settings["window"], settings["dispatch"]
    start, update = make_update(
        model,
        jax.random.normal(keys[0], (rows, length, model.inputs)),
        jax.random.normal(keys[1], (rows, length, model.outputs)),
        dispatch,
    )
    state = start(model.init(keys[2]))

    def call(seed: int) -> int:
        nonlocal state
        del seed
        state, _ = jax.block_until_ready(update(state))
        return rows * length * dispatch

    return Training(call)


def state_after(
    model: SequenceModel, params: Any, key: jax.Array, rows: int, after: int, segment: int = SEGMENT
) -> State:
    """Return the state of lifetimes that have really seen `after` random tokens.

    Args:
        model: of the lifetimes.
        params: its parameters.
        key: of the tokens.
        rows: number of lifetimes.
        after: number of tokens.
        segment: tokens that are applied at a time.
    """
    extend = jax.jit(lambda params, tokens, state: model.apply(params, tokens, state)[1])
    state = model.initial_state(rows)
    for first in range(0, after, segment):
        shape = (rows, min(segment, after - first), model.inputs)
        state = extend(params, jax.random.normal(jax.random.fold_in(key, first), shape), state)
    return jax.block_until_ready(state)


Stepper = Callable[[Any, State], tuple[jax.Array, State]]


def one_by_one(model: SequenceModel, tokens: jax.Array) -> Stepper:
    """Act on tokens f32[steps, B, F] with a call of a compiled step for each."""
    compiled, each = jax.jit(model.step, donate_argnums=2), list(tokens)

    def act(params: Any, state: State) -> tuple[jax.Array, State]:
        outputs = tokens
        for token in each:
            outputs, state = compiled(params, token, state)
        return outputs, state

    return act


def in_scans(model: SequenceModel, tokens: jax.Array) -> Stepper:
    """Act on tokens f32[steps, B, F] in compiled scans over `SCAN` of them."""

    def scan(params: Any, tokens: jax.Array, state: State) -> tuple[jax.Array, State]:
        def body(state: State, token: jax.Array) -> tuple[State, jax.Array]:
            outputs, state = model.step(params, token, state)
            return state, outputs

        state, outputs = jax.lax.scan(body, state, tokens)
        return outputs[-1], state

    compiled = jax.jit(scan, donate_argnums=2)
    parts = [tokens[first : first + SCAN] for first in range(0, len(tokens), SCAN)]

    def act(params: Any, state: State) -> tuple[jax.Array, State]:
        outputs = tokens
        for part in parts:
            outputs, state = compiled(params, part, state)
        return outputs, state

    return act


def recomputing(model: SequenceModel, tokens: jax.Array) -> Stepper:
    """Act by running over a whole window for each token; only how many of `tokens` matters."""
    steps, rows, inputs = tokens.shape
    window = jax.random.normal(jax.random.key(0), (rows, model.config.window + steps - 1, inputs))

    @jax.jit
    def last(params: Any, first: jax.Array) -> jax.Array:
        seen = jax.lax.dynamic_slice_in_dim(window, first, model.config.window, 1)
        return model.apply(params, seen)[0][:, -1]

    def act(params: Any, state: State) -> tuple[jax.Array, State]:
        outputs = tokens
        for first in range(steps):
            outputs = last(params, first)
        return outputs, state

    return act


STEPPERS: dict[str, Callable[[SequenceModel, jax.Array], Stepper]] = {
    "one by one": one_by_one,
    "in scans": in_scans,
    "recomputing": recomputing,
}


def act(settings: Settings) -> Training:
    """Make acting: a call is `steps` tokens a row, one by one.

    It goes on from call to call, as the peer does; where `restart` is set, each call begins after
    `after` tokens again.
    """
    _start()
    model, keys = model_of(settings), jax.random.split(jax.random.key(0), 3)
    rows, steps = settings["rows"], settings["steps"]
    params = model.init(keys[0])
    stepper = STEPPERS[settings["how"]](
        model, jax.random.normal(keys[1], (steps, rows, model.inputs))
    )
    start = state_after(model, params, keys[2], rows, settings["after"])
    state = jax.tree.map(jnp.copy, start)

    def call(seed: int) -> int:
        nonlocal state
        del seed
        _, state = jax.block_until_ready(stepper(params, state))
        return rows * steps

    def tidy() -> None:
        nonlocal state
        if settings.get("restart"):
            state = jax.block_until_ready(jax.tree.map(jnp.copy, start))

    return Training(call, tidy)


JOBS: dict[str, Callable[[Settings], Training]] = {"train": train, "act": act}


def _start():
    """Compute where the PyTorch of `peer_models` does."""
    jax.config.update("jax_platforms", "cpu")
