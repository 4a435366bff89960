"""Checkpoint folders: Orbax checkpoints beside a plain description and a log of metrics."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from gla.errors import GlaError
from gla.files import os_errors, write_json

SCHEMA = "gla-checkpoint"
VERSION = 1


def prepare(
    folder: Path,
    description: dict[str, Any],
    fresh: bool = False,
    training_defaults: dict[str, Any] | None = None,
):
    """Create a checkpoint folder, or accept one that was made with the same description.

    Args:
        folder: absolute path.
        description: JSON-like settings. `packages` and the paths of the histories may differ, so
            that folders can be moved; everything else must agree.
        fresh: delete the folder first, if it is a checkpoint folder.
        training_defaults: of settings that a description written by an older version lacks.

    Raises:
        GlaError: if something else is there.
    """
    file = folder / "config.json"
    content = {"schema": SCHEMA, "version": VERSION, **json.loads(json.dumps(description))}
    occupied = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if fresh and occupied:
        describe(folder)  # refuses to delete a folder that holds something else
        with os_errors(folder, "delete"):
            shutil.rmtree(folder)
        occupied = False
    if occupied:
        old = describe(folder)
        for part in ("training", "interface", "sources", "histories"):
            theirs, ours = (_without_paths(one.get(part)) for one in (old, content))
            if part == "training":
                theirs = _filled(theirs, training_defaults)
            if theirs != ours:
                raise GlaError(
                    f"the checkpoints in {folder} were trained with other settings: "
                    + _difference(theirs, ours, part),
                    mend="choose another folder, or pass --fresh to delete them and start again",
                )
        return
    write_json(file, content)


def _without_paths(part: Any) -> Any:
    """Leave out where the histories lie; what they are is compared instead."""
    return {k: v for k, v in part.items() if k != "histories"} if isinstance(part, dict) else part


def _filled(part: Any, defaults: Any) -> Any:
    """Add what a description lacks, at any depth."""
    if not isinstance(part, dict) or not isinstance(defaults, dict):
        return part
    known = {key: _filled(value, defaults.get(key)) for key, value in part.items()}
    return {**{k: v for k, v in defaults.items() if k != "histories"}, **known}


def _difference(old: Any, new: Any, name: str) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in new:
            if old.get(key) != new[key]:
                return _difference(old.get(key), new[key], key)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for one, other in zip(old, new, strict=True):
            if one != other and isinstance(one, dict):
                return _difference(one, other, name)
    return f"{name} is {old!r} there and {new!r} here"


def describe(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the description of a checkpoint folder.

    Raises:
        GlaError: if there is none, or one of another schema.
    """
    file = Path(folder).absolute() / "config.json"
    if not file.exists():
        raise GlaError(
            f"{Path(folder).absolute()} is not a checkpoint folder (it has no config.json)",
            "a folder written by `gla meta-train`",
        )
    try:
        content = json.loads(file.read_text())
        schema, version = content["schema"], content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise GlaError(
            f"{file} cannot be read ({error})", "JSON written by `gla meta-train`"
        ) from None
    if (schema, version) != (SCHEMA, VERSION):
        raise GlaError(
            f"{file} has schema {schema!r} version {version!r}", f"{SCHEMA!r} version {VERSION}"
        )
    return content


def finish(folder: Path, step: int, reason: str):
    """Record that training ended, so that a later call does not go on."""
    write_json(folder / "finished.json", {"step": step, "reason": reason})


def finished(folder: Path, step: int) -> bool:
    """Return whether training has ended with the checkpoint of `step`.

    Where the last checkpoint was deleted because it was damaged, training goes on from the one
    before.
    """
    try:
        return int(json.loads((folder / "finished.json").read_text())["step"]) <= step
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _manager(folder: Path):
    import orbax.checkpoint as ocp

    # Orbax logs the traceback of every error that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, create=True, enable_async_checkpointing=False
    )
    # Without its handler a manager that has saved nothing yet knows no shapes to compare.
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(folder / "checkpoints", options=options, item_handlers=handler)


def save(folder: Path, step: int, state: Any):
    """Save a training state, a pytree of arrays, as the checkpoint of `step`; keep the last two."""
    import orbax.checkpoint as ocp

    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 2**16
    with os_errors(folder, "save a checkpoint in"):
        # Asked beforehand, because Orbax meets a full disk in threads that print tracebacks.
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with _manager(folder) as manager:  # closing it raises what its threads met
                if step in manager.all_steps():
                    return
                manager.save(step, args=ocp.args.StandardSave(jax.tree.map(lambda x: x, state)))
                manager.wait_until_finished()
        except (ValueError, RuntimeError) as error:  # TensorStore's form of a full disk
            raise OSError(str(error).splitlines()[0]) from None


def latest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, or 0 if there is none."""
    if not (folder / "checkpoints").exists():
        return 0
    with _manager(folder) as manager:
        return manager.latest_step() or 0


def restore_latest(folder: Path, like: Any, default: Any = None) -> Any:
    """Restore the newest readable checkpoint into the structure of `like`.

    Args:
        folder: checkpoint folder, absolute.
        like: a pytree of arrays with the expected structure, shapes and dtypes.
        default: what to return if no checkpoint was saved yet.

    Raises:
        GlaError: if there is none and no default, or if it does not fit the model.
    """
    import orbax.checkpoint as ocp

    if not (folder / "checkpoints").exists():
        steps = []
    else:
        with _manager(folder) as manager:
            steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        if default is None:
            raise GlaError(
                f"{folder} holds no checkpoint yet", mend="run `gla meta-train` again to go on"
            )
        return default
    template = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with _manager(folder) as manager:
        try:
            found = manager.item_metadata(steps[0])
            _check_fit(found, template, folder)
            return manager.restore(steps[0], args=ocp.args.StandardRestore(template))
        except GlaError:
            raise
        except Exception as error:  # Orbax raises a bare Exception for an array cut short
            raise GlaError(
                f"checkpoint {steps[0]} in {folder} cannot be restored "
                f"({(str(error) or repr(error)).splitlines()[0][:200]})",
                "a complete checkpoint of this model",
                f"delete the folder {folder / 'checkpoints' / str(steps[0])} to fall back to the "
                "one before",
            ) from None


def _check_fit(found: Any, template: Any, folder: Path):
    """Compare shapes leaf by leaf, for a message that names the first that differs."""

    def named(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {_plain(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")}

    theirs, ours = named(getattr(found, "tree", found)), named(template)
    if not theirs:
        return
    for name in sorted(set(theirs) | set(ours)):
        if theirs.get(name) != ours.get(name):
            raise GlaError(
                f"the checkpoint in {folder} does not fit the model: {name} is "
                f"{theirs.get(name, 'absent')} there and {ours.get(name, 'absent')} here",
                "a checkpoint of a model of the same size",
                "use the model settings in its config.json",
            )


def _plain(path: Any) -> str:
    """Join a key path so that attributes, dictionary keys and indices look alike."""
    parts = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return "/".join(parts)


class MetricsLog:
    """Appends one JSON object per dispatch to `metrics.jsonl`, cut back to the resumed step."""

    def __init__(self, folder: Path, step: int):
        self._file = folder / "metrics.jsonl"
        if self._file.exists():
            kept = []
            for line in self._file.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line)
                except (ValueError, KeyError):
                    continue  # the line that a kill cut short
            with os_errors(self._file, "write"):
                self._file.write_text("".join(line + "\n" for line in kept))

    def write(self, **values: Any):
        """Append one line."""
        with os_errors(self._file, "write"), self._file.open("a") as file:
            file.write(json.dumps(values) + "\n")
