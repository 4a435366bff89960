"""The subcommands of `gla gpicl`; tyro reads their signatures and docstrings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from gla import datasets
from gla.benchmarks import gpicl_table
from gla.benchmarks.gpicl_curves import plot_curves
from gla.benchmarks.gpicl_grid import Size, WorkerConfig, run_experiment
from gla.benchmarks.gpicl_metatest import LearnerTestConfig, meta_test_learners
from gla.benchmarks.gpicl_quickstart import quickstart
from gla.benchmarks.gpicl_results import table
from gla.errors import GlaError, near_matches
from gla.gpicl import features as feature_maker
from gla.gpicl.config import GPICLConfig
from gla.gpicl.training import gpicl_train

_Out = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]


def train(
    out: _Out,
    config: Annotated[GPICLConfig, tyro.conf.arg(name="")] = GPICLConfig(),  # noqa: B008
    minutes: float | None = None,
    fresh: bool = False,
) -> int:
    """Meta-train a learner on data sets; run again to go on where it stopped.

    Args:
        out: checkpoint folder.
        config: what to train.
        minutes: stop after this many minutes of training, even if steps are left.
        fresh: delete the checkpoints in that folder first.
    """
    print(f"learner: {gpicl_train(config, out, fresh, minutes=minutes)}")
    return 0


def test(
    out: _Out,
    config: Annotated[LearnerTestConfig, tyro.conf.arg(name="")],
    picture: str = "",
    fresh: bool = False,
) -> int:
    """Test learners on data sets and add what they reached to a results file.

    Args:
        out: results file (JSON).
        config: which learners, on what.
        picture: PNG file for their accuracy along the sequence.
        fresh: replace a results file that is there.
    """
    if fresh:
        Path(out).unlink(missing_ok=True)
    results = meta_test_learners(config, Path(out))
    last = max(position for cell in results.cells for position in cell.positions)
    print("\n" + table(results.cells, last))
    if picture:
        print(f"picture: {plot_curves(results.cells, Path(picture))}")
    return 0


def run(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")],
    size: Size = "cpu",
    out: str = "",
    workers: WorkerConfig = WorkerConfig(),  # noqa: B008
    fresh: bool = False,
) -> int:
    """Run a named experiment: cells of a grid, then a figure and its data.

    Run it again to go on where it stopped; finished cells are kept.

    Args:
        name: of the experiment; `gla gpicl list` names them.
        size: `cpu`: minutes on two cores, on digits; `paper`: as the paper has it, on accelerators.
        out: folder; runs/gpicl-SIZE by default, where experiments share cells that are the same.
        workers: processes on this machine, or Ray.
        fresh: delete what is there and start again.
    """
    experiments = all_experiments()
    if name not in experiments:
        raise GlaError(
            f"there is no experiment {name!r}{near_matches(name, experiments)}",
            "one of " + ", ".join(experiments),
        )
    folder = Path(out or f"runs/gpicl-{size}")
    figure = run_experiment(experiments[name](size), folder, workers, fresh)
    data = figure.with_suffix(".json")
    print(f"{json.loads(data.read_text())['words']}\nfigure: {figure}\ndata: {data}")
    return 0


def list_() -> int:
    """List the named experiments."""
    for name, make in all_experiments().items():
        experiment = make("cpu")
        print(f"{name:<10} {len(experiment.cells):>3} cells  {experiment.title}")
    return 0


def all_experiments():
    """Return {name: function of the size that makes the experiment}."""
    from gla.benchmarks import gpicl_figures, gpicl_optimization

    found = {**gpicl_figures.EXPERIMENTS, **gpicl_optimization.EXPERIMENTS}
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def embed(
    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATASET")],
    out: _Out,
    features: str,
    folder: str | None = None,
) -> int:
    """Replace the inputs of a data set by features, and write them as an .npz file.

    Args:
        dataset: what `gla.datasets.load` takes.
        out: file to write, which then is a data set itself.
        features: module:function that maps images [N, H, W(, 3)] to numbers [N, D], or cnn:DATASET
            for a small network that is first trained to name the classes of that data set.
        folder: where bare names are looked for (default: the environment variable GLA_DATA).
    """
    network = features.removeprefix("cnn:")
    if network != features:
        made = feature_maker.train_features(datasets.load(network, folder=folder))
        file = feature_maker.embed(dataset, out, made, folder=folder)
    else:
        file = feature_maker.embed(dataset, out, features, folder=folder)
    print(f"features: {file}")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "quickstart": quickstart,
    "train": train,
    "test": test,
    "table1": gpicl_table.table1,
    "run": run,
    "list": list_,
    "embed": embed,
}
