"""Jobs that do not depend on each other, spread over processes of this machine or over Ray.

A job that raises is reported and the others go on. A worker that dies is replaced and its job done
once more; jobs therefore go on from what they left behind. A worker that gives no sign of life for
longer than is allowed is killed and reported. Workers compute with one thread each, so
that as many as there are cores do not hinder each other, and none outlives the process that started
it. Ctrl-C is handed on to them, so that they can save what they have.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from gla.agents.fan_out import RayConfig, import_ray, start_ray
from gla.cores import usable_cores
from gla.errors import GlaError

FAREWELL = 60.0
"""Seconds that workers have after Ctrl-C to save what they have."""

_ONE_THREAD = {
    "PJRT_NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Several processes on one accelerator must not each take most of its memory.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}

# Does one job; must be a function that can be imported. Reports a job's name and what went wrong.
Work = Callable[[Any], None]
Done = Callable[[str, GlaError | None], None]
Alive = Callable[[str, float, str], None]

_SIGNS_EVERY = 0.5  # seconds between two signs of life that are sent on


@dataclass(frozen=True)
class WorkerConfig:
    """Over what work is spread.

    Attributes:
        processes: of this machine, each with one thread; 1 works in this process. 0 is one per
            usable core on a CPU, and 1 with an accelerator.
        ray: over Ray instead, if it has workers. The output folder must then lie where all of them
            see it.
    """

    processes: int = 0
    ray: RayConfig = field(default_factory=RayConfig)

    def __post_init__(self):
        if self.processes < 0:
            raise GlaError(f"processes is {self.processes}", "a number >= 0")


class _Signs:
    """What a job in a worker process has to say while it is at it."""

    def __init__(self) -> None:
        self.send: Callable[[Any], None] | None = None
        self._amount, self._last = 0.0, 0.0

    def give(self, amount: float, note: str) -> None:
        self._amount += amount
        now = time.monotonic()
        if self.send is not None and now - self._last >= _SIGNS_EVERY:
            self.send(("alive", self._amount, note))
            self._amount, self._last = 0.0, now


_SIGNS = _Signs()


def sign_of_life(amount: float = 0.0, note: str = "") -> None:
    """Say from within a job that it is going on; does nothing where nobody listens.

    Args:
        amount: work done since the last sign.
        note: what is being done.
    """
    _SIGNS.give(amount, note)


def spread(
    work: Work,
    jobs: Mapping[str, Any],
    config: WorkerConfig,
    done: Done,
    patience: float | None = None,
    alive: Alive = lambda name, amount, note: None,
) -> None:
    """Do all jobs, and report each as it is done.

    Args:
        work: does one job; called in a worker.
        jobs: what it is given, by name; must survive pickling.
        config: over what to spread them.
        done: called in this process with the name of a job, and None or what went wrong.
        patience: seconds that a job may go without a sign of life (`sign_of_life`) before its
            process is killed. With it, every job runs in a process other than this one, so that
            nothing it does can harm the others. Not used over Ray.
        alive: called in this process with the name of a job, work done since the last call and a
            note, of jobs that give signs of life in worker processes.

    Raises:
        GlaError: if Ray cannot be started.
        KeyboardInterrupt: on Ctrl-C, once the workers have ended.
    """
    if not jobs:
        return
    if config.ray.workers:
        _over_ray(work, jobs, config.ray, done)
        return
    count = min(_processes(config), len(jobs))
    if count == 1 and patience is None:
        for name, job in jobs.items():
            done(name, _attempt(work, job))
    else:
        _over_processes(work, jobs, count, done, patience, alive)


def _processes(config: WorkerConfig) -> int:
    if config.processes:
        return config.processes
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return usable_cores()
    import jax

    return usable_cores() if jax.default_backend() == "cpu" else 1


def _attempt(work: Work, job: Any) -> GlaError | None:
    """Do one job and return what went wrong, if anything did."""
    try:
        work(job)
    except GlaError as error:
        return error
    except Exception as error:
        traceback.print_exc()  # not the user's fault, so whoever mends it wants to see where
        return GlaError(f"unexpected {type(error).__name__}: {error}")
    finally:
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()  # the next job compiles its own programs
    return None


class _Process:
    """A process that does one job after the other."""

    def __init__(self, work: Work):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _as_they_start():
            self.process.start()
        theirs.close()  # so that its end is noticed

    def end(self, at_once: bool):
        """Wait for its end, having killed it if that is wanted."""
        self.connection.close()
        if at_once:
            self.process.kill()
        self.process.join()
        self.process.close()


@contextlib.contextmanager
def _as_they_start() -> Iterator[None]:
    """Set what processes inherit: one thread, and deaf to Ctrl-C until they can answer to it."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    for name, value in _ONE_THREAD.items():
        os.environ.setdefault(name, value)
    handler: Any = None
    if threading.current_thread() is threading.main_thread():
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)


def _serve(own: connection.Connection, work: Work) -> None:
    """Do jobs until there are no more; the target of every process."""

    def interrupt(number: int, frame: Any):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal and the parent both send it
        raise KeyboardInterrupt

    def end_with_parent():
        parent = multiprocessing.parent_process()
        assert parent is not None
        connection.wait([parent.sentinel])
        os._exit(1)

    signal.signal(signal.SIGINT, interrupt)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Interrupted, or the parent has nothing more to do.
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):
        _SIGNS.send = own.send
        while True:
            own.send(("done", _attempt(work, own.recv()), ""))


def _over_processes(
    work: Work,
    jobs: Mapping[str, Any],
    count: int,
    done: Done,
    patience: float | None,
    alive: Alive,
) -> None:
    waiting, retried = list(jobs), set()
    free: list[_Process] = []
    busy: dict[Any, tuple[_Process, str]] = {}
    heard: dict[Any, float] = {}  # when each last gave a sign of life
    try:
        while waiting or busy:
            while waiting and len(busy) < count:
                one = free.pop() if free else _Process(work)
                name = waiting.pop(0)
                busy[one.connection] = one, name
                heard[one.connection] = time.monotonic()
                # A process that died in between is noticed below.
                with contextlib.suppress(OSError):
                    one.connection.send(jobs[name])
            for ready in connection.wait(list(busy), None if patience is None else 1.0):
                one, name = busy[ready]
                heard[ready] = time.monotonic()
                try:
                    what, said, note = one.connection.recv()
                    if what == "alive":
                        alive(name, said, note)
                        continue
                    error = said
                except (EOFError, OSError):
                    one.process.join()
                    error = _death(one.process.exitcode)
                    one.end(at_once=True)
                    del busy[ready]
                    if name not in retried:
                        retried.add(name)
                        waiting.append(name)
                        continue
                else:
                    del busy[ready]
                    free.append(one)
                done(name, error)
            for late in list(busy):
                if patience is not None and time.monotonic() - heard[late] > patience:
                    one, name = busy.pop(late)
                    one.end(at_once=True)
                    done(name, GlaError(f"it gave no sign of life for {patience:g} seconds"))
    except KeyboardInterrupt:
        _dismiss([one for one, _ in busy.values()])
        raise
    finally:
        for one in [*free, *(one for one, _ in busy.values())]:
            one.end(at_once=True)


def _dismiss(processes: list[_Process]) -> None:
    """Interrupt processes and wait until they have saved what they have."""
    until = time.monotonic() + FAREWELL
    while any(one.process.is_alive() for one in processes) and time.monotonic() < until:
        for one in processes:
            if one.process.is_alive() and one.process.pid:
                # Again and again, as one that is still starting does not listen yet.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.process.pid, signal.SIGINT)
        time.sleep(0.2)


def _death(status: int | None) -> GlaError:
    how = f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"
    return GlaError(
        f"its process died twice ({how})",
        mend="if memory ran out, use fewer processes or smaller batches",
    )


def _over_ray(work: Work, jobs: Mapping[str, Any], config: RayConfig, done: Done) -> None:
    ray = import_ray()
    started = not ray.is_initialized()
    waiting = list(jobs)
    try:
        if started:
            start_ray(ray, config, _ONE_THREAD if config.gpus == 0 else None)
        attempt = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_retries=1)(_attempt)
        busy: dict[Any, str] = {}
        while waiting or busy:
            while waiting and len(busy) < config.workers:
                name = waiting.pop(0)
                busy[attempt.remote(work, jobs[name])] = name
            ready, _ = ray.wait(list(busy), num_returns=1)
            try:
                error = ray.get(ready[0])
            except ray.exceptions.RayError as lost:
                text = (str(lost) or type(lost).__name__).splitlines()[0]
                error = GlaError(f"its worker was lost twice ({text})")
            done(busy.pop(ready[0]), error)
    finally:
        if started:
            ray.shutdown()
