"""GPICL in minutes: meta-train on digits, then learn data sets that were never seen.

The learner stands beside hand-written ones, which are the floor, and beside itself with all labels
hidden, which shows what it owes to learning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gla.benchmarks.gpicl_curves import plot_curves
from gla.benchmarks.gpicl_metatest import LearnerTestConfig, meta_test_learners
from gla.benchmarks.gpicl_results import Cell, SupervisedResults, table
from gla.benchmarks.gpicl_table import available
from gla.files import os_errors, write_text
from gla.gpicl.config import GPICLConfig
from gla.gpicl.training import gpicl_train

FLOORS = ("1-nn", "kernel-ridge", "svm", "adam")
OTHERS = ("mnist", "fashion-mnist", "kmnist")


@dataclass(frozen=True)
class Plan:
    """What the quickstart does.

    Attributes:
        training: on digits.
        test: its learners are filled in, and its data sets those that are found.
    """

    training: GPICLConfig
    test: LearnerTestConfig


def default_plan(seed: int = 0, folder: str | None = None) -> Plan:
    """Return the plan at the size of two CPU cores and ten minutes."""
    training = GPICLConfig(steps=3000, seed=seed)
    test = LearnerTestConfig(
        learner=FLOORS, dataset=("digits",), folder=folder, sequences=2048, hidden=True, seed=seed
    )
    return Plan(training, test)


def quickstart(
    out: str = "runs/gpicl-quickstart",
    fresh: bool = False,
    seed: int = 0,
    folder: str | None = None,
) -> int:
    """Meta-train on digits and test on unseen digits and other data sets: about five minutes.

    Run it again to reuse what is finished and go on with what is not.

    Args:
        out: folder for everything that is made.
        fresh: delete what is there and start again.
        seed: of tasks, weights and tests.
        folder: where MNIST, Fashion-MNIST and KMNIST are looked for (default: the environment
            variable GLA_DATA). They are left out if they are not there.
    """
    run(default_plan(seed, folder), Path(out), fresh)
    return 0


def run(plan: Plan, out: Path, fresh: bool = False) -> SupervisedResults:
    """Carry a plan out in `out`, reusing what is finished."""
    out = out.absolute()
    with os_errors(out, "write to"):
        out.mkdir(parents=True, exist_ok=True)
    results_file = out / "results.json"
    if fresh:
        results_file.unlink(missing_ok=True)
    print("\n[1/2] meta-train: a Transformer learns to learn, on randomly projected digits")
    learner = gpicl_train(plan.training, out / "learner", fresh and (out / "learner").exists())
    print("\n[2/2] meta-test: frozen weights, unseen projections of images that it has never seen")
    found = available(("digits", *OTHERS), plan.test.folder)
    test = replace(
        plan.test,
        learner=(str(learner), *plan.test.learner),
        dataset=found,
    )
    results = meta_test_learners(test, results_file)
    print("\n" + table(results.cells, plan.training.tasks.length - 1))
    write_text(out / "table.md", table(results.cells, plan.training.tasks.length - 1))
    picture = plot_curves(results.cells, out / "accuracy.png")
    print(verdict(results.cells))
    print(f"\nresults: {results_file}\npicture: {picture}")
    return results


def verdict(cells: tuple[Cell, ...]) -> str:
    """Say in one sentence per data set what was learned, and what the floor is."""
    lines = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        here = [cell for cell in cells if cell.dataset == dataset]
        own = next(cell for cell in here if cell.sort == "meta-trained")
        last = own.positions[-1]
        floor = max(
            (c for c in here if c.sort == "hand-written"), key=lambda c: c.at(last)[0], default=None
        )
        mean, low, _ = own.at(last)
        text = (
            f"{dataset}: from {100 * own.at(own.positions[0])[0]:.0f}% at the first example to "
            f"{100 * mean:.1f}% at example {last + 1}"
        )
        if floor is not None:
            best, _, above = floor.at(last)
            how = "above" if low > above else "not above"
            text += f"; {how} the best hand-written learner ({floor.learner}, {100 * best:.1f}%)"
        blind = next((cell for cell in here if cell.sort == "labels hidden"), None)
        if blind is not None:
            text += f"; with labels hidden {100 * blind.at(last)[0]:.0f}%"
        lines.append(text + ".")
    return "\n".join(lines)
