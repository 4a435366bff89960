"""What a board takes, what it leaves out, and what it says of that."""

import importlib.util
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gla.benchmarks import board_input, results, submissions, suites
from gla.benchmarks.board_input import check, disagreements, find, gather, own_agent
from gla.errors import GlaError

_spec = importlib.util.spec_from_file_location(
    "board_samples", Path(__file__).with_name("board_samples.py")
)
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

GRID = "Gridworld-v0.json"


def grid(folder, agent="learner", **settings):
    return samples.write(folder, agent, "gridworld-v1", **settings)


def edit(folder, **changes):
    """Change what a manifest says."""
    path = folder / submissions.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, old, **changes):
    """Change what a results file says, with a digest that fits, also in the manifest."""
    changed = replace(old, **changes)
    results.write(folder / GRID, changed)
    edit(folder, digests={old.environment: results.digest(changed)})


def test_submissions_are_found_at_any_depth(tmp_path):
    for name in ("b", "deep/er/a", ".hidden/c"):
        grid(tmp_path / name)
    grid(tmp_path / "b" / "within")  # part of b
    (tmp_path / "empty").mkdir()
    found, empty = find(
        [tmp_path, tmp_path / "b" / "submission.json", tmp_path / "no.json", tmp_path / "empty"]
    )
    assert found == [
        tmp_path / "b",
        tmp_path / "deep/er/a",
        tmp_path / "b",
        tmp_path / "no.json",
    ]
    assert empty == [tmp_path / "empty"]


def test_what_is_sound_is_taken_once_in_an_order_of_its_own(tmp_path):
    first, second = grid(tmp_path / "z", "a"), grid(tmp_path / "a", "b", seed=3)
    copy = shutil.copytree(first, tmp_path / "copy")
    given = gather([second, copy, first, first / GRID])
    assert [one.submission.agent for one in given.submissions] == ["a", "b"]
    assert given.problems == ()
    assert len(given.repeated) == 1 and str(first) in given.repeated[0]
    assert [path for path, _ in given.files] == [first / GRID]
    again = gather([first, copy, second])
    assert [one.folder for one in again.submissions] == [one.folder for one in given.submissions]


def spoiled(tmp_path):
    """Return one folder for every way in which a submission is not sound, and what is said."""
    ways = {}

    def make(name, said, **settings):
        ways[name] = said
        return grid(tmp_path / name, **settings)

    text = (make("cut", "not whole JSON") / GRID).read_text()
    (tmp_path / "cut" / GRID).write_text(text[: len(text) // 2])
    text = (make("edited", "do not match its digest") / GRID).read_text()
    (tmp_path / "edited" / GRID).write_text(text.replace('"seconds": 12.5', '"seconds": 0.5'))
    (make("gone", "no results file") / GRID).unlink()
    (make("unreadable", "not whole JSON") / submissions.MANIFEST).write_text("{")
    edit(make("stranger", "not known here"), suite="other-v7")
    edit(make("outdated", "another gridworld-v1"), suite_digest="0" * 16)
    suite = suites.find("gridworld-v1")
    old = samples.results_of(suite, suite.tasks[0])
    folder = make("seed", "seed is 7 instead of 0")
    rewrite(folder, replace(old, seed=7))
    folder = make("few", "lifetimes is 8 instead of 32")
    rewrite(folder, replace(old, lifetimes=8))
    make("twinless", "lacks the reward-masked twin", twin=None)
    rewrite(make("odd", ""), replace(old, config={"meta_test": "all of it", "view": [1]}))
    huge = replace(old.agents[0], lifetimes=tuple(
        replace(life, episode_returns=[1e308] * len(life.episode_returns))
        for life in old.agents[0].lifetimes
    ))  # fmt: skip
    rewrite(make("huge", "beyond 1e+30"), replace(old, agents=(huge, *old.agents[1:])))
    # What a digest does not show, because it does not cover the manifest.
    edit(make("whitewashed", "other training sources", sources=("x/Y-v0",)), training_sources=[])
    edit(make("renamed", "instead of 'better'"), agent="better")
    edit(make("borrowed", "another agent or configuration"), details={"agent": "mine:agent"})
    edit(make("shapeless", "no meta-training does"), details={"training": "much"})
    return ways


def test_whatever_is_not_sound_is_named_and_left_out(tmp_path):
    ways = spoiled(tmp_path)
    grid(tmp_path / "sound")
    given = gather([tmp_path])
    assert [one.folder.name for one in given.submissions] == ["sound"]
    for name, said in ways.items():
        assert any(said in line and str(tmp_path / name) in line for line in given.problems), name
    assert all("\n" not in line for line in given.problems)


def test_nothing_in_a_folder_costs_the_whole_board(tmp_path, monkeypatch):
    grid(tmp_path / "a")

    def read(folder):
        raise AttributeError("'str' object has no attribute 'get'")

    monkeypatch.setattr(submissions, "read", read)
    assert "no meta-test writes" in gather([tmp_path]).problems[0]
    assert "no meta-test writes" in check([tmp_path])[0].text


def test_check_says_it_one_by_one(tmp_path):
    ways = spoiled(tmp_path)
    for name, said in ways.items():
        (found,) = check([tmp_path / name])
        assert not found.accepted and said in found.text, name
        assert str(tmp_path / name) in found.text.splitlines()[0]
        assert "problem" in found.text.splitlines()[0]
    sources = ("gla/RandomLinear-v0", "else/Where-v0")
    samples.write(tmp_path / "sound", "learner", sources=sources[:1])
    samples.write(tmp_path / "foreign", "learner", sources=sources)
    samples.write(tmp_path / "failed", "learner", failures=("gla/LinearBandit-v0",))
    (tmp_path / "empty").mkdir()
    sound, foreign, failed, empty, missing = check(
        [tmp_path / name for name in ("sound", "foreign", "failed", "empty", "none.json")]
    )
    assert sorted(one.path.name for one in (sound, foreign, failed)) == [
        "failed", "foreign", "sound",
    ]  # fmt: skip
    assert sound.accepted and not sound.remarks
    assert "sound and complete: learner on bandits-v1, 3 of 3 environments" in sound.text
    assert foreign.accepted and "meta-trained on else/Where-v0, which" in foreign.text
    assert not failed.accepted and not failed.problems
    assert "failed on gla/LinearBandit-v0" in failed.text and "ValueError" in failed.text
    assert {str(empty.path), str(missing.path)} == {
        str(tmp_path / "empty"), str(tmp_path / "none.json"),
    }  # fmt: skip
    assert not empty.accepted and not missing.accepted


def test_check_of_a_results_file(tmp_path):
    (found,) = check([grid(tmp_path, twin=None) / GRID])
    assert found.accepted and len(found.remarks) == 2
    assert "learner on gla/Gridworld-v0" in found.summary
    with pytest.raises(GlaError, match="nothing to check"):
        check([])


def test_baselines_join_the_suites_that_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(board_input, "BASELINES", tmp_path / "baselines")
    grid(tmp_path / "baselines/gridworld-v1/ppo", "PPO, online", seed=4)
    samples.write(tmp_path / "baselines/bandits-v1/ppo", "PPO, online")
    grid(tmp_path / "own")
    given = gather([tmp_path / "own"])
    assert [one.submission.agent for one in given.submissions] == ["PPO, online", "learner"]
    assert len(gather([tmp_path / "own"], baselines=False).submissions) == 1
    assert gather([tmp_path / "own" / GRID]).submissions == ()
    # The same submission may also be given by hand.
    again = gather([tmp_path / "own", tmp_path / "baselines/gridworld-v1"])
    assert len(again.submissions) == 2 and len(again.repeated) == 1


def test_the_agent_of_a_submission_among_others(tmp_path):
    read = submissions.read(grid(tmp_path))
    (one,) = read.results.values()
    assert own_agent(read, one).name == "learner"
    agent, twin = one.agents
    other = replace(agent, name="other")
    assert own_agent(read, replace(one, agents=(other, agent, twin))).name == "learner"
    assert own_agent(read, replace(one, agents=(replace(agent, kind="null"),))) is None
    several = replace(one, agents=(other, replace(agent, name="third"), twin))
    with pytest.raises(GlaError, match="hold 2 agents"):
        own_agent(read, several)
    assert len(disagreements(replace(read, results={one.environment: several}))) == 1
    assert asdict(read.submission)["agent"] == "learner"
