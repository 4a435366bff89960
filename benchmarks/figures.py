"""Figures of papers, each made from stored results by one command that can be stopped at any time.

A figure is a list of steps - collect, meta-train, meta-test - and the panels that are drawn of what
they leave behind. In the output folder, which several figures may share,

- `histories/`, `agents/`, `results/` and `suites/` hold what the steps of these kinds make, each
  under its name; figures that name the same step share it;
- `curves/NAME.json` holds the returns of PPO while `histories/NAME` was collected;
- `steps/KIND-NAME.json` says that a step is finished, with which settings and in what time;
- `FIGURE.png`, `FIGURE.md` and `FIGURE.json` are the figure, its numbers as a table, and all of it.

What a step is, is in `figures_steps`; what a figure is, in `figures_parts`; how it is made, in
`figures_run`; which there are, in `figures_gla`. Here is the command.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import tyro

from gla.benchmarks.figures_parts import Figure
from gla.benchmarks.figures_run import expected, make_figure, say
from gla.benchmarks.gpicl_grid import Size
from gla.benchmarks.jobs import WorkerConfig
from gla.errors import GlaError, near_matches


def all_figures() -> dict[str, Callable[[Size], Figure]]:
    """Return {name: function of the size that gives the figure}."""
    from gla.benchmarks.figures_gla import FIGURES

    return dict(FIGURES)


@contextlib.contextmanager
def _said_how_to_go_on(command: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; go on with: {command}")
        raise


def figures(
    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]")] = "",
    size: Size = "cpu",
    out: str = "",
    workers: WorkerConfig = WorkerConfig(),  # noqa: B008
    draw_only: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    commands: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Make a figure of the GLA paper: collect, meta-train, meta-test, draw.

    Without a name the figures are listed. Run it again to go on where it stopped; finished steps
    are kept.

    Args:
        name: of the figure.
        size: `cpu`: less than half an hour of one core; `paper`: what the paper states, for
            accelerators.
        out: folder; runs/gla-figures-SIZE by default, where figures share steps that are the same.
        workers: over what the environments of a suite are spread.
        draw_only: draw from what is stored; nothing is computed.
        commands: print the commands of all steps, with the time that each takes, and do nothing.
        fresh: delete what there is of the figure's steps and start again.
    """
    known = all_figures()
    if not name:
        for one in known:
            figure = known[one](size)
            say(f"{one:<10} {len(figure.steps):>3} steps, {expected(figure.steps)}: {figure.title}")
        return 0
    if name not in known:
        raise GlaError(
            f"there is no figure {name!r}{near_matches(name, known)}", "one of " + ", ".join(known)
        )
    figure, folder = known[name](size), Path(out or f"runs/gla-figures-{size}")
    if commands:
        say(f"mkdir -p {shlex.quote(str(folder))}; cd {shlex.quote(str(folder))}")
        for step in figure.steps:
            say(f"{step.command}  # {expected([step])}")
        return 0
    with _said_how_to_go_on(figure.command(folder)):
        picture = make_figure(figure, folder, draw_only, fresh, workers=workers)
    say(f"\n{picture.with_suffix('.md').read_text()}")
    say(f"figure: {picture}\nnumbers: {picture.with_suffix('.json')}")
    return 0
