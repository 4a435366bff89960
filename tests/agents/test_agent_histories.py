"""Histories of any agent's lifetimes, labelled by the experts of the tasks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla import sampling
from gla.agents.agent_histories import AgentHistoriesConfig, AgentMaker
from gla.agents.base import View, each
from gla.agents.collect import CollectConfig, collect
from gla.agents.ppo import PPOConfig
from gla.envs import registry
from gla.envs.splits import run_keys, step_key, task_key
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError
from gla.histories import record
from gla.models import ModelConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, make_interface, meta_train

ENVIRONMENT = "gla/RandomLinear-v0?horizon=6"
SIZES = {"streams_per_run": 2, "updates": 3, "steps": 8, "block": 2, "window": 20}


class Remembering:
    """Acts on what it was shown before: its action tells the sum of all rewards so far."""

    name, jittable = "remembering", True
    view: View | None = None

    def init(self, keys, num_envs, observation_space, action_space):
        return jnp.zeros(num_envs), each(lambda key: jax.random.uniform(key, (2,)), keys)

    def act(self, state, observation, reward, terminated, truncated, keys):
        total, own = state
        total = total + reward
        ended = (terminated | truncated).astype(jnp.float32)
        return (total, own), jnp.stack([jnp.tanh(total / 50), ended], -1) + 0.01 * own


def projected():
    agent = Remembering()
    agent.view = View(ProjectionConfig(5, 3))

    def act(state, observation, reward, terminated, truncated, keys):
        assert observation.shape == (2, 5)
        return state, each(lambda key: jax.random.normal(key, (3,)), keys)

    agent.act = act
    return agent


def slow():
    agent = Remembering()
    agent.jittable = False
    return agent


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    ppo = PPOConfig(
        num_envs=2, num_steps=8, num_updates=3, epochs=1, minibatches=1, learning_rate=0.05,
        hidden=4,
    )  # fmt: skip
    config = CollectConfig(ENVIRONMENT, runs=3, seed=5, block=2, window=20, ppo=ppo)
    return collect(config, tmp_path_factory.mktemp("experts") / "s", progress=False)


def config(agent="Remembering", **settings):
    return AgentHistoriesConfig(agent=f"{__name__}:{agent}", **SIZES, **settings)


@pytest.fixture(scope="module")
def made(experts, tmp_path_factory):
    maker = AgentMaker(config(experts=str(experts.path)))
    return record(maker, tmp_path_factory.mktemp("made") / "s", progress=False)


def test_it_lives_in_the_experts_tasks(made, experts):
    meta = made.meta
    assert (meta.environment, meta.seed, meta.runs) == (ENVIRONMENT, 5, 3)
    assert meta.method == "agent" and meta.arrays == ("target",)
    for name in ("observation_mean", "observation_std", "reward_scale"):
        np.testing.assert_allclose(made.read(name), experts.read(name), rtol=1e-6)


def test_every_stream_replays_and_is_what_the_agent_does(made):
    """The memory goes on through episodes and updates; rewards are those of the step before."""
    env = registry.make_functional("gla/RandomLinear-v0", horizon=6)
    world, agent = Autoreset(TimeLimit(env)), Remembering()
    seen, acted = made.read("observation"), made.read("action")
    reward, cut = made.read("reward"), made.read("truncated")
    for run in range(2):
        keys = run_keys(task_key("train", 5, run))
        params = env.sample_params(keys.task)
        for stream in range(2):
            state, observation = world.reset(step_key(keys.environment, -1, stream), params)
            row, total, own, before = run * 2 + stream, 0.0, None, (0.0, False)
            for t in range(24):
                place = (row, *divmod(t, 8))
                np.testing.assert_allclose(seen[place], observation, rtol=1e-4, atol=1e-5)
                total += before[0]
                told = acted[place] - np.array([np.tanh(total / 50), before[1]])
                own = told if own is None else own
                assert (own >= 0).all() and (own <= 0.01).all()
                np.testing.assert_allclose(told, own, atol=1e-4)
                key = step_key(keys.environment, t, stream)
                state, ts = world.step(key, state, jnp.asarray(acted[place]), params)
                np.testing.assert_allclose(reward[place], ts.reward, rtol=1e-4, atol=1e-5)
                assert bool(ts.truncated) == cut[place] == (t % 6 == 5)
                observation, before = ts.observation, (float(ts.reward), bool(ts.truncated))
    assert len(np.unique(acted[:, 0, 0], axis=0)) == 6, "every lifetime has keys of its own"
    assert agent.jittable


def test_every_state_is_labelled_by_its_expert(made, experts):
    meta = experts.meta
    shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
    for run in range(3):
        last = pol.unflatten(shape, jnp.asarray(experts.read("policy")[run, -1]))
        rows = slice(2 * run, 2 * run + 2)
        mean, log_std = pol.gaussian(last, jnp.asarray(made.read("observation")[rows]))
        np.testing.assert_allclose(made.read("target")[rows], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made.read("target_log_std")[run], log_std, rtol=1e-5)


def test_what_hidden_rewards_change(made, experts, tmp_path):
    masked = AgentMaker(config(experts=str(experts.path), masked=True))
    store = record(masked, tmp_path / "s", progress=False)
    assert (np.abs(store.read("action")[..., 0]) <= 0.01).all(), "it saw no reward"
    assert (np.abs(made.read("action")[..., 0]) > 0.01).any()


def test_an_agent_without_experts_in_agent_space(tmp_path):
    maker = AgentMaker(config("projected", environment=ENVIRONMENT, runs=2, split="validation"))
    store = record(maker, tmp_path / "s", progress=False)
    assert store.meta.arrays == () and store.meta.split == "validation"
    assert store.read("action").shape == (4, 3, 8, 2)
    assert len(np.unique(store.read("action").reshape(-1, 2), axis=0)) == 4 * 24


def test_a_meta_trained_agent_goes_on_from_its_own_lifetimes(made, experts, tmp_path):
    """DAgger: train, live, train on what was lived."""
    settings = MetaTrainConfig(
        histories=(str(experts.path),),
        projection=ProjectionConfig(4, 2),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 0), gap=(1, 1)),
        model=ModelConfig(width=8, layers=1, heads=1, mlp=1, window=8),
        batch_size=2, steps=1, steps_per_dispatch=1, checkpoint_every=1,
    )  # fmt: skip
    agent = meta_train(settings, tmp_path / "agent", progress=False)
    lived = AgentHistoriesConfig(agent=str(agent), experts=str(experts.path), **SIZES)
    maker = AgentMaker(lived)
    store = record(maker, tmp_path / "lived", progress=False)
    assert store.missing_blocks() == [] and "1 steps" in store.meta.settings["agent"]
    assert str(tmp_path) not in json.dumps(store.meta.settings["agent"])
    found = sampling.sample_sequence(
        jax.random.key(0), sampling.from_store(store), settings.sampling, settings.projection,
        make_interface(settings, discrete=False),
    )  # fmt: skip
    assert np.isfinite(found.tokens).all() and np.isfinite(found.target.mean).all()


@pytest.mark.parametrize(
    ("agent", "settings", "words"),
    [
        ("slow", {"environment": ENVIRONMENT}, "is not written in JAX"),
        ("projected", {"environment": "gla/BraxAnt-v0"}, "observations"),
        ("Remembering", {"environment": "gla/HalfCheetah-v0"}, "a host simulator"),
        ("Remembering", {"environment": "gla/RandomLinear-Projected-v0"}, "the plain"),
    ],
)
def test_what_cannot_be_recorded_is_said(agent, settings, words):
    with pytest.raises(GlaError, match=words) as caught:
        AgentMaker(config(agent, **settings))
    assert "\n" not in str(caught.value)


def test_experts_and_settings_must_fit(experts):
    with pytest.raises(GlaError, match="neither experts nor an environment"):
        config()
    with pytest.raises(GlaError, match="has seed 5 instead of 6"):
        AgentMaker(config(experts=str(experts.path), seed=6))
    with pytest.raises(GlaError, match="runs is 0"):
        config(environment=ENVIRONMENT, runs=0)
