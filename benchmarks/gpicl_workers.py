"""Jobs that do not depend on each other, spread over processes of this machine or over Ray.

A job that raises is reported and the others go on. A worker that dies is replaced and its job done
once more; jobs therefore go on from what they left behind. Workers compute with one thread each, so
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


def spread(work: Work, jobs: Mapping[str, Any], config: WorkerConfig, done: Done) -> None:
    """Do all jobs, and report each as it is done.

    Args:
        work: does one job; called in a worker.
        jobs: what it is given, by name; must survive pickling.
        config: over what to spread them.
        done: called in this process with the name of a job, and None or what went wrong.

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
    if count == 1:
        for name, job in jobs.items():
            done(name, _attempt(work, job))
    else:
        _over_processes(work, jobs, count, done)


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
        while True:
            own.send(_attempt(work, own.recv()))


def _over_processes(work: Work, jobs: Mapping[str, Any], count: int, done: Done) -> None:
    waiting, retried = list(jobs), set()
    free: list[_Process] = []
    busy: dict[Any, tuple[_Process, str]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < count:
                one = free.pop() if free else _Process(work)
                name = waiting.pop(0)
                busy[one.connection] = one, name
                # A process that died in between is noticed below.
                with contextlib.suppress(OSError):
                    one.connection.send(jobs[name])
            for ready in connection.wait(list(busy)):
                one, name = busy[ready]
                try:
                    error = one.connection.recv()
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
