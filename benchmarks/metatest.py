"""Meta-test into a results file that is never lost and never made twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gla import checkpoints
from gla.agents.external import folder_of, load_agent
from gla.benchmarks import results as files
from gla.benchmarks.results import Results
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.checkpoints import Which
from gla.errors import GlaError

# Instead of an agent: the null controllers alone, and the oracle where there is one.
NULLS = "nulls"


def told(spec: str) -> str:
    """Return how an agent is named to others: of an absolute path, the last part."""
    kind, colon, rest = spec.rpartition("sb3:")
    path = Path(rest)
    return f"{kind}{colon}{path.name}" if path.is_absolute() else spec


def describe_agent(
    spec: str, which: Which = "latest", ask: Mapping[str, float] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what identifies an agent, and the environment ids that it was meta-trained on."""
    if spec == NULLS:
        return {"agent": spec}, ()
    folder = folder_of(spec) or Path(spec)
    if not (folder / "config.json").exists():
        file = Path(spec.removeprefix("sb3:"))
        if not file.is_file():
            return {"agent": spec}, ()
        # A model in a file is known by what is in it: the file may be written anew.
        return {"agent": told(spec), "digest": hashlib.sha256(file.read_bytes()).hexdigest()}, ()
    description = checkpoints.describe(folder)
    training = dict(description["training"])
    if "histories" in training:  # whoever reads the results need not know where they lay
        training["histories"] = [Path(path).name for path in training["histories"]]
    return {
        "agent": told(spec),
        "training": training,
        "histories": description["histories"],
        "step": checkpoints.latest_step(folder.absolute(), which),
        "which": which,
        "ask": dict(ask or {}),
    }, tuple(description["sources"])


def identity(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells one agent from another; a trained one is known by more than its path.

    Args:
        details: of `describe_agent`, or of the configuration in a results file, which has them too.
    """
    names = ("training", "histories", "step", "which", "ask", "digest")
    parts = {name: details.get(name) for name in names}
    if parts["training"] is None:
        return {**parts, "agent": details.get("agent")}
    training = {k: v for k, v in parts["training"].items() if k != "histories"}
    return json.loads(json.dumps({**parts, "training": training}))


def meta_test_to_file(
    spec: str,
    config: MetaTestConfig,
    path: Path,
    fresh: bool = False,
    progress: bool = True,
    which: Which = "latest",
    ask: Mapping[str, float] | None = None,
    batch: int | None = None,
    suite: str = "",
    window: int | None = None,
    name: str = "",
    tick: Callable[[float, str], object] = lambda share, name: None,
) -> Results:
    """Run `meta_test` and write its results file, or return the file that already holds it.

    Args:
        spec: checkpoint folder, module:factory or whatever else `load_agent` knows; `nulls` for
            the null controllers alone.
        config: on what and for how long.
        path: results file.
        fresh: replace a file that is there.
        progress: show a progress bar.
        which: of a checkpoint folder, the `latest` weights or the `best`.
        ask: of a checkpoint folder, how much improvement is asked for.
        batch: lifetimes that run at once.
        suite: name of the suite that the test belongs to.
        window: the normalisation window that an agent with a view must have.
        name: what the agent is called; empty for the name that it has.
        tick: called with the share of the work done since the last call, and by whom.

    Raises:
        GlaError: if the file holds something else, the window is another, and as `meta_test` does.
    """
    details, sources = describe_agent(spec, which, ask)
    if path.exists() and not fresh:
        old = files.read(path)
        test = json.loads(json.dumps(dataclasses.asdict(config)))
        if identity(old.config) == identity(details) and old.config["meta_test"] == test:
            return old
        raise GlaError(
            f"{path} holds the results of another test",
            "a new file, or the same agent and settings",
            "choose another file, or pass --fresh to replace it",
        )
    agent = None if spec == NULLS else load_agent(spec, which, ask)
    sources = sources or tuple(getattr(agent, "training_sources", ()))
    if agent is not None and name:
        agent.name = name
    if window is not None and agent and agent.view and agent.view.window != window:
        raise GlaError(
            f"{agent.name!r} normalises tasks by {agent.view.window} random steps",
            f"{window} in the suite {suite}",
        )
    results = meta_test(
        agent, config, sources, details, progress, batch=batch, suite=suite, tick=tick
    )
    files.write(path, results)
    return results
