"""Histories of policies learned before: noise that fades, and mixtures labelled by the best."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.agents.collect import CollectConfig, collect, make_maker
from gla.agents.distillation import (
    QUALITIES,
    Heads,
    MixedQualityConfig,
    MixedQualityMaker,
    NoiseDistilledConfig,
    NoiseDistilledMaker,
    QualityShares,
    draw_noise,
    mix,
    sample,
)
from gla.agents.ppo import PPOConfig
from gla.agents.rollouts import Schedule
from gla.envs import registry
from gla.envs.splits import run_keys, step_key, task_key
from gla.envs.wrappers import Autoreset, TimeLimit
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryStore, array_shapes, record

PPO = PPOConfig(
    num_envs=2, num_steps=30, num_updates=4, epochs=2, minibatches=1, learning_rate=0.02, hidden=4
)  # fmt: skip
NAMES = ["RandomLinear", "CartPole"]
EVEN = QualityShares(1, 1, 1, 1, 1)
KINDS = {
    "noise": (NoiseDistilledConfig, NoiseDistilledMaker),
    "mixed": (MixedQualityConfig, MixedQualityMaker),
}
SIZES = {"streams_per_run": 2, "updates": 10, "steps": 20, "block": 2, "window": 20}


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A function that gives the PPO histories of an environment: CartPole's are made up.

    PPO takes long to compile, and nothing but the policies is read.
    """

    @functools.cache
    def get(name):
        config = CollectConfig(f"gla/{name}-v0", runs=3, seed=5, block=2, window=20, ppo=PPO)
        location = tmp_path_factory.mktemp(name) / "s"
        if name == "RandomLinear":
            return collect(config, location, progress=False)
        meta = make_maker(config).meta
        store, draw = HistoryStore.create_or_resume(location, meta), np.random.default_rng(0)
        for block in range(meta.blocks):
            arrays = {}
            for key, (shape, dtype) in array_shapes(meta).items():
                per = meta.streams_per_run if key in STREAM_ARRAYS else 1
                rows = per * len(meta.block_runs(block))
                arrays[key] = np.abs(draw.normal(size=(rows, *shape[1:])) + 0.1).astype(dtype)
            signs = np.sign(draw.normal(size=arrays["policy"].shape))
            n = meta.observation_size
            signs[..., -n:] = 1  # standard deviations
            arrays["policy"] = (arrays["policy"] * signs).astype(np.float32)
            store.write_block(block, arrays)
        return store

    return get


@pytest.fixture(scope="module")
def made(experts, tmp_path_factory):
    """A function that makes histories once and returns (maker, store)."""

    @functools.cache
    def get(kind, name, **settings):
        config, maker = KINDS[kind]
        maker = maker(config(experts=str(experts(name).path), **SIZES, **settings))
        return maker, record(maker, tmp_path_factory.mktemp(kind) / "s", progress=False)

    return get


def policies_of(store):
    meta = store.meta
    shape = pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)
    return pol.unflatten(shape, jnp.asarray(store.read("policy")))


def said(policy, observation, discrete):
    """What a policy says: its mean or log-probabilities, and its log_std."""
    if discrete:
        found = jax.nn.log_softmax(pol.output(policy, observation))
        return np.asarray(found), np.zeros(found.shape[-1])
    return tuple(np.asarray(x) for x in pol.gaussian(policy, observation))


def mixed(mean, share, discrete):
    """The mixture's log-probabilities or mean, in plain numpy."""
    share = np.asarray(share)[..., None]
    if discrete:
        return np.log((1 - share) * np.exp(mean) + share / mean.shape[-1])
    return (1 - share) * mean


def spread(log_std, share):
    return 0.5 * np.log((1 - share) ** 2 * np.exp(2 * log_std) + share**2 / 3)


# The behaviour


def test_actions_behind_noise_are_draws_of_what_is_recorded():
    mean, log_std = jnp.array([0.8, -0.3]), jnp.log(jnp.array([0.2, 0.6]))
    noise = draw_noise(jax.random.key(0), (40_000, 2), False)
    heads = Heads(jnp.broadcast_to(mean, (40_000, 2)), jnp.broadcast_to(log_std, (40_000, 2)))
    for share in (0.0, 0.3, 1.0):
        action = np.asarray(sample(heads, jnp.float32(share), noise, False))
        stated = mix(Heads(mean, log_std), jnp.float32(share), False)
        np.testing.assert_allclose(action.mean(0), stated.mean, atol=0.015)
        np.testing.assert_allclose(action.std(0), np.exp(stated.log_std), rtol=0.02)
    assert np.abs(action).max() <= 1, "nothing but uniform noise is left"
    np.testing.assert_allclose(np.quantile(action, (0.25, 0.75)), (-0.5, 0.5), atol=0.015)
    logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
    noise = draw_noise(jax.random.key(1), (40_000, 3), True)
    heads = Heads(jnp.broadcast_to(logits, (40_000, 3)), jnp.zeros((40_000, 3)))
    for share, stated in ((0.0, (0.7, 0.2, 0.1)), (0.6, (0.48, 0.28, 0.24)), (1.0, (1 / 3,) * 3)):
        action = np.asarray(sample(heads, jnp.float32(share), noise, True))
        np.testing.assert_allclose(np.bincount(action) / len(action), stated, atol=0.01)
        found = mix(Heads(logits, jnp.zeros(3)), jnp.float32(share), True).mean
        np.testing.assert_allclose(np.exp(found), stated, atol=1e-6)


def test_schedules_go_from_start_to_end():
    x = jnp.linspace(0, 1, 11)
    for schedule in (
        Schedule(), Schedule(shape="cosine"), Schedule(shape="power", power=3), Schedule(hold=0.35),
        Schedule(0.9, 0.1, "cosine", hold=0.2),
    ):  # fmt: skip
        values = np.asarray(schedule.at(x))
        assert values[0] == np.float32(schedule.start) and values[-1] == np.float32(schedule.end)
        assert (np.diff(values) <= 0).all()
    np.testing.assert_allclose(Schedule().at(x), 1 - x, atol=1e-6)
    np.testing.assert_allclose(Schedule(shape="power", power=3).at(x), (1 - x) ** 3, atol=1e-6)
    assert (np.asarray(Schedule(hold=0.35).at(x))[7:] == 0).all()


# Noise that fades


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_fades_from_uniform_to_the_expert(experts, made, name):
    _, store = made("noise", name)
    meta, discrete = store.meta, name == "CartPole"
    assert store.missing_blocks() == [] and meta.method == "noise-distilled"
    assert meta.arrays == ("distribution", "target") and meta.environment == f"gla/{name}-v0"
    assert (meta.runs, meta.seed, meta.split, meta.parallel_envs) == (3, 5, "train", 2)
    observation, action = store.read("observation"), store.read("action")
    distribution, target = store.read("distribution"), store.read("target")
    assert distribution.shape == (6, 10, 20, meta.action_size)
    share = np.linspace(1, 0, 200).reshape(10, 20)
    middle = share.mean(1)
    last = jax.tree.map(lambda x: x[:, -1], policies_of(experts(name)))
    for stream in range(6):
        expert = jax.tree.map(lambda x, run=stream // 2: x[run], last)
        mean, log_std = said(expert, observation[stream], discrete)
        np.testing.assert_allclose(target[stream], mean, atol=1e-5)
        np.testing.assert_allclose(distribution[stream], mixed(mean, share, discrete), atol=1e-5)
        if not discrete:
            expected = [spread(log_std, eps) for eps in middle]
            np.testing.assert_allclose(store.read("log_std")[stream // 2], expected, atol=1e-5)
            np.testing.assert_allclose(store.read("target_log_std")[stream // 2], log_std)
    # At the start nothing of the expert, at the end nothing else.
    first = np.log(1 / meta.action_size) if discrete else 0.0
    np.testing.assert_allclose(distribution[:, 0, 0], first, atol=1e-6)
    np.testing.assert_allclose(distribution[:, -1, -1], target[:, -1, -1], atol=1e-6)
    if not discrete:
        assert np.abs(action[:, 0, 0]).max() <= 1
        late = (action - distribution)[:, -1] / np.exp(store.read("log_std"))[:, -1].repeat(2, 0)[
            :, None
        ]
        assert late.std() == pytest.approx(1, abs=0.15) and abs(late.mean()) < 0.2


def test_the_window_is_that_of_the_experts_task(experts, made):
    _, store = made("noise", "RandomLinear")
    for name in ("observation_mean", "observation_std", "reward_scale"):
        np.testing.assert_allclose(store.read(name), experts("RandomLinear").read(name), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_histories_replay_on_the_task(made, name):
    _, store = made("noise", name)
    env = registry.make_functional(f"gla/{name}-v0")
    world, actions = Autoreset(TimeLimit(env)), store.read("action").reshape(6, 200, -1)

    @jax.jit
    def replay(run, stream, actions):
        keys = run_keys(task_key("train", 5, run))
        params = env.sample_params(keys.task)
        state, first = world.reset(step_key(keys.environment, -1, stream), params)

        def step(state, inputs):
            number, action = inputs
            key = step_key(keys.environment, number, stream)
            state, ts = world.step(key, state, action, params)
            return state, (ts.observation, ts.reward, ts.terminated | ts.truncated)

        _, (seen, reward, done) = jax.lax.scan(step, state, (jnp.arange(200), actions))
        return jnp.concatenate([first[None], seen[:-1]]), reward, done

    for row in (1, 4):
        actions_of = actions[row] if name == "RandomLinear" else actions[row, :, 0]
        seen, reward, done = replay(row // 2, row % 2, actions_of)
        recorded = {key: store.read(key)[row] for key in ("observation", "reward")}
        ended = (store.read("terminated") | store.read("truncated"))[row]
        np.testing.assert_allclose(seen, recorded["observation"].reshape(200, -1), atol=1e-4)
        np.testing.assert_allclose(reward, recorded["reward"].reshape(-1), atol=1e-4)
        np.testing.assert_array_equal(done, ended.reshape(-1))


# Mixed qualities


def bank_of(maker, run):
    """The policies that can act in a run, and the place of each update."""
    keys = run_keys(task_key("train", 5, run))
    return maker.prepare(keys, None, jnp.asarray(maker.given(range(run, run + 1))[0]))


def expected_distribution(maker, bank, place, observation):
    """What acts at places f32[...] and what it says about observations f32[..., n]."""
    discrete = maker.meta.discrete
    _, row, share = maker.quality(jnp.asarray(place))
    params = pol.unflatten(maker.experts.shape, jnp.asarray(bank.policies)[row])
    axes = place.ndim
    says = pol.output if discrete else lambda p, o: pol.gaussian(p, o)[0]
    for _ in range(axes):
        says = jax.vmap(says)
    mean = says(params, jnp.asarray(observation))
    mean = np.asarray(jax.nn.log_softmax(mean) if discrete else mean)
    return mixed(mean, np.asarray(share), discrete), np.asarray(share)


@pytest.mark.parametrize("name", NAMES)
def test_qualities_take_turns_and_the_best_policy_labels(experts, made, name):
    maker, store = made("mixed", name, shares=EVEN)
    discrete = name == "CartPole"
    last = jax.tree.map(lambda x: x[:, -1], policies_of(experts(name)))
    observation, orders = store.read("observation"), []
    for run in range(3):
        bank = bank_of(maker, run)
        quality, _, share = maker.quality(bank.places)
        assert np.bincount(quality).tolist() == [2, 0, 2, 2, 2, 2], "10 updates, 5 equal shares"
        assert (np.asarray(share)[np.asarray(quality) == 0] == 1).all()
        noisy = np.asarray(share)[np.asarray(quality) == QUALITIES.index("noisy")]
        assert (noisy >= 0.2).all() and (noisy <= 0.6).all()
        orders.append(tuple(np.asarray(quality).tolist()))
        expert = jax.tree.map(lambda x, run=run: x[run], last)
        for stream in (2 * run, 2 * run + 1):
            seen = observation[stream]
            place = np.repeat(np.asarray(bank.places)[:, None], 20, 1)
            expected, _ = expected_distribution(maker, bank, place, seen)
            np.testing.assert_allclose(store.read("distribution")[stream], expected, atol=1e-5)
            mean, log_std = said(expert, seen, discrete)
            np.testing.assert_allclose(store.read("target")[stream], mean, atol=1e-5)
        if not discrete:
            np.testing.assert_allclose(store.read("target_log_std")[run], log_std, atol=1e-6)
            _, row, share = maker.quality(bank.places)
            own = pol.unflatten(maker.experts.shape, jnp.asarray(bank.policies)[row])
            spreads = spread(np.asarray(pol.bounded_log_std(own)), np.asarray(share)[:, None])
            np.testing.assert_allclose(store.read("log_std")[run], spreads, atol=1e-5)
    assert len(set(orders)) == 3, "each run has an order of its own"


def test_shares_are_as_stated(experts):
    place = jnp.linspace(0, 1, 100_001)[:-1]
    path = str(experts("RandomLinear").path)
    for shares, expected in (
        (QualityShares(), (0.1, 0, 0.1, 0.1, 0.35, 0.35)),
        (QualityShares(3, 0, 1, 0, 0), (0.75, 0, 0, 0.25, 0, 0)),
        (QualityShares(0, 0, 0, 0, 2), (0, 0, 0, 0, 0, 1)),
        (QualityShares(1, 0, 0, 0, 0, 3), (0.25, 0.75, 0, 0, 0, 0)),
    ):
        maker = MixedQualityMaker(MixedQualityConfig(experts=path, shares=shares, updates=60))
        quality, row, share = (np.asarray(x) for x in maker.quality(place))
        np.testing.assert_allclose(np.bincount(quality, minlength=6) / 1e5, expected, atol=1e-4)
        for number in np.unique(quality):
            if QUALITIES[number] in ("early", "middle", "late"):
                first = 4 * ("early", "middle", "late").index(QUALITIES[number])
                counts = np.bincount(row[quality == number])
                assert counts[:first].sum() == 0 and len(counts) == first + 4
                np.testing.assert_allclose(counts[first:] / counts.sum(), 0.25, atol=1e-3)
        for run in range(3):
            turns, _, _ = maker.quality(bank_of(maker, run).places)
            counts = np.bincount(np.asarray(turns), minlength=6)
            assert (np.abs(counts - 60 * np.array(expected)) <= 1).all()


def test_foreign_experts_are_those_of_other_runs(experts, made):
    maker, store = made("mixed", "RandomLinear", shares=QualityShares(0, 0, 0, 0, 0, 1))
    last = jax.tree.map(lambda x: x[:, -1], policies_of(experts("RandomLinear")))
    flat = np.asarray(jax.vmap(pol.flatten)(last))
    for run in range(3):
        bank = bank_of(maker, run)
        assert bank.policies.shape[0] == 4 * 4 + 1
        lent = np.asarray(bank.policies[13:])
        owners = [int(np.flatnonzero((flat == one).all(-1))[0]) for one in lent]
        assert run not in owners and set(owners) <= {0, 1, 2}
        seen = store.read("observation")[2 * run]
        own = jax.tree.map(lambda x, run=run: x[run], last)
        np.testing.assert_allclose(
            store.read("target")[2 * run], said(own, seen, False)[0], atol=1e-5
        )
        place = np.repeat(np.asarray(bank.places)[:, None], 20, 1)
        expected, _ = expected_distribution(maker, bank, place, seen)
        np.testing.assert_allclose(store.read("distribution")[2 * run], expected, atol=1e-5)
        lines = {
            tuple(
                np.round(said(jax.tree.map(lambda x, o=o: x[o], last), seen[0, :1], False)[0][0], 4)
            )
            for o in owners
        }
        assert tuple(np.round(store.read("distribution")[2 * run][0, 0], 4)) in lines
    with pytest.raises(GlaError, match="has no foreign experts"):
        MixedQualityMaker(
            MixedQualityConfig(
                experts=str(experts("RandomLinear").path), runs=1, shares=QualityShares(foreign=1)
            )
        )


def test_versions_come_from_their_ranges(experts):
    path = str(experts("RandomLinear").path)
    config = MixedQualityConfig(
        experts=path, early=(0, 0), middle=(0.3, 0.7), late=(1, 1), versions=5
    )
    chosen = np.asarray(MixedQualityMaker(config)._choose(np.arange(3)))
    assert (chosen[:, :5] == 0).all() and (chosen[:, 10:] == 3).all()
    assert set(chosen[:, 5:10].ravel()) == {1, 2} and (np.diff(chosen[:, 5:10]) >= 0).all()
    versions = MixedQualityMaker(config).given(range(1, 3))
    stored = experts("RandomLinear").read("policy")
    for run in (1, 2):
        np.testing.assert_array_equal(versions[run - 1], stored[run, chosen[run]])


def test_rising_episodes_keep_their_policy_to_their_end(made):
    maker, store = made("mixed", "CartPole", shares=EVEN, unit="episode", order="rising")
    ended = (store.read("terminated") | store.read("truncated")).reshape(6, 200)
    assert ended.sum() > 10
    for stream in range(6):
        # An episode's place is the share of the history that was over when it began.
        begins = np.concatenate([[True], ended[stream, :-1]])
        place = np.maximum.accumulate(np.where(begins, np.arange(200), 0)) / np.float32(199)
        assert (np.diff(place) >= 0).all() and len(set(place)) > 1
        observation = store.read("observation")[stream].reshape(200, -1)
        bank = bank_of(maker, stream // 2)
        expected, _ = expected_distribution(maker, bank, place.astype(np.float32), observation)
        found = store.read("distribution")[stream].reshape(200, -1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


# Resuming


@pytest.fixture
def optimized():
    """Compile as users do where programs are compared to the bit; elsewhere it takes too long."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        ("noise", "RandomLinear", {}),
        ("mixed", "CartPole", {"shares": EVEN, "unit": "episode", "order": "rising"}),
    ],
)
def test_a_block_goes_on_bit_for_bit(optimized, experts, kind, name, settings):
    config, maker = KINDS[kind]
    config = config(experts=str(experts(name).path), **SIZES, **settings)
    once, cut = maker(config), maker(dataclasses.replace(config, chunk=4))
    for runs in (range(0, 2), range(2, 3)):
        [whole] = list(once.parts(runs))
        assert whole.state == {}
        parts = list(cut.parts(runs))
        assert [part.arrays["mean_return"].shape[1] for part in parts] == [4, 4, 2]
        for name in whole.arrays:
            pieces = [part.arrays[name] for part in parts if name in part.arrays]
            joined = np.concatenate(pieces, 1) if len(pieces) > 1 else pieces[0]
            np.testing.assert_array_equal(joined, whole.arrays[name], err_msg=name)
        again = list(cut.parts(runs, 1, parts[0].state))
        assert len(again) == 2
        for one, other in zip(again, parts[1:], strict=True):
            assert set(one.arrays) == set(other.arrays)
            for name in one.arrays:
                np.testing.assert_array_equal(one.arrays[name], other.arrays[name], err_msg=name)


# What is refused


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"environment": "gla/CartPole-v0"}, "has environment 'gla/RandomLinear-v0' instead of"),
        ({"seed": 6}, "has seed 5 instead of 6"),
        ({"split": "test"}, "has split 'train' instead of 'test'"),
        ({"runs": 4}, "has 3 runs instead of 4"),
        ({"environment": "gla/RandomLinea-v0"}, "did you mean RandomLinear"),
    ],
)
def test_experts_of_other_tasks_are_refused(experts, settings, words):
    path = str(experts("RandomLinear").path)
    for config, maker in (
        (NoiseDistilledConfig, NoiseDistilledMaker), (MixedQualityConfig, MixedQualityMaker),
    ):  # fmt: skip
        with pytest.raises(GlaError, match=words) as caught:
            maker(config(experts=path, **settings))
        assert "\n" not in str(caught.value)


def test_stores_without_policies_are_refused(made, experts, tmp_path):
    _, store = made("noise", "CartPole")
    with pytest.raises(GlaError, match=r"holds no policies \(it was made by noise-distilled\)"):
        NoiseDistilledMaker(NoiseDistilledConfig(experts=str(store.path)))
    with pytest.raises(GlaError, match="holds no learning histories"):
        MixedQualityMaker(MixedQualityConfig(experts=str(tmp_path / "nothing")))
    partial = HistoryStore.create_or_resume(tmp_path / "s", experts("CartPole").meta)
    with pytest.raises(GlaError, match="is not complete"):
        NoiseDistilledMaker(NoiseDistilledConfig(experts=str(partial.path)))


def test_the_same_experts_elsewhere_are_the_same(experts, tmp_path):
    import shutil

    moved = tmp_path / "moved"
    shutil.copytree(experts("CartPole").path, moved)
    paths = (str(experts("CartPole").path), str(moved))
    metas = [NoiseDistilledMaker(NoiseDistilledConfig(experts=path)).meta for path in paths]
    assert metas[0] == metas[1] and "ppo on gla/CartPole-v0" in metas[0].settings["experts"]
    other = NoiseDistilledMaker(NoiseDistilledConfig(experts=str(experts("RandomLinear").path)))
    assert other.meta.settings["experts"] != metas[0].settings["experts"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"chunk": -1}, "chunk is -1"),
        ({"runs": 0}, "runs is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"early": (0.5, 0.1)}, "early is 0.5 to 0.1"),
        ({"noise": (0.0, 1.1)}, "noise is 0.0 to 1.1"),
        ({"versions": 0}, "versions is 0"),
        ({"order": "falling"}, "order is 'falling'"),
    ],
)
def test_a_config_out_of_range_is_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        MixedQualityConfig(experts="x", **settings)


def test_schedules_and_shares_out_of_range_are_refused():
    for settings in ({"power": 0}, {"hold": 1.0}, {"shape": "round"}, {"start": float("nan")}):
        with pytest.raises(GlaError, match=f"schedule {next(iter(settings))}"):
            Schedule(**settings)
    with pytest.raises(GlaError, match="noise start is 2"):
        NoiseDistilledConfig(experts="x", noise=Schedule(2.0, 0.0))
    for values in ((0, 0, 0, 0, 0), (-1, 1, 1, 1, 1)):
        with pytest.raises(GlaError, match="shares of qualities"):
            QualityShares(*values)
