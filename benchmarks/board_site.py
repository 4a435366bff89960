"""All pages of the leaderboard, and the first of them."""

from __future__ import annotations

from collections.abc import Sequence

from gla.benchmarks import board_files, board_words
from gla.benchmarks.board_agent import agent_page
from gla.benchmarks.board_data import Board, Row, board
from gla.benchmarks.board_environment import environment_page
from gla.benchmarks.board_input import Inputs
from gla.benchmarks.board_layout import Site, agent_href, page, short
from gla.benchmarks.board_names import Name, names
from gla.benchmarks.board_suite import suite_page
from gla.benchmarks.board_tables import Cell, Column, Line, Table, count, head, measured
from gla.benchmarks.report import render, slug
from gla.benchmarks.submissions import Read

_MOST_NAMES = 4  # of agents that share the lead


def site(inputs: Inputs, title: str) -> dict[str, str]:
    """Return the files of a site: paths and contents.

    Args:
        inputs: what to show.
        title: heading of the first page.
    """
    called = names(inputs.submissions)
    by_suite: dict[str, list[tuple[Read, Name]]] = {}
    for given in zip(inputs.submissions, called, strict=True):
        by_suite.setdefault(given[0].submission.suite, []).append(given)
    boards = tuple(board(group[0][0].suite, group) for _, group in sorted(by_suite.items()))
    taken: set[str] = set()
    all_pages = Site(
        title,
        boards,
        {one.suite.name: slug(one.suite.name, set()) for one in boards},
        {
            (one.suite.name, env): slug(f"{one.suite.name} {short(env)}", taken)
            for one in boards
            for env in one.suite.environments
        },
    )
    pages = {
        "assets/board.css": render("board.css"),
        "assets/board.js": render("board.js"),
        "index.html": _index(all_pages, inputs),
    }
    runs: dict[str, list[tuple[Board, Row]]] = {}
    for one in boards:
        suite = one.suite.name
        pages[f"suites/{all_pages.suites[suite]}.html"] = suite_page(all_pages, one)
        for env in one.suite.environments:
            name = all_pages.environments[suite, env]
            pages[f"environments/{name}.html"] = environment_page(all_pages, one, env)
        for row in one.rows:
            runs.setdefault(row.page, []).append((one, row))
    titles = {name.page: name.title for name in called}
    for name, group in sorted(runs.items()):
        pages[f"agents/{name}.html"] = agent_page(all_pages, titles[name], group)
    return pages


def _index(site: Site, inputs: Inputs) -> str:
    taken = {"left-out", "how-to-read", "suites", "alone", "repeated", "main"}
    sections = board_files.sections(inputs.files, taken)
    columns = (
        Column("Suite"),
        Column("Environments", wide=True),
        Column("Steps of a lifetime", wide=True),
        Column("Agents"),
        Column("Not beaten by any other", sortable=False),
        Column("Score"),
    )
    table = Table(
        "Suites and their leading agents",
        "Every suite with the agents that no other agent beats: where the intervals of several "
        "overlap, all of them stand here. The score is the highest of theirs.",
        columns,
        tuple(_suite_line(site, one) for one in site.boards),
        sorted=0,
    )
    definitions = board_words.INDEX if site.boards else board_words.FILES
    return page(
        site,
        "board_index.html",
        site.title,
        lead=board_words.LEAD,
        problems=inputs.problems,
        repeated=inputs.repeated,
        suites=table if site.boards else None,
        sections=sections,
        definitions=[{"term": term, "text": text} for term, text in definitions],
    )


def _suite_line(site: Site, one: Board) -> Line:
    suite, leaders = one.suite, one.leaders
    lengths = [task.steps for task in suite.tasks]
    ranked, shown = len(one.ranked), len(one.rows)
    best = max((row.score for row in leaders if row.score), key=lambda x: x.estimate, default=None)
    links = tuple((row.label, agent_href(row).removeprefix("../")) for row in leaders[:_MOST_NAMES])
    more = len(leaders) - len(links)
    said = "nobody is ranked" if not leaders else f"and {more} more" if more else ""
    note = ""
    if leaders and not any(row.score and row.score.low > 0 for row in leaders):
        note = "none of them beats the best null controllers"
    elif ranked == 1:
        note = "the only agent that is ranked"
    elif len(leaders) > 1:
        note = "their intervals overlap"
    href = site.suite(suite.name).removeprefix("../")
    return Line(
        (
            head(suite.name, href, suite.about),
            count(len(suite.tasks)),
            Cell(_span(lengths), max(lengths)),
            count(shown, f"{ranked} ranked" if ranked < shown else ""),
            Cell(said, links=links, note=note),
            measured(best, 2),
        )
    )


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
