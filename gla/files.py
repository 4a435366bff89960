"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gla.errors import GlaError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
    errno.EROFS: ("the file system is read-only", "choose another output folder"),
    errno.EACCES: ("permission is denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission is denied", "choose a folder that you may write to"),
    errno.ENOTDIR: ("a part of the path is a file", "choose another output folder"),
    errno.EEXIST: ("a file of that name is there", "choose another output folder"),
}


@contextlib.contextmanager
def os_errors(path: object, doing: str) -> Iterator[None]:
    """Turn an `OSError` met while `doing` something to `path` into a plain `GlaError`."""
    try:
        yield
    except OSError as error:
        reason, mend = _REASONS.get(error.errno or 0, (str(error), "check the path"))
        for number, pair in _REASONS.items():  # libraries that pass on only the text
            if error.errno is None and os.strerror(number).lower() in str(error).lower():
                reason, mend = pair
        raise GlaError(f"cannot {doing} {path}: {reason}", mend=mend) from None


def write_text(path: Path, text: str):
    """Write a text file atomically, making its folder if needed."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes):
    """Write a file atomically, making its folder if needed."""
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def write_json(path: Path, value: Any):
    """Write JSON atomically, indented and with sorted keys left as given."""
    write_text(path, json.dumps(value, indent=1) + "\n")
