"""The loop of every training: dispatches, logs, validations, checkpoints, and how it ends.

What happens when something goes wrong:

- A step whose loss, gradient or update is not finite changes nothing but the step count, and is
  counted as skipped. After `max_skips` of them in a row training stops.
- Training stops when it diverges: when the smoothed loss, an average over about fifty steps, is
  above `diverged` times its first value, or times 1 where that is less.
- When memory does not suffice, training stops and names what to lower.
- Every such stop is a `GlaError`, one line. The last checkpoint before it stays, and the same
  command goes on from there: it says the same again, or, where the cause was the machine's, ends.
- Every `validation.every` steps the weights are validated; the best are kept in `best/` beside the
  checkpoints. After `validation.patience` validations without a better one training ends, and
  `finished.json` says so. A kill at any moment, a validation included, costs the time since the
  last checkpoint and changes nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from gla import checkpoints, parallel
from gla.errors import GlaError
from gla.gradient_statistics import by_tensor
from gla.logs import Logs
from gla.progress import Progress
from gla.steps import GOING, SKIPPED, Metrics, Settings, TrainState


class Validation(Protocol):
    """When to validate."""

    @property
    def every(self) -> int: ...  # noqa: D102
    @property
    def patience(self) -> int: ...  # noqa: D102


class LoopSettings(Settings, Protocol):
    """What of a training's config the loop reads; see `gla.training_config.MetaTrainConfig`."""

    @property
    def checkpoint_every(self) -> int: ...  # noqa: D102
    @property
    def validation(self) -> Validation: ...  # noqa: D102
    @property
    def mesh(self) -> parallel.MeshConfig: ...  # noqa: D102
    @property
    def tensorboard(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Job:
    """What one training is made of.

    Attributes:
        config: how long, and with which optimiser.
        title: for the progress bar.
        description: JSON-like settings, kept in the folder and compared when training goes on.
        defaults: of the settings under `training` that an older description lacks.
        begin: returns the state before the first step; traced.
        take: maps (state, data) to the state after a dispatch and what it was like; traced.
        data: maps the step to what `take` is given; called before every dispatch.
        validate: maps the parameters to act with to numbers to be logged, of which `score`, higher
            is better, decides which weights are best; None where nothing is validated. Must
            return the same for the same parameters.
        note: says beside the progress bar how it goes, from what is logged.
        memory: what to lower when memory does not suffice.
    """

    config: LoopSettings
    title: str
    description: dict[str, Any]
    defaults: dict[str, Any]
    begin: Callable[[], TrainState]
    take: Callable[[TrainState, Any], tuple[TrainState, Metrics]]
    data: Callable[[int], Any]
    validate: Callable[[Any], dict[str, Any]] | None
    note: Callable[[dict[str, Any]], str]
    memory: str


@contextlib.contextmanager
def memory_errors(lower: str, folder: Path) -> Iterator[None]:
    """Turn a lack of memory, of the device or of the machine, into a plain `GlaError`.

    Args:
        lower: what takes less memory.
        folder: of the checkpoints.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not (
            "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
        ):
            raise
        detail = text.splitlines()[0][:120] if text else "MemoryError"
        raise GlaError(
            f"memory does not suffice for meta-training ({detail})",
            mend=f"{lower}; the last checkpoint in {folder}, if there is one, is kept",
        ) from None


def _why_stopped(state: TrainState, config: LoopSettings, folder: Path) -> GlaError:
    """Say why the watch stopped training."""
    watch, step = jax.tree.map(np.asarray, state.watch), int(state.step)
    mend = (
        f"lower the learning rate ({config.optimizer.learning_rate:g}); the last good checkpoint "
        f"in {folder} is kept"
    )
    if watch.stopped == SKIPPED:
        return GlaError(
            f"meta-training stopped at step {step}: {config.max_skips} steps in a row had a loss "
            "or gradient that is not finite",
            "a finite loss and gradient",
            mend,
        )
    return GlaError(
        f"meta-training diverged: at step {step} the smoothed loss is {watch.smoothed:.4g}, and "
        f"the first was {watch.first:.4g}",
        f"at most {config.diverged:g} times max(first, 1)",
        mend + "; diverged=0 turns this check off",
    )


def check_minutes(minutes: float | None) -> None:
    """Raise `GlaError` unless this is a time to train, or None for no limit."""
    if minutes is not None and not minutes > 0:
        raise GlaError(f"minutes is {minutes}", "a number above 0")


def train(
    job: Job,
    path: str | os.PathLike,
    fresh: bool = False,
    progress: bool = True,
    minutes: float | None = None,
) -> Path:
    """Train, or go on training, and keep checkpoints in a folder.

    A folder that was trained with the same settings is gone on with; a finished one is left alone.
    With several processes (`gla.parallel.start`) all call this alike, with a folder that all see;
    process 0 writes logs and descriptions.

    Args:
        job: what to train.
        path: checkpoint folder.
        fresh: delete a checkpoint folder that is there first.
        progress: show a progress bar, and say why training ended before its last step.
        minutes: stop, and count as finished, after this many minutes of training in this call.

    Returns:
        The absolute path of the folder.

    Raises:
        GlaError: see the rules at the top of this module; a folder with other settings.
    """
    folder = Path(path).absolute()
    check_minutes(minutes)
    with memory_errors(job.memory, folder):
        training = _Training(job, folder)
        training.describe(fresh)
        state = training.first_state()
        if not checkpoints.finished(folder, int(state.step)):
            step, reason = training.run(state, progress, minutes)
            if parallel.is_first():
                checkpoints.finish(folder, step, reason)
                if progress and step < job.config.steps:
                    where = f"at step {step:,} of {job.config.steps:,}"
                    print(f"{job.title}: {reason}, {where}", file=sys.stderr)
            parallel.wait_for_all("finished")
    return folder


class _Training:
    """One call of `train`."""

    def __init__(self, job: Job, folder: Path):
        self.job, self.config, self.folder = job, job.config, folder
        self.mesh = parallel.make_mesh(job.config.mesh)
        # jit keeps what it compiled by function, so this lives as long as the training.
        self.steps = jax.jit(job.take, donate_argnums=0)

    def describe(self, fresh: bool):
        """Write the folder's description, or compare it with the one that is there."""
        description, defaults = self.job.description, self.job.defaults
        if parallel.is_first():
            checkpoints.prepare(self.folder, description, fresh, defaults)
        parallel.wait_for_all("description")
        if not parallel.is_first():
            checkpoints.prepare(self.folder, description, False, defaults)

    def first_state(self) -> TrainState:
        """Restore the newest checkpoint, or begin."""
        make = self.job.begin
        shapes = jax.eval_shape(make)
        shardings = parallel.divided(shapes, self.mesh)
        like = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
        )
        found = checkpoints.restore_latest(self.folder, like, default=())
        return jax.jit(make, out_shardings=shardings)() if found == () else found

    def run(self, state: TrainState, progress: bool, minutes: float | None) -> tuple[int, str]:
        """Train to the end; return the last step and why it is the last."""
        config, folder, writes = self.config, self.folder, parallel.is_first()
        step = first = int(state.step)
        began = time.monotonic()
        whole = True  # state and logs are of the same step
        with (
            checkpoints.Checkpoints(folder) as saver,
            Logs(folder, step, config.tensorboard, writes) as logs,
            Progress(self.job.title, config.steps, "steps", step, progress and writes) as bar,
        ):
            try:
                while True:
                    if self.validation_is_due(state):
                        found = self.validated(state, saver)
                        whole = False
                        state = found[0]
                        logs.write(step=step, validation=found[1])
                        whole = True
                    reason = self.reason_to_end(state, step > first, began, minutes)
                    if step and (reason or step % config.checkpoint_every == 0):
                        logs.flush()
                        saver.save(step, state)
                    if reason:
                        return step, reason
                    data = self.job.data(step)
                    whole, before = False, step
                    state, metrics = self.steps(state, data)
                    del data  # so that it can be dropped before the next is read
                    step = int(state.step)
                    if int(state.watch.stopped) != GOING:
                        raise _why_stopped(state, config, folder)
                    values = _readable(metrics, state)
                    logs.write(step=step, **values)
                    whole = True
                    bar.advance(step - before, self.job.note(values))
            except KeyboardInterrupt:
                # Inside a dispatch the old state is given away and the new one not there yet; of
                # several processes not all need be at the same step.
                if whole and step and jax.process_count() == 1:
                    logs.flush()
                    saver.save(step, state)
                raise

    def reason_to_end(
        self, state: TrainState, trained: bool, began: float, minutes: float | None
    ) -> str:
        """Say why training ends here; nothing if it goes on."""
        config, watch = self.config, state.watch
        if int(state.step) >= config.steps:
            return "all steps done"
        patience = config.validation.patience
        if patience and int(watch.worse) >= patience:
            return (
                f"no better score in {patience} validations; the best, {float(watch.best):.6g}, "
                f"was at step {int(watch.best_step)}"
            )
        if minutes is not None and trained:
            over = parallel.from_first(np.asarray(time.monotonic() - began > 60 * minutes))
            if over:
                return f"stopped after {minutes:g} minutes"
        return ""

    def validation_is_due(self, state: TrainState) -> bool:
        """Return whether these weights are to be validated and have not been."""
        every = self.config.validation.every if self.job.validate else 0
        step = int(state.step)
        due = every and step and (step % every == 0 or step >= self.config.steps)
        return bool(due) and int(state.watch.validated) < step

    def validated(
        self, state: TrainState, saver: checkpoints.Checkpoints
    ) -> tuple[TrainState, dict[str, Any]]:
        """Validate the weights, keep them if they are the best, and return what was found."""
        assert self.job.validate is not None
        values = self.job.validate(state.acting)
        step, watch = int(state.step), state.watch
        # A run that goes on compares what a checkpoint holds, so all compare float32.
        score = np.float32(parallel.from_first(np.float32(values["score"])))
        better = bool(score > np.float32(watch.best))
        if better:
            saver.save_best(step, state.acting)
        changes: dict[str, Any] = {
            "best": score if better else np.float32(watch.best),
            "best_step": np.int32(step if better else watch.best_step),
            "worse": np.int32(0 if better else int(watch.worse) + 1),
            "validated": np.int32(step),
        }
        for name, value in changes.items():
            sharding = getattr(watch, name).sharding
            changes[name] = jax.make_array_from_callback(
                (), sharding, functools.partial(_same, value)
            )
        return state._replace(watch=watch._replace(**changes)), values


def _same(value: np.generic, index: Any) -> np.ndarray:
    """Return every piece of a single number."""
    return np.asarray(value)[index]


def _readable(metrics: Metrics, state: TrainState) -> dict[str, Any]:
    """Return the metrics of a dispatch as plain numbers; None where every step was skipped."""
    found = jax.tree.map(np.asarray, metrics)
    none = not found.taken
    return {
        **{name: None if none else float(x) for name, x in found.terms.items()},
        "gradient_norm": None if none else float(found.gradient_norm),
        "learning_rate": float(found.learning_rate),
        "by_segment": [] if none else found.by_segment.tolist(),
        "smoothed_loss": float(state.watch.smoothed),
        "skipped": int(state.watch.skipped),
        **({} if none or not found.statistics else {"statistics": by_tensor(found.statistics)}),
    }
