"""The pages of `docs/environments/`, written from the environments themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gla.envs import registry
from gla.envs.base import action_size, observation_size
from gla.envs.catalog import (
    Setting,
    describe_tasks,
    domains,
    facts,
    frame,
    number,
    select,
    settings_of,
)
from gla.envs.drawing import save
from gla.envs.table import TABLE, EnvironmentSpec
from gla.errors import GlaError

IMAGES = Path("images", "environments")  # inside the folder of the documentation
PAGES = Path("environments")
_FRAME = 112  # height of the pictures in pixels


def page(domain: str, pictured: Iterable[str] = ()) -> str:
    """Return the documentation page of a domain, in Markdown.

    Args:
        domain: its name.
        pictured: ids whose pictures lie in `images/environments`.

    Raises:
        GlaError: if there is no such domain, or an environment of it cannot be built here.
    """
    specs, pictured = select(domain=domain), set(pictured)
    kinds = {spec.kind: None for spec in specs}
    lines = [
        f"# {domain}",
        "",
        "Made by `gla envs docs docs` from the environments themselves; "
        "[all domains](README.md), [how to use them](../environments.md).",
        "",
        f"Kind: {' and '.join(kinds)}. Each id is also there as `gla/<Name>-Projected-v0`.",
        "",
    ]
    shown = any(spec.id in pictured for spec in specs)
    columns = ["id", "what", "observations", "actions", "steps", "tasks", "null", "expert"]
    columns = [""] * shown + columns
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    sources: dict[str, list[str]] = {}
    for spec in specs:
        told, stored = facts(spec.id), registry.references(spec.id)
        picture = f'<img src="../{image(spec).as_posix()}" height="{_FRAME}" alt="{spec.id}">'
        scores = []
        for side in ("null", "expert"):
            score = stored.get(side)
            name = f" ({score['controller']})" if score and "controller" in score else ""
            scores.append(f"{number(score['return'])}{name}" if score else "")
        if provenance := stored.get("expert", {}).get("provenance"):
            sources.setdefault(provenance, []).append(short(spec))
        cells = [
            *[picture if spec.id in pictured else ""] * shown,
            f"`{spec.id}`",
            _cell(f"{spec.description} ({spec.source})"),
            str(observation_size(told)),
            f"{action_size(told)} {spec.action_kind}",
            str(spec.horizon),
            describe_tasks(told.distinct_tasks).partition(",")[0],
            *scores,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "*Null*: mean return of the best controller that never looks, score 0."]
    if sources:
        lines.append("*Expert*: mean return that counts as score 1, by")
        lines += ["", *(f"- {text}: {', '.join(names)}" for text, names in sources.items())]
        lines += ["", "`gla references ID` measures both again."]
    for names, settings in _settings_by_name(specs):
        lines += ["", f"## Settings{f' of {names}' if names else ''}"]
        for setting in settings:
            lines += ["", f"`{setting.call}`: {setting.meaning}"]
            if setting.fields:
                lines += ["", "| setting | default | meaning |", "|---|---|---|"]
                lines += [
                    f"| `{field.name}` | `{field.default}` | {_cell(field.meaning)} |"
                    for field in setting.fields
                ]
    return "\n".join(lines) + "\n"


def _settings_by_name(specs: Sequence[EnvironmentSpec]) -> list[tuple[str, tuple[Setting, ...]]]:
    """Return the settings of a domain with the environments that take them, if not all do."""
    takers: dict[tuple[Setting, ...], list[str]] = {}
    for spec in specs:
        takers.setdefault(settings_of(spec), []).append(short(spec))
    return [
        ("" if len(takers) == 1 else ", ".join(names), settings)
        for settings, names in takers.items()
        if settings
    ]


def _cell(text: str) -> str:
    """Return text that may stand in a Markdown table."""
    return text.replace("|", "&#124;")


def short(spec: EnvironmentSpec) -> str:
    """The name of an environment without namespace and version."""
    return spec.id.removeprefix("gla/").removesuffix("-v0")


def image(spec: EnvironmentSpec) -> Path:
    """The place of an environment's picture inside the folder of the documentation."""
    return IMAGES / f"{short(spec)}.png"


def index_page() -> str:
    """Return the page that lists all domains, in Markdown."""
    lines = [
        "# All environments",
        "",
        "Made by `gla envs docs docs`; [how to use them](../environments.md).",
        "",
        "| domain | kind | environments | names |",
        "|---|---|---|---|",
    ]
    for domain in domains():
        specs = select(domain=domain)
        kinds = " and ".join({spec.kind: None for spec in specs})
        names = ", ".join(short(spec) for spec in specs)
        lines.append(f"| [{domain}]({domain}.md) | {kinds} | {len(specs)} | {names} |")
    lines += ["", f"{len(TABLE)} environments, each plain and projected."]
    return "\n".join(lines) + "\n"


def write_pages(folder: str | Path, pictures: bool = True) -> list[str]:
    """Write one page per domain, an index and a picture of every environment that can be drawn.

    Args:
        folder: of the documentation; gets `environments/*.md` and `images/environments/*.png`.
        pictures: draw pictures; else those that are there are kept and linked to.

    Returns:
        One line for every environment that has pictures, but not on this machine, saying why.

    Raises:
        GlaError: if an environment cannot be built on this machine.
    """
    root = Path(folder)
    (root / PAGES).mkdir(parents=True, exist_ok=True)
    (root / IMAGES).mkdir(parents=True, exist_ok=True)
    missing = []
    for spec in TABLE.values() if pictures else ():
        path = root / image(spec)
        path.unlink(missing_ok=True)
        if facts(spec.id).can_render:
            try:
                save(frame(spec.id), path, _FRAME)
            except GlaError as error:
                missing.append(f"{spec.id}: {error}")
    pictured = pictures_in(root)
    for domain in domains():
        (root / PAGES / f"{domain}.md").write_text(page(domain, pictured), encoding="utf-8")
    (root / PAGES / "README.md").write_text(index_page(), encoding="utf-8")
    return missing


def pictures_in(folder: Path) -> list[str]:
    """Return the ids whose pictures lie in a folder of documentation."""
    return [spec.id for spec in TABLE.values() if (folder / image(spec)).exists()]
