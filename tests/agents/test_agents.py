"""Agents: null controllers do what they say, and GLA acts as it was trained."""

import dataclasses
import json
import re
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints, training
from gla.agents.base import Agent, View, each
from gla.agents.external import BUILT_IN, load_agent
from gla.agents.gla import GLAAgent, load, parse_ask
from gla.agents.nulls import Null, null_controllers
from gla.errors import GlaError
from gla.models import ModelConfig, make_model
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.tokens import Interface, gaussian_outputs, make_tokens

OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
TWO = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
ONE = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
THREE = gymnasium.spaces.Discrete(3)


# Null controllers

ROWS = 500
_act = jax.jit(lambda act, *rest: act(*rest), static_argnums=0)


def play(agent, space, key=0, reward=0.0):
    state = agent.init(jax.random.key(9), ROWS, OBSERVATIONS, space)
    nothing = jnp.zeros(ROWS, bool)
    observation = jnp.full((ROWS, 4), reward)
    after, action = _act(
        agent.act, state, observation, jnp.full(ROWS, reward), nothing, nothing,
        jax.random.split(jax.random.key(key), ROWS),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, after, state)
    return np.asarray(action)


def named(space):
    return {agent.name: agent for agent in null_controllers(space)}


def test_constants_are_constant():
    agents = named(TWO)
    for name, action in {
        "zero action": (0, 0),
        "constant -1": (-1, -1),
        "constant -0.5": (-0.5, -0.5),
        "constant +0.5": (0.5, 0.5),
        "constant +1": (1, 1),
        "constant +1 on axis 0": (1, 0),
        "constant -1 on axis 1": (0, -1),
    }.items():
        played = play(agents[name], TWO)
        assert played.dtype == np.float32
        np.testing.assert_array_equal(played, np.tile(np.float32(action), (ROWS, 1)), err_msg=name)


def test_noise_has_the_spread_it_says():
    agents = named(TWO)
    for sigma in (0.1, 0.3, 1.0):
        played = play(agents[f"N(0, {sigma:g})"], TWO)
        assert played.std() == pytest.approx(sigma, rel=0.1)
        assert abs(played.mean()) < 0.2 * sigma
    uniform = play(agents["uniform"], TWO)
    assert np.abs(uniform).max() <= 1.0
    assert uniform.std() == pytest.approx(1 / 3**0.5, rel=0.05)
    offset = play(Null("mine", np.array([0.5, -2.0], np.float32), 0.1), TWO)
    np.testing.assert_allclose(offset.mean(0), [0.5, -2.0], atol=0.03)


def test_discrete_controllers_hold_an_action_or_play_all():
    agents = named(THREE)
    assert list(agents) == ["always action 0", "always action 1", "always action 2", "uniform"]
    for i in range(3):
        played = play(agents[f"always action {i}"], THREE)
        assert played.dtype == np.int32 and set(played) == {i}
    share = np.bincount(play(agents["uniform"], THREE), minlength=3) / ROWS
    np.testing.assert_allclose(share, 1 / 3, atol=0.08)


def test_one_axis_has_no_axes_to_tell_apart():
    assert len(named(ONE)) == 1 + 4 + 3 + 1
    assert len(named(TWO)) == 1 + 4 + 4 + 3 + 1
    assert len(null_controllers(TWO)) == len(named(TWO)), "no name twice"
    assert [a.name for a in null_controllers(ONE, sigmas=(2.0,))][-2:] == ["N(0, 2)", "uniform"]


@pytest.mark.parametrize("name", ["N(0, 0.3)", "uniform"])
def test_null_controllers_never_look(name):
    agent = named(TWO)[name]
    assert isinstance(agent, Agent) and agent.view is None
    np.testing.assert_array_equal(play(agent, TWO), play(agent, TWO, reward=5.0))
    assert not np.array_equal(play(agent, TWO), play(agent, TWO, key=1))


def test_all_null_controllers_share_one_program():
    assert len({agent.act for agent in null_controllers(TWO)}) == 1


# GLA

MODEL = ModelConfig(width=16, layers=2, heads=2, mlp=2, window=8)
LENGTH = 13  # past the window


def make_agent(discrete):
    interface = Interface(5, 3, discrete)
    model = make_model(MODEL, interface.token_size, interface.outputs)
    params = model.init(jax.random.key(0))
    # Away from the tiny initial head, so that what was seen matters.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype("f4"), params)
    return GLAAgent(params, MODEL, interface, View(ProjectionConfig(5, 3)))


@pytest.mark.parametrize("discrete", [False, True])
def test_acting_step_by_step_is_the_model_on_the_whole_lifetime(discrete):
    agent, rng = make_agent(discrete), np.random.default_rng(1)
    space = gymnasium.spaces.Discrete(3) if discrete else gymnasium.spaces.Box(-1, 1, (3,))
    state = agent.init(jax.random.key(2), 2, OBSERVATIONS, space)
    observation = rng.normal(size=(LENGTH, 2, 5)).astype(np.float32)
    # What came with each step: at the first one, nothing.
    reward = rng.normal(size=(LENGTH, 2)).astype(np.float32)
    flags = rng.random((2, LENGTH, 2)) < 0.2
    reward[0], flags[:, 0] = 0.0, False
    keys = jax.random.split(jax.random.key(3), (LENGTH, 2))
    act, actions = jax.jit(agent.act), []
    for t in range(LENGTH):
        state, action = act(state, observation[t], reward[t], flags[0, t], flags[1, t], keys[t])
        actions.append(np.asarray(action))
    actions = np.stack(actions)
    shown = np.eye(3, dtype=np.float32)[actions] if discrete else actions
    previous = np.concatenate([np.zeros((1, 2, 3), np.float32), shown[:-1]])
    tokens = make_tokens(observation, previous, reward, *flags).swapaxes(0, 1)
    outputs = agent.model.apply(agent.params, tokens)[0]
    outputs = np.asarray(outputs).swapaxes(0, 1)
    for t in range(LENGTH):
        if discrete:
            expected = jax.vmap(jax.random.categorical)(keys[t], outputs[t])
            np.testing.assert_array_equal(actions[t], expected)
        else:
            mean, log_std = gaussian_outputs(outputs[t])
            noise = each(lambda key: jax.random.normal(key, (3,)), keys[t])
            expected = mean + np.exp(log_std) * noise
            np.testing.assert_allclose(actions[t], expected, atol=1e-5)
    assert actions.dtype == (np.int32 if discrete else np.float32)
    assert state.memory.length.tolist() == [LENGTH, LENGTH]
    jax.tree.map(np.testing.assert_array_equal, state.params, agent.params)


def test_an_agent_of_the_other_action_kind_is_refused():
    with pytest.raises(GlaError, match="trained on discrete actions .* are continuous"):
        make_agent(True).init(jax.random.key(0), 1, OBSERVATIONS, TWO)
    with pytest.raises(GlaError, match="trained on continuous actions .* are discrete"):
        make_agent(False).init(jax.random.key(0), 1, OBSERVATIONS, THREE)


# Loading

CONFIG = training.MetaTrainConfig(
    histories=("somewhere",),
    projection=ProjectionConfig(5, 3, "orthogonal"),
    sampling=SamplingConfig(segments=2, segment_length=4),
    model=MODEL,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint folder as `gla meta-train` leaves it, and the parameters in it."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    interface = training.make_interface(CONFIG, discrete=False)
    description = {
        "training": dataclasses.asdict(CONFIG), "interface": dataclasses.asdict(interface),
        "sources": ["gla/Made-v0"], "packages": {},
    }  # fmt: skip
    checkpoints.prepare(folder, description)
    state = jax.jit(lambda: training.init_state(CONFIG, interface))()
    checkpoints.save(folder, 10, state)
    return folder, state.params


@pytest.fixture
def folder(saved, tmp_path):
    """The description alone, to be changed by a test; the checkpoints are those of `saved`."""
    (tmp_path / "config.json").write_text((saved[0] / "config.json").read_text())
    (tmp_path / "checkpoints").symlink_to(saved[0] / "checkpoints")
    return tmp_path


def rewrite(folder, change):
    file = folder / "config.json"
    description = json.loads(file.read_text())
    change(description)
    file.write_text(json.dumps(description))


def test_a_checkpoint_is_loaded_as_it_was_saved(saved):
    agent = load(saved[0], name="mine")
    assert isinstance(agent, Agent) and agent.jittable and agent.name == "mine"
    assert agent.model.config == MODEL and agent.interface == Interface(5, 3)
    assert agent.view == View(ProjectionConfig(5, 3, "orthogonal"))
    jax.tree.map(np.testing.assert_array_equal, agent.params, saved[1])
    space = gymnasium.spaces.Box(-1, 1, (3,))
    state = agent.init(jax.random.key(0), 2, OBSERVATIONS, space)
    zeros = jnp.zeros(2)
    _, action = agent.act(
        state, jnp.zeros((2, 5)), zeros, zeros, zeros, jax.random.split(jax.random.key(1))
    )
    assert action.shape == (2, 3) and np.isfinite(action).all()


def test_noise_may_last(folder):
    def ways(correlation):
        rewrite(folder, lambda d: d["training"].update(acting={"correlation": correlation}))
        agent = load(folder)
        space = gymnasium.spaces.Box(-1, 1, (3,))
        keys = jax.random.split(jax.random.key(0), 400)
        state = agent.init(keys, 400, OBSERVATIONS, space)
        zeros = jnp.zeros(400)
        act, noises = jax.jit(agent.act), []
        for step in range(4):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(1), step), 400)
            state, action = act(state, jnp.zeros((400, 5)), zeros, zeros, zeros, keys)
            noises.append(np.asarray(state.noise))
        assert np.isfinite(action).all()
        return np.array(noises)

    alone, lasting = ways(0.0), ways(0.8)
    for noise, expected in ((alone, 0.0), (lasting, 0.8)):
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1.0) < 0.05
        found = np.corrcoef(noise[2].ravel(), noise[3].ravel())[0, 1]
        assert abs(found - expected) < 0.1
        apart = np.corrcoef(noise[3][:, 0], noise[3][:, 1])[0, 1]
        assert abs(apart) < 0.2, "dimensions have noise of their own"
    rewrite(folder, lambda d: d["training"].update(acting={"correlation": 1.0}))
    with pytest.raises(GlaError, match="acting correlation is 1.0; expected a number in"):
        load(folder)
    rewrite(folder, lambda d: d["training"].pop("acting"))
    assert load(folder).correlation == 0.0, "of agents made before there was a choice"


def test_lasting_noise_draws_slots_as_often_as_they_are_likely():
    agent = make_agent(True)
    agent.correlation = 0.9
    logits = jnp.log(jnp.array([0.1, 0.2, 0.7]))
    noise = jax.random.normal(jax.random.key(0), (20_000, 3))
    drawn = agent._sample(None, noise, jnp.broadcast_to(logits, (20_000, 3)))
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, [0.1, 0.2, 0.7], atol=0.015)


def test_what_cannot_be_loaded_is_named(folder, tmp_path):
    with pytest.raises(GlaError, match="is not a checkpoint folder"):
        load(tmp_path / "nowhere")
    rewrite(folder, lambda d: d["training"].update(colour="red"))
    with pytest.raises(GlaError, match="lacks or adds settings .*colour"):
        load(folder)
    rewrite(folder, lambda d: d["training"].pop("colour"))
    rewrite(folder, lambda d: d.pop("interface"))
    with pytest.raises(GlaError, match="lacks or adds settings .*interface"):
        load(folder)
    rewrite(folder, lambda d: d.update(version=99))
    with pytest.raises(GlaError, match="version 99"):
        load(folder)


def test_a_checkpoint_of_another_size_is_refused(folder):
    rewrite(folder, lambda d: d["training"]["model"].update(width=32))
    with pytest.raises(GlaError, match="does not fit the model: "):
        load(folder)


def test_a_folder_without_checkpoints_is_refused(folder):
    (folder / "checkpoints").unlink()
    with pytest.raises(GlaError, match="holds no checkpoint yet; run `gla meta-train` again"):
        load(folder)


# By name

MODULE = """
class Still:
    def init(self, key, num_envs, observation_space, action_space):
        return num_envs

    def act(self, state, observation, reward, terminated, truncated, key):
        return state, [0.0] * state

def nothing():
    return 3
"""


def test_agents_are_found_by_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "my_agents_for_a_test.py").write_text(MODULE)
    agent = load_agent("my_agents_for_a_test:Still")
    assert (agent.name, agent.jittable, agent.view) == ("my_agents_for_a_test:Still", False, None)
    assert load_agent(str(saved[0])).interface == Interface(5, 3)
    for spec, words in (
        ("my_agents_for_a_test:Other", "cannot be loaded"),
        ("no_such_module_at_all:Agent", "cannot be loaded"),
        ("my_agents_for_a_test:nothing", "has no method init"),
        ("nowhere", "'nowhere' is not a checkpoint folder and no agent has that name; expected"),
        ("random_search", r"did you mean random-search\?"),
        (str(tmp_path), "is not a checkpoint folder .it has no config.json"),
    ):
        with pytest.raises(GlaError, match=words):
            load_agent(spec)


@pytest.mark.parametrize("spec", ["no-such-agent", "no_such_module_at_all:Agent"])
def test_what_is_no_agent_is_told_all_that_would_be_one(spec):
    with pytest.raises(GlaError) as complaint:
        load_agent(spec)
    said = str(complaint.value)
    kinds = ("a checkpoint folder", "sb3:ALGORITHM", "tcp://HOST:PORT", "module:factory")
    assert [kind for kind in (*kinds, *BUILT_IN) if kind not in said] == []
    assert "\n" not in said and ("nulls" in said) == (":" not in spec)


# Asking for improvement


def asked_agent(ask=None, conditions=("gap", "position")):
    interface = Interface(5, 3, conditions=conditions)
    params = make_model(MODEL, interface.token_size, interface.outputs).init(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype("f4"), params)
    return GLAAgent(params, MODEL, interface, View(ProjectionConfig(5, 3)), ask=ask)


def test_what_is_asked_for_and_the_position_are_in_every_token(monkeypatch):
    agent, seen = asked_agent({"gap": 100.0}), []
    box = gymnasium.spaces.Box(-1, 1, (3,))
    step = type(agent.model).step
    monkeypatch.setattr(
        type(agent.model),
        "step",
        lambda self, p, token, m: (seen.append(token), step(self, p, token, m))[1],
    )
    state = agent.init(jax.random.key(0), 2, OBSERVATIONS, box)
    nothing = np.zeros(2, bool)
    for _ in range(3):
        state, _ = agent.act(
            state,
            jnp.zeros((2, 5)),
            jnp.zeros(2),
            nothing,
            nothing,
            jax.random.split(jax.random.key(1)),
        )
    features = np.stack(seen)[:, :, -4:]
    # A gap of 100 updates is shown as 1, position t as log(1 + t) / log(4097), both as known.
    np.testing.assert_allclose(features[..., 0], 1.0, rtol=1e-6)
    at = np.log1p(np.arange(3.0)) / np.log(4097)
    np.testing.assert_allclose(features[..., 2], np.stack([at, at], 1), rtol=1e-6)
    assert (features[..., [1, 3]] == 1).all()
    assert agent.name == "gla (gap 100)"


def test_asking_changes_what_is_done_and_not_asking_hides_it():
    box, nothing = gymnasium.spaces.Box(-1, 1, (3,)), np.zeros(2, bool)

    def first(agent):
        state = agent.init(jax.random.key(0), 2, OBSERVATIONS, box)
        seen = (jnp.ones((2, 5)), jnp.zeros(2), nothing, nothing)
        return np.asarray(agent.act(state, *seen, jax.random.split(jax.random.key(1)))[1])

    assert not np.allclose(first(asked_agent({"gap": 1.0})), first(asked_agent({"gap": 50.0})))
    assert not np.allclose(first(asked_agent({"gap": 0.0})), first(asked_agent()))
    np.testing.assert_array_equal(
        first(asked_agent({"gap": 5.0})), first(asked_agent({"gap": 5.0}))
    )


def test_what_the_model_does_not_read_cannot_be_asked_for():
    with pytest.raises(GlaError, match="does not read the condition 'return'.*gap, position"):
        asked_agent({"return": 1.0})
    with pytest.raises(GlaError, match="trained without conditions"):
        asked_agent({"gap": 1.0}, conditions=())
    with pytest.raises(GlaError, match="'gla.agents.nulls:x' is no checkpoint folder"):
        load_agent("gla.agents.nulls:x", ask={"gap": 1.0})


def test_words_that_ask():
    assert parse_ask(["gap=32", "return=-0.5"]) == {"gap": 32.0, "return": -0.5}
    assert parse_ask([]) == {}
    for word, message in (
        ("gap", "asked for 'gap'; expected gap=NUMBER or return=NUMBER"),
        ("gap=much", "gap=NUMBER"),
        ("gaps=3", "did you mean gap"),
        ("position=3", "gap=NUMBER or return=NUMBER"),
    ):
        with pytest.raises(GlaError, match=re.escape(message)):
            parse_ask([word])


def test_squashed_actions_stay_inside_the_unit_cube():
    interface = Interface(5, 3, squashed=True)
    params = make_model(MODEL, interface.token_size, interface.outputs).init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 3.0, params)
    agent = GLAAgent(params, MODEL, interface, View(ProjectionConfig(5, 3)))
    state = agent.init(None, 64, OBSERVATIONS, gymnasium.spaces.Box(-1, 1, (3,)))
    nothing = np.zeros(64, bool)
    state, action = agent.act(
        state,
        jnp.ones((64, 5)),
        jnp.zeros(64),
        nothing,
        nothing,
        jax.random.split(jax.random.key(1), 64),
    )
    assert 0.5 < np.abs(action).max() <= 1.0
    np.testing.assert_array_equal(state.previous_action, action)
