"""The conformance kit of agents finds what it is there to find."""

import re
import runpy
import sys
import threading
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.agents.base import View, each, seeds_of
from gla.agents.loops import LoopAgent
from gla.agents.nulls import Null
from gla.agents.socket_agent import AgentServer
from gla.agents.testing import check, make_stream
from gla.errors import GlaError
from gla.projection import ProjectionConfig


class Good:
    """Continuous actions from generators of its own, in a state of its own."""

    name, spread = "good", 0.1

    def init(self, keys, num_envs, observation_space, action_space):
        if isinstance(action_space, gymnasium.spaces.Discrete):
            raise GlaError("this agent turns knobs")
        self.size = action_space.shape[0]
        return [np.random.default_rng(seed) for seed in seeds_of(keys)]

    def act(self, state, observation, reward, terminated, truncated, keys):
        draws = np.stack([rng.normal(0, self.spread, self.size) for rng in state])
        return state, (draws + np.asarray(observation)[:, : self.size]).astype(np.float32)


class Seedless(Good):
    def init(self, keys, num_envs, observation_space, action_space):
        super().init(keys, num_envs, observation_space, action_space)
        return [np.random.default_rng() for _ in range(num_envs)]


class Sociable(Good):
    def act(self, state, observation, *rest):
        state, action = super().act(state, observation, *rest)
        return state, action + np.asarray(observation).mean()


class OneGenerator(Good):
    """Draws for all lifetimes from one generator: in another company they do something else."""

    def init(self, keys, num_envs, observation_space, action_space):
        super().init(keys, num_envs, observation_space, action_space)
        return [np.random.default_rng(0)] * num_envs


class Forgetful(Good):
    """Keeps its memory on the object."""

    def init(self, *given):
        self.memory = super().init(*given)

    def act(self, state, *rest):
        return None, super().act(self.memory, *rest)[1]


class Impure(Good):
    jittable = True


class NotFinite(Good):
    spread = np.nan


class Flat(Good):
    def act(self, *given):
        state, action = super().act(*given)
        return state, action[:, 0]


class Alone(Good):
    def act(self, *given):
        return super().act(*given)[1]


class Crashing(Good):
    """Does not expect that episodes end."""

    def act(self, state, observation, reward, terminated, truncated, keys):
        if np.any(terminated):
            raise KeyError("episode")
        return super().act(state, observation, reward, terminated, truncated, keys)


class Nameless(Good):
    name = None


class NoView(Good):
    view = {"observation_dim": 3}


class Refusing(Good):
    def init(self, *given):
        raise GlaError("this agent does nothing")


class Leaking(Good):
    let_go = threading.Event()

    def init(self, *given):
        threading.Thread(target=self.let_go.wait, args=(20,), daemon=True).start()
        return super().init(*given)


def test_a_good_agent_passes():
    report = check(Good).require()
    assert report.environment == "good"
    status = {one.name: one.status for one in report.checks}
    assert status["continuous batches"] == status["continuous states"] == "passed"
    assert status["discrete actions"] == status["continuous compiles"] == "skipped"
    assert "turns knobs" in str(report) and "float32[4, 3]" in str(report)
    names = [one.name for one in check(Good(), kinds=("continuous",)).checks]
    assert not [name for name in names if name.startswith("discrete")]


def test_compiled_agents_and_views_and_loops_pass():
    class Viewed:
        name, jittable, view = "viewed", True, View(ProjectionConfig(7, 5))

        def init(self, keys, num_envs, observation_space, action_space):
            assert observation_space.shape == (7,)
            return jnp.zeros((num_envs, *action_space.shape))

        def act(self, state, observation, reward, terminated, truncated, keys):
            noise = each(lambda key: jax.random.normal(key, state.shape[1:]), keys)
            return 0.9 * state + noise, state + noise

    report = check(Viewed, kinds=("continuous",)).require()
    assert {one.name: one.status for one in report.checks}["continuous compiles"] == "passed"
    report = check(Null("uniform", uniform=True), kinds=("discrete",)).require()
    assert not [one for one in report.checks if one.status == "skipped"]

    def sample(env, seed):
        env.reset()
        while True:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()

    assert check(LoopAgent(sample, "sampler")).require().passed


@pytest.mark.parametrize(
    "agent, failed, note",
    [
        (Seedless, "continuous repeats", "twice the same lifetimes gave other actions"),
        (Sociable, "continuous batches", "draw what is random in lifetime i from keys"),
        (OneGenerator, "continuous batches", "lifetimes .3, 1. of a batch of 4 alone gave other"),
        (Forgetful, "continuous states", "keep what is remembered in the state"),
        (Impure, "continuous compiles", "Error"),
        (NotFinite, "continuous actions", "an action that is nan"),
        (Flat, "continuous actions", "of shape .4,.; expected shape .4, 3."),
        (Alone, "continuous actions", "act gave a ndarray; expected a pair"),
        (Crashing, "continuous actions", "it raised KeyError: 'episode'"),
        (Nameless, "attributes", "name is None; expected a str"),
        (NoView, "attributes", "expected None or a gla.agents.base.View"),
        (Refusing, "spaces", "no kind of spaces; it refuses such tasks: this agent does nothing"),
    ],
)
def test_broken_agents_fail(agent, failed, note):
    report = check(agent)
    found = {one.name: one.note for one in report.failures}
    assert re.search(note, found[failed]) and "\n" not in found[failed]
    with pytest.raises(GlaError, match=f"{report.environment} fails the check"):
        report.require()


def test_threads_left_behind_are_found(monkeypatch):
    monkeypatch.setattr("gla.agents.testing.GRACE", 0.05)
    try:
        report = check(Leaking, only=("continuous close",))
        assert [one.name for one in report.failures] == ["continuous close"]
        assert "still runs after the lifetimes are over" in report.failures[0].note
    finally:
        Leaking.let_go.set()


def test_what_is_no_agent():
    with pytest.raises(GlaError, match="has no method init"):
        check(object)
    with pytest.raises(GlaError, match="at least 8"):
        check(Good, steps=3)
    with pytest.raises(GlaError, match="kinds of actions are .'round'.; expected continuous and"):
        check(Good, kinds=("round",))
    with pytest.raises(GlaError, match="there is no check 'colour'"):
        check(Good, only=("colour",))


def test_streams_hold_ends_of_every_kind():
    stream = make_stream(3, 0, 16)
    ends = np.stack([stream.terminated, stream.truncated])
    assert not ends[:, 0].any() and (stream.reward[0] == 0).all()
    assert ends.any(1).all(), "each lifetime meets both ends"
    some = stream.rows([2, 0])
    np.testing.assert_array_equal(some.observation, stream.observation[:, [2, 0]])
    assert some.first.shape == (2,) and some.keys.shape == (16, 2)


def test_the_template_of_the_documentation(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    files = dict(re.findall(r"^```python (\S+)\n(.*?)^```", page, re.M | re.S))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    test: dict = {}
    exec(files["test_my_agent.py"], test)
    test["test_it_keeps_the_protocol"]()
    assert "passed   continuous batches" in capsys.readouterr().out
    check("my_recurrent:Recurrent", kinds=["continuous"]).require()
    check("my_loop:linear_search", kinds=["continuous"]).require()
    server = runpy.run_path(str(tmp_path / "my_server.py"))
    with AgentServer(server["Still"], 0) as still:
        thread = threading.Thread(target=still.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            report = check(still.address, kinds=["continuous"], only=["continuous states"])
        finally:
            still.shutdown()
            thread.join()
    assert report.require().environment == "Still"
