"""The Sphinx extension of this site: pages that are made from the code when the site is built.

The Markdown files of `docs/` are plain, so that they read as well in the repository. What only a
site has is added here: the tables of contents, from the links of `index.md` and `README.md` files;
and what stands in the place of a comment such as `<!-- made with the site: gallery -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gla_site import api, commands, contents, docstrings, gallery

_MARK = re.compile(r"<!-- made with the site: (\w+) -->")


def write_pages(folder: Path, pages: dict[str, str]) -> None:
    """Write pages by name; pages of an earlier build that are no more go, equal ones stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        # Sphinx reads again what is newer than its last build.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _make_pages(app: Any) -> None:
    reference = Path(app.srcdir) / "reference"
    write_pages(reference / "commands", commands.pages())
    write_pages(reference / "api", api.pages())


def _add_to_page(app: Any, name: str, source: list[str]) -> None:
    makers = {
        "commands": commands.listing,
        "api": api.listing,
        "gallery": lambda: gallery.grid(Path(app.srcdir)),
    }
    text = _MARK.sub(lambda mark: makers[mark[1]](), source[0])
    text = gallery.with_stills(text, (Path(app.srcdir) / name).parent)
    if name.rpartition("/")[2] in ("index", "README"):
        text += contents.tables_of_contents(source[0])
    source[0] = text


def setup(app: Any) -> dict[str, Any]:
    """Connect the extension to Sphinx."""
    app.connect("builder-inited", _make_pages)
    app.connect("source-read", _add_to_page)
    # Before napoleon (priority 500) turns sections of docstrings into fields.
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.connect("autodoc-process-docstring", docstrings.shorten_types, priority=600)
    app.connect("autodoc-skip-member", docstrings.skip)
    app.connect("doctree-read", docstrings.qualify)
    app.connect("doctree-read", docstrings.tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
