"""What agents are called on the leaderboard, so that no two are taken for each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from gla.benchmarks.metatest import identity
from gla.benchmarks.report import slug
from gla.benchmarks.submissions import Read

_LONGEST = 80  # name of a page; file systems have limits


class Name(NamedTuple):
    """What an agent is called on the board.

    Attributes:
        label: unique among the agents of a suite.
        page: unique among agents; the same agent has one page, whatever suites it is on.
        title: of that page.
    """

    label: str
    page: str
    title: str


def names(reads: Sequence[Read]) -> list[Name]:
    """Name every submission's agent.

    Two submissions are of one agent if it has the same name, and the same training or was typed the
    same way. Others of that name are told apart by the folders of their submissions.

    Args:
        reads: submissions.
    """
    agents = [(one.submission.agent, json.dumps(identity(one.submission.details))) for one in reads]
    titles: dict[tuple[str, str], str] = {}
    pages: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    taken_titles: set[str] = set()
    for key, read in zip(agents, reads, strict=True):
        if key not in titles:
            alone = len({other for other in agents if other[0] == key[0]}) == 1
            titles[key] = _unlike(key[0], read.folder.name, taken_titles, alone)
            pages[key] = slug(titles[key][:_LONGEST], taken)
    runs = Counter((key, one.submission.suite) for key, one in zip(agents, reads, strict=True))
    labels: dict[str, set[str]] = {}
    found = []
    for key, read in zip(agents, reads, strict=True):
        suite, title = read.submission.suite, titles[key]
        alone = runs[key, suite] == 1
        label = _unlike(title, read.folder.name, labels.setdefault(suite, set()), alone)
        found.append(Name(label, pages[key], title))
    return found


def _unlike(name: str, detail: str, taken: set[str], alone: bool) -> str:
    """Return the name, with the detail if it is not alone, unlike those taken; and take it."""
    base = name if alone else f"{name} ({detail})"
    label, count = base, 1
    while label in taken:
        count += 1
        label = f"{base} {count}"
    taken.add(label)
    return label
