"""Jobs in processes that fail, die and are interrupted."""

import os
import signal
import subprocess
import sys
import time

import pytest

from gla.agents.fan_out import RayConfig
from gla.benchmarks.jobs import WorkerConfig, spread
from gla.errors import GlaError

# What processes of their own must be able to import.
JOBS = """
import os, pathlib, signal, sys, time
from gla.errors import GlaError

def work(job):
    folder, what = pathlib.Path(job[0]), job[1]
    mark = folder / what
    count = int(mark.read_text()) if mark.exists() else 0
    mark.write_text(str(count + 1))
    if what == "wrong":
        raise GlaError("the job is wrong")
    if what == "broken":
        raise ValueError("of this project's own making")
    if what == "fatal" or (what == "frail" and count == 0):
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / f"{what}.done").write_text(os.environ.get("PJRT_NPROC", "none"))

def wait(job):
    mark = pathlib.Path(job)
    mark.write_text(str(os.getpid()))
    try:
        time.sleep(120)
    except KeyboardInterrupt:
        mark.with_suffix(".saved").touch()
        raise

if __name__ == "__main__":
    # A shell that starts this in the background makes it deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from gla.benchmarks.jobs import WorkerConfig, spread
    jobs = {name: os.path.join(sys.argv[1], name) for name in ("a", "b")}
    import jobs_of_a_test
    spread(jobs_of_a_test.wait, jobs, WorkerConfig(processes=2), print)
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path / "jobs_of_a_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    import jobs_of_a_test

    yield jobs_of_a_test
    del sys.modules["jobs_of_a_test"]


def outcomes(jobs, folder, names, config):
    found = {}
    work = {name: (str(folder), name) for name in names}
    spread(jobs.work, work, config, lambda name, error: found.update({name: error}))
    return {name: error and str(error) for name, error in found.items()}


def test_what_happens_to_jobs_in_processes(jobs, tmp_path, capfd):
    names = ("wrong", "fatal", "good", "frail", "broken", "fine")
    found = outcomes(jobs, tmp_path, names, WorkerConfig(processes=2))
    assert found["good"] is found["fine"] is found["frail"] is None
    assert found["wrong"] == "the job is wrong."
    assert found["broken"] == "unexpected ValueError: of this project's own making."
    assert "in work" in capfd.readouterr().err  # the traceback is there to be read
    assert found["fatal"].startswith("its process died twice (signal 9); if memory ran out")
    # Those that died were done once more and not again.
    assert (tmp_path / "frail").read_text() == (tmp_path / "fatal").read_text() == "2"
    assert (tmp_path / "good.done").read_text() == "1"  # with one thread
    assert "PJRT_NPROC" not in os.environ


def test_one_process_is_this_one(jobs, tmp_path):
    found = outcomes(jobs, tmp_path, ("wrong", "good"), WorkerConfig(processes=1))
    assert found == {"wrong": "the job is wrong.", "good": None}
    assert (tmp_path / "good.done").read_text() == "none"


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_its_parent(jobs, tmp_path, number):
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "jobs_of_a_test.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    marks = [tmp_path / name for name in ("a", "b")]
    until = time.monotonic() + 120
    while not all(mark.exists() and mark.read_text() for mark in marks):
        assert parent.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    children = [int(mark.read_text()) for mark in marks]
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        parent.kill()
    _, errors = parent.communicate(timeout=60)
    while any(running(pid) for pid in children):
        assert time.monotonic() < until
        time.sleep(0.05)
    saved = [mark.with_suffix(".saved").exists() for mark in marks]
    assert saved == [number == signal.SIGINT] * 2
    if number == signal.SIGINT:
        # The parent says that it was interrupted, its processes say nothing.
        assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.long
def test_jobs_over_ray(jobs, tmp_path):
    pytest.importorskip("ray", reason="needs the extra gla[ray]")
    config = WorkerConfig(ray=RayConfig(workers=2))
    found = outcomes(jobs, tmp_path, ("wrong", "fatal", "good", "frail"), config)
    assert found["good"] is found["frail"] is None
    assert found["wrong"] == "the job is wrong."
    assert found["fatal"].startswith("its worker was lost twice")
    assert (tmp_path / "good.done").read_text() == "1"


def test_nothing_to_do_starts_nothing(jobs, tmp_path):
    assert outcomes(jobs, tmp_path, (), WorkerConfig(ray=RayConfig(workers=2))) == {}
    with pytest.raises(GlaError, match="processes is -1"):
        WorkerConfig(processes=-1)
