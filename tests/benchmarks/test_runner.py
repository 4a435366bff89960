"""Meta-test: every agent meets every environment, and both ways of running them agree."""

import copy
import dataclasses
import json

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import projection as proj
from gla.agents.base import View, each
from gla.agents.gla import GLAAgent
from gla.agents.nulls import Null
from gla.benchmarks import runner
from gla.benchmarks.runner import MetaTestConfig, Trace, lifetimes_of, make_lens, make_world
from gla.errors import GlaError
from gla.models import ModelConfig, make_model
from gla.normalization import normalize_observation, normalize_reward
from gla.projection import ProjectionConfig
from gla.tokens import Interface

CONFIG = MetaTestConfig("gla/RandomLinear-v0", lifetimes=3, steps=60, seed=5)


@pytest.fixture(scope="module")
def world():
    return make_world(CONFIG)


@pytest.fixture(autouse=True)
def short_dispatches(monkeypatch):
    # So that 60 steps are two dispatches of one program, and an episode spans them.
    monkeypatch.setattr(runner, "CHUNK", 30)


def run(agent, world, **settings):
    return runner.run_agent(agent, world, CONFIG, **settings)


# Agents


class Reader:
    """Plays what it makes of all rewards and observations so far, with noise: all of it counts."""

    name, jittable, view = "reader", True, None

    def init(self, keys, num_envs, observation_space, action_space):
        return jnp.zeros(num_envs)

    def act(self, state, observation, reward, terminated, truncated, keys):
        state = jnp.where(truncated, 0.0, 0.9 * state + reward)
        noise = 0.1 * each(jax.random.normal, keys)
        angle = state + noise + jnp.sum(observation, -1)
        return state, jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1)


class Blind(Reader):
    """The same, without the rewards."""

    name = "blind"

    def act(self, state, observation, reward, terminated, truncated, keys):
        return super().act(state, observation, 0.0 * reward, terminated, truncated, keys)


class Plain:
    """No JAX at all: plays a constant number and keeps what it was shown."""

    name, jittable, view = "plain", False, None

    def __init__(self, size, action=0.25):
        self.size, self.action, self.seen = size, action, []

    def init(self, keys, num_envs, observation_space, action_space):
        self.spaces = (observation_space, action_space)
        self.seen.clear()
        return {"rows": num_envs}

    def act(self, state, observation, reward, terminated, truncated, keys):
        self.seen.append([np.array(x) for x in (observation, reward, terminated, truncated)])
        return state, np.full((state["rows"], self.size), self.action)


class Spoiled(Reader):
    """Plays a number that is none in the second lifetime, from step 33 on."""

    name = "spoiled"

    def init(self, keys, num_envs, observation_space, action_space):
        return jnp.zeros(num_envs)

    def act(self, state, observation, reward, terminated, truncated, keys):
        bad = (state == 33) & (jnp.arange(len(state)) == 1)
        return state + 1, jnp.zeros((len(state), 2)).at[:, 1].set(jnp.where(bad, jnp.nan, 0.0))


def in_a_loop(agent):
    agent = copy.copy(agent)
    agent.jittable = False
    return agent


@pytest.fixture(scope="module")
def gla_agent():
    interface = Interface(8, 4)
    model = ModelConfig(width=16, layers=1, heads=2, mlp=2, window=40)
    params = make_model(model, interface.token_size, interface.outputs).init(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype("f4"), params)
    return GLAAgent(params, model, interface, View(ProjectionConfig(8, 4), window=50))


# Cutting traces into episodes


def trace(*rows):
    """Rows of (rewards, steps at which episodes end)."""
    rewards = np.array([row[0] for row in rows], np.float32).T
    done = np.zeros(rewards.shape, bool)
    for i, (_, ends) in enumerate(rows):
        done[list(ends), i] = True
    return Trace(rewards, done)


@pytest.mark.parametrize(
    ("rewards", "ends", "returns", "lengths", "unfinished"),
    [
        ([1, 2, 4, 8, 16, 32], (2, 5), (7, 56), (3, 3), False),
        # What follows the last end is no whole episode.
        ([1, 2, 4, 8, 16, 32], (2,), (7,), (3,), False),
        ([1, 2, 4, 8, 16, 32], (0, 1, 4), (1, 2, 28), (1, 1, 3), False),
        ([1, 2, 4, 8, 16, 32], (5,), (63,), (6,), False),
        # Not one whole episode: the part counts, and says so.
        ([1, 2, 4, 8, 16, 32], (), (63,), (6,), True),
        ([-1.5], (0,), (-1.5,), (1,), False),
        ([-1.5], (), (-1.5,), (1,), True),
    ],
)
def test_lifetimes_are_cut_into_whole_episodes(rewards, ends, returns, lengths, unfinished):
    (life,) = lifetimes_of(trace((rewards, ends)))
    assert life.episode_returns == returns and life.episode_lengths == lengths
    assert life.unfinished == unfinished


def test_lifetimes_do_not_mix():
    lives = lifetimes_of(trace(([1, 1, 1, 1], (1, 3)), ([5, 6, 7, 8], (2,)), ([0, 0, 0, 9], ())))
    assert [life.episode_returns for life in lives] == [(2, 2), (18,), (9,)]
    assert [life.unfinished for life in lives] == [False, False, True]


def test_long_sums_are_exact():
    rewards = np.full(5001, 0.1, np.float32)
    rewards[0] = 1e6
    (life,) = lifetimes_of(trace((rewards, (5000,))))
    assert life.episode_returns[0] == pytest.approx(1e6 + 5000 * float(np.float32(0.1)), abs=1e-3)


# Compiled and looped


def test_the_compiled_path_is_the_loop(world):
    compiled, looped = run(Reader(), world), run(in_a_loop(Reader()), world)
    np.testing.assert_array_equal(compiled.done, looped.done)
    np.testing.assert_allclose(compiled.reward, looped.reward, atol=1e-5)
    assert compiled.reward.shape == (60, 3) and np.std(compiled.reward) > 0.1
    assert np.flatnonzero(compiled.done.all(1)).tolist() == [49]
    # Lifetimes are tasks of their own, and again is the same.
    assert len({*compiled.reward.sum(0).tolist()}) == 3
    np.testing.assert_array_equal(run(Reader(), world).reward, compiled.reward)


def test_a_sequence_model_runs_the_same_through_its_lens(world, gla_agent):
    lens = make_lens(world, gla_agent.view, CONFIG)
    compiled = run(gla_agent, world, lens=lens)
    looped = run(in_a_loop(gla_agent), world, lens=lens)
    np.testing.assert_allclose(compiled.reward, looped.reward, atol=1e-4)
    masked = run(gla_agent, world, lens=lens, masked=True)
    # Nothing was earned before the second step, so nothing was hidden before it.
    np.testing.assert_allclose(masked.reward[0], compiled.reward[0], atol=1e-6)
    assert np.abs(masked.reward - compiled.reward).max() > 1e-3


def test_dispatches_may_be_uneven(world, monkeypatch):
    whole = run(Reader(), world)
    monkeypatch.setattr(runner, "CHUNK", 45)
    ticks = []
    uneven = runner.run_agent(Reader(), world, CONFIG, steps=60, tick=ticks.append)
    np.testing.assert_allclose(uneven.reward, whole.reward, atol=1e-5)
    assert ticks == [45, 15]


def test_masking_changes_what_reads_rewards_and_nothing_else(world):
    for agent, same in ((Blind(), True), (Reader(), False)):
        seen, masked = run(agent, world), run(agent, world, masked=True)
        assert np.array_equal(seen.reward, masked.reward) == same


def test_a_plain_agent_sees_what_happened(world):
    agent = Plain(2)
    played = run(agent, world)
    observation, reward, terminated, truncated = (
        np.stack(x) for x in zip(*agent.seen, strict=True)
    )
    assert observation.shape == (60, 3, 4)
    np.testing.assert_allclose(observation[0], world.reset(), atol=1e-6)
    assert (reward[0] == 0).all() and not terminated[0].any() and not truncated[0].any()
    np.testing.assert_array_equal(reward[1:], played.reward[:-1])
    np.testing.assert_array_equal(truncated[1:], played.done[:-1])
    assert not terminated.any() and truncated[50].all(), "the end is told with the next episode"
    assert agent.spaces == (world.observation_space, world.action_space)
    # The same constant played by a JAX agent earns the same.
    null = run(Null("constant", np.full(2, 0.25, np.float32)), world)
    np.testing.assert_allclose(played.reward, null.reward, atol=1e-5)
    run(agent, world, masked=True)
    assert all((seen[1] == 0).all() for seen in agent.seen)


@pytest.mark.parametrize("bound", ["clip", "log"])
def test_the_lens_normalises_and_projects(world, bound):
    agent = Plain(4, action=0.3)
    agent.view = View(ProjectionConfig(8, 4, bound=bound), window=50)
    large = bound == "log"
    lens = make_lens(world, agent.view, CONFIG)
    played = run(agent, world, lens=lens)
    observation, reward, *_ = (np.stack(x) for x in zip(*agent.seen, strict=True))
    first = world.reset()
    for i in range(3):
        statistics, projection = jax.tree.map(lambda x, i=i: x[i], tuple(lens)[:2])
        shown = normalize_observation(statistics, first[i], large)
        seen = proj.project_observation(projection, shown)
        np.testing.assert_allclose(observation[0, i], seen, atol=1e-5)
        scaled = normalize_reward(statistics, played.reward[:-1, i], large)
        np.testing.assert_allclose(reward[1:, i], scaled, atol=1e-5)
    maps = np.asarray(lens.projection.action_map)
    assert not np.allclose(maps[0], maps[1]), "every lifetime has a projection of its own"
    assert agent.spaces[0].shape == (8,) and agent.spaces[1].shape == (4,)


def test_actions_are_lowered(world):
    agent = Plain(4, action=np.array([0.5, -0.2, 9.0, 9.0]))  # the last two reach nothing
    agent.view = View(ProjectionConfig(8, 4, "identity"), window=50)
    played = run(agent, world, lens=make_lens(world, agent.view, CONFIG))
    null = run(Null("constant", np.array([0.5, -0.2], np.float32)), world)
    np.testing.assert_allclose(played.reward, null.reward, atol=1e-5)


def test_a_host_simulator_takes_plain_and_jax_agents(gla_agent):
    config = MetaTestConfig("gla/Reacher-v0", lifetimes=2, steps=60, seed=5)
    world = make_world(config)
    try:
        agent = Plain(2)
        played = runner.run_agent(agent, world, config)
        again = runner.run_agent(Null("c", np.full(2, 0.25, np.float32)), world, config)
        assert played.reward.shape == (60, 2) and np.isfinite(played.reward).all()
        np.testing.assert_allclose(played.reward, again.reward, atol=1e-6)
        assert np.flatnonzero(played.done.all(1)).tolist() == [49]
        np.testing.assert_array_equal(np.stack([s[1] for s in agent.seen])[1:], played.reward[:-1])
        wide = View(ProjectionConfig(12, 4), window=20)
        through = GLAAgent(None, gla_agent.model.config, Interface(12, 4), wide)
        through.params = through.model.init(jax.random.key(0))
        lens = make_lens(world, wide, config)
        assert np.isfinite(runner.run_agent(through, world, config, lens, steps=10).reward).all()
        with pytest.raises(GlaError, match="gla/Reacher-v0 was given an action that is nan"):
            runner.run_agent(Plain(2, action=np.nan), world, config)
    finally:
        world.close()


# Bad input


def test_an_action_that_is_no_number_is_named_with_its_step(world):
    with pytest.raises(GlaError, match="RandomLinear met a value .*step 33 of lifetime 1 under"):
        run(Spoiled(), world)
    with pytest.raises(GlaError, match=r"RandomLinear, at step 33: .*nan \(number 1\)"):
        run(in_a_loop(Spoiled()), world)


class Flat(Reader):
    """Forgets that actions are vectors."""

    name = "flat"

    def act(self, state, observation, reward, terminated, truncated, keys):
        return state, reward


@pytest.mark.parametrize("agent", [Plain(3), Plain(1), Plain(2, "left"), Flat(), in_a_loop(Flat())])
def test_an_action_of_the_wrong_kind_is_refused(world, agent):
    with pytest.raises(GlaError, match=r"RandomLinear was given .*expected shape \(3, 2\)"):
        run(agent, world)


def test_a_discrete_action_that_does_not_exist_is_refused():
    class Third(Plain):
        def act(self, state, observation, reward, terminated, truncated, keys):
            return state, np.full(state["rows"], 2)

    config = MetaTestConfig("gla/CartPole-v0", lifetimes=2, steps=5)
    with pytest.raises(GlaError, match="expected whole numbers from 0 to 1"):
        runner.run_agent(Third(1), make_world(config), config)


def test_a_projected_id_is_refused():
    with pytest.raises(GlaError, match="gla/RandomLinear-Projected-v0 is already projected"):
        make_world(MetaTestConfig("gla/RandomLinear-Projected-v0"))


def test_a_task_too_large_for_the_agent_is_refused(world):
    for size, words in (((3, 4), "observations of 4"), ((8, 1), "actions of 2")):
        with pytest.raises(GlaError, match=words):
            make_lens(world, View(ProjectionConfig(*size)), CONFIG)


@pytest.mark.parametrize(
    "settings",
    [{"lifetimes": 0}, {"steps": 0}, {"null_steps": 0}, {"seed": -1}, {"seed": 2**31}],
)
def test_a_config_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match=next(iter(settings))):
        MetaTestConfig(**settings)


# The whole


def test_a_meta_test_runs_the_agent_its_twin_and_the_nulls(gla_agent):
    config = MetaTestConfig("gla/RandomLinear-v0", lifetimes=3, steps=60, seed=5, null_steps=50)
    results = runner.meta_test(
        gla_agent, config, ("gla/Made-v0",), {"checkpoint": "somewhere"}, progress=False
    )
    kinds = [one.kind for one in results.agents]
    assert kinds == ["agent", "masked"] + ["null"] * 13
    assert [one.name for one in results.agents][:3] == [
        "gla",
        "gla (rewards masked)",
        "zero action",
    ]
    for one in results.agents:
        assert len(one.lifetimes) == 3 and one.seconds >= 0
        assert all(life.episode_lengths == (50,) for life in one.lifetimes)
    assert results.environment == "gla/RandomLinear-v0" and results.split == "test"
    assert results.training_sources == ("gla/Made-v0",) and "jax" in results.packages
    assert json.loads(json.dumps(results.config))["checkpoint"] == "somewhere"
    assert results.config["view"]["projection"]["observation_dim"] == 8
    # The agent's numbers are those of a run of its own.
    world = make_world(config)
    alone = runner.run_agent(gla_agent, world, config, make_lens(world, gla_agent.view, config))
    np.testing.assert_allclose(
        [life.episode_returns[0] for life in results.agents[0].lifetimes],
        alone.reward[:50].sum(0), rtol=1e-4,
    )  # fmt: skip


def test_a_meta_test_may_leave_out_the_twin_and_the_nulls():
    config = MetaTestConfig("gla/CartPole-v0", 2, 30, masked_twin=False, nulls=False)
    results = runner.meta_test(Null("always left", 0), config, progress=False)
    assert [one.kind for one in results.agents] == ["agent"]
    # Pushed one way for ever, a pole falls after about ten steps, again and again.
    for life in results.agents[0].lifetimes:
        assert len(life.episode_returns) >= 2 and not life.unfinished
        assert max(life.episode_lengths) < 15
        assert life.episode_returns == tuple(map(float, life.episode_lengths))
    assert isinstance(make_world(config).action_space, gymnasium.spaces.Discrete)


# Lifetimes do not depend on each other


def returns(agent, config, **settings):
    results = runner.meta_test(agent, config, progress=False, **settings)
    return [life.episode_returns for life in results.agents[0].lifetimes]


def discrete_agent():
    interface = Interface(12, 8, discrete=True)
    model = ModelConfig(width=16, layers=1, heads=2, mlp=2, window=40)
    params = make_model(model, interface.token_size, interface.outputs).init(jax.random.key(1))
    return GLAAgent(params, model, interface, View(ProjectionConfig(12, 8), window=20))


def test_lifetimes_are_the_same_in_any_batch_and_on_either_path():
    config = MetaTestConfig("gla/Gridworld-v0", 5, 60, nulls=False, masked_twin=False)
    agent = discrete_agent()
    whole = returns(agent, config)
    assert len({tuple(one) for one in whole}) > 1
    assert returns(agent, config, batch=2) == returns(agent, config, batch=1) == whole
    assert returns(in_a_loop(agent), config) == whole
    # Some of them on their own, as whoever checks a result would run them.
    some = dataclasses.replace(config, first=3, lifetimes=2)
    assert returns(agent, some) == whole[3:]


@pytest.mark.parametrize("id", ["gla/RandomLinear-v0", "gla/Reacher-v0"])
def test_where_sums_are_rounded_batches_agree_closely(id, gla_agent):
    agent = copy.copy(gla_agent)
    agent.view = View(ProjectionConfig(12, 4), window=20)
    agent = GLAAgent(None, agent.model.config, Interface(12, 4), agent.view)
    agent.params = agent.model.init(jax.random.key(0))
    config = MetaTestConfig(id, 3, 50, nulls=False, masked_twin=False)
    whole = np.array(returns(agent, config))
    assert len(set(whole[:, 0].tolist())) == 3
    np.testing.assert_allclose(returns(agent, config, batch=2), whole, rtol=1e-3)
    np.testing.assert_allclose(returns(in_a_loop(agent), config), whole, rtol=1e-3)


def test_a_batch_and_a_first_lifetime_out_of_range_are_refused():
    with pytest.raises(GlaError, match="batch is 0"):
        runner.meta_test(None, CONFIG, progress=False, batch=0)
    for first in (-1, 2**20):
        with pytest.raises(GlaError, match="lifetimes .* were asked for"):
            MetaTestConfig(first=first)


def test_seconds_of_a_step_leave_compilation_out(world):
    ticks = []
    watch = runner.Stopwatch(ticks.append)
    watch._parts = [5.0, 0.1, 0.2, 0.3]
    assert watch.step_seconds == pytest.approx(0.2)
    watch(3)
    assert ticks == [3] and len(watch._parts) == 5 and watch.seconds > 0


# Agents that fail


class Failing(Plain):
    """Works until step 7."""

    def __init__(self, how):
        super().__init__(2)
        self.name, self.how, self.steps, self.closed = "failing", how, 0, 0

    def act(self, state, observation, reward, terminated, truncated, keys):
        self.steps += 1
        if self.steps < 8:
            return super().act(state, observation, reward, terminated, truncated, keys)
        return self.how()

    def close(self, state):
        self.closed += 1


def broken():
    raise KeyError("weights")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (broken, r"'failing' on RandomLinear, at step 7, raised KeyError: 'weights' "
                 r"\(test_runner.py, line \d+\)"),
        (lambda: None, "at step 7: act gave a NoneType"),
        (lambda: ({}, np.zeros((3, 5))), r"at step 7: .*expected shape \(3, 2\)"),
        (lambda: ({}, np.full((3, 2), np.nan)), "at step 7: .*nan"),
        (lambda: ({}, None), "at step 7: "),
    ],
)  # fmt: skip
def test_what_an_agent_does_wrong_is_said_in_one_line(world, how, words):
    agent = Failing(how)
    with pytest.raises(GlaError, match=words) as caught:
        run(agent, world)
    assert "\n" not in str(caught.value) and agent.closed == 1


def test_an_agent_that_cannot_begin_is_named(world):
    class Hopeless(Plain):
        def init(self, keys, num_envs, observation_space, action_space):
            raise RuntimeError("no weights\nat all")

    with pytest.raises(GlaError, match="'plain' on RandomLinear, before its first step, raised "
                                       "RuntimeError: no weights "):  # fmt: skip
        run(Hopeless(2), world)


def test_actions_of_the_wrong_size_behind_a_lens_are_refused(world):
    view = View(ProjectionConfig(8, 4), window=20)
    lens = make_lens(world, view, CONFIG)
    for agent in (Plain(3), Flat(), in_a_loop(Flat())):
        agent.view = view
        with pytest.raises(GlaError, match=r"in agent space.*expected shape \(3, 4\)"):
            run(agent, world, lens=lens)


def test_an_agent_is_closed_once_it_is_done(world):
    agent = Failing(lambda: ({"rows": 3}, np.zeros((3, 2))))
    runner.run_agent(agent, world, CONFIG, steps=10)
    assert agent.closed == 1


# The ends of the scale


def test_the_nulls_may_run_alone_and_the_oracle_beside_them():
    config = MetaTestConfig("gla/SupervisedBandit-v0?pool=40", 2, 200, null_steps=100)
    results = runner.meta_test(None, config, progress=False, suite="some-v1")
    assert {one.kind for one in results.agents} == {"null", "expert"}
    [oracle] = results.of_kind("expert")
    assert [life.episode_returns for life in oracle.lifetimes] == [(100.0, 100.0)] * 2
    assert results.environment == "gla/SupervisedBandit-v0?pool=40" and results.suite == "some-v1"
    # Where an expert is stored, none is run.
    stored = MetaTestConfig("gla/SupervisedBandit-v0", 2, 100)
    assert not runner.meta_test(None, stored, progress=False).of_kind("expert")
