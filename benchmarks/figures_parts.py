"""What a figure of a paper is: steps to do, and the panels that are drawn of what they leave."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from gla.benchmarks.figures_steps import Collect, MetaTest, Step, SuiteTest, Train
from gla.benchmarks.gpicl_grid import Size
from gla.errors import GlaError


@dataclass(frozen=True)
class Line:
    """A line of a panel: the return over lifetimes of an agent.

    Attributes:
        label: for the legend.
        files: results files of agents that differ in nothing but the seed of their training, as
            paths relative to the output folder.
        twin: draw the reward-masked twin instead.
        style: which of the colours and marks of `gla.benchmarks.figures_plots.STYLES`.
    """

    label: str
    files: tuple[str, ...]
    twin: bool = False
    style: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        lines: what is drawn.
        floor: results file whose best null controller is the floor.
        own: names of `Collect` steps whose own returns are drawn.
        read: returns that were read off the paper's figure by eye, by what they are: `first`,
            `best`, `last`.
        log: whether steps are on a logarithmic axis.
        scores: id of the environment whose stored reference scores stand in where the results hold
            none, because the environment that was tested has options.
    """

    title: str
    lines: tuple[Line, ...]
    floor: str
    own: tuple[str, ...] = ()
    read: tuple[tuple[str, float], ...] = ()
    log: bool = False
    scores: str = ""


@dataclass(frozen=True)
class Figure:
    """What is done for a figure, and what is drawn.

    Attributes:
        name: such as `gla-fig3`.
        size: of all of it.
        title: above the panels.
        caption: what is shown, what differs from the paper, in sentences.
        steps: in an order in which they can be done.
        panels: of the picture.
        columns: panels side by side.

    Raises:
        GlaError: if two steps of a kind share a name, or a step needs what none before it makes.
    """

    name: str
    size: Size
    title: str
    caption: str
    steps: tuple[Step, ...]
    panels: tuple[Panel, ...]
    columns: int = 2

    def __post_init__(self):
        made: set[str] = set()
        for step in self.steps:
            needs = []
            if isinstance(step, Train):
                needs = [f"{Collect.folder}/{name}" for name in step.histories]
            elif isinstance(step, MetaTest | SuiteTest):
                needs = [f"{Train.folder}/{step.agent}"]
            for need in needs:
                if need not in made:
                    raise GlaError(f"{step.name} of {self.name} needs {need}", "a step before it")
            if step.made in made:
                raise GlaError(f"two steps of {self.name} make {step.made}", "names that differ")
            made.add(step.made)

    def command(self, out: str | Path) -> str:
        """The command that makes the figure."""
        return f"gla figures {self.name} --size {self.size} --out {shlex.quote(str(out))}"
