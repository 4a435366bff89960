"""What all pages of the leaderboard share: where each is, and what is around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gla import __version__
from gla.benchmarks.board_data import Board, Row
from gla.benchmarks.board_tables import Cell
from gla.benchmarks.report import render
from gla.benchmarks.statistics import Verdict, in_words

SPAN = (-0.25, 1.1)  # scores that a chart or bar shows at least
MOST_LINES = 10  # of a chart; more cannot be told apart
_MARKS = {
    "learned": ("\N{CHECK MARK} learned", "verdict learned", 2),
    "did not learn": ("\N{MULTIPLICATION X} did not learn", "verdict not-learned", 0),
    "not judged": ("? not judged", "verdict open", 1),
}
_AGAINST = {"first": "its first", "null": "the best null", "masked": "its twin"}


@dataclass(frozen=True)
class Site:
    """What a page knows of the others.

    Attributes:
        title: of the site.
        boards: of all suites.
        suites: names of pages by suite.
        environments: names of pages by suite and environment.
    """

    title: str
    boards: tuple[Board, ...]
    suites: dict[str, str]
    environments: dict[tuple[str, str], str]

    @property
    def home(self) -> dict[str, str]:
        """The link to the first page from any other."""
        return {"href": "../index.html", "text": self.title}

    def suite(self, suite: str) -> str:
        """Return where the page of a suite is, from any other but the first."""
        return f"../suites/{self.suites[suite]}.html"

    def environment(self, suite: str, environment: str) -> str:
        """Return where the page of an environment is, from any other but the first."""
        return f"../environments/{self.environments[suite, environment]}.html"


def agent_href(row: Row) -> str:
    """Return where the page of an agent is, from any other but the first."""
    return f"../agents/{row.page}.html"


def short(environment: str) -> str:
    """Return an environment's id as it is shown."""
    return environment.removeprefix("gla/")


def page(
    site: Site,
    template: str,
    heading: str,
    crumbs: Sequence[dict[str, str]] = (),
    lead: str = "",
    **context: Any,
) -> str:
    """Fill a template in.

    Args:
        site: all pages.
        template: which.
        heading: of the page.
        crumbs: links to the pages above; none on the first page.
        lead: the first paragraph.
        context: what else the template asks for.
    """
    return render(
        template,
        title=site.title,
        heading=heading,
        crumbs=crumbs,
        lead=lead,
        root="../" if crumbs else "",
        version=__version__,
        **context,
    )


def definitions(entries: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Return terms and what they mean, for a template."""
    return [{"term": term, "text": text} for term, text in entries]


def verdict_cell(verdict: Verdict) -> Cell:
    """Return a cell that says whether an agent learned, and if not, why."""
    text, style, value = _MARKS[verdict.status]
    failed = [_AGAINST[one.against] for one in verdict.comparisons if one.beaten is False]
    missing = [_AGAINST[one.against] for one in verdict.comparisons if one.beaten is None]
    note = ""
    if failed:
        note = f"does not beat {in_words(failed, 'or')}"
    elif missing and verdict.status == "not judged":
        note = f"nothing to compare with {in_words(missing, 'or')}"
    return Cell(text, value, note=note, style=style)
