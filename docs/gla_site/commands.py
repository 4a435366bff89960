"""The reference of the command line: what every `gla ... --help` prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from unittest import mock

from gla import cli
from gla.agents.makers import BUILT_IN
from gla.presets import PRESETS
from gla_site.contents import table_of_contents

WIDTH = 88  # columns of the help texts

# Words after a command that change its options; the first is what it is without any.
VARIANTS: dict[str, Sequence[str]] = {
    "collect": list(BUILT_IN),
    "meta-train": [*PRESETS, "rl2", "evolve"],
}


def help_of(words: Sequence[str]) -> str:
    """Return what `gla WORDS --help` prints, without colours, boxes `WIDTH` columns wide.

    Args:
        words: the command, such as `["envs", "list"]`; none for `gla --help`.

    Raises:
        ValueError: if the command line refuses them.
    """
    printed = io.StringIO()
    plain = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    status: object = 0
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(printed):
        os.environ.pop("FORCE_COLOR", None)
        try:
            status = cli.main([*words, "--help"])
        except SystemExit as stop:
            status = stop.code or 0
    if status != 0 or not printed.getvalue().strip():
        raise ValueError(f"`gla {' '.join([*words, '--help'])}` ended with {status}")
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def fitted(text: str) -> str:
    """Return a help with long lines wrapped, which it leaves to the terminal."""
    lines = []
    for line in text.splitlines():
        column = re.match(r".*?\S {2,}", line)  # of a list, where its text begins
        under = " " * len(column[0]) if column else ""
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=under, break_on_hyphens=False) or [""]
    return "\n".join(lines)


def subcommands(words: Sequence[str], text: str) -> list[str]:
    """Return the second words of a command whose help is nothing but a list of them.

    Args:
        words: the command.
        text: its help.
    """
    found = []
    for line in filter(str.strip, text.splitlines()):
        match = re.match(rf"gla {' '.join(words)} ([a-z][\w-]*)\b", line)
        if match is None:
            return []
        found.append(match[1])
    return found


def everything_of(name: str) -> Iterator[tuple[list[str], str]]:
    """Yield a first-level command and all below it: their words and their helps."""
    text = help_of([name])
    yield [name], text
    below = subcommands([name], text) or list(VARIANTS.get(name, ()))[1:]
    for word in below:
        yield [name, word], help_of([name, word])


def page(name: str) -> str:
    """Return the page of a first-level command, in Markdown."""
    lines = [f"# gla {name}", "", f"{_said_of(name)}."]
    for number, (words, text) in enumerate(everything_of(name)):
        if number:
            lines += ["", f"## gla {' '.join(words)}"]
        lines += ["", "````text", fitted(text), "````"]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Return the pages of all commands by their names."""
    return {name: page(name) for name in cli._COMMANDS}


def listing() -> str:
    """Return the table of all commands and their contents, in MyST."""
    rows = [f"| [`gla {name}`](commands/{name}.md) | {_said_of(name)} |" for name in cli._COMMANDS]
    table = ["| command | what it does |", "|---|---|", *rows]
    names = [f"commands/{name}" for name in cli._COMMANDS]
    return "\n".join(table) + "\n" + table_of_contents(names)


def _said_of(name: str) -> str:
    said = cli._COMMANDS[name][1]
    return said[0].upper() + said[1:]
