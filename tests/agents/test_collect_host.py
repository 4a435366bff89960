"""Histories of PPO on host simulators: as those of functional environments, resumed to the bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla.agents.collect import CollectConfig, collect, make_maker
from gla.agents.collect_host import HostPPOMaker
from gla.agents.hyper import HyperRanges
from gla.agents.ppo import PPOConfig
from gla.envs import registry
from gla.envs.splits import run_keys, task_key
from gla.histories import STREAM_ARRAYS, HistoryStore, array_shapes

CONFIG = CollectConfig(
    "gla/InvertedPendulum-v0", runs=3, streams_per_run=2, seed=3, block=2, window=40,
    vary=HyperRanges(learning_rate=(1e-3, 1e-2)),
    ppo=PPOConfig(num_envs=3, num_steps=30, num_updates=4, epochs=1, minibatches=2, hidden=8),
)  # fmt: skip


def arrays_of(store):
    return {name: store.read(name) for name in array_shapes(store.meta)}


@functools.cache
def stored(folder):
    return collect(CONFIG, folder / "whole", progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("host"))


def test_the_store_holds_what_the_policies_did(store):
    assert isinstance(make_maker(CONFIG), HostPPOMaker)
    assert store.missing_blocks() == [] and store.verify() == []
    observation, action = store.read("observation"), store.read("action")
    assert observation.shape == (6, 4, 30, 4) and store.meta.horizon == 1000
    shape = pol.PolicyShape(4, 1, 8)
    policies = pol.unflatten(shape, jnp.asarray(store.read("policy")))
    chosen = jax.tree.map(lambda x: x[np.repeat(np.arange(3), 2)], policies)
    mean, log_std = jax.vmap(jax.vmap(pol.gaussian))(chosen, observation)
    np.testing.assert_allclose(mean, store.read("distribution"), atol=1e-5)
    np.testing.assert_allclose(log_std[::2], store.read("log_std"), atol=1e-6)
    z = (action - mean) / np.exp(log_std)[:, :, None]
    assert abs(z.mean()) < 0.15 and z.std() == pytest.approx(1.0, abs=0.1)
    # The pole falls: episodes end, and the reward of each step is 1.
    assert store.read("terminated").any() and not store.read("truncated").any()
    assert (store.read("mean_return") < 200).all()
    rates = store.read("hyperparameters")[:, 0]
    assert len(set(rates)) == 3 and ((rates > 1e-3) & (rates < 1e-2)).all()


def test_a_history_replays_through_the_simulator(store):
    from gla.agents.ppo_host import host_keys

    keys = run_keys(task_key("train", 3, 1))
    episodes = host_keys(jax.random.fold_in(keys.agent, 0)).episodes
    vec = registry.make_host(CONFIG.environment, 3, threads=1)
    try:
        observation, _ = vec.reset(seed=int(jax.random.randint(episodes, (), 0, 2**30)))
        seen = store.read("observation", [1]).reshape(2, 120, 4)
        actions = store.read("action", [1]).reshape(2, 120, 1)
        rewards = store.read("reward", [1]).reshape(2, 120)
        for step in range(120):
            np.testing.assert_array_equal(observation[:2], seen[:, step])
            # The third environment is not recorded and goes its own way.
            acted = np.concatenate([actions[:, step], np.zeros((1, 1), np.float32)])
            observation, reward, *_ = vec.step(acted)
            np.testing.assert_array_equal(reward[:2].astype(np.float32), rewards[:, step])
    finally:
        vec.close()


def test_parts_and_kills_do_not_change_a_run(store, tmp_path):
    config = dataclasses.replace(CONFIG, chunk=1, targets=True)
    runs = range(2, 3)
    parts = list(make_maker(config).parts(runs))
    # From what was kept after the second part, as after a kill.
    later = list(make_maker(config).parts(runs, 2, parts[1].state))
    for one, other in zip(parts[2:], later, strict=True):
        for name in one.arrays:
            np.testing.assert_array_equal(one.arrays[name], other.arrays[name], err_msg=name)
        for name in one.state:
            np.testing.assert_array_equal(one.state[name], other.state[name], err_msg=name)
    cut = collect(config, tmp_path / "s", progress=False)
    for name, value in arrays_of(store).items():
        np.testing.assert_array_equal(cut.read(name), value, err_msg=name)
    # The last policy is that of the run, were it one update longer.
    longer = PPOConfig(**{**dataclasses.asdict(CONFIG.ppo), "num_updates": 5})
    after = collect(dataclasses.replace(CONFIG, ppo=longer), tmp_path / "t", progress=False)
    last = pol.unflatten(pol.PolicyShape(4, 1, 8), jnp.asarray(after.read("policy")[:, -1]))
    chosen = jax.tree.map(lambda x: x[np.repeat(np.arange(3), 2)], last)
    mean, log_std = jax.vmap(pol.gaussian)(chosen, cut.read("observation"))
    np.testing.assert_allclose(mean, cut.read("target"), atol=1e-5)
    np.testing.assert_allclose(log_std[::2], cut.read("target_log_std"), atol=1e-6)


def test_fewer_streams_are_the_first_of_more(store, tmp_path):
    few = collect(dataclasses.replace(CONFIG, streams_per_run=1), tmp_path / "s", progress=False)
    for name, value in arrays_of(few).items():
        more = store.read(name)
        np.testing.assert_array_equal(value, more[::2] if name in STREAM_ARRAYS else more)


def test_deepmind_control_is_recorded_and_resumed(tmp_path):
    pytest.importorskip("dm_control", reason="needs dm_control")
    small = PPOConfig(num_envs=2, num_steps=20, num_updates=3, epochs=1, minibatches=1, hidden=4)
    config = CollectConfig(
        "gla/CartpoleSwingup-v0", runs=1, window=10, chunk=1, ppo=small
    )  # fmt: skip
    parts = list(make_maker(config).parts(range(1)))
    (last,) = make_maker(config).parts(range(1), 2, parts[1].state)
    for name in last.arrays:
        np.testing.assert_array_equal(last.arrays[name], parts[2].arrays[name], err_msg=name)
    store = collect(config, tmp_path / "s", progress=False)
    assert HistoryStore.open(tmp_path / "s").verify() == []
    np.testing.assert_array_equal(store.read("reward")[:, 2:], last.arrays["reward"])
