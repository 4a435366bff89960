"""Programs that train in processes of their own, so that each may have its own Python packages.

The worker's side, and the protocol, are in `gla.benchmarks.peer_worker`. A worker is started once
and waits between requests, so that programs of several interpreters can be measured in turns. It is
killed when it is closed, and ends by itself as soon as this process is gone, whatever the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from gla.benchmarks.timing import Measured
from gla.errors import GlaError

PATIENCE = 1800.0
"""Seconds that an answer may take, compilation included."""


class NotInstalled(GlaError):
    """A worker's interpreter cannot be started or lacks a package."""


def conditions(threads: int = 1) -> dict[str, str]:
    """Return the environment variables of every worker of a comparison, the same for all.

    They compute on the CPU unless `JAX_PLATFORMS` says otherwise, and compile for themselves: JAX's
    compilation cache on disk is off.

    Args:
        threads: that each may use, unless the variables say otherwise already. One costs small
            programs the least CPU time.
    """
    variables = {"JAX_PLATFORMS": "cpu", **os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    for name in ("PJRT_NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        variables.setdefault(name, str(threads))
    return variables


class Worker:
    """One worker process; a context manager that kills it.

    Args:
        name: of its program, for messages.
        command: starts it.
        settings: its first line.
        patience: seconds to wait for each answer.
        threads: that it may use.
        unit: of its work, for messages.

    Raises:
        NotInstalled: if the command cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        settings: Mapping[str, Any],
        patience: float = PATIENCE,
        threads: int = 1,
        unit: str = "environment steps",
    ):
        self.name, self.patience, self._python, self._unit = name, patience, command[0], unit
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=conditions(threads),
                text=True,
            )
        except OSError as error:
            self._errors.close()
            raise NotInstalled(f"{command[0]} cannot be started ({error.strerror})") from None
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._lines = self.process.stdin, self.process.stdout
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._send(settings)

    def __enter__(self) -> Worker:
        """Return itself."""
        return self

    def __exit__(self, *_: object):
        """Kill the process."""
        self.close()

    def packages(self) -> dict[str, str]:
        """Wait until it is ready and return {name: version} of what it uses.

        Raises:
            NotInstalled: if it lacks a package.
            GlaError: if it dies, does not answer in time, or answers something else.
        """
        answer = self._receive()
        if isinstance(answer.get("missing"), str):
            raise NotInstalled(f"{self._python} lacks it ({answer['missing']})")
        if answer.get("ready") is not True:
            raise self._rubbish(json.dumps(answer))
        return dict(answer.get("packages", {}))

    def train(self, seed: int, steps: int) -> Measured:
        """Let it train once, or do whatever else is its work.

        Args:
            seed: of the training.
            steps: units of work, such as environment steps, that it has to make.

        Raises:
            GlaError: if it dies, does not answer in time, answers something else, or made another
                number of steps.
        """
        self._send({"seed": seed})
        answer = self._receive()
        numbers = [answer.get(name) for name in ("wall", "cpu", "steps")]
        if not all(isinstance(n, (int, float)) and n >= 0 for n in numbers):
            raise self._rubbish(json.dumps(answer))
        if answer["steps"] != steps:
            raise GlaError(f"{self.name} made {answer['steps']} {self._unit}", f"{steps}")
        return Measured(float(answer["wall"]), float(answer["cpu"]))

    def close(self):
        """Kill the process and wait for its end."""
        self.process.kill()
        self.process.wait()
        self._listener.join()
        for stream in (self._requests, self._lines):
            with contextlib.suppress(OSError):
                stream.close()
        self._errors.close()

    def _listen(self):
        for line in self._lines:
            self._answers.put(line)
        self._answers.put("")

    def _send(self, message: Mapping[str, Any]):
        # A worker that died is noticed when its answer is missed.
        with contextlib.suppress(OSError):
            self._requests.write(json.dumps(message) + "\n")
            self._requests.flush()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self.patience)
        except queue.Empty:
            raise GlaError(
                f"{self.name} has not answered for {self.patience:g} seconds{self._last_words()}"
            ) from None
        if not line:
            status = self.process.wait()
            raise GlaError(f"{self.name} died with exit status {status}{self._last_words()}")
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._rubbish(line) from None
        if not isinstance(answer, dict):
            raise self._rubbish(line)
        return answer

    def _rubbish(self, line: str) -> GlaError:
        said = line.strip()
        said = said if len(said) <= 80 else said[:77] + "..."
        return GlaError(f"{self.name} answered {said!r}{self._last_words()}", "an answer in JSON")

    def _last_words(self) -> str:
        """Return the last line on its standard error, in brackets, if there is one."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        # JAX ends its tracebacks with a rule and a remark on filtering.
        words = [s for line in lines if (s := line.strip()) and not s.startswith(_REMARKS)]
        return f" ({words[-1]})" if words else ""


_REMARKS = ("For simplicity, JAX has removed", "-----")
