"""Where stores lie: a folder, or a prefix of an object store, both through TensorStore.

A place is named by a path, or by a URL that TensorStore knows: `s3://bucket/prefix/`,
`gs://bucket/prefix/`, `memory://prefix/` (this process only). Every value appears whole or not at
all: files by an atomic rename, objects because stores are made so.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gla.errors import GlaError
from gla.files import os_errors

# What a killed writer may leave behind: TensorStore writes there first, then renames.
UNFINISHED = ".__lock"


class Place:
    """A folder or object-store prefix in which keys have values.

    Args:
        location: a path, or a URL such as `s3://bucket/prefix`.

    Raises:
        GlaError: if TensorStore knows no such URL.
    """

    def __init__(self, location: str | os.PathLike[str]):
        text = os.fspath(location)
        self.local: Path | None = None
        if re.match(r"^[A-Za-z][\w+.-]*://", text):
            self.name = text if text.endswith("/") else text + "/"
        else:
            self.local = Path(text).absolute()
            self.name = str(self.local)
        self._kv: Any = None

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path | str:
        """The absolute path, or the URL."""
        return self.name if self.local is None else self.local

    @property
    def _store(self) -> Any:
        import tensorstore as ts

        if self._kv is None:
            spec: Any = self.name
            if self.local is not None:
                spec = {"driver": "file", "path": f"{self.local}/"}
            try:
                self._kv = ts.KvStore.open(spec, context=context()).result()
            except (ValueError, OSError, RuntimeError) as error:
                raise GlaError(
                    f"{self.name} cannot be opened ({first_line(error)})",
                    "a path, or a URL that TensorStore knows, such as s3://bucket/prefix",
                ) from None
        return self._kv

    def spec(self, name: str) -> Any:
        """Return TensorStore's description of the place `name` within this one."""
        return (self._store / f"{name}/").spec().to_json()

    def read(self, key: str) -> bytes | None:
        """Return a value, or None if there is none."""
        return self.read_stamped(key)[0]

    def read_stamped(self, key: str) -> tuple[bytes | None, bytes]:
        """Return a value, or None, and a stamp of its version for `write_if`."""
        with self.errors("read"):
            found = self._store.read(key).result()
        value = None if found.state == "missing" else bytes(found.value)
        return value, bytes(found.stamp.generation)

    def write(self, key: str, value: bytes) -> None:
        """Write a value at once.

        Raises:
            GlaError: if the place is full or cannot be written.
        """
        with self.errors("write"):
            self._store.write(key, value).result()

    def write_if(self, key: str, value: bytes, stamp: bytes) -> bool:
        """Write a value if nobody did since it was read with this stamp; return whether."""
        with self.errors("write"):
            return self._store.write(key, value, if_equal=stamp).result().generation != b""

    def has(self, key: str) -> bool:
        """Return whether there is such a value."""
        if self.local is not None:
            return (self.local / key).is_file()
        return key in self.keys(key)

    def delete(self, key: str) -> None:
        """Delete a value; one that is not there is no error."""
        with self.errors("delete"):
            self._store.write(key, None).result()

    def keys(self, prefix: str = "") -> list[str]:
        """Return the names of all values that begin with a prefix, in order."""
        import tensorstore as ts

        if self.local is not None and not (self.local / prefix).parent.is_dir():
            return []
        with self.errors("list"):
            found = self._store.list(ts.KvStore.KeyRange(prefix, _after(prefix))).result()
        return sorted(key.decode() for key in found)

    def vacant(self) -> bool:
        """Return whether nothing is there."""
        if self.local is not None:
            return not self.local.exists() or (
                self.local.is_dir() and not any(self.local.iterdir())
            )
        return not self.keys()

    def clear(self, last: str) -> None:
        """Delete everything, the value of the key `last` at the end, by which it is recognised."""
        if self.local is not None:
            with os_errors(self.local, "delete"):
                for path in self.local.iterdir():
                    if path.name == last:
                        continue
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink()
                shutil.rmtree(self.local)
            return
        for key in self.keys():
            if key != last:
                self.delete(key)
        self.delete(last)

    def sweep(self) -> None:
        """Delete what a killed writer left half-written."""
        if self.local is None:
            return  # object stores show no half-written object
        with os_errors(self.local, "delete"):
            for folder, _, files in os.walk(self.local):
                for file in files:
                    if file.endswith(UNFINISHED):
                        os.unlink(os.path.join(folder, file))

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Say plainly what TensorStore could not do here."""
        with os_errors(self.name, doing):
            try:
                yield
            except (ValueError, RuntimeError) as error:
                raise as_os_error(error) from None


@functools.cache
def context(mapped: bool = False) -> Any:
    """TensorStore's pools, one set for this process.

    Args:
        mapped: read files through memory maps, which spares a copy.
    """
    import tensorstore as ts

    if mapped:
        # One that has no maps reads without.
        with contextlib.suppress(ValueError):
            return ts.Context({"file_io_mode": {"mode": "memmap"}}, parent=context())
    return ts.Context()


def _after(prefix: str) -> str:
    """Return the first text that follows all that begin with a prefix, or "" for no end."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""


def first_line(error: BaseException) -> str:
    """Return a library's message without its source locations."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(" [")[0][:300]


def as_os_error(error: BaseException) -> OSError:
    """Turn what TensorStore raises into an `OSError`, with the system's number where it gives it.

    TensorStore passes on only the system's words.
    """
    words = str(error)
    for number in (
        errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR,
    ):  # fmt: skip
        if os.strerror(number).lower() in words.lower():
            return OSError(number, first_line(error))
    return OSError(first_line(error))
