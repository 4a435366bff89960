"""Making a figure: steps that are not finished are done, then it is drawn and written down.

A kill at any moment costs what the step under way lost since its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gla.benchmarks.figures_parts import Figure
from gla.benchmarks.figures_plots import Row, draw
from gla.benchmarks.figures_steps import Step
from gla.benchmarks.jobs import WorkerConfig
from gla.errors import GlaError
from gla.files import os_errors, write_json, write_text
from gla.packages import package_versions

SCHEMA = "gla-figure-step"
VERSION = 1


def make_figure(
    figure: Figure,
    out: Path,
    draw_only: bool = False,
    fresh: bool = False,
    progress: bool = True,
    workers: WorkerConfig | None = None,
) -> Path:
    """Do the steps that are not finished yet, then draw.

    Args:
        figure: which.
        out: output folder, which several figures may share.
        draw_only: draw from what is stored; nothing is computed.
        fresh: delete what there is of this figure's steps first.
        progress: say what is done.
        workers: over what the environments of a suite are spread (default: one process per core).

    Returns:
        The path of the picture.

    Raises:
        GlaError: if there is a finished step of other settings, a step fails, or something is
            missing that is to be drawn.
    """
    given, out = out, Path(out).absolute()
    if fresh and draw_only:
        raise GlaError(
            "nothing can be drawn of what is deleted first", "one of fresh and draw_only"
        )
    if fresh:
        for step in figure.steps:
            _delete(out, step)
    if not draw_only:
        _run_steps(figure, out, progress, workers or WorkerConfig())
    picture = out / f"{figure.name}.png"
    rows = draw(figure, out, picture)
    seconds = {step.command: _seconds(out, step) for step in figure.steps}
    write_json(
        picture.with_suffix(".json"),
        {
            "figure": figure.name,
            "size": figure.size,
            "title": figure.title,
            "caption": figure.caption,
            "command": figure.command(given),
            "rows": [dataclasses.asdict(row) for row in rows],
            "seconds": seconds,
            "settings": {step.made: step.settings() for step in figure.steps},
            "packages": package_versions(),
        },
    )
    write_text(picture.with_suffix(".md"), page(figure, rows, seconds, figure.command(given)))
    return picture


def _run_steps(figure: Figure, out: Path, progress: bool, workers: WorkerConfig) -> None:
    with os_errors(out, "write to"):
        (out / "steps").mkdir(parents=True, exist_ok=True)
    missing = [step for step in figure.steps if not _finished(out, step)]
    if progress:
        say(
            f"{figure.name}, size {figure.size}: {len(missing)} of {len(figure.steps)} steps "
            f"to do, {expected(missing)}"
        )
    for number, step in enumerate(missing, 1):
        if progress:
            say(f"\n[{number}/{len(missing)}] {step.kind}: {step.about}, {expected([step])}")
        began = time.monotonic()
        step.run(out, progress, workers)
        content = {
            "schema": SCHEMA,
            "version": VERSION,
            "command": step.command,
            "settings": step.settings(),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_json(_marker(out, step), content)
        _forget_programs()


def _forget_programs() -> None:
    """Drop compiled programs, which no later step uses."""
    import jax

    jax.clear_caches()


def expected(steps: Sequence[Step]) -> str:
    """Return "about 12 minutes of one core", as far as it was measured."""
    if not steps:
        return "nothing to wait for"
    if any(step.minutes is None for step in steps):
        return "time not measured"
    minutes = sum(step.minutes or 0.0 for step in steps)
    return f"about {minutes:.0f} min of one core" if minutes >= 1 else "less than a minute"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def _marker(out: Path, step: Step) -> Path:
    return out / "steps" / f"{step.kind}-{step.name}.json"


def _read_marker(out: Path, step: Step) -> dict[str, Any] | None:
    """Return what is known of a finished step, or None if it is not finished."""
    file = _marker(out, step)
    try:
        content = json.loads(file.read_text())
        if (content["schema"], content["version"]) != (SCHEMA, VERSION):
            raise ValueError(f"schema {content['schema']!r} version {content['version']!r}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GlaError(
            f"{file} cannot be read ({error})", mend="delete it to do that step again"
        ) from None
    return content


def _finished(out: Path, step: Step) -> bool:
    """Return whether a step is finished; one of other settings is refused."""
    content = _read_marker(out, step)
    if content is None:
        return False
    if content.get("settings") != step.settings():
        raise GlaError(
            f"{step.made} in {out} was made with other settings, by `{content.get('command')}`",
            f"`{step.command}`",
            "choose another folder, or pass --fresh to do all steps of the figure again",
        )
    return all(path.exists() for path in step.outputs(out))


def _seconds(out: Path, step: Step) -> float | None:
    """Return the seconds that the call took which finished a step; None where nobody knows."""
    content = _read_marker(out, step)
    return None if content is None else content["seconds"]


def _delete(out: Path, step: Step) -> None:
    for path in (_marker(out, step), *step.outputs(out)):
        with os_errors(path, "delete"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def page(
    figure: Figure, rows: Sequence[Row], seconds: dict[str, float | None], command: str
) -> str:
    """Return the Markdown page of a figure.

    Args:
        figure: which.
        rows: its numbers.
        seconds: by command.
        command: that makes the figure.
    """
    lines = [f"# {figure.title}", "", f"![{figure.title}]({figure.name}.png)", ""]
    lines += [figure.caption, "", f"`{command}`", ""]
    header = ("Panel", "Line", "First episode", "Last episode", "Best null", "Masked, last",
              "Verdict")  # fmt: skip
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = (row.panel, row.label, row.first, row.last, row.null, row.masked, row.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    known = [value for value in seconds.values() if value is not None]
    lines += ["", f"{len(known)} steps, {sum(known) / 60:.0f} minutes in all:", "", "```text"]
    for command, value in seconds.items():
        lines.append(f"{'' if value is None else f'{value:.0f} s':>7}  {command}")
    return "\n".join([*lines, "```", ""])
