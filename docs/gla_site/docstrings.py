"""Docstrings as they are written here, made into what Sphinx reads.

They are plain text with code in single backticks. In reStructuredText a star, a bar or a trailing
underscore would begin markup, and single backticks would name a reference.
"""

from __future__ import annotations

import re
import sys
from typing import Any

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SPECIAL = re.compile(r"(?<![\w*])\*[A-Za-z][\w -]*\*(?![\w*])|[*|\\]|(?<=\w)_(?!\w)")


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Change the lines of a docstring in place; Sphinx's event `autodoc-process-docstring`."""
    del app, what, name, thing, options
    lines[:] = to_rst("\n".join(lines)).split("\n")


def to_rst(text: str) -> str:
    """Return a docstring as reStructuredText: code is code, and nothing else is markup.

    Tables, and what is indented after an empty line, stay as they are typed.
    """
    done: list[str] = []
    before = ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if lines and lines[0].lstrip().startswith("==="):
            block = "::\n\n" + "\n".join("    " + line for line in lines)
        elif lines and before and _indent(lines[0]) > _indent(before):
            block = " " * _indent(before) + "::\n\n" + block
        else:
            block = _prose(block)
        done.append(block)
        before = lines[-1] if lines else ""
    return "\n\n".join(done)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _prose(text: str) -> str:
    parts, end = [], 0
    for code in _CODE.finditer(text):
        parts += [_escaped(text[end : code.start()]), _literal(code)]
        end = code.end()
    return "".join([*parts, _escaped(text[end:])])


def _escaped(text: str) -> str:
    # A word between two stars is emphasised, on purpose.
    return _SPECIAL.sub(lambda mark: mark[0] if len(mark[0]) > 1 else "\\" + mark[0], text)


def _literal(code: re.Match[str]) -> str:
    """Return code as a link, if it is the name of something that has a page, or as it is."""
    inside = code[1]
    before, after = code.string[: code.start()][-1:], code.string[code.end() :][:1]
    text = f":py:obj:`{inside}`" if _NAME.fullmatch(inside) else f"``{inside}``"
    # Markup may not touch letters; an escaped blank parts them and is not seen.
    left = "\\ " if before.isalnum() else ""
    right = "\\ " if after.isalnum() else ""
    return left + text + right


def skip(app: Any, what: str, name: str, thing: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of named tuples, which their class describes; `autodoc-skip-member`."""
    del app, what, name, skipped, options
    return True if type(thing).__name__ == "_tuplegetter" else None


def shorten_types(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Name arrays as one imports them, after napoleon; `autodoc-process-docstring` again."""
    del app, what, name, thing, options
    lines[:] = [re.sub(r"\b(?:jax\.)?jaxlib\._jax\.", "jax.", line) for line in lines]


def qualify(app: Any, doctree: Any) -> None:
    """Make short names that a module imported full ones, so that links go to the right one.

    Without it `Interval` would be any class of that name. Sphinx's event `doctree-read`.
    """
    del app
    from sphinx.addnodes import pending_xref

    for link in doctree.findall(pending_xref):
        if link.get("refdomain") == "py" and "." not in link["reftarget"]:
            thing = getattr(sys.modules.get(link.get("py:module")), link["reftarget"], None)
            module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
            if name and str(module).split(".")[0] == "gla":
                link["reftarget"] = f"{module}.{name}"


def tidy(app: Any, doctree: Any) -> None:
    """Leave out base classes that say nothing, and call attributes so; `doctree-read` too."""
    del app
    from docutils.nodes import Text, field_name, paragraph

    for line in list(doctree.findall(paragraph)):
        if line.astext() in ("Bases: object", "Bases: NamedTuple", "Bases: ABC"):
            line.parent.remove(line)
    for name in doctree.findall(field_name):
        if name.astext() == "Variables":
            name.children = [Text("Attributes")]
