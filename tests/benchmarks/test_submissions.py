"""An agent on a whole suite: what fails is contained, and what was changed is noticed."""

import dataclasses
import json
import re
import shutil

import pytest

from gla.benchmarks import results as files
from gla.benchmarks import submissions, suites
from gla.benchmarks.jobs import WorkerConfig
from gla.benchmarks.rerun import rerun
from gla.benchmarks.submissions import MANIFEST, file_name
from gla.benchmarks.suite_run import SuiteRunConfig, run_suite
from gla.benchmarks.suites import Suite, Task
from gla.errors import GlaError

AGENTS = '''
import os, signal, time
import numpy as np
from gla.agents.base import seeds_of
from gla.agents.nulls import Null

class Guesser:
    """Guesses, without JAX, from generators of its lifetimes."""
    name = "guesser"
    def init(self, keys, num_envs, observation_space, action_space):
        assert num_envs
        self.where = "bandit" if action_space.n == 10 else "grid"
        return [np.random.default_rng(seed) for seed in seeds_of(keys)]
    def act(self, state, observation, reward, terminated, truncated, keys):
        self.misbehave()
        return state, np.array([g.integers(4) for g in state])
    def misbehave(self):
        pass

class Moody(Guesser):
    name = "moody"
    def misbehave(self):
        if self.where == "bandit":
            what = os.environ["MOOD"]
            if what == "hang":
                time.sleep(600)
            if what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "raise":
                raise ValueError("not today")

def wide():
    from gla.agents.base import View
    agent = Null("wide")
    agent.view = View(window=50)
    return agent
'''

SUITE = Suite(
    "small-v1", "For tests.",
    (Task("gla/Gridworld-v0", 80), Task("gla/SupervisedBandit-v0?pool=20", 200)),
    lifetimes=3, null_steps=100,
)  # fmt: skip
ENVIRONMENTS = SUITE.environments
CONFIG = SuiteRunConfig(WorkerConfig(processes=1), patience=60.0)


@pytest.fixture(autouse=True)
def small_suite(monkeypatch):
    monkeypatch.setitem(suites.SUITES, SUITE.name, SUITE)


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    (folder / "agents_of_a_test.py").write_text(AGENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def go(spec, folder, config=CONFIG, **settings):
    return run_suite(f"agents_of_a_test:{spec}", SUITE, folder, config, progress=False, **settings)


@pytest.fixture(scope="module")
def made(agents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "guesser"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suites.SUITES, SUITE.name, SUITE)
        go("Guesser", folder)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_submission_is_whole(made):
    read = submissions.read(made)
    assert read.complete and not read.problems and list(read.results) == list(ENVIRONMENTS)
    own = read.submission
    assert (own.suite, own.suite_digest, own.agent) == ("small-v1", SUITE.digest, "guesser")
    assert own.spec == "agents_of_a_test:Guesser" and own.machine["cores"]
    for id, results in read.results.items():
        assert results.suite == "small-v1" and results.environment == id
        assert [one.kind for one in results.agents] == ["agent", "masked"]
        assert all(len(one.lifetimes) == 3 and one.step_seconds > 0 for one in results.agents)
    assert sorted(path.name for path in made.iterdir()) == [
        "Gridworld-v0.json", "SupervisedBandit-v0-pool-20.json", MANIFEST,
    ]  # fmt: skip


def test_batches_make_no_difference_to_an_agent_with_seeds(made, tmp_path):
    batched = dataclasses.replace(CONFIG, batch=2)
    one, other = submissions.read(made), go("Guesser", tmp_path / "again", batched)
    for id in ENVIRONMENTS:
        lives = [r.agents[0].lifetimes for r in (one.results[id], other.results[id])]
        assert lives[0] == lives[1]


def test_what_is_finished_is_not_made_again(made, copied):
    (copied / file_name(ENVIRONMENTS[1])).unlink()
    kept = copied / file_name(ENVIRONMENTS[0])
    before = kept.stat().st_mtime_ns
    assert go("Guesser", copied).complete
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(GlaError, match="holds 'guesser' on small-v1; expected a new folder"):
        run_suite("nulls", SUITE, copied, CONFIG, progress=False)


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("raise", "'moody' on SupervisedBandit, at step 0, raised ValueError: not today"),
        ("die", r"its process died twice \(signal 9\)"),
        ("hang", "gave no sign of life for 8 seconds"),
    ],
)
def test_what_fails_is_named_and_the_rest_goes_on(agents, tmp_path, monkeypatch, mood, words):
    monkeypatch.setenv("MOOD", mood)
    monkeypatch.setenv("PYTHONPATH", str(agents))
    patience = 8.0 if mood == "hang" else 60.0
    read = go("Moody", tmp_path / mood, dataclasses.replace(CONFIG, patience=patience))
    assert list(read.results) == ["gla/Gridworld-v0"] and not read.complete
    [(failed, why)] = read.submission.failures.items()
    assert failed == ENVIRONMENTS[1] and re.search(words, why)
    # Mended, it goes on from there.
    monkeypatch.setenv("MOOD", "good")
    assert go("Moody", tmp_path / mood).complete


def test_an_agent_with_another_window_is_refused(agents, tmp_path):
    read = go("wide", tmp_path / "wide")
    assert not read.results
    assert all("50 random steps; expected 200" in why for why in read.submission.failures.values())


def test_null_controllers_run_alone(tmp_path):
    read = run_suite("nulls", SUITE, tmp_path / "nulls", CONFIG, progress=False)
    assert read.complete and read.submission.agent == "null controllers"
    kinds = [{one.kind for one in results.agents} for results in read.results.values()]
    assert kinds == [{"null"}, {"null", "expert"}]


# Bad submissions


def rewrite(path, **changes):
    """Change a results file as somebody would who knows how to write one."""
    files.write(path, dataclasses.replace(files.read(path), **changes))


def repair(folder):
    """Enter the files as they are into the manifest."""
    document = json.loads((folder / MANIFEST).read_text())
    for id in document["digests"]:
        document["digests"][id] = files.digest(files.read(folder / file_name(id)))
    (folder / MANIFEST).write_text(json.dumps(document))


def problems(folder):
    read = submissions.read(folder)
    assert not read.complete
    return " / ".join(read.problems)


def test_a_truncated_file_is_named(copied):
    path = copied / file_name(ENVIRONMENTS[0])
    path.write_text(path.read_text()[:500])
    assert f"{path} is not whole JSON" in problems(copied)
    assert list(submissions.read(copied).results) == [ENVIRONMENTS[1]]


def test_an_edited_file_is_named(copied):
    path = copied / file_name(ENVIRONMENTS[1])
    text = path.read_text()
    start = text.index('"episode_returns": [') + len('"episode_returns": [')
    path.write_text(text[:start] + "9" + text[start:])
    assert f"{path}: its contents do not match its digest" in problems(copied)


def test_a_file_that_was_written_anew_is_named(copied):
    path = copied / file_name(ENVIRONMENTS[0])
    rewrite(path, created="2000-01-01T00:00:00+00:00")
    assert f"{path} is not the file that {MANIFEST} lists" in problems(copied)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, "its seed is 7 instead of 0"),
        ({"split": "train"}, "its split is 'train' instead of 'test'"),
        ({"steps": 81}, "its steps is 81 instead of 80"),
        ({"suite": "other-v1"}, "its suite is 'other-v1'"),
        ({"lifetimes": 2}, "its lifetimes is 2 instead of 3"),
        ({"environment": "gla/FrozenLake-v0"}, "its environment is 'gla/FrozenLake-v0'"),
    ],
)
def test_results_of_something_else_are_named(copied, changes, words):
    rewrite(copied / file_name(ENVIRONMENTS[0]), **changes)
    repair(copied)
    assert words in problems(copied)


def test_lifetimes_that_cannot_have_been_are_named(copied):
    path = copied / file_name(ENVIRONMENTS[0])
    results = files.read(path)
    agent, twin = results.agents
    good = agent.lifetimes[0]
    for bad, words in (
        (dataclasses.replace(good, episode_lengths=(20,) * len(good.episode_lengths) + (1,),
                             episode_returns=(*good.episode_returns, 1.0)), "cannot be in 80"),
        (dataclasses.replace(good, episode_lengths=(80,), episode_returns=(1.0,)), "limit of 20"),
        (dataclasses.replace(good, episode_lengths=(20,), episode_returns=(1.0,)), "has 20 steps"),
    ):  # fmt: skip
        spoiled = dataclasses.replace(agent, lifetimes=(bad, *agent.lifetimes[1:]))
        rewrite(path, agents=(spoiled, twin))
        repair(copied)
        assert words in problems(copied)
    rewrite(path, agents=(dataclasses.replace(agent, lifetimes=agent.lifetimes[:2]), twin))
    repair(copied)
    assert "'guesser' has 2 lifetimes" in problems(copied)
    rewrite(path, agents=(agent,))
    repair(copied)
    assert "it lacks the reward-masked twin" in problems(copied)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("agent"), "agent is 'None'; expected a string"),
        (lambda d: d.update(digests=["a"]), "digests is .*; expected an object of strings"),
        (lambda d: d.update(schema="other"), "is no submission"),
        (lambda d: d.update(version=99), "has version 99"),
        (lambda d: d.update(suite="unknown-v1"), "suite 'unknown-v1', which is not known"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(copied, change, words):
    document = json.loads((copied / MANIFEST).read_text())
    change(document)
    (copied / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(GlaError, match=words):
        submissions.read(copied)


def test_a_manifest_that_does_not_fit_its_suite_is_named(copied):
    document = json.loads((copied / MANIFEST).read_text())
    document["suite_digest"] = "0" * 16
    document["digests"]["gla/Ant-v0"] = "0"
    del document["digests"][ENVIRONMENTS[1]]
    (copied / MANIFEST).write_text(json.dumps(document))
    said = problems(copied)
    for words in ("another small-v1 than", "has gla/Ant-v0, which", "nothing of gla/Supervised"):
        assert words in said
    (copied / MANIFEST).write_text("{")
    with pytest.raises(GlaError, match="is not whole JSON"):
        submissions.read(copied)
    with pytest.raises(GlaError, match="cannot be read"):
        submissions.read(copied / "nowhere")


# Running it again


def test_lifetimes_that_are_run_again_agree(made, copied, agents):
    assert rerun(submissions.read(made), lifetimes=2) == []
    path = copied / file_name(ENVIRONMENTS[1])
    agent, twin = files.read(path).agents
    better = [
        dataclasses.replace(
            life, episode_returns=tuple(value + 5.0 for value in life.episode_returns)
        )
        for life in agent.lifetimes
    ]
    rewrite(path, agents=(dataclasses.replace(agent, lifetimes=tuple(better)), twin))
    repair(copied)
    read = submissions.read(copied)
    assert read.complete, "nothing else can tell"
    said = rerun(read, lifetimes=3)
    assert len(said) == 3
    assert all(line.startswith(f"{ENVIRONMENTS[1]}: lifetime ") for line in said)
    assert rerun(submissions.read(made), 1, agent="agents_of_a_test:Guesser") == []
    with pytest.raises(GlaError, match="4 lifetimes; expected 1 to 3"):
        rerun(read, lifetimes=4)
    with pytest.raises(GlaError, match="cannot be loaded"):
        rerun(read, agent="agents_of_a_test:Nobody")


def test_a_trained_agent_is_known_again_and_renamed(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, name="my agent")
    read = run_suite("nulls", SUITE, tmp_path / "n", config, progress=False)
    assert read.submission.agent == "my agent"
