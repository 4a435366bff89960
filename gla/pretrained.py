"""Small checkpoints of finished agents: what acts, in half precision, and the agents shipped here.

A checkpoint folder of a training holds what going on needs: 32-bit weights, an optimiser, several
steps. `export` writes a folder with the weights that act alone, rounded to float16 (a relative
error of at most 2^-11), and the same description. It is an agent like any other and can be begun
from (`initial`), but not gone on with. Folders under `gla/pretrained/` come with the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from gla import checkpoints
from gla.errors import GlaError, near_matches
from gla.files import os_errors, write_json

WEIGHTS = checkpoints.WEIGHTS
CARD = "card.md"
# The largest that half precision holds.
_LARGEST = float(np.finfo(np.float16).max)


def names() -> list[str]:
    """Return the names of the agents that come with the package, in order."""
    return sorted(path.name for path in _shipped().glob("*") if (path / WEIGHTS).is_file())


def _shipped() -> Path:
    return Path(str(resources.files("gla"))) / "pretrained_agents"


def find(name: str) -> Path:
    """Return the folder of an agent that comes with the package.

    Raises:
        GlaError: if there is none of that name.
    """
    known = names()
    if name not in known:
        raise GlaError(
            f"no agent called {name!r} comes with gla{near_matches(name, known)}",
            f"one of {', '.join(known)}" if known else "the folder of an agent of your own",
        )
    return _shipped() / name


def card(name: str) -> str:
    """Return the model card of an agent that comes with the package, Markdown.

    Raises:
        GlaError: if there is none of that name.
    """
    return (find(name) / CARD).read_text(encoding="utf-8")


def export(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    which: checkpoints.Which = "latest",
) -> Path:
    """Write the weights that act of a trained agent, small, into a new folder.

    Args:
        folder: checkpoint folder of `gla meta-train` or `gla gpicl train`.
        out: folder to make.
        which: `latest`, or `best` for the weights of the best validation.

    Returns:
        `out`.

    Raises:
        GlaError: if there is no such agent, `out` is not empty, or a weight is not finite or too
            large for half precision.
    """
    import jax

    source, target = Path(folder).absolute(), Path(out)
    params = _loader(source)(source, which).params
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise GlaError(f"{target} is not empty", "a folder that is not there yet")
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    arrays: dict[str, Any] = {}
    for place, leaf in leaves:
        name, value = checkpoints.plain_path(place), np.asarray(leaf)
        if not np.all(np.abs(value) <= _LARGEST):
            raise GlaError(
                f"the weights {name} of {source} are not finite or larger than {_LARGEST:g}",
                "weights that half precision can hold",
            )
        arrays[name] = value.astype(np.float16)
    description = checkpoints.describe(source)
    step = checkpoints.latest_step(source, which)
    description["exported"] = {"step": step, "which": which}
    training = dict(description["training"])
    for key in ("histories", "folder", "initial"):  # paths of the machine that trained it
        found = training.get(key)
        if isinstance(found, list):
            training[key] = [Path(one).name for one in found]
        elif isinstance(found, str):
            training[key] = Path(found).name
    description["training"] = training
    with os_errors(target, "write to"):
        target.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target / WEIGHTS, **arrays)
    write_json(target / checkpoints.DESCRIPTION, json.loads(json.dumps(description)))
    return target


def _loader(folder: Path) -> Callable[..., Any]:
    """Return what loads the agent of a folder."""
    from gla.gpicl import training as gpicl
    from gla.tabular import trained as tabular
    from gla.training import load_trained

    others = {gpicl.KIND: gpicl.load_learner, tabular.KIND: tabular.load_rule}
    return others.get(checkpoints.describe(folder).get("kind", ""), load_trained)
