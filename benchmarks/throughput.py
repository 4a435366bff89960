"""`gla throughput`: how fast things are, each figure beside a peer measured in the same run.

How it is measured is in `gla.benchmarks.timing`; what is compared is in the `throughput_` modules
beside this one, which picks comparisons, runs them and writes the report.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gla.benchmarks import (
    throughput_envs,
    throughput_gpicl,
    throughput_histories,
    throughput_metatest,
    throughput_models,
    throughput_ppo,
)
from gla.benchmarks.timing import (
    Bench,
    Comparison,
    Outcome,
    Spread,
    ThroughputConfig,
    count,
    measure,
)
from gla.cores import usable_cores
from gla.errors import GlaError, near_matches
from gla.files import write_json, write_text
from gla.packages import package_versions

SCHEMA = "gla-throughput"
VERSION = 1

COMPARISONS: dict[str, Comparison] = {
    comparison.name: comparison
    for comparison in (
        *throughput_envs.COMPARISONS,
        *throughput_ppo.COMPARISONS,
        *throughput_histories.COMPARISONS,
        *throughput_metatest.COMPARISONS,
        *throughput_models.COMPARISONS,
        *throughput_gpicl.COMPARISONS,
    )
}


@dataclass(frozen=True)
class Report:
    """All comparisons of one run.

    Attributes:
        outcomes: in the order in which they ran.
        config: how they were measured.
        machine: what they ran on (`describe_machine`), its load before and after.
    """

    outcomes: tuple[Outcome, ...]
    config: ThroughputConfig
    machine: dict[str, Any]


def find(names: Sequence[str]) -> list[Comparison]:
    """Return the comparisons of these names, or all of them for none.

    Raises:
        GlaError: if there is no such comparison.
    """
    for name in names:
        if name not in COMPARISONS:
            raise GlaError(
                f"no throughput comparison is called {name!r}{near_matches(name, COMPARISONS)}",
                f"one of {', '.join(COMPARISONS)}",
            )
    return [COMPARISONS[name] for name in names] or list(COMPARISONS.values())


def run(
    names: Sequence[str] = (),
    config: ThroughputConfig | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Measure comparisons one after the other; one that cannot run here is skipped.

    Args:
        names: which, or all of them for none.
        config: how.
        say: told of each comparison before it starts.

    Raises:
        GlaError: if there is no such comparison.
    """
    config = config or ThroughputConfig()
    outcomes, before = [], _load()
    for comparison in find(names):
        if say:
            say(f"{comparison.name}: {comparison.question}")
        outcomes.append(_outcome(comparison, config))
    machine = {**describe_machine(), "load_before": before, "load_after": _load()}
    return Report(tuple(outcomes), config, machine)


def _outcome(comparison: Comparison, config: ThroughputConfig) -> Outcome:
    with contextlib.ExitStack() as stack:
        bench = Bench(config, stack)
        try:
            programs = comparison.build(bench)
            timings = measure(programs, config.rounds, config.seconds)
        except (GlaError, ImportError) as error:
            return Outcome(comparison, skipped=str(error), notes=tuple(bench.notes))
        return Outcome(comparison, timings, notes=tuple(bench.notes))


def main(names: Sequence[str] = (), config: ThroughputConfig | None = None) -> Report:
    """Measure, print the tables, and write them if the configuration names a folder.

    Args:
        names: comparisons, or all of them for none.
        config: how to measure, and where to write.

    Raises:
        GlaError: if there is no such comparison, or the folder cannot be written.
    """
    config = config or ThroughputConfig()
    report = run(names, config, lambda line: print(line, file=sys.stderr, flush=True))
    text = to_markdown(report)
    print(text)
    if config.out is not None:
        write_json(Path(config.out) / "throughput.json", to_json(report))
        write_text(Path(config.out) / "throughput.md", text)
    return report


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, JAX's device, package versions."""
    import jax

    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "system": platform.platform(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "packages": package_versions(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _load() -> float | None:
    """Return how many processes have been running in the last minute, where the system says."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def to_json(report: Report) -> dict[str, Any]:
    """Return everything that was measured as plain values."""

    def one(outcome: Outcome) -> dict[str, Any]:
        comparison = outcome.comparison
        return {
            "name": comparison.name,
            "question": comparison.question,
            "unit": comparison.unit,
            "skipped": outcome.skipped or None,
            "notes": list(outcome.notes),
            "programs": [
                {**asdict(timing), "rate": timing.rate, "cpu_rate": timing.cpu_rate}
                for timing in outcome.timings
            ],
            "goals": [
                {
                    **asdict(goal),
                    "value": goal.value(timing, other),
                    "met": goal.met(timing, other),
                }
                for goal, timing, other in outcome.goals()
            ],
        }

    return {
        "schema": SCHEMA,
        "version": VERSION,
        "rounds": report.config.rounds,
        "seconds": report.config.seconds,
        "machine": report.machine,
        "comparisons": [one(outcome) for outcome in report.outcomes],
    }


def to_markdown(report: Report) -> str:
    """Return the tables for people, as Markdown."""
    machine = report.machine
    lines = [
        "# Throughput",
        "",
        f"{machine['processor']}, {machine['cores']} cores, JAX on {machine['device']}; load "
        f"{machine['load_before']} before, {machine['load_after']} after. Medians of "
        f"{report.config.rounds} interleaved rounds of about {report.config.seconds:g} s, after "
        "compilation; in brackets the lowest and highest round.",
    ]
    if machine["load_before"] is not None and machine["load_before"] > 0.5 * machine["cores"]:
        lines += ["", "Other work kept this machine busy: trust ratios and CPU time, not rates."]
    for outcome in report.outcomes:
        comparison = outcome.comparison
        lines += ["", f"## {comparison.name}", "", comparison.question, ""]
        if outcome.notes:
            lines += [*(f"- {note}" for note in outcome.notes), ""]
        if outcome.skipped:
            lines.append(f"Skipped: {outcome.skipped}")
            continue
        lines += [
            f"| program | {comparison.unit} / s | / CPU-s | speed / peer | by CPU time | "
            "first call |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {timing.name} | {count(timing.rate)} | {count(timing.cpu_rate)} | "
            f"{_ratio(timing.speed)} | {_ratio(timing.cpu_speed)} | {timing.first_call:.1f} s |"
            for timing in outcome.timings
        ]
        goals = [
            f"- {goal.text(timing, other, comparison.unit)}"
            for goal, timing, other in outcome.goals()
        ]
        lines += ["", *goals] if goals else []
    return "\n".join(lines) + "\n"


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.3g} [{spread.low:.3g}, {spread.high:.3g}]"
