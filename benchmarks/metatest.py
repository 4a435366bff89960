"""Meta-test into a results file that is never lost and never made twice."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gla import checkpoints
from gla.agents.external import load_agent
from gla.benchmarks import results as files
from gla.benchmarks.results import Results
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.checkpoints import Which
from gla.errors import GlaError


def describe_agent(
    spec: str, which: Which = "latest", ask: Mapping[str, float] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what identifies an agent, and the environment ids that it was meta-trained on."""
    folder = Path(spec)
    if not (folder / "config.json").exists():
        return {"agent": spec}, ()
    description = checkpoints.describe(folder)
    return {
        "agent": spec,
        "training": description["training"],
        "histories": description["histories"],
        "step": checkpoints.latest_step(folder.absolute(), which),
        "which": which,
        "ask": dict(ask or {}),
    }, tuple(description["sources"])


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return what tells one test from another; a trained agent is known by more than its path."""
    names = ("meta_test", "training", "histories", "step", "which", "ask")
    parts = {name: config.get(name) for name in names}
    if parts["training"] is None:
        return {**parts, "agent": config.get("agent")}
    training = {k: v for k, v in parts["training"].items() if k != "histories"}
    return {**parts, "training": training}


def meta_test_to_file(
    spec: str,
    config: MetaTestConfig,
    path: Path,
    fresh: bool = False,
    progress: bool = True,
    which: Which = "latest",
    ask: Mapping[str, float] | None = None,
) -> Results:
    """Run `meta_test` and write its results file, or return the file that already holds it.

    Args:
        spec: checkpoint folder or module:factory.
        config: on what and for how long.
        path: results file.
        fresh: replace a file that is there.
        progress: show a progress bar.
        which: of a checkpoint folder, the `latest` weights or the `best`.
        ask: of a checkpoint folder, how much improvement is asked for.

    Raises:
        GlaError: if the file holds something else, and as `meta_test` does.
    """
    details, sources = describe_agent(spec, which, ask)
    if path.exists() and not fresh:
        old = files.read(path)
        new = json.loads(json.dumps({"meta_test": dataclasses.asdict(config), **details}))
        if _identity(old.config) == _identity(new):
            return old
        raise GlaError(
            f"{path} holds the results of another test",
            "a new file, or the same agent and settings",
            "choose another file, or pass --fresh to replace it",
        )
    results = meta_test(load_agent(spec, which, ask), config, sources, details, progress)
    files.write(path, results)
    return results
