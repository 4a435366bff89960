"""Meta-test of supervised learners: any learners x any data sets -> one results file."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gla import checkpoints, datasets
from gla.benchmarks.gpicl_results import Cell, SupervisedResults, read, write
from gla.errors import GlaError, near_matches
from gla.gpicl.baselines import BASELINES, make_baseline
from gla.gpicl.config import DataConfig
from gla.gpicl.evaluate import evaluate
from gla.gpicl.learners import Learner
from gla.gpicl.tasks import TaskConfig, check, to_device
from gla.gpicl.training import load_learner

# Learners that start anew at every position are asked at these (besides the last).
FEW = (0, 1, 2, 4, 9, 19, 29, 49, 74)


@dataclass(frozen=True)
class LearnerTestConfig:
    """Which learners, on which data sets, how often.

    Attributes:
        learner: checkpoint folders of `gla gpicl train`, and names of hand-written learners
            (`1-nn`, `kernel-ridge`, `logistic-regression`, `svm`, `sgd`, `adam`).
        dataset: what `gla.datasets.load` takes: `digits`, `mnist`, `openml:NAME`, a path of an .npz
            file or of a folder. Images of any size, grey or in colour, or feature vectors.
        part: of each data set, the `train` or the `test` part.
        folder: where bare names are looked for (default: the environment variable `GLA_DATA`).
        sequences: how many each learner meets on each data set, each with a projection and a
            permutation of its own.
        hidden: test meta-trained learners once more with every label hidden.
        curves: ask hand-written learners at several places of the sequence, not only at its end;
            some are fitted anew at each.
        length: examples of a sequence; 0 takes that of meta-training (100 without any).
        input_dim: of the inputs that hand-written learners see; 0 takes that of the first
            meta-trained learner (64 without any).
        resize: likewise of images; -1 takes that of the first meta-trained learner (8 without any),
            0 keeps images as they are.
        which: of checkpoint folders, the latest weights or those of the best validation.
        seed: of tasks and examples.

    Raises:
        GlaError: if a value is out of its range.
    """

    learner: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ("digits",)
    part: datasets.Part = "test"
    folder: str | None = None
    sequences: int = 2048
    hidden: bool = False
    curves: bool = True
    length: int = 0
    input_dim: int = 0
    resize: int = -1
    which: checkpoints.Which = "latest"
    seed: int = 0

    def __post_init__(self):
        if not self.learner:
            raise GlaError(
                "no learner is named",
                "checkpoint folders, or hand-written learners: " + ", ".join(BASELINES),
            )
        if not self.dataset:
            raise GlaError("no data set is named", "at least one, such as digits")
        for name, least in (
            ("sequences", 1), ("length", 0), ("input_dim", 0), ("resize", -1), ("seed", 0)
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise GlaError(f"{name} is {getattr(self, name)}", f"a whole number >= {least}")


class Entrant(NamedTuple):
    """A learner with all that its test needs."""

    learner: Learner
    params: Any
    path: str
    data: DataConfig
    tasks: TaskConfig
    trained_on: tuple[str, ...]
    training_seed: int
    training_steps: int


@dataclass(frozen=True)
class Blind:
    """A learner in JAX that is never told a label.

    Attributes:
        learner: which.
    """

    learner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def guess(self, params: Any, inputs: Any, told: Any, positions: Any = None) -> Any:
        """Guess as the learner does, from inputs alone."""
        return self.learner.guess(params, inputs, jnp.full_like(told, -1), positions)


def entrants(config: LearnerTestConfig) -> list[Entrant]:
    """Load the learners.

    Raises:
        GlaError: if one is neither a checkpoint folder nor a hand-written learner, or cannot be
            loaded.
    """
    found: list[Entrant | str] = []
    first: Entrant | None = None
    for name in config.learner:
        if name in BASELINES:
            found.append(name)
            continue
        if not Path(name).exists():
            raise GlaError(
                f"there is no learner {name!r}{near_matches(name, BASELINES)}",
                "a checkpoint folder, or one of " + ", ".join(BASELINES),
            )
        trained = load_learner(name, config.which)
        tasks = replace(trained.config.tasks.uniform, tasks=0)
        if config.length:
            tasks = replace(tasks, length=config.length)
        data = replace(trained.config.data, folder=config.folder)
        steps = checkpoints.latest_step(Path(name).absolute(), config.which)
        entrant = Entrant(
            trained.learner, trained.params, os.fspath(name), data, tasks,
            trained.config.data.datasets, trained.config.seed, steps,
        )  # fmt: skip
        found.append(entrant)
        first = first or entrant
    return [_by_hand(one, config, first) if isinstance(one, str) else one for one in found]


def _by_hand(name: str, config: LearnerTestConfig, first: Entrant | None) -> Entrant:
    """Return a hand-written learner, which sees what the first meta-trained one does."""
    tasks = first.tasks if first else TaskConfig(length=config.length or 100)
    data = first.data if first else DataConfig(folder=config.folder)
    if config.input_dim:
        tasks = replace(tasks, input_dim=config.input_dim)
    if config.resize >= 0:
        data = replace(data, resize=config.resize)
    learner = make_baseline(name, tasks.classes, tasks.input_dim, tasks.length)
    return Entrant(learner, learner.init(jax.random.key(0)), "", data, tasks, (), -1, 0)


def meta_test_learners(
    config: LearnerTestConfig, out: Path, progress: bool = True
) -> SupervisedResults:
    """Test every learner on every data set; what the results file holds already is kept.

    Args:
        config: what to test.
        out: results file, written after every cell.
        progress: print a line for every cell.

    Raises:
        GlaError: see `entrants`, `gla.datasets.load` and `gla.gpicl.tasks.check`; a file that is
            there and cannot be read.
    """
    results = read(out) if out.exists() else SupervisedResults()
    entered = entrants(config)
    # Bad data are refused before anything is computed.
    for dataset in config.dataset:
        for entrant in entered:
            _load(entrant, dataset, config)
    for dataset in config.dataset:
        for entrant in entered:
            sequence = entrant.path and hasattr(entrant.learner, "model")
            for blind in (False, True) if config.hidden and sequence else (False,):
                cell = _cell(entrant, dataset, config, blind, results, out)
                if cell is None:
                    continue
                results = results.with_cell(cell)
                write(out, results)
                if progress:
                    last, low, high = cell.at(cell.positions[-1])
                    hidden = ", labels hidden" if blind else ""
                    print(
                        f"{cell.learner}{hidden} on {dataset}: {100 * last:.1f}% "
                        f"[{100 * low:.1f}, {100 * high:.1f}] at example {cell.positions[-1] + 1} "
                        f"({cell.predictions:,} sequences, {cell.seconds:.0f} s)",
                        flush=True,
                    )
    return results


def _load(entrant: Entrant, dataset: str, config: LearnerTestConfig) -> datasets.Dataset:
    data = entrant.data.load(dataset, config.part)
    check(data, entrant.tasks)
    return data


def _cell(
    entrant: Entrant,
    dataset: str,
    config: LearnerTestConfig,
    blind: bool,
    results: SupervisedResults,
    out: Path,
) -> Cell | None:
    """Measure one cell, or return None if it is there."""
    tasks, learner = entrant.tasks, entrant.learner
    few = tuple(p for p in FEW if p < tasks.length - 1) if config.curves else ()
    positions = tuple(range(tasks.length)) if entrant.path else (*few, tasks.length - 1)
    data = _load(entrant, dataset, config)
    # Relative, so that results can be moved together with what they are of.
    path = os.path.relpath(entrant.path, out.absolute().parent) if entrant.path else ""
    sort: Any = "labels hidden" if blind else "meta-trained" if entrant.path else "hand-written"
    settings = asdict(tasks) | {"resize": entrant.data.resize, "normalize": entrant.data.normalize}
    cell = Cell(
        learner=learner.name, sort=sort, path=path, dataset=dataset, examples=len(data),
        part=config.part, trained_on=entrant.trained_on, training_seed=entrant.training_seed,
        training_steps=entrant.training_steps, parameters=learner.parameter_count,
        state_size=learner.state_size, tasks=settings, seed=config.seed, per_task=1,
        predictions=config.sequences, positions=positions, accuracy=(), low=(), high=(), loss=None,
        seconds=0.0,
    )  # fmt: skip
    if any(cell.same_test == there.same_test for there in results.cells):
        return None
    began = time.monotonic()
    tested: Any = Blind(learner) if blind else learner
    score = evaluate(
        tested,
        entrant.params,
        to_device(data, tasks),
        tasks,
        config.sequences,
        positions=positions,
        seed=config.seed,
    )
    low, high = score.interval()
    return replace(
        cell,
        accuracy=tuple(float(x) for x in score.accuracy),
        low=tuple(float(x) for x in low),
        high=tuple(float(x) for x in high),
        loss=float(score.loss.mean()) if entrant.path else None,
        seconds=time.monotonic() - began,
    )
