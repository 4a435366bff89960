"""A static leaderboard: submissions of suites, and results files, as a site of plain files.

It needs no server and no network. The same input gives the same bytes, so that a site can be kept
under version control and what changed can be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gla.benchmarks.board_data import ranks
from gla.benchmarks.board_files import merge
from gla.benchmarks.board_input import Checked, check, gather
from gla.benchmarks.board_site import site
from gla.errors import GlaError
from gla.files import os_errors, write_text

__all__ = ["Checked", "build", "check", "merge", "ranks"]

_LIST = "assets/pages.json"


def build(
    paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    title: str = "Leaderboard",
    baselines: bool = True,
) -> list[str]:
    """Write a site: `index.html`, and a page for every suite, environment and agent.

    Submissions of one suite share a table, and only those that are complete and trained on what the
    suite allows are ranked. Results files that stand alone have tables on the first page: files of
    the same environment, split and steps share one; an agent that is in several files with the very
    same returns is listed once, and agents of one name with different returns are told apart by
    their files.

    Pages of a former site in the folder that are not made again are deleted.

    Args:
        paths: results files, submission folders, or folders that hold submission folders.
        folder: where to write; made if missing.
        title: heading of the first page.
        baselines: add the submissions that come with this package, of those suites that appear
            among the paths.

    Returns:
        One plain line for everything that was left out, also shown on the page; empty if all went
        well.

    Raises:
        GlaError: if no paths are given, or the folder cannot be written to.
    """
    if not paths:
        raise GlaError(
            "there are no results for a leaderboard", "a submission folder or a results file"
        )
    inputs = gather(paths, baselines)
    pages = site(inputs, title)
    folder = Path(folder)
    former = _former(folder)
    for name, text in pages.items():
        write_text(folder / name, text)
    for name in sorted(former - pages.keys()):
        with os_errors(folder / name, "delete"):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / _LIST, json.dumps(sorted(pages), indent=1) + "\n")
    return list(inputs.problems)


def _former(folder: Path) -> set[str]:
    """Return the pages that the last call wrote there."""
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    names = listed if isinstance(listed, list) else []
    # A list that somebody has changed must not lead out of the folder.
    return {
        one
        for one in names
        if isinstance(one, str)
        and one.endswith(".html")
        and len(PurePosixPath(one).parts) <= 2
        and not PurePosixPath(one).is_absolute()
        and ".." not in PurePosixPath(one).parts
    }
