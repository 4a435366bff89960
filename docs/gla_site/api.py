"""The reference of the Python interface: a page for every public module, none listed by hand."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

import gla
from gla_site.contents import table_of_contents


@functools.cache
def modules() -> dict[str, bool]:
    """Return the names of all public modules, sorted, and whether each is a package."""
    found = {"gla": True}
    for one in pkgutil.walk_packages(gla.__path__, "gla."):
        if not any(part.startswith("_") for part in one.name.split(".")):
            found[one.name] = one.ispkg
    return dict(sorted(found.items()))


@functools.cache
def missing_packages() -> tuple[str, ...]:
    """Return the packages that some module needs at once and that are not installed here."""
    missing = set()
    for name in modules():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            needed = (error.name or "").partition(".")[0]
            if needed in ("", "gla"):
                raise
            missing.add(needed)
    return tuple(sorted(missing))


def summary(name: str) -> str:
    """Return the first sentence of a module's documentation, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    paragraph, _, _ = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
    return " ".join(paragraph.split())


def home(package: ModuleType, name: str) -> str:
    """Return the full name of something that a package exports, where it is documented."""
    thing = getattr(package, name)
    module, where = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    return f"{module}.{where}" if module in modules() and where else f"{package.__name__}.{name}"


def page(name: str) -> str:
    """Return the page of a module or package, in MyST."""
    lines = [f"# {name}", "", "```{eval-rst}", f".. automodule:: {name}"]
    if not modules()[name]:
        return "\n".join([*lines, "   :members:", "```"]) + "\n"
    lines += ["   :no-members:", "```", ""]
    below = [one for one in modules() if one.rpartition(".")[0] == name and not modules()[one]]
    if below:
        lines += [_table(below, ""), ""]
    package = importlib.import_module(name)
    exports = [one for one in getattr(package, "__all__", ()) if not one.startswith("_")]
    if exports:
        links = [f"{{py:obj}}`{one} <{home(package, one)}>`" for one in exports]
        lines += ["## Importable from here", "", f"From `{name}`: {', '.join(links)}.", ""]
    return "\n".join(lines) + table_of_contents(below)


def pages() -> dict[str, str]:
    """Return the pages of all modules by their names."""
    return {name: page(name) for name in modules()}


def listing() -> str:
    """Return the table of all packages and their contents, in MyST."""
    packages = [name for name in modules() if modules()[name]]
    return _table(packages, "api/") + "\n" + table_of_contents([f"api/{one}" for one in packages])


def _table(names: list[str], folder: str) -> str:
    rows = []
    for name in names:
        said = summary(name).replace("|", "&#124;")
        rows.append(f"| [`{name}`]({folder}{name}.md) | {said} |")
    return "\n".join(["| module | what is in it |", "|---|---|", *rows])
