"""Checkpoint folders: Orbax checkpoints beside a plain description.

`checkpoints/` holds the last two training states, `best/` the parameters of the best validation,
`config.json` what was trained on what, `finished.json` why training ended. An exported agent
(`gla.pretrained`) has `weights.npz` beside `config.json` and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gla.errors import GlaError
from gla.files import os_errors, write_json

SCHEMA = "gla-checkpoint"
VERSION = 2
DESCRIPTION = "config.json"
# Of a folder that `gla.pretrained.export` wrote: the weights that act, and nothing else.
WEIGHTS = "weights.npz"

Which = Literal["latest", "best"]
_FOLDERS = {"latest": "checkpoints", "best": "best"}
# What Orbax keeps beside the arrays of a checkpoint: it notices a file cut short, no flipped bit.
_CHECKSUMS = "checksums"
# Settings of the machine and of what is shown, which do not change what is learned, and paths: what
# lies there is described and compared instead.
_FREE = ("mesh", "tensorboard", "folder", "histories", "initial")


def prepare(
    folder: Path,
    description: dict[str, Any],
    fresh: bool = False,
    training_defaults: dict[str, Any] | None = None,
):
    """Create a checkpoint folder, or accept one that was made with the same description.

    Args:
        folder: absolute path.
        description: JSON-like settings. `packages`, the paths of the histories and the devices
            may differ, so that folders can be moved; everything else must agree.
        fresh: delete the folder first, if it is a checkpoint folder of any version.
        training_defaults: of settings that a description written by an older version lacks.

    Raises:
        GlaError: if something else is there.
    """
    file = folder / DESCRIPTION
    content = {"schema": SCHEMA, "version": VERSION, **json.loads(json.dumps(description))}
    occupied = folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    if fresh and occupied:
        _read(folder)  # refuses to delete a folder that holds something else
        with os_errors(folder, "delete"):
            shutil.rmtree(folder)
        occupied = False
    if occupied:
        old = describe(folder)
        if "exported" in old:
            raise GlaError(
                f"{folder} holds the weights of a finished agent and nothing to go on with",
                mend="begin from them with --initial, in another folder",
            )
        for part in ("training", "interface", "sources", "histories", "validation", "began"):
            theirs, ours = old.get(part), content.get(part)
            if part == "training":
                theirs = _filled(theirs, training_defaults)
            theirs, ours = _without_paths(theirs), _without_paths(ours)
            if theirs != ours:
                raise GlaError(
                    f"the checkpoints in {folder} were trained with other settings: "
                    + _difference(theirs, ours, part),
                    mend="choose another folder, or pass --fresh to delete them and start again",
                )
        return
    write_json(file, content)


def _without_paths(part: Any) -> Any:
    """Leave out what may differ."""
    if not isinstance(part, dict):
        return part
    return {k: _without_paths(v) for k, v in part.items() if k not in _FREE}


def _filled(part: Any, defaults: Any) -> Any:
    """Add what a description lacks, at any depth."""
    if not isinstance(part, dict) or not isinstance(defaults, dict):
        return part
    known = {key: _filled(value, defaults.get(key)) for key, value in part.items()}
    return {**defaults, **known}


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


def _read(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the description of a checkpoint folder of any version."""
    file = Path(folder).absolute() / DESCRIPTION
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
    if schema != SCHEMA:
        raise GlaError(
            f"{file} has schema {schema!r} version {version!r}", f"{SCHEMA!r} version {VERSION}"
        )
    return content


def describe(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the description of a checkpoint folder.

    Raises:
        GlaError: if there is none, or one of another schema or version.
    """
    content = _read(folder)
    version = content["version"]
    if version != VERSION:
        packages = content.get("packages")
        writer = packages.get("gla") if isinstance(packages, dict) else None
        writer = f"gla {writer}" if writer else "another version of gla"
        raise GlaError(
            f"the checkpoints in {Path(folder).absolute()} were written by {writer} and have "
            f"version {version!r}",
            f"version {VERSION}, which this gla writes",
            "meta-train again (with --fresh to delete them), or use them with the gla that wrote "
            "them",
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
    end = ending(folder)
    return end is not None and end.step <= step


class Ending(NamedTuple):
    """The last step of a training, and why it was the last."""

    step: int
    reason: str


def ending(folder: Path) -> Ending | None:
    """Return how training ended; None where it has not, or nothing readable says so."""
    try:
        content = json.loads((folder / "finished.json").read_text())
        return Ending(int(content["step"]), str(content["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _manager(folder: Path, name: str = "checkpoints", keep: int = 2, asynchronous: bool = False):
    import orbax.checkpoint as ocp

    # Orbax logs the traceback of every error that it also raises.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, enable_async_checkpointing=asynchronous
    )
    # Without its handler a manager that has saved nothing yet knows no shapes to compare.
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(folder / name, options=options, item_handlers=handler)


@contextlib.contextmanager
def _save_errors(folder: Path) -> Iterator[None]:
    """Turn what Orbax raises while it saves into a plain `GlaError`."""
    with os_errors(folder, "save a checkpoint in"):
        try:
            yield
        except (ValueError, RuntimeError) as error:  # TensorStore's form of a full disk
            raise OSError((str(error) or repr(error)).splitlines()[0]) from None


class Checkpoints:
    """Saves checkpoints while training goes on.

    `save` returns as soon as the arrays are copied on their device; a thread writes them. What
    goes wrong there is raised by the next call, or at the end of the `with` block, which waits
    until everything is on the disk. Every process of a training that has several must make the
    same calls.

    Args:
        folder: checkpoint folder, absolute.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._managers: dict[str, Any] = {}

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object):
        if kind is None:
            self.close()
            return
        with contextlib.suppress(GlaError):  # what ended the block matters more
            self.close()

    def save(self, step: int, state: Any):
        """Save a training state, a pytree of arrays, as the checkpoint of `step`.

        The last two are kept. One that is there already is left alone.

        Raises:
            GlaError: if the disk is full, or an earlier save failed.
        """
        self._save("checkpoints", 2, step, state)

    def save_best(self, step: int, params: Any):
        """Save parameters as the best so far, in place of the former best.

        Raises:
            GlaError: as `save`.
        """
        self._save("best", 1, step, params)

    def _save(self, name: str, keep: int, step: int, tree: Any):
        import orbax.checkpoint as ocp

        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 2**16
        with _save_errors(self._folder):
            # Asked beforehand, because Orbax meets a full disk in threads that print tracebacks.
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if name not in self._managers:
                self._managers[name] = _manager(self._folder, name, keep, asynchronous=True)
            manager = self._managers[name]
            manager.wait_until_finished()  # one at a time, and its error if it had one
            manager.check_for_errors()
            if step in manager.all_steps():
                return
            # Training gives its buffers away, and on a CPU Orbax would read them in place.
            kept = _copy(tree)
            manager.save(
                step,
                args=ocp.args.StandardSave(kept),
                force=True,
                custom_metadata={_CHECKSUMS: _checksums(kept)},
            )

    def wait(self):
        """Return once everything is on the disk.

        Raises:
            GlaError: if a save failed.
        """
        for manager in self._managers.values():
            with _save_errors(self._folder):
                manager.wait_until_finished()
                manager.check_for_errors()

    def close(self):
        """Wait and give the threads back.

        Raises:
            GlaError: if a save failed.
        """
        try:
            self.wait()
        finally:
            managers, self._managers = self._managers, {}
            for manager in managers.values():
                with _save_errors(self._folder):
                    manager.close()


# Operations of its own on every leaf: jit hands on arguments that it returns unchanged.
_copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))


def _sum_of_bits(leaf: jax.Array) -> jax.Array:
    """Sum the words of an array, each times an odd number of its place, modulo 2**32: uint32[].

    No change within one word leaves it as it was, as an odd number has an inverse. Integer sums are
    the same however an array is divided among devices.
    """
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag])
    if leaf.dtype == jnp.bool_:
        words = leaf.astype(jnp.uint32)
    else:
        width = min(leaf.dtype.itemsize, 4)
        words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * width}"))
        words = words.astype(jnp.uint32)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * jnp.uint32(stride)
        stride = stride * words.shape[axis] % 2**32
    return jnp.sum(words * (2 * place + 1), dtype=jnp.uint32)


_sums_of_bits = jax.jit(lambda tree: jax.tree.map(_sum_of_bits, tree))


def _checksums(tree: Any) -> dict[str, int]:
    """Return a checksum of every array of a tree, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(_sums_of_bits(tree)))
    return {plain_path(path): int(leaf) for path, leaf in leaves}


def save(folder: Path, step: int, state: Any):
    """Save a training state as the checkpoint of `step` and wait until it is on the disk.

    Raises:
        GlaError: see `Checkpoints.save`.
    """
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, state)


def steps_of(folder: Path, which: Which = "latest") -> list[int]:
    """Return the steps of the checkpoints that there are, the newest first."""
    if (folder / WEIGHTS).is_file():
        return [describe(folder)["exported"]["step"]]
    name = _FOLDERS[which]
    if not (folder / name).exists():
        return []
    with _manager(folder, name) as manager:
        return sorted(manager.all_steps(), reverse=True)


def latest_step(folder: Path, which: Which = "latest") -> int:
    """Return the step of the newest checkpoint, or 0 if there is none."""
    return next(iter(steps_of(folder, which)), 0)


def restore_latest(folder: Path, like: Any, default: Any = None) -> Any:
    """Restore the newest checkpoint of the training state; see `restore`."""
    return restore(folder, like, "latest", default)


def restore(folder: Path, like: Any, which: Which = "latest", default: Any = None) -> Any:
    """Restore a checkpoint into the structure of `like`, wherever it was saved.

    Args:
        folder: checkpoint folder, absolute.
        like: a pytree of arrays or `jax.ShapeDtypeStruct`s with the expected structure, shapes
            and dtypes. An array goes where its namesake's sharding says, else to the first device,
            whatever devices it was saved from.
        which: `latest`, the newest training state, or `best`, the parameters of the best
            validation.
        default: what to return if no checkpoint was saved yet.

    Raises:
        GlaError: if there is none and no default, or if it is damaged (an array is not bit by bit
            what was saved) or does not fit the model.
    """
    import orbax.checkpoint as ocp

    if which not in _FOLDERS:
        raise GlaError(f"the checkpoint asked for is {which!r}", "latest or best")
    name = _FOLDERS[which]
    steps = steps_of(folder, which)
    if not steps:
        if default is not None:
            return default
        if which == "best":
            raise GlaError(
                f"{folder} holds no best weights, because no validation has been made",
                mend="ask for the latest, or meta-train with validation.every above 0",
            )
        raise GlaError(
            f"{folder} holds no checkpoint yet", mend="run `gla meta-train` again to go on"
        )
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here
        ),
        like,
    )
    with _manager(folder, name) as manager:
        try:
            found = manager.item_metadata(steps[0])
            _check_fit(found, template, folder)
            restored = manager.restore(steps[0], args=ocp.args.StandardRestore(template))
            # What was saved before there were checksums has none.
            saved = (manager.metadata(steps[0]).custom_metadata or {}).get(_CHECKSUMS, {})
            for place, checksum in _checksums(restored).items():
                if saved.get(place, checksum) != checksum:
                    raise ValueError(f"{place} is not what was saved")
            return restored
        except GlaError:
            raise
        except Exception as error:  # Orbax raises a bare Exception for an array cut short
            before = " to fall back to the one before" if len(steps) > 1 else ""
            raise GlaError(
                f"checkpoint {steps[0]} in {folder} cannot be restored "
                f"({(str(error) or repr(error)).splitlines()[0][:200]})",
                "a complete checkpoint of this model",
                f"delete the folder {folder / name / str(steps[0])}{before}",
            ) from None


def restore_acting(folder: Path, like: Any, which: Which = "latest") -> Any:
    """Restore the parameters to act with: of a training, or of an exported agent.

    Args:
        folder: checkpoint folder, absolute.
        like: the structure of a training state, as `restore` takes it.
        which: `latest` or `best`; an exported folder holds only what it was exported with.

    Raises:
        GlaError: as `restore`, and if an exported folder is asked for other weights.
    """
    if (folder / WEIGHTS).is_file():
        return _read_weights(folder, like.params, which)
    if which == "best":
        return restore(folder, like.params, "best")
    return restore(folder, like, which).acting


def _read_weights(folder: Path, like: Any, which: Which) -> Any:
    """Read exported weights, as float32."""
    kept = describe(folder)["exported"]["which"]
    if which == "best" and kept != "best":
        raise GlaError(
            f"{folder} holds the {kept} weights of its training and no others",
            mend="leave --which out",
        )
    file = folder / WEIGHTS
    try:
        with np.load(file) as archive:
            arrays = {name: jnp.asarray(archive[name], jnp.float32) for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise GlaError(
            f"{file} cannot be read ({str(error).splitlines()[0]})", "weights that gla exported"
        ) from None
    _check_fit(arrays, like, folder)
    return jax.tree_util.tree_map_with_path(lambda path, _: arrays[plain_path(path)], like)


def _check_fit(found: Any, template: Any, folder: Path):
    """Compare shapes leaf by leaf, for a message that names the first that differs."""

    def named(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {
            plain_path(path): tuple(leaf.shape) for path, leaf in leaves if hasattr(leaf, "shape")
        }

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


def plain_path(path: Any) -> str:
    """Join a key path so that attributes, dictionary keys and indices look alike."""
    parts = []
    for entry in path:
        for attribute in ("key", "name", "idx"):
            if hasattr(entry, attribute):
                parts.append(str(getattr(entry, attribute)))
                break
    return "/".join(parts)
