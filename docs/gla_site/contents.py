"""Tables of contents from the links that stand on a page anyway."""

from __future__ import annotations

import re

_HEADING = re.compile(r"^## (.*)$")
_LINK = re.compile(r"\[[^\]]*\]\(([\w/.-]+)\.md\)")


def table_of_contents(names: list[str], caption: str = "") -> str:
    """Return a hidden table of contents, in MyST.

    Args:
        names: of pages, relative to the page that it is put on, without `.md`.
        caption: heading over them in the site's navigation.
    """
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["\n```{toctree}", *options, "", *names, "```\n"])


def tables_of_contents(text: str) -> str:
    """Return tables of contents of the pages that a page links to, one for each of its sections.

    Links upwards (`../`) and links to a section of a page do not count; nor do second ones.

    Args:
        text: the page, in Markdown.
    """
    sections: dict[str, list[str]] = {"": []}
    caption, seen = "", set()
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            caption = heading[1]
            sections.setdefault(caption, [])
        for name in _LINK.findall(line):
            if not name.startswith("..") and name not in seen:
                seen.add(name)
                sections[caption].append(name)
    return "".join(table_of_contents(names, title) for title, names in sections.items() if names)
