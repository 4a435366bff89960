"""What the board and the documentation say of suites is what the suites are."""

from pathlib import Path

import pytest

from gla.benchmarks import board_words
from gla.benchmarks.board_suite import COLUMNS
from gla.benchmarks.suites import SUITES, Suite, Task

PAGE = Path(__file__).parents[2] / "docs" / "leaderboard.md"


def test_the_documentation_has_the_table_of_all_suites():
    text = PAGE.read_text(encoding="utf-8")
    _, _, rest = text.partition("<!-- suites -->\n")
    table, end, _ = rest.partition("\n<!-- end of suites -->")
    assert end and table == board_words.suites_table(list(SUITES.values())), (
        "write docs/leaderboard.md's table of suites anew: board_words.suites_table"
    )


def test_the_documentation_explains_every_column():
    text = PAGE.read_text(encoding="utf-8")
    for column in COLUMNS:
        assert column.title in ("Rank", "Agent") or f"| {column.title} |" in text


def test_the_page_of_a_suite_explains_every_column():
    terms = {term for term, _ in board_words.SUITE}
    unexplained = {column.title for column in COLUMNS} - terms
    assert unexplained == {"Agent", "Trained on"}  # the page says above what is allowed


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_in_words_names_all_that_is_not_allowed(name):
    text = board_words.sources(SUITES[name])
    assert all(pattern in text for pattern in SUITES[name].excluded)
    assert SUITES[name].digest in board_words.facts(SUITES[name])


def test_a_suite_of_one_environment_and_several_lengths():
    one = Suite("a-v1", "About.", (Task("gla/Ant-v0", 1000),), allowed=("gla/A*", "gla/B*"))
    assert board_words.facts(one).startswith("1 environment, 32 lifetimes of 1,000 steps")
    assert "meta-trained on gla/A* or gla/B*. Tasks" in board_words.sources(one)
    two = Suite("a-v1", "About.", (Task("gla/Ant-v0", 1000), Task("gla/Hopper-v0", 500)))
    assert "2 environments, 32 lifetimes of 500 and 1,000 steps" in board_words.facts(two)
    assert "any registered environment" in board_words.sources(two)
