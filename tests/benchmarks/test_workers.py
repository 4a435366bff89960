"""The worker protocol, with small scripts in place of peers: fine, dying, garbage, slow."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gla.benchmarks import peer_worker, throughput, throughput_ppo, workers
from gla.benchmarks.throughput_ppo import OURS, PHYSICS, PUREJAXRL, REJAX, SB3, Task
from gla.benchmarks.timing import Measured, ThroughputConfig
from gla.benchmarks.workers import NotInstalled, Worker
from gla.errors import GlaError

PEER_WORKER = Path(peer_worker.__file__)

# Serves with the real worker's side of the protocol; `train` and `build` are the test's.
FINE = f"""
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("peer_worker", {str(PEER_WORKER)!r})
    worker = importlib.util.module_from_spec(spec)
    sys.modules["peer_worker"] = worker
    spec.loader.exec_module(worker)

    def build(settings):
        print("libraries talk")
        calls = []
        def train(seed):
            print("and talk")
            calls.append(seed)
            return settings["steps"] * len(calls)
        return worker.Training(train)

    worker.serve({{"fake": build}}, {{"fake": ("pip", "no-such-package")}})
"""


def fake(text, patience=60.0, **settings):
    """Start a worker that runs some Python."""
    command = [sys.executable, "-I", "-c", textwrap.dedent(text)]
    return Worker("fake", command, {"program": "fake", **settings}, patience)


def gone(process):
    """Return whether a process has ended, having waited a little for it."""
    for _ in range(500):
        if process.poll() is not None:
            return True
        time.sleep(0.02)
    return False


def test_a_worker_trains_when_asked_and_its_chatter_does_not_disturb():
    with fake(FINE, steps=10) as worker:
        packages = worker.packages()
        assert set(packages) <= {"pip"}
        first, second = worker.train(3, 10), worker.train(4, 20)
        assert isinstance(first, Measured) and 0 <= first.wall < 60 and 0 <= second.cpu < 60
        with pytest.raises(GlaError, match="fake made 30 environment steps; expected 40"):
            worker.train(5, 40)
        process = worker.process
        assert process.poll() is None
    assert process.poll() is not None


def test_a_worker_that_dies_is_told_with_its_last_line():
    dies = """
        import sys
        print('{"ready": true, "packages": {}}', flush=True)
        sys.stdin.readline(), sys.stdin.readline()
        raise RuntimeError("no more memory")
    """
    with fake(dies) as worker:
        assert worker.packages() == {}
        expected = r"^fake died with exit status 1 \(RuntimeError: no more memory\)\.$"
        with pytest.raises(GlaError, match=expected):
            worker.train(0, 10)
        with pytest.raises(GlaError, match="has not answered|died"):
            worker.patience = 0.1
            worker.train(1, 10)


def test_the_remark_of_jax_is_not_taken_for_the_last_line():
    text = "ValueError: bad\n--------------------\nFor simplicity, JAX has removed its internal\n"
    with (
        fake(f"import sys; sys.stderr.write({text!r}); sys.exit(3)") as worker,
        pytest.raises(GlaError, match=r"status 3 \(ValueError: bad\)"),
    ):
        worker.packages()


@pytest.mark.parametrize(
    "line", ["Loading weights...", "[1, 2]", '{"wall": 1}', '{"ready": "yes"}', "nan", "x" * 500]
)
def test_rubbish_is_shown_in_one_short_line(line):
    rubbish = f"""
        import sys, time
        sys.stderr.write("first\\nlast words\\n"); sys.stderr.flush()
        print({line!r}, flush=True)
        time.sleep(60)
    """
    with fake(rubbish) as worker:
        with pytest.raises(GlaError, match=r"fake answered .* \(last words\)") as caught:
            worker.packages()
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)
        process = worker.process
    assert process.poll() is not None


@pytest.mark.parametrize(
    "answer", ['{"wall": 1, "cpu": "much", "steps": 10}', '{"wall": -1, "cpu": 1, "steps": 10}']
)
def test_times_must_be_numbers(answer):
    text = f"""
        print('{{"ready": true}}', flush=True)
        input(), input()
        print({answer!r}, flush=True)
        input()
    """
    with fake(text) as worker:
        worker.packages()
        with pytest.raises(GlaError, match="an answer in JSON"):
            worker.train(0, 10)


def test_a_slow_worker_is_not_waited_for_for_ever():
    with fake("import time; time.sleep(600)", patience=0.2) as worker:
        with pytest.raises(GlaError, match=r"fake has not answered for 0\.2 seconds"):
            worker.packages()
        process = worker.process
    assert process.poll() is not None


def test_what_is_missing_is_told_apart_from_what_fails(tmp_path):
    lacks = FINE.replace('print("libraries talk")', "import no_such_package")
    with (
        fake(lacks) as worker,
        pytest.raises(NotInstalled, match=r"lacks it \(No module named 'no_such_package'\)"),
    ):
        worker.packages()
    with pytest.raises(NotInstalled, match="python cannot be started"):
        Worker("fake", [str(tmp_path / "python")], {})


def test_a_worker_ends_with_its_parent_even_in_the_middle_of_its_work():
    busy = FINE.replace('print("libraries talk")', "while True: pass")
    with fake(busy) as worker:
        worker._requests.close()  # what a killed parent leaves behind
        assert gone(worker.process)


def test_workers_share_their_conditions(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    variables = workers.conditions()
    assert variables["JAX_PLATFORMS"] == "tpu" and int(variables["OMP_NUM_THREADS"]) >= 1
    assert variables["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert variables["PATH"] == os.environ["PATH"]
    monkeypatch.delenv("JAX_PLATFORMS")
    assert workers.conditions()["JAX_PLATFORMS"] == "cpu"


def test_the_peers_script_needs_neither_gla_nor_what_lies_beside_it():
    # Modules beside it are called `statistics` and `report`; they must not hide others.
    settings = {"program": "purejaxrl", "task": "ant", "checkout": "/not/there"}
    code = "import sys; sys.modules['gla'] = None; import runpy; "
    code += f"runpy.run_path({str(PEER_WORKER)!r}, run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-I", "-c", code],
        input=json.dumps(settings) + "\n",
        capture_output=True,
        text=True,
    )
    # Its input has ended, so it may end before it answers.
    assert result.returncode == 0, result.stderr
    with (
        Worker("p", [sys.executable, "-I", str(PEER_WORKER)], settings) as worker,
        pytest.raises(NotInstalled, match=r"no purejaxrl/ppo\.py in /not/there"),
    ):
        worker.packages()


TASK = Task("ant", "an ant", 2, (REJAX, PUREJAXRL, SB3, PHYSICS))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, {REJAX, PUREJAXRL, SB3}),
        ({"peers": "p"}, {PUREJAXRL, SB3}),
        ({"purejaxrl": "f"}, {REJAX, PUREJAXRL, SB3}),
        ({"peers": "p", "purejaxrl": "f", "sb3": "s"}, set()),
    ],
)
def test_programs_take_part_where_their_interpreter_was_given(given, missing):
    config = ThroughputConfig(**{name: Path(value) for name, value in given.items()})
    reasons = {name: throughput_ppo.left_out(name, config) for name in TASK.peers}
    assert {name for name, reason in reasons.items() if reason} == missing
    assert all("give --" in reasons[name] for name in missing)


def test_every_program_is_started_by_its_own_interpreter():
    config = ThroughputConfig(peers=Path("p/python"), sb3=Path("s/python"))
    commands = {name: throughput_ppo.command(name, config) for name in (*TASK.peers, OURS)}
    assert {name: words[0] for name, words in commands.items()} == {
        **{REJAX: "p/python", PUREJAXRL: "p/python", SB3: "s/python"},
        **{PHYSICS: sys.executable, OURS: sys.executable},
    }
    assert Path(commands[REJAX][-1]).samefile(PEER_WORKER)
    assert commands[OURS][-2:] == ["-m", "gla.benchmarks.own_worker"]
    assert {*TASK.peers, "pytorch"} == set(peer_worker.PROGRAMS) == set(peer_worker.PACKAGES)


@pytest.fixture
def fakes(monkeypatch):
    """PPO's comparisons with small scripts as programs, `scripts[name]` or `FINE`."""
    scripts, started = {}, []

    def start(name, words, settings):
        text = scripts.get(name, FINE.replace(" * len(calls)", "").replace("fake", name))
        steps = settings["updates"] * settings["num_envs"] * settings["num_steps"]
        command = [sys.executable, "-I", "-c", textwrap.dedent(text)]
        started.append(Worker(name, command, {**settings, "steps": steps}, 60.0))
        return started[-1]

    monkeypatch.setattr(throughput_ppo, "Worker", start)
    return scripts, started


def everything(**others):
    return ThroughputConfig(
        **{"rounds": 5, "seconds": 1e-9, "updates": 3, "peers": Path("p"), **others}
    )


def test_a_comparison_measures_who_is_there_and_says_who_is_not(fakes):
    scripts, started = fakes
    scripts[PHYSICS] = """
        print('{"missing": "No module named brax"}', flush=True)
    """
    config = everything(purejaxrl=Path("f"))
    report = throughput.run(["ppo-ant"], config)
    (outcome,) = report.outcomes
    assert [timing.name for timing in outcome.timings] == [REJAX, PUREJAXRL, OURS]
    assert [(goal.program, goal.than, goal.kind) for goal, *_ in outcome.goals()] == [
        (OURS, REJAX, "speed"),
        (OURS, PUREJAXRL, "speed"),
        (OURS, REJAX, "first call"),
    ]
    text = throughput.to_markdown(report)
    assert "- 3 updates of 64 environments x 64 steps, 4 epochs of 8 minibatches" in text
    assert "- bare physics is left out:" in text and "No module named brax" in text
    assert "every step of every environment and every policy is written to disk" in text
    assert "times as fast as rejax by CPU time (goal: at least 1.2" in text
    assert len(started) == 4 and all(w.process.poll() is not None for w in started)


def test_without_another_ppo_the_comparison_is_skipped_before_anything_starts(fakes):
    _, started = fakes
    (outcome,) = throughput.run(["ppo-ant"], everything(peers=None)).outcomes
    assert outcome.skipped.startswith("there is no other PPO to compare with; rejax: give --peers")
    assert "docs/throughput.md" in outcome.skipped and not started
    scripts = fakes[0]
    scripts[REJAX] = """
        print('{"missing": "No module named rejax"}', flush=True)
    """
    (outcome,) = throughput.run(["ppo-pendulum"], everything()).outcomes
    assert "rejax: " in outcome.skipped and "No module named rejax" in outcome.skipped
    assert all(worker.process.poll() is not None for worker in started)


def test_a_peer_that_dies_is_reported_and_nobody_survives(fakes):
    scripts, started = fakes
    scripts[REJAX] = """
        print('{"ready": true}', flush=True)
        input(), input()
        raise MemoryError("too much")
    """
    report = throughput.run(["ppo-pendulum"], everything())
    assert "Skipped: rejax died with exit status 1 (MemoryError: too much)." in (
        throughput.to_markdown(report)
    )
    assert len(started) == 2 and all(w.process.poll() is not None for w in started)


def test_goals_of_the_four_trainings():
    found = {name: c for name, c in throughput.COMPARISONS.items() if name.startswith("ppo-")}
    assert list(found) == ["ppo-cartpole", "ppo-pendulum", "ppo-reacher", "ppo-ant"]
    for name, comparison in found.items():
        assert name.removeprefix("ppo-") in peer_worker.TASKS
        bounds = {goal.than: goal.bound for goal in comparison.goals if goal.kind == "speed"}
        assert bounds[REJAX] == bounds[PUREJAXRL] == 1.2
        assert bounds.get(SB3) == (10.0 if name == "ppo-cartpole" else None)
        assert bounds.get(PHYSICS) == (0.8 if name == "ppo-ant" else None)
        assert all(g.clock == "cpu" for g in comparison.goals if g.kind == "speed")
