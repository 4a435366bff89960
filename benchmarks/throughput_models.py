"""Comparisons of sequence models: training and acting beside PyTorch, acting early and late.

Every program runs in a process of its own (`gla.benchmarks.workers`), on the CPU, in float32, and
may use all cores: ours is in `gla.benchmarks.own_models`, the same Transformer in PyTorch in
`gla.benchmarks.peer_models`. Work is counted in tokens, of which a transition is one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gla.benchmarks.timing import Bench, Comparison, Goal, Program
from gla.benchmarks.workers import NotInstalled, Worker
from gla.cores import usable_cores
from gla.errors import GlaError

OURS, ONE_BY_ONE, RECOMPUTING = "gla", "gla, a call per token", "gla, recomputing the window"
STEP_BY_STEP = "gla, a call per step"
PYTORCH, RING, GROWING = "PyTorch", "PyTorch, cache in place", "PyTorch, growing cache"

SIZES: dict[str, Any] = {
    **{"backbone": "transformer", "width": 256, "layers": 4, "heads": 8, "mlp": 4},
    **{"inputs": 83, "outputs": 32},
}
"""Of every model."""

WINDOW, STEPS = 4096, 64
"""Positions that an acting Transformer sees, and tokens of a lifetime in one call."""

DISPATCH = 10
"""Training steps in one call of ours, as meta-training has by default."""

PLACES = (1024, 4096, 16_384, 65_536)
"""Transitions that lifetimes have behind them when the cost of a step is compared."""


class Entrant(NamedTuple):
    """A program to be.

    Attributes:
        name: what people call it.
        program: `model` for ours, `pytorch` for the peer's.
        settings: of its worker.
        work: tokens in one call.
    """

    name: str
    program: str
    settings: Mapping[str, Any]
    work: int


def model_programs(bench: Bench, entrants: Sequence[Entrant]) -> list[Program]:
    """Start a worker for every entrant that can take part, and wait until each is ready.

    Args:
        bench: closes the workers; is told who takes part, and who does not and why.
        entrants: the peer first.

    Raises:
        GlaError: if there are no two to compare, ours cannot run, or a worker dies.
    """
    cores, missing = usable_cores(), dict[str, str]()
    workers: dict[str, Worker] = {}
    versions: dict[str, str] = {}
    for name, program, settings, _ in entrants:
        try:
            worker = Worker(
                name,
                command(program, bench.config.torch),
                {**settings, "program": program},
                threads=cores,
                unit="tokens",
            )
            workers[name] = bench.stack.enter_context(worker)
            # One after the other, so that they do not fight for the cores.
            versions.update(worker.packages())
        except NotInstalled as error:
            missing[name] = str(error).rstrip(".")
    present = [entrant for entrant in entrants if entrant.name not in missing]
    if len(present) < 2 or any(e.name in missing for e in entrants if e.program == "model"):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise GlaError(
            f"there is nothing to compare with; {reasons}",
            mend="give --torch PYTHON, with PyTorch in it",
        )
    bench.notes += [
        f"float32, {cores} threads for each; "
        + ", ".join(f"{package} {version}" for package, version in versions.items()),
        *(f"{name} is left out: {reason}" for name, reason in missing.items()),
    ]
    return [_program(workers[entrant.name], entrant) for entrant in present]


def command(program: str, torch: Path | None) -> list[str]:
    """Return the words that start the worker of an entrant.

    Args:
        program: `model` or `pytorch`.
        torch: Python with PyTorch in it, or None for this one. It is isolated (`-I`), so that a
            PYTHONPATH of ours does not reach it.
    """
    if program == "model":
        return [sys.executable, "-P", "-m", "gla.benchmarks.own_worker"]
    return [str(torch or sys.executable), "-I", str(Path(__file__).with_name("peer_worker.py"))]


def _program(worker: Worker, entrant: Entrant) -> Program:
    return Program(entrant.name, lambda: worker.train(0, entrant.work), entrant.work)


def train_entrants(sizes: Mapping[str, Any], rows: int, context: int) -> list[Entrant]:
    """Return PyTorch and ours, training on `rows` sequences of `context` tokens at a time."""
    settings = {**sizes, "job": "train", "rows": rows, "window": context}
    work = rows * context
    return [
        Entrant(PYTORCH, "pytorch", settings, work),
        Entrant(STEP_BY_STEP, "model", {**settings, "dispatch": 1}, work),
        Entrant(OURS, "model", {**settings, "dispatch": DISPATCH}, work * DISPATCH),
    ]


def act_entrants(sizes: Mapping[str, Any], rows: int, window: int, steps: int) -> list[Entrant]:
    """Return PyTorch with two caches and ours in three ways, acting when the window is full.

    Args:
        sizes: of the model.
        rows: lifetimes at a time.
        window: positions that the model sees.
        steps: tokens of a lifetime in one call; one where the whole window is recomputed.
    """
    settings = {**sizes, "job": "act", "rows": rows, "window": window, "steps": steps}
    ours, work = {**settings, "after": window}, rows * steps
    return [
        Entrant(RING, "pytorch", {**settings, "cache": "ring"}, work),
        Entrant(GROWING, "pytorch", {**settings, "cache": "growing"}, work),
        Entrant(ONE_BY_ONE, "model", {**ours, "how": "one by one"}, work),
        Entrant(OURS, "model", {**ours, "how": "in scans"}, work),
        Entrant(
            RECOMPUTING, "model", {**settings, "how": "recomputing", "steps": 1, "after": 0}, rows
        ),
    ]


def place_entrants(
    sizes: Mapping[str, Any], places: Sequence[int], window: int, steps: int
) -> list[Entrant]:
    """Return ours, acting in one lifetime after different numbers of transitions.

    Args:
        sizes: of the model.
        places: numbers of transitions, the one to compare with first.
        window: positions that a Transformer sees.
        steps: tokens in one call.
    """
    settings = {**sizes, "job": "act", "rows": 1, "window": window, "steps": steps}
    settings |= {"how": "in scans", "restart": True}
    return [
        Entrant(after_name(place), "model", {**settings, "after": place}, steps) for place in places
    ]


def after_name(place: int) -> str:
    """Return the name of the program that acts after this many transitions."""
    return f"after {place:,}"


def _train(context: int, rows: int, bound: float) -> Comparison:
    return Comparison(
        f"train-{context}",
        f"How fast does a Transformer train on contexts of {context:,}, {rows} at a time?",
        lambda bench: model_programs(bench, train_entrants(SIZES, rows, context)),
        "tokens",
        (Goal(OURS, "speed", bound, PYTORCH),),
    )


def _act(name: str, rows: int) -> Comparison:
    lifetimes = "1 lifetime" if rows == 1 else f"{rows} lifetimes"
    return Comparison(
        name,
        f"How fast does a Transformer act in {lifetimes} with a full window of {WINDOW:,}?",
        lambda bench: model_programs(bench, act_entrants(SIZES, rows, WINDOW, STEPS)),
        "tokens",
        (
            Goal(OURS, "speed", 2.0, RING),
            Goal(OURS, "speed", 2.0, GROWING),
            Goal(OURS, "speed", 100.0, RECOMPUTING),
        ),
    )


def _flat(name: str, backbone: str, title: str) -> Comparison:
    sizes = {**SIZES, "backbone": backbone}
    return Comparison(
        name,
        f"Does acting cost {title} more, the longer a lifetime has lasted?",
        lambda bench: model_programs(bench, place_entrants(sizes, PLACES, WINDOW, STEPS)),
        "tokens",
        tuple(Goal(after_name(place), "overhead", 0.1, clock="cpu") for place in PLACES[1:]),
    )


COMPARISONS: tuple[Comparison, ...] = (
    _train(1024, 4, 1.0),
    _train(256, 16, 1.3),
    _act("act-4096", 1),
    _act("act-4096-batch", 8),
    _flat("act-flat", "transformer", f"a Transformer with a window of {WINDOW:,}"),
    _flat("act-flat-linear", "linear", "linear attention"),
)
