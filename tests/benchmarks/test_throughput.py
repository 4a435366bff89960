"""The throughput benchmark: structure, medians, interleaving and tables, with clocks of our own."""

import json

import jax
import pytest

from gla.benchmarks import throughput
from gla.benchmarks.throughput import find
from gla.benchmarks.throughput_envs import scan_program
from gla.benchmarks.timing import (
    Comparison,
    Goal,
    Measured,
    Outcome,
    Program,
    ThroughputConfig,
    measure,
)
from gla.envs import registry
from gla.envs.wrappers import random_action
from gla.errors import GlaError


class Machine:
    """Two clocks that programs move on, and a diary of who ran."""

    def __init__(self):
        self.now = self.used = 0.0
        self.diary = []

    def program(self, name, seconds, work=10, threads=1.0):
        """Make a program that takes `seconds[i]` at its i-th call, the last for ever after."""
        left = list(seconds)

        def call():
            taken = left.pop(0) if len(left) > 1 else left[0]
            self.diary.append(name)
            self.now += taken
            self.used += threads * taken

        return Program(name, call, work)

    def measure(self, programs, rounds=5, seconds=1.0):
        return measure(programs, rounds, seconds, lambda: self.now, lambda: self.used)


@pytest.fixture
def machine():
    return Machine()


def test_rounds_are_interleaved_and_turn_around(machine):
    machine.measure([machine.program("a", [1.0]), machine.program("b", [1.0])], rounds=5)
    warm, rounds = machine.diary[:4], machine.diary[4:]
    assert warm == ["a", "b", "a", "b"]  # compiling, then how long a call takes
    assert rounds == ["a", "b", "b", "a", "a", "b", "b", "a", "a", "b"]


def test_calls_fill_the_time_of_a_round_and_count_their_work(machine):
    quick, slow = machine.program("quick", [0.25], work=3), machine.program("slow", [4.0], work=2)
    timings = machine.measure([quick, slow])
    assert machine.diary.count("quick") == 2 + 5 * 4 and machine.diary.count("slow") == 2 + 5
    assert timings[0].rate == pytest.approx(12.0) and timings[1].rate == pytest.approx(0.5)


def test_figures_are_medians_of_ratios_within_a_round(machine):
    # Compiling takes 9 s and is told apart; in round 3 both programs are ten times slower.
    slow_round = [1.0, 1.0, 10.0, 1.0, 1.0]
    peer = machine.program("peer", [9.0, 1.0, *slow_round])
    ours = machine.program("ours", [9.0, 1.0, *(seconds / 2 for seconds in slow_round)])
    first, second = machine.measure([peer, ours])
    assert first.first_call == second.first_call == 9.0
    assert second.speed.median == second.speed.low == second.speed.high == pytest.approx(2.0)
    assert first.speed.median == 1.0
    assert first.rate == pytest.approx(10.0) and second.rate == pytest.approx(20.0)


def test_an_odd_round_moves_the_range_but_not_the_median(machine):
    peer = machine.program("peer", [1.0])
    ours = machine.program("ours", [1.0, 1.0, 1.0, 0.5, 1.0, 4.0, 1.0])
    _, timing = machine.measure([peer, ours])
    assert (timing.speed.low, timing.speed.median, timing.speed.high) == (0.25, 1.0, 2.0)


def test_cpu_time_is_counted_as_well(machine):
    peer, threaded = machine.program("peer", [1.0]), machine.program("two", [0.5], threads=2.0)
    _, timing = machine.measure([peer, threaded])
    assert timing.speed.median == pytest.approx(2.0)
    assert timing.cpu_speed.median == pytest.approx(1.0)
    assert timing.rate == pytest.approx(20.0) and timing.cpu_rate == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("goal", "seconds", "met", "text"),
    [
        (Goal("ours", "speed", 2.0), 0.5, True, "ours: 2 times as fast (goal: at least 2, met)"),
        (Goal("ours", "speed", 2.5), 0.5, False, "2 times as fast (goal: at least 2.5, missed)"),
        (
            Goal("ours", "overhead", 0.15),
            1.125,
            True,
            "12.5% more time (goal: at most 15% more, met)",
        ),
        (Goal("ours", "overhead", 0.05), 1.125, False, "(goal: at most 5% more, missed)"),
        (Goal("ours", "overhead", 0.05), 0.9375, True, "6.2% less time (goal: at most 5% more"),
        (Goal("ours", "rate", 5e6), 2.0, True, "5M steps per second (goal: at least 5M, met)"),
        (Goal("ours", "rate", 6e6), 2.0, False, "5M steps per second (goal: at least 6M, missed)"),
    ],
)
def test_goals_are_judged(machine, goal, seconds, met, text):
    work = int(5e6 * seconds) if goal.kind == "rate" else 10
    peer, ours = machine.program("peer", [1.0]), machine.program("ours", [seconds], work=work)
    if goal.kind != "rate":
        peer = peer._replace(work=10)
    other, timing = machine.measure([peer, ours])
    assert goal.met(timing, other) is met
    assert text in goal.text(timing, other, "steps")


def test_goals_may_name_another_program_and_count_cpu_time(machine):
    # By wall clock ours takes half as long as b, on four threads; a is the peer.
    a, b = machine.program("a", [3.0, 8.0]), machine.program("b", [6.0, 2.0])
    ours = machine.program("ours", [9.0, 1.0], threads=4.0)
    goals = (
        Goal("ours", "speed", 1.2, "b"),
        Goal("ours", "speed", 1.2, "b", "cpu"),
        Goal("ours", "speed", 1.2, clock="cpu"),
        Goal("ours", "overhead", 0.5, "b", "cpu"),
        Goal("ours", "rate", 2.5, clock="cpu"),
        Goal("ours", "first call", 1.0, "b"),
        Goal("ours", "speed", 1.0, "not there"),
        Goal("not there", "speed", 1.0),
    )
    timings = machine.measure([a, b, ours])
    outcome = Outcome(Comparison("c", "?", lambda _: [], goals=goals), timings)
    assert [goal.text(timing, other, "steps") for goal, timing, other in outcome.goals()] == [
        "ours: 2 times as fast as b (goal: at least 1.2, met)",
        "ours: 0.5 times as fast as b by CPU time (goal: at least 1.2, missed)",
        "ours: 2 times as fast by CPU time (goal: at least 1.2, met)",
        "ours: 100.0% more time than b by CPU time (goal: at most 50% more, missed)",
        "ours: 2.5 steps per CPU-second (goal: at least 2.5, met)",
        "ours: the first call takes 1.5 times as long as b's (goal: at most 1, missed)",
    ]


def test_a_program_with_clocks_of_its_own_is_believed(machine):
    def call():
        machine.now += 100.0  # on our clock
        return Measured(0.5, 1.5)

    peer, timing = machine.measure([machine.program("peer", [1.0]), Program("far", call, 10)])
    assert timing.first_call == 0.5
    assert timing.wall == pytest.approx([0.05] * 5) and timing.cpu == pytest.approx([0.15] * 5)
    assert timing.speed.median == pytest.approx(2.0)
    assert timing.cpu_speed.median == pytest.approx(2 / 3) and peer.rate == pytest.approx(10.0)


def test_bad_programs_and_settings_are_refused(machine):
    same = machine.program("a", [1.0])
    with pytest.raises(GlaError, match="different names"):
        machine.measure([same, same])
    with pytest.raises(GlaError, match="work of at least 1"):
        machine.measure([same._replace(work=0)])
    with pytest.raises(GlaError, match="rounds is 4"):
        ThroughputConfig(rounds=4)
    with pytest.raises(GlaError, match="seconds is 0"):
        ThroughputConfig(seconds=0.0)
    with pytest.raises(GlaError, match="updates is 0"):
        ThroughputConfig(updates=0)


def test_unknown_comparisons_suggest_near_ones():
    with pytest.raises(GlaError, match="did you mean vector-pendulum"):
        find(["vector-pendulm"])
    assert [c.name for c in find(["family-linear"])] == ["family-linear"]
    assert [c.name for c in find([])] == list(throughput.COMPARISONS)


def test_every_goal_speaks_of_a_known_environment_and_every_comparison_asks_something():
    for name, comparison in throughput.COMPARISONS.items():
        assert comparison.name == name and comparison.goals
        assert comparison.question.endswith("?")


@pytest.fixture
def two(monkeypatch, machine):
    """A table of two comparisons: one of made-up programs, one that cannot be built."""

    def broken(bench):
        bench.notes.append("it has been tried")
        raise GlaError("brax is not installed", mend="pip install brax")

    def programs(bench):
        bench.stack.callback(machine.diary.append, "closed")
        bench.notes.append("made up")
        return [machine.program("peer", [0.5]), machine.program("ours", [0.25])]

    goals = (Goal("ours", "speed", 1.5),)
    table = {
        "made-up": Comparison("made-up", "How fast is ours?", programs, "updates", goals),
        "broken": Comparison("broken", "And this?", broken, goals=goals),
    }
    monkeypatch.setattr(throughput, "COMPARISONS", table)
    monkeypatch.setattr(
        throughput,
        "measure",
        lambda programs, rounds, seconds: machine.measure(programs, rounds, seconds),
    )


def test_tables_and_json_say_what_was_measured(two, machine, tmp_path, capsys):
    report = throughput.main((), ThroughputConfig(rounds=5, seconds=1.0, out=tmp_path / "new"))
    printed = capsys.readouterr()
    text = (tmp_path / "new" / "throughput.md").read_text()
    assert printed.out.rstrip("\n") == text.rstrip("\n")
    assert "made-up: How fast is ours?" in printed.err
    assert "| program | updates / s | / CPU-s | speed / peer | by CPU time | first call |" in text
    assert "| peer | 20 | 20 | 1 [1, 1] | 1 [1, 1] | 0.5 s |" in text
    assert "| ours | 40 | 40 | 2 [2, 2] | 2 [2, 2] | 0.2 s |" in text
    assert "- ours: 2 times as fast (goal: at least 1.5, met)" in text
    assert "\n- made up\n\n| program" in text and machine.diary[-1] == "closed"
    assert "Skipped: brax is not installed; pip install brax." in text
    saved = json.loads((tmp_path / "new" / "throughput.json").read_text())
    assert saved["schema"] == "gla-throughput" and saved["rounds"] == 5
    assert saved["machine"]["cores"] >= 1 and saved["machine"]["packages"]["jax"] == jax.__version__
    made_up, broken = saved["comparisons"]
    assert [p["name"] for p in made_up["programs"]] == ["peer", "ours"]
    assert len(made_up["programs"][1]["wall"]) == 5
    assert made_up["goals"] == [
        {
            **{"program": "ours", "kind": "speed", "bound": 1.5, "than": "", "clock": "wall"},
            **{"value": 2.0, "met": True},
        }
    ]
    assert made_up["notes"] == ["made up"] and broken["notes"] == ["it has been tried"]
    assert broken["skipped"].startswith("brax") and broken["programs"] == broken["goals"] == []
    assert json.loads(json.dumps(throughput.to_json(report))) == saved


def test_a_busy_machine_is_told(two, monkeypatch):
    monkeypatch.setattr(throughput, "_load", lambda: 1000.0)
    report = throughput.run(["made-up"])
    assert "Other work kept this machine busy" in throughput.to_markdown(report)
    monkeypatch.setattr(throughput, "_load", lambda: 0.0)
    assert "busy" not in throughput.to_markdown(throughput.run(["made-up"]))


def test_a_scan_plays_every_action_and_does_the_same_work_each_time():
    env = registry.make_functional("gla/RandomLinear-v0")
    tasks = jax.vmap(env.sample_params)(jax.random.split(jax.random.key(0), 2))
    actions = random_action(jax.random.key(1), env.action_space, (3, 2))
    program = scan_program("linear", env, tasks, actions, 0)
    states, observation, total = program.call()
    assert program.work == 6 and observation.shape == (2, 4) and total.shape == (2,)
    assert states.steps.tolist() == [3, 3]
    other = scan_program("linear", env, tasks, -actions, 0)
    assert (program.call()[2] == total).all() and (other.call()[2] != total).all()
