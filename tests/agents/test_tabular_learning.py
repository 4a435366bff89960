"""Tabular learners: they learn, they do what they say, and they are labelled with the best."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.agents.rollouts import Schedule
from gla.agents.tabular_learning import (
    QLearningConfig,
    QLearningMaker,
    ValueIterationConfig,
    ValueIterationMaker,
    greedy,
    values_to_go,
)
from gla.envs import registry
from gla.envs.random_tabular import TabularState
from gla.envs.splits import run_keys, task_key
from gla.errors import GlaError
from gla.histories import HistoryStore, Part, record

NAMES = ["RandomTabular", "Gridworld", "FrozenLake", "CliffWalking", "Darkroom"]
KINDS = {
    "q": (QLearningConfig, QLearningMaker),
    "plan": (ValueIterationConfig, ValueIterationMaker),
}
SIZES = {"runs": 3, "block": 2, "updates": 5, "steps": 30, "window": 20, "seed": 4}


def params_of(env, run, seed=4):
    return env.sample_params(run_keys(task_key("train", seed, run)).task)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function that makes histories once and returns (maker, store)."""

    @functools.cache
    def get(kind, name, **settings):
        config, maker = KINDS[kind]
        maker = maker(config(environment=f"gla/{name}-v0", **(SIZES | settings)))
        return maker, record(maker, tmp_path_factory.mktemp(kind) / "s", progress=False)

    return get


# What the learners are built of


@pytest.mark.parametrize("name", NAMES)
def test_the_values_are_those_of_the_environments_oracle(name):
    env = registry.make_functional(f"gla/{name}-v0")
    params = params_of(env, 1)
    solution = jax.jit(env.solve)(params)
    values = np.asarray(jax.jit(lambda p: values_to_go(p, env.horizon))(params))
    assert values.shape == (env.horizon + 1, env.states, env.action_space.n)
    assert (values[0] == 0).all()
    np.testing.assert_allclose(values[-1].max(-1), solution.values, rtol=1e-5, atol=1e-5)
    # Row t of the oracle's actions has horizon - t steps to go. All that it calls best is.
    best = np.take_along_axis(values[1:][::-1], np.asarray(solution.actions)[..., None], -1)[..., 0]
    np.testing.assert_allclose(best, values[1:][::-1].max(-1), rtol=1e-6, atol=1e-6)
    chance = np.exp(greedy(jnp.asarray(values[1:][::-1]), 1e-3))
    chosen = np.take_along_axis(chance, np.asarray(solution.actions)[..., None], -1)[..., 0]
    np.testing.assert_allclose(chosen, chance.max(-1), rtol=1e-5)


def test_the_best_actions_share_what_is_left():
    values = jnp.array([[1.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [1e6, 1e6 + 1, 0.0, 0.0]])
    found = np.exp(greedy(values, 0.2))
    np.testing.assert_allclose(
        found, [[0.05, 0.45, 0.45, 0.05], [0.25] * 4, [0.45, 0.45, 0.05, 0.05]], rtol=1e-6
    )
    assert np.isfinite(greedy(values, 1e-6)).all()


@pytest.mark.parametrize("name", NAMES)
def test_states_are_told_by_their_looks(name):
    maker = QLearningMaker(QLearningConfig(environment=f"gla/{name}-v0", **SIZES))
    numbers = np.arange(maker._env.states)
    seen = jax.vmap(maker._env.observe)(jnp.asarray(numbers))
    np.testing.assert_array_equal(maker.number_of(seen), numbers)
    np.testing.assert_array_equal(maker.number_of(seen.reshape(1, *seen.shape))[0], numbers)


# What is recorded


def test_q_learning_is_what_the_textbook_says(made):
    """Recomputed from what was seen, in numpy: every recorded distribution."""
    maker, store = made("q", "Gridworld")
    config, env = maker.config, maker._env
    for run in range(3):
        params = params_of(env, run)
        read = {
            name: store.read(name)[run].reshape(150, *store.read(name).shape[3:])
            for name in ("observation", "action", "reward", "terminated", "distribution")
        }
        state = read["observation"].argmax(-1)
        table = np.full((9, 4), config.initial_value)
        for step in range(150):
            share = step / 149
            epsilon = 1 + (0.02 - 1) * share
            among = table[state[step]] == table[state[step]].max()
            expected = (1 - epsilon) * among / among.sum() + epsilon / 4
            found = np.exp(read["distribution"][step])
            np.testing.assert_allclose(found, expected, rtol=1e-3, err_msg=f"step {step}")
            # The grid is deterministic: where the step led can be looked up, before any autoreset.
            action = read["action"][step]
            following = np.asarray(params.successors)[state[step], action, 0]
            rest = 0 if read["terminated"][step] else table[following].max()
            change = read["reward"][step] + config.gamma * rest - table[state[step], action]
            rate = np.float32(0.5 + (0.1 - 0.5) * share)
            table[state[step], action] += rate * change
            table = table.astype(np.float32)
        assert read["terminated"].any()


@pytest.mark.parametrize(("kind", "name"), [("q", "RandomTabular"), ("plan", "Darkroom")])
def test_targets_are_the_oracles(made, kind, name):
    maker, store = made(kind, name)
    env = maker._env
    assert store.missing_blocks() == [] and store.meta.arrays == ("distribution", "target")
    chance = np.exp(store.read("target").reshape(3, 150, -1))
    np.testing.assert_allclose(chance.sum(-1), 1, rtol=1e-5)
    ended = (store.read("terminated") | store.read("truncated")).reshape(3, 150)
    solve, best = jax.jit(env.solve), jax.jit(jax.vmap(env.best_action, (None, 0, None)))
    for run in range(3):
        params = params_of(env, run)
        begins = np.concatenate([[True], ended[run, :-1]])
        steps = np.arange(150) - np.maximum.accumulate(np.where(begins, np.arange(150), 0))
        number = maker.number_of(jnp.asarray(store.read("observation")[run].reshape(150, -1)))
        action = best(solve(params), TabularState(number, jnp.asarray(steps)), params)
        chosen = np.take_along_axis(chance[run], np.asarray(action)[:, None], -1)[:, 0]
        np.testing.assert_allclose(chosen, chance[run].max(-1), rtol=1e-5)
        # What is not among the best is all but left out; all may be best.
        worst, actions = chance[run].min(-1), int(env.action_space.n)
        left_out, all_best = (np.isclose(worst, x / actions, rtol=1e-4) for x in (1e-3, 1.0))
        assert (left_out | all_best).all() and left_out.any()
    assert (store.read("log_std") == 0).all() and (store.read("target_log_std") == 0).all()


def test_actions_are_draws_of_what_is_recorded(made):
    _, store = made("q", "RandomTabular")
    chance, action = np.exp(store.read("distribution")), store.read("action")
    chosen = np.take_along_axis(chance, action[..., None], -1)[..., 0]
    # Of 450 actions as many were likely as their probabilities say: within 5 standard deviations.
    expected, variance = (chance**2).sum(-1), (chance**3).sum(-1) - (chance**2).sum(-1) ** 2
    assert abs(chosen.sum() - expected.sum()) < 5 * np.sqrt(variance.sum()) + 1e-6


@pytest.mark.parametrize("policy", ["epsilon-greedy", "softmax"])
def test_q_learning_learns(made, policy):
    sizes = {"runs": 8, "block": 8, "updates": 60, "steps": 50}
    _, store = made("q", "RandomTabular", policy=policy, **sizes)
    returns = store.read("mean_return").mean(0)
    assert returns[-6:].mean() > 2.5 * returns[:6].mean()
    assert store.scores().improvement.mean() > 0.4
    oracle = registry.make_functional("gla/RandomTabular-v0")
    best = np.mean([oracle.solve(params_of(oracle, run)).expected_return for run in range(8)])
    assert 0.6 * best < returns[-6:].mean() < 1.2 * best


def test_several_environments_learn_one_table(made):
    settings = {"num_envs": 4, "targets": "last", "epsilon": Schedule(0.5, 0.1)}
    maker, store = made("q", "RandomTabular", streams_per_run=2, **settings)
    assert store.meta.streams == 6 and store.meta.parallel_envs == 4
    # Targets are the greedy actions of the last table, the same wherever a state is seen.
    chance = np.exp(store.read("target")).reshape(3, -1, 4)
    state = store.read("observation").argmax(-1).reshape(3, -1)
    table = list(maker.parts(range(0, 2)))[-1].state[".memory"]
    for run in (0, 1):
        np.testing.assert_array_equal(chance[run].argmax(-1), table[run].argmax(-1)[state[run]])
        np.testing.assert_allclose(chance[run].max(-1), 1 - 1e-3 + 1e-3 / 4, rtol=1e-5)


def test_plans_look_ever_further_ahead(made):
    maker, store = made("plan", "Gridworld", updates=21, steps=40)
    assert np.asarray(maker.sweeps(jnp.arange(21))).tolist()[::5] == [0, 1, 5, 11, 20]
    distribution, target = store.read("distribution"), np.exp(store.read("target"))
    np.testing.assert_allclose(distribution[:, 0], np.log(1 / 4), atol=1e-6)
    # The last plan is the best policy, but for its noise: nothing is between 0.05 and 0.001.
    last = np.exp(distribution[:, -1])
    np.testing.assert_allclose(
        (last - 0.05 / 4) / 0.95, (target[:, -1] - 1e-3 / 4) / 0.999, atol=1e-5
    )
    returns = store.read("mean_return").mean(0)
    assert returns[-5:].mean() > returns[0] + 0.3


# Resuming


@pytest.fixture
def optimized():
    """Compile as users do where programs are compared to the bit; elsewhere it takes too long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("kind", ["q", "plan"])
def test_a_block_goes_on_bit_for_bit(optimized, kind):
    config, maker = KINDS[kind]
    once, cut = maker(config(**SIZES)), maker(config(**SIZES, chunk=2))
    runs = range(2, 3)
    [whole] = list(once.parts(runs))
    parts = list(cut.parts(runs))
    assert [part.arrays["mean_return"].shape[1] for part in parts] == [2, 2, 1]
    for name in whole.arrays:
        pieces = [part.arrays[name] for part in parts if name in part.arrays]
        joined = np.concatenate(pieces, 1) if len(pieces) > 1 else pieces[0]
        np.testing.assert_array_equal(joined, whole.arrays[name], err_msg=name)
    again = list(cut.parts(runs, 1, parts[0].state))
    for one, other in zip(again, parts[1:], strict=True):
        for name in one.arrays:
            np.testing.assert_array_equal(one.arrays[name], other.arrays[name], err_msg=name)


class Killed(Exception):
    pass


class Killing:
    """Passes on what another maker makes until it is killed."""

    def __init__(self, maker, parts):
        self.maker, self.meta, self.left = maker, maker.meta, parts
        self.targets = maker.targets

    def parts(self, runs, first=0, state=None):
        for arrays, kept in self.maker.parts(runs, first, state):
            if not self.left:
                raise Killed
            self.left -= 1
            yield Part(arrays, kept)


def test_a_killed_recording_is_the_same_in_the_end(optimized, tmp_path):
    config = QLearningConfig(**SIZES, chunk=2, targets="last")
    maker = QLearningMaker(config)
    whole = record(maker, tmp_path / "whole", progress=False)
    for parts in (2, 1, 2):
        with pytest.raises(Killed):
            record(Killing(maker, parts), tmp_path / "s", progress=False)
    assert HistoryStore.open(tmp_path / "s").missing_blocks() != []
    again = record(maker, tmp_path / "s", progress=False)
    for name in ("observation", "action", "distribution", "target", "mean_return", "reward_scale"):
        np.testing.assert_array_equal(again.read(name), whole.read(name), err_msg=name)


def test_a_run_is_the_same_in_every_block(optimized):
    config = QLearningConfig(**SIZES)
    [part] = QLearningMaker(config).parts(range(2, 3))  # beside itself, to fill the block
    [other] = QLearningMaker(dataclasses.replace(config, block=3)).parts(range(0, 3))
    for name, value in part.arrays.items():
        np.testing.assert_array_equal(value[0], other.arrays[name][2], err_msg=name)


# What is refused


@pytest.mark.parametrize("maker", [QLearningMaker, ValueIterationMaker])
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("gla/RandomLinear-v0", "RandomLinear-v0, which is no table of states"),
        ("gla/CartPole-v0", "CartPole-v0, which is no table of states"),
        ("gla/Reacher-v0", "cannot record gla/Reacher-v0, a host simulator"),
        ("gla/RandomTabular-Projected-v0", "expected the plain gla/RandomTabular-v0"),
        ("gla/RandomTabula-v0", "did you mean RandomTabular"),
    ],
)
def test_what_is_no_table_is_refused(maker, environment, words):
    config = QLearningConfig if maker is QLearningMaker else ValueIterationConfig
    with pytest.raises(GlaError, match=words) as caught:
        maker(config(environment=environment))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runs": 0}, "runs is 0"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"streams_per_run": 2}, "streams_per_run is 2; expected at most num_envs, 1"),
        ({"epsilon": Schedule(1.0, 0.0)}, "epsilon end is 0.0"),
        ({"temperature": Schedule(0.0, 1.0)}, "temperature start is 0.0"),
        ({"learning_rate": Schedule(2.0, 0.1)}, "learning_rate start is 2.0"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"softness": 0.0}, "softness is 0.0"),
        ({"policy": "greedy"}, "policy is 'greedy'"),
        ({"targets": "none"}, "targets is 'none'"),
        ({"seed": 2**31}, "seed is"),
    ],
)
def test_a_config_out_of_range_is_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        QLearningConfig(**settings)


def test_a_plan_out_of_range_is_refused():
    for name, value in (("noise", 0.0), ("noise", 1.5), ("power", 0.0), ("softness", 0.0)):
        with pytest.raises(GlaError, match=f"{name} is {value}"):
            ValueIterationConfig(**{name: value})
