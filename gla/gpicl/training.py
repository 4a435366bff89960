"""Meta-train learners on classification tasks (GPICL, Algorithm 1).

Tasks are drawn, projected and permuted on the device, inside the jitted step. Every random number
of step i comes from the seed and i alone, so a resumed run repeats an uninterrupted one bit for bit
on the same machine. What happens when something goes wrong is told in `gla.loop`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from gla import checkpoints, loop, parallel
from gla.datasets import Dataset
from gla.errors import GlaError
from gla.gpicl.config import GPICLConfig, config_from_json
from gla.gpicl.evaluate import Score, evaluate
from gla.gpicl.factory import make_learner
from gla.gpicl.learners import Learner
from gla.gpicl.tasks import Examples, TaskConfig, Tasks, sample, to_device
from gla.packages import package_versions
from gla.sampling import allocate
from gla.steps import TrainState, begin, take_steps

KIND = "gpicl"  # tells these checkpoint folders from those of agents
SEGMENTS = 10  # parts of a sequence whose losses are logged


def sample_batch(
    keys: Sequence[jax.Array],
    sources: Sequence[Examples],
    counts: Sequence[int],
    tasks: TaskConfig,
    progress: jax.Array,
) -> Tasks:
    """Draw sequences of every data set and join them.

    Args:
        keys: one per data set.
        sources: the data sets.
        counts: sequences of each.
        tasks: which tasks.
        progress: f32[], share of the training that is done.
    """
    parts = [
        sample(key, source, tasks, count, progress)
        for key, source, count in zip(keys, sources, counts, strict=True)
    ]
    return Tasks(*(jnp.concatenate(leaves) for leaves in zip(*parts, strict=True)))


def sequence_loss(
    params: Any, learner: Learner, batch: Tasks
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return the mean cross-entropy of all guesses (Eq. 2), in nats.

    Args:
        params: of the learner.
        learner: what guesses.
        batch: leading axis B.

    Returns:
        f32[], and (cross-entropy by position, f32[T]; accuracy by position, f32[T]).
    """
    scores = learner.guess(params, batch.inputs, batch.told)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch.labels)
    right = jnp.argmax(scores, -1) == batch.labels
    return jnp.mean(losses), (jnp.mean(losses, 0), jnp.mean(right, 0, dtype=jnp.float32))


def loss_and_gradient(
    params: Any,
    key: jax.Array,
    sources: Sequence[Examples],
    progress: jax.Array,
    config: GPICLConfig,
    learner: Learner,
    mesh: Mesh | None = None,
) -> tuple[Any, dict[str, jax.Array], jax.Array]:
    """Sample a batch and return the gradient, the mean of each term and the loss by segment.

    Args:
        params: of the learner.
        key: decides the batch.
        sources: the data sets.
        progress: f32[] in [0, 1], share of the training that is done.
        config: what to train.
        learner: made of it.
        mesh: devices to divide the work among.
    """
    counts = [n // config.accumulate for n in allocate(config.batch_size, config.data.shares)]

    def part(keys: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array]]:
        batch = sample_batch(list(keys), sources, counts, config.tasks, progress)
        batch = parallel.split_batch(batch, mesh)
        (loss, by_position), grads = jax.value_and_grad(sequence_loss, has_aux=True)(
            params, learner, batch
        )
        return grads, (loss, *by_position)

    keys = jax.random.split(key, (config.accumulate, len(sources)))
    if config.accumulate == 1:
        grads, (loss, losses, accuracies) = part(keys[0])
    else:
        shapes = jax.eval_shape(part, keys[0])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(
            lambda total, own: (jax.tree.map(jnp.add, total, part(own)), None), zeros, keys
        )
        grads, (loss, losses, accuracies) = jax.tree.map(lambda x: x / config.accumulate, total)
    length = config.tasks.length
    borders = np.linspace(0, length, min(SEGMENTS, length) + 1).round().astype(int)
    by_segment = jnp.stack(
        [jnp.mean(losses[a:b]) for a, b in zip(borders[:-1], borders[1:], strict=True)]
    )
    terms = {"loss": loss, "first": accuracies[0], "last": accuracies[-1]}
    return grads, terms, by_segment


def init_state(config: GPICLConfig, learner: Learner) -> TrainState:
    """Draw initial weights."""
    return begin(learner.init(_initial_key(config)), config)


def _initial_key(config: GPICLConfig) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), 0)


def _take(
    state: TrainState,
    sources: Sequence[Examples],
    config: GPICLConfig,
    learner: Learner,
    mesh: Mesh | None,
):
    """Run the steps of a dispatch."""

    def gradient(params: Any, key: jax.Array, progress: jax.Array):
        return loss_and_gradient(params, key, sources, progress, config, learner, mesh)

    state, metrics = take_steps(state, gradient, config, mesh, config.statistics)
    if config.statistics:
        moved = jax.tree.map(jnp.subtract, state.params, learner.init(_initial_key(config)))
        metrics = metrics._replace(terms=metrics.terms | {"distance": optax.tree.norm(moved)})
    return state, metrics


class Held(NamedTuple):
    """Something to validate on.

    Attributes:
        name: in the log.
        examples: the data.
        tasks: made of them.
    """

    name: str
    examples: Examples
    tasks: TaskConfig


def _held(config: GPICLConfig, training: Sequence[Examples]) -> list[Held]:
    """Return what a training is validated on."""
    endless = dataclasses.replace(config.tasks.uniform, tasks=0)
    held = []
    for name, examples in zip(config.data.datasets, training, strict=True):
        if config.tasks.tasks:
            seen = dataclasses.replace(config.tasks, hidden_share=0.0)
            held.append(Held(f"seen tasks of {name}", examples, seen))
        test = to_device(config.data.load(name, "test"), endless)
        held.append(Held(f"unseen tasks of {name}", test, endless))
    for name in config.validation.datasets:
        held.append(Held(name, to_device(config.data.load(name, "test"), endless), endless))
    return held


def summary(score: Score) -> dict[str, float]:
    """Return the mean loss, the first and last accuracy, and what lies between them, the gain."""
    first, last = float(score.accuracy[0]), float(score.accuracy[-1])
    return {"loss": float(score.loss.mean()), "first": first, "last": last, "gain": last - first}


def gpicl_train(
    config: GPICLConfig,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
) -> Path:
    """Meta-train, or go on, and keep checkpoints in a folder.

    Validations are on unseen tasks of the test part of every data set (uniform permutations, all
    classes), on seen ones where their number is finite, and on the data sets named for it. The
    best weights are those with the lowest mean loss on unseen tasks.

    Args:
        config: what to train.
        path: checkpoint folder.
        fresh: delete a checkpoint folder that is there first.
        progress: show a progress bar with the accuracy at the end of the sequence.
        minutes: stop, and count as finished, after this many minutes of training in this call.

    Returns:
        The absolute path of the folder.

    Raises:
        GlaError: a data set that cannot be used, a folder with other settings, see `gla.loop`.
    """
    loop.check_minutes(minutes)
    counts = allocate(config.batch_size, config.data.shares)
    if any(count % config.accumulate for count in counts):
        raise GlaError(
            f"accumulate={config.accumulate} does not divide the data sets' shares of a batch, "
            + ", ".join(str(count) for count in counts),
            mend="choose batch_size and weights so that it divides each",
        )
    mesh = parallel.make_mesh(config.mesh)
    parallel.check_batch(config.micro_batch, mesh)
    data = [config.data.load(name, "train") for name in config.data.datasets]
    sources = parallel.put([to_device(one, config.tasks) for one in data], mesh)
    learner = make_learner(config.learner, config.tasks.input_dim, config.tasks.classes)
    held: list[Held] = _held(config, sources) if config.validation.every else []

    def validate(params: Any) -> dict[str, Any]:
        params = parallel.gathered(params, mesh)
        values: dict[str, Any] = {}
        for name, examples, tasks in held:
            score = evaluate(learner, params, examples, tasks, config.validation.sequences)
            values[name] = summary(score)
        unseen = [v["loss"] for name, v in values.items() if name.startswith("unseen")]
        return {**values, "score": -float(np.mean(unseen))}

    job = loop.Job(
        config=config,
        title=f"{learner.name} on {', '.join(config.data.datasets)}",
        description={
            "kind": KIND,
            "training": dataclasses.asdict(config),
            "interface": {"input_dim": config.tasks.input_dim, "classes": config.tasks.classes},
            "sources": list(config.data.datasets),
            "histories": [_fingerprint(one) for one in data],
            "packages": package_versions(),
        },
        defaults=json.loads(json.dumps(dataclasses.asdict(GPICLConfig()))),
        begin=functools.partial(init_state, config, learner),
        take=lambda state, given: _take(state, given, config, learner, mesh),
        data=lambda step: sources,
        validate=validate if held else None,
        note=_note,
        memory=f"lower batch_size ({config.batch_size}), or raise accumulate ({config.accumulate})",
    )
    return loop.train(job, path, fresh, progress, minutes)


def _fingerprint(data: Dataset) -> dict[str, Any]:
    """Tell data sets apart, wherever they lie."""
    content = zlib.crc32(data.values[:1000].tobytes()) ^ zlib.crc32(data.labels.tobytes())
    return {"examples": len(data), "size": data.size, "classes": data.classes, "content": content}


def _note(values: dict[str, Any]) -> str:
    """Say beside the progress bar how it goes."""
    if values["loss"] is None:
        return f"{values['skipped']} steps skipped"
    skipped = f", {values['skipped']} skipped" if values["skipped"] else ""
    return (
        f"loss {values['loss']:.2f}, accuracy in training: first {values['first']:.0%}, last "
        f"{values['last']:.0%}{skipped}"
    )


class TrainedLearner(NamedTuple):
    """A learner out of a checkpoint folder.

    Attributes:
        config: what was trained.
        learner: without its parameters.
        params: its parameters, f32, on the first device.
    """

    config: GPICLConfig
    learner: Learner
    params: Any


def load_learner(path: str | os.PathLike, which: checkpoints.Which = "latest") -> TrainedLearner:
    """Load a meta-trained learner.

    Where training kept an average of the weights (`optimizer.ema`), these are the average.

    Args:
        path: checkpoint folder.
        which: `latest`, or `best` for those of the best validation.

    Raises:
        GlaError: if the folder is none, is of another version or another kind, or holds no such
            checkpoint or one that does not fit.
    """
    folder = Path(path).absolute()
    description = checkpoints.describe(folder)
    if description.get("kind") != KIND:
        raise GlaError(
            f"{folder} holds an agent for environments",
            "a learner of data sets, which `gla gpicl train` writes",
            "test it with `gla meta-test`",
        )
    try:
        config = config_from_json(description["training"])
    except (KeyError, TypeError) as error:
        raise GlaError(
            f"{folder / 'config.json'} lacks or adds settings ({error})",
            "a file written by this version of gla",
        ) from None
    learner = make_learner(config.learner, config.tasks.input_dim, config.tasks.classes)
    shapes = jax.eval_shape(lambda: init_state(config, learner))
    params = checkpoints.restore_acting(folder, shapes, which)
    return TrainedLearner(config, learner, params)
