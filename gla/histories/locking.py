"""One writer at a time.

In a folder the lock is the operating system's (`flock`), so it ends with the process that holds it,
however that dies. An object store has none: there a small object is leased, renewed while the
writer lives, and free again when it was not renewed for `LEASE` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from gla.errors import GlaError
from gla.files import os_errors
from gla.histories.places import Place

LOCK = "writer.lock"
LEASE = 300.0  # seconds
_RENEWALS = 5  # in that time


@contextlib.contextmanager
def writer_lock(place: Place) -> Iterator[None]:
    """Hold the right to write to a place.

    Raises:
        GlaError: if another writer holds it, or the place cannot be written.
    """
    if place.local is not None:
        with _file_lock(place.local):
            yield
    else:
        with _lease(place):
            yield


def _busy(place: object, who: str, mend: str) -> GlaError:
    return GlaError(f"{who} is writing to the histories in {place}", "one writer at a time", mend)


@contextlib.contextmanager
def _file_lock(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # not POSIX
        fcntl = None  # type: ignore[assignment]
    file = folder / LOCK
    with os_errors(folder, "write"):
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
                raise _busy(
                    folder,
                    f"another process ({holder})" if holder else "another process",
                    "wait until it is done, or choose another folder",
                ) from None
        with os_errors(folder, "write"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(file)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _lease(place: Place) -> Iterator[None]:
    token = uuid.uuid4().hex

    def mine() -> bytes:
        holder = {"token": token, "host": socket.gethostname(), "pid": os.getpid()}
        return json.dumps({**holder, "expires": time.time() + LEASE}).encode()

    value, stamp = place.read_stamped(LOCK)
    if value is not None:
        held = json.loads(value)
        left = held["expires"] - time.time()
        if left > 0 and not _dead(held):
            raise _busy(
                place,
                f"process {held['pid']} on {held['host']}",
                f"wait until it is done, or {left:.0f} s if it was killed",
            )
    if not place.write_if(LOCK, mine(), stamp):
        raise _busy(place, "another process", "wait until it is done")
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(LEASE / _RENEWALS):
            # Not renewed this time: there are other times before it ends.
            with contextlib.suppress(GlaError):
                place.write(LOCK, mine())

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with contextlib.suppress(GlaError):
            place.delete(LOCK)


def _dead(held: dict) -> bool:
    """Return whether the holder was a process of this machine that is no more."""
    if held["host"] != socket.gethostname() or held["pid"] == os.getpid():
        return False
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
