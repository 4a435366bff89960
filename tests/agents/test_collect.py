"""Collected histories: they are what the stored policies did, and they can be replayed."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla import projection as proj
from gla import sampling
from gla.agents.collect import CollectConfig, PPOMaker, collect
from gla.agents.hyper import HyperRanges
from gla.agents.ppo import PPOConfig
from gla.envs import registry
from gla.envs.base import Environment, timestep
from gla.envs.splits import run_keys, step_key, task_key
from gla.envs.wrappers import AugmentedParams, Autoreset, Normalized, Projected, TimeLimit
from gla.errors import GlaError
from gla.histories import STREAM_ARRAYS, HistoryMeta, HistoryStore, array_shapes, record
from gla.histories.recording import check_finite
from gla.normalization import normalize_observation, normalize_reward
from gla.projection import ProjectionConfig

EXACT = True  # see conftest.py

# 240 steps: past the time limit of every environment here, and it never falls on an update's end.
PPO = PPOConfig(
    num_envs=3, num_steps=60, num_updates=4, epochs=1, minibatches=2, hidden=8
)  # fmt: skip
CONFIG = CollectConfig(runs=3, streams_per_run=2, seed=3, block=2, window=40, ppo=PPO)
CONTINUOUS = ["RandomLinear", "RandomMechanics", "RandomNeural", "Pendulum"]
PROJECTION = ProjectionConfig(observation_dim=16, action_dim=5)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A function that collects an environment once and returns (config, store)."""

    @functools.cache
    def get(name):
        config = dataclasses.replace(CONFIG, environment=f"gla/{name}-v0")
        return config, collect(config, tmp_path_factory.mktemp(name) / "s", progress=False)

    return get


def shape_of(meta):
    return pol.PolicyShape(meta.observation_size, meta.action_size, meta.hidden, meta.discrete)


@pytest.mark.parametrize("name", [*CONTINUOUS, "CartPole"])
def test_the_store_is_complete_and_moves(stores, name):
    config, store = stores(name)
    assert store.missing_blocks() == [] and store.verify() == []
    assert store.meta.streams == 6 and store.meta.environment == config.environment
    assert store.read("observation").shape[:3] == (6, 4, 60)
    assert np.std(store.read("reward")) > 0 or name == "CartPole"
    ends = store.read("terminated") | store.read("truncated")
    assert ends.any(), "episodes end"
    assert store.read("terminated").any() == (name == "CartPole")
    # Runs are different tasks or at least different runs; so are a run's streams.
    first = store.read("observation")[:, 0, 0]
    assert len({tuple(row) for row in first.tolist()}) == 6


@pytest.mark.parametrize("name", ["RandomLinear", "CartPole"])
def test_stored_distributions_are_those_of_the_stored_policies(stores, name):
    _, store = stores(name)
    observation = store.read("observation")
    policies = pol.unflatten(shape_of(store.meta), store.read("policy"))
    ours = jax.tree.map(lambda x: jnp.asarray(x)[np.repeat(np.arange(3), 2)], policies)
    if store.meta.discrete:
        found = jax.jit(jax.vmap(jax.vmap(pol.output)))(ours, observation)
        log_std = np.zeros((6, 4, 2))
    else:
        found, log_std = jax.jit(jax.vmap(jax.vmap(pol.gaussian)))(ours, observation)
    np.testing.assert_allclose(found, store.read("distribution"), atol=1e-5)
    np.testing.assert_allclose(log_std[::2], store.read("log_std"), atol=1e-6)
    # Actions are draws from it.
    if not store.meta.discrete:
        z = (store.read("action") - found) / np.exp(log_std)[:, :, None]
        assert abs(z.mean()) < 0.1 and z.std() == pytest.approx(1.0, abs=0.05)


@functools.cache
def replayer(name, discrete):
    """A compiled replay of one stream, plain and projected, and of its run's normalisation."""
    env = registry.make_functional(f"gla/{name}-v0")
    plain = Autoreset(TimeLimit(env))
    shown = Projected(plain, PROJECTION)

    def replay(run, stream, actions):
        keys = run_keys(task_key(CONFIG.split, CONFIG.seed, run))
        params = env.sample_params(keys.task)
        key = jax.random.key(run * 10 + stream)
        projection = proj.sample(
            key, PROJECTION, env.observation_space.shape[0],
            int(env.action_space.n) if discrete else env.action_space.shape[0],
        )  # fmt: skip
        if discrete:
            lifted = proj.lift_slot(key, projection, actions)
        else:
            noise = jax.random.normal(key, (len(actions), PROJECTION.action_dim))
            lifted = proj.lift_action(projection, actions, noise)

        def through(world, params, actions):
            state, first = world.reset(step_key(keys.environment, -1, stream), params)

            def step(state, inputs):
                number, action = inputs
                state, ts = world.step(
                    step_key(keys.environment, number, stream), state, action, params
                )
                return state, (ts.observation, ts.reward, ts.terminated, ts.truncated)

            _, seen = jax.lax.scan(step, state, (jnp.arange(len(actions)), actions))
            # What was seen before each step, as histories store it.
            return jnp.concatenate([first[None], seen[0][:-1]]), *seen[1:]

        measured = Normalized(env, CONFIG.window).measure(keys.window, params).statistics
        return (
            through(plain, params, actions),
            through(shown, AugmentedParams(params, projection), lifted),
            projection,
            measured,
        )

    return jax.jit(replay)


@pytest.mark.parametrize("name", [*CONTINUOUS, "CartPole"])
def test_a_history_replays_plain_and_projected(stores, name):
    _, store = stores(name)
    arrays = {
        key: store.read(key).reshape(6, 240, *array_shapes(store.meta)[key][0][3:])
        for key in ("observation", "action", "reward", "terminated", "truncated")
    }
    for stream in (0, 1, 4):
        one = {key: value[stream] for key, value in arrays.items()}
        run, number = divmod(stream, 2)
        plain, shown, projection, _ = replayer(name, store.meta.discrete)(
            run, number, one["action"]
        )
        expected = [one[key] for key in ("reward", "terminated", "truncated")]
        # Programs round differently, and a pendulum near the top carries that on.
        near = {"atol": 4e-4, "rtol": 1e-4} if name == "Pendulum" else {"atol": 1e-5}
        np.testing.assert_allclose(plain[0], one["observation"], **near)
        for found, wanted in zip(plain[1:], expected, strict=True):
            np.testing.assert_allclose(found, wanted, **near)
        # Lowering a lifted action rounds, and the systems carry that on: hence 1e-4.
        further = 4e-3 if name == "Pendulum" else 1e-4
        seen = proj.project_observation(projection, one["observation"])
        np.testing.assert_allclose(shown[0], seen, atol=further)
        for found, wanted in zip(shown[1:], expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=further)


def test_the_stored_normalisation_is_that_of_the_tasks_window(stores):
    _, store = stores("RandomLinear")
    read = sampling.from_store(store)
    for run in range(3):
        actions = store.read("action").reshape(6, 240, 2)[2 * run]
        *_, measured = replayer("RandomLinear", False)(run, 0, actions)
        stored = [store.read(f"observation_{x}")[run] for x in ("mean", "std")]
        for found, wanted in zip(measured, [*stored, store.read("reward_scale")[run]], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        # Histories are shown as `Normalized` shows the task itself.
        np.testing.assert_allclose(
            read.observation[2 * run],
            normalize_observation(measured, store.read("observation")[2 * run]),
            atol=1e-4,
        )
        np.testing.assert_allclose(
            read.reward[2 * run],
            normalize_reward(measured, store.read("reward")[2 * run]),
            atol=1e-4,
        )


def test_a_finished_collection_is_left_alone(stores):
    config, store = stores("RandomLinear")
    before = {p: p.stat().st_mtime_ns for p in store.path.rglob("*")}
    collect(config, store.path, progress=False)
    assert {p: p.stat().st_mtime_ns for p in store.path.rglob("*")} == before


# Killed at random moments. The whole number of kills is GLA_TEST_KILLS, few by default: every
# attempt compiles again.
KILLS = int(os.environ.get("GLA_TEST_KILLS", "3"))
COLLECT = """
import json, sys
from gla.agents import collect, ppo
settings = json.loads(sys.argv[1])
settings["ppo"] = ppo.PPOConfig(**settings["ppo"])
settings["vary"] = collect.HyperRanges(**settings["vary"])
collect.collect(collect.CollectConfig(**settings), sys.argv[2], progress=False)
"""


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_collection_killed_at_random_moments_ends_as_if_it_never_was(tmp_path):
    config = dataclasses.replace(
        CONFIG, environment="gla/CartPole-v0", chunk=1, targets=True, runs=4, block=2,
        vary=HyperRanges(learning_rate=(1e-3, 1e-2)),
    )  # fmt: skip
    command = [sys.executable, "-c", COLLECT, json.dumps(dataclasses.asdict(config))]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, timeout=300)
    whole = files_of(tmp_path / "whole")
    place, rng = tmp_path / "killed", np.random.default_rng(0)
    kills = done = 0
    while kills < KILLS:
        process = subprocess.Popen([*command, str(place)], start_new_session=True)
        lock = place / "writer.lock"  # that of a killed one is still there
        while process.poll() is None and not (
            lock.exists() and lock.read_text().strip() == str(process.pid)
        ):
            time.sleep(0.002)
        # All of the writing takes about so long; what was killed early is killed again.
        time.sleep(rng.uniform(0, 6))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        if done := (place / "zarr.json").exists() and not HistoryStore.open(place).missing_blocks():
            assert HistoryStore.open(place).verify() == []
            if process.returncode == 0:
                assert files_of(place) == whole
                shutil.rmtree(place)
    if not done or place.exists():
        subprocess.run([*command, str(place)], check=True, timeout=300)
        assert files_of(place) == whole


def test_a_damaged_block_is_collected_again_bit_for_bit(stores, tmp_path):
    config, whole = stores("RandomLinear")
    expected = whole.read("reward")
    before = files_of(whole.path)
    chunk = whole.path / "reward" / "c" / "1" / "0" / "0"
    content = chunk.read_bytes()
    try:
        chunk.write_bytes(content[:-1])
        assert len(whole.verify(repair=True)) == 1
        assert whole.missing_blocks() == [1]
        again = collect(config, whole.path, progress=False)
        np.testing.assert_array_equal(again.read("reward"), expected)
        assert files_of(whole.path) == before
    finally:
        chunk.write_bytes(content)


def test_other_settings_are_refused(stores):
    config, store = stores("RandomLinear")
    for change, words in (
        ({"seed": 4}, "seed 3 instead of 4"),
        ({"window": 50}, "window 40 instead of 50"),
        ({"environment": "gla/RandomNeural-v0"}, "gla/RandomLinear-v0"),
    ):
        with pytest.raises(GlaError, match=words):
            collect(dataclasses.replace(config, **change), store.path, progress=False)
    assert store.missing_blocks() == []


# Environments that break


class Breaking(Environment):
    """Gives one reward that is no number, in one task, after so many steps."""

    name = "Breaking"
    horizon = 1000
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, steps, task):
        self.steps, self.task = steps, task

    def sample_params(self, key):
        return jax.random.uniform(key)

    def reset(self, key, params):
        return jnp.int32(0), jax.random.normal(key, (2,))

    def step(self, key, state, action, params):
        bad = (state == self.steps) & (jnp.abs(params - self.task) < 1e-6)
        reward = jnp.where(bad, jnp.nan, jnp.sum(action))
        false = jnp.zeros((), bool)
        return state + 1, timestep(jax.random.normal(key, (2,)), reward, false, false)


def test_an_environment_that_breaks_is_named_with_its_step(tmp_path, monkeypatch):
    task = float(jax.random.uniform(run_keys(task_key("train", 3, 1)).task))
    spec = dataclasses.replace(registry.TABLE["gla/RandomLinear-v0"], id="gla/Breaking-v0")
    monkeypatch.setitem(registry.TABLE, "gla/Breaking-v0", spec)
    monkeypatch.setattr(registry, "load", lambda path: lambda: Breaking(25, task))
    small = PPOConfig(num_envs=2, num_steps=10, num_updates=4, epochs=1, minibatches=1, hidden=2)
    config = CollectConfig("gla/Breaking-v0", runs=2, seed=3, block=2, window=5, ppo=small)
    with pytest.raises(GlaError) as caught:
        collect(config, tmp_path / "s", progress=False)
    # From there on the policy, its actions and the observations are bad too: the first is named.
    assert "gla/Breaking-v0 gave a reward that is not finite in run 1, update 2, step 5" in str(
        caught.value
    )
    assert HistoryStore.open(tmp_path / "s").complete_blocks() == [], "nothing bad is kept"


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"observation": (1, 0, 2, 3, 1)}, "an observation that is not finite in run 7, update 2"),
        ({"action": (0, 1, 0, 0, 0)}, "an action that is not finite in run 6, update 0, step 0"),
        ({"policy": (1, 3, 5)}, "a policy that is not finite in run 7, update 3, step 0"),
        # What comes first in time is named, whatever its stream.
        ({"reward": (0, 1, 2, 1), "observation": (0, 0, 2, 2, 0)}, "a reward .*update 2, step 1"),
        ({"reward": (0, 0, 2, 1), "observation": (0, 1, 2, 1, 0)}, "an observation .*step 1"),
        ({"policy": (0, 3, 0), "action": (0, 0, 3, 0, 0)}, "a policy .*run 6, update 3"),
        ({"policy": (0, 3, 0), "reward": (0, 0, 2, 4)}, "a reward .*run 6, update 2, step 4"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_the_first_bad_number_is_named(bad, words, value):
    stream = (2, 2, 4, 5)
    record = {
        "observation": np.zeros((*stream, 3)), "action": np.zeros((*stream, 1)),
        "reward": np.zeros(stream), "policy": np.zeros((2, 4, 6)),
    }  # fmt: skip
    meta = HistoryMeta("gla/Breaking-v0", 3, 1, False, 5, 2, 2, 4, 5, 2, 1, "train", 0, 2, {}, {})

    def joined():
        return {k: v if k == "policy" else v.reshape(4, *v.shape[2:]) for k, v in record.items()}

    check_finite(joined(), meta, 6, 0)
    for array, place in bad.items():
        record[array][place] = value
    with pytest.raises(GlaError, match=f"^gla/Breaking-v0 gave {words}") as caught:
        check_finite(joined(), meta, 6, 0)
    assert "\n" not in str(caught.value)


def test_an_environment_with_options_is_recorded(tmp_path):
    ppo = PPOConfig(num_envs=2, num_steps=3, num_updates=1, epochs=1, minibatches=1, hidden=4)
    for id, sizes in (
        ("gla/RandomMechanics-v0?joints=1&horizon=2", (3, 1)),
        ("gla/HalfCheetah-v0?exclude_current_positions_from_observation=false", (18, 6)),
    ):
        config = CollectConfig(id, runs=1, block=1, window=5, ppo=ppo)
        store = collect(config, tmp_path / id[4:10], progress=False)
        assert store.meta.environment == id
        assert (store.meta.observation_size, store.meta.action_size) == sizes
    assert collect(config, tmp_path / id[4:10], progress=False).missing_blocks() == []


def test_environments_that_cannot_be_recorded_are_refused(tmp_path):
    with pytest.raises(GlaError, match="gla/RandomLinear-Projected-v0 is projected"):
        collect(CollectConfig("gla/RandomLinear-Projected-v0"), tmp_path / "s", progress=False)
    with pytest.raises(GlaError, match="did you mean RandomLinear"):
        collect(CollectConfig("gla/RandomLinea-v0"), tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


# How runs are cut into parts, and what is recorded of them


def arrays_of(store):
    return {name: store.read(name) for name in array_shapes(store.meta)}


def test_parts_do_not_change_a_run(stores, tmp_path):
    config, whole = stores("RandomLinear")
    cut = collect(dataclasses.replace(config, chunk=3), tmp_path / "s", progress=False)
    assert (cut.meta.parts, len(cut.meta.updates_of(1))) == (2, 1)
    for name, value in arrays_of(whole).items():
        np.testing.assert_array_equal(cut.read(name), value, err_msg=name)


def test_fewer_streams_are_the_first_of_more(stores, tmp_path):
    config, whole = stores("RandomLinear")
    few = collect(dataclasses.replace(config, streams_per_run=1), tmp_path / "s", progress=False)
    for name, value in arrays_of(few).items():
        more = whole.read(name)
        more = more[::2] if name in STREAM_ARRAYS else more
        np.testing.assert_array_equal(value, more, err_msg=name)


@pytest.mark.parametrize("name", ["RandomLinear", "CartPole"])
def test_targets_are_the_last_policys_distribution(tmp_path, name):
    config = dataclasses.replace(CONFIG, environment=f"gla/{name}-v0", targets=True, chunk=3)
    store = collect(config, tmp_path / "s", progress=False)
    # The store keeps the policy before each update; the last one is the next run's first, had it
    # one more. So it is made here, by one more update.
    longer = PPOConfig(**{**dataclasses.asdict(PPO), "num_updates": 5})
    after = collect(
        dataclasses.replace(config, ppo=longer, targets=False), tmp_path / "t", progress=False
    )
    last = jax.tree.map(
        lambda x: x[:, -1], pol.unflatten(shape_of(store.meta), jnp.asarray(after.read("policy")))
    )
    chosen = jax.tree.map(lambda x: x[np.repeat(np.arange(3), 2)], last)
    if store.meta.discrete:
        expected = jax.vmap(pol.output)(chosen, store.read("observation"))
    else:
        expected, log_std = jax.vmap(pol.gaussian)(chosen, store.read("observation"))
        np.testing.assert_allclose(log_std[::2], store.read("target_log_std"), atol=1e-6)
    np.testing.assert_allclose(expected, store.read("target"), atol=1e-4)


def test_runs_may_differ_in_their_settings(tmp_path):
    ranges = HyperRanges(learning_rate=(1e-4, 1e-2), gamma=(0.9, 0.99))
    config = dataclasses.replace(CONFIG, runs=8, block=8, vary=ranges)
    store = collect(config, tmp_path / "s", progress=False)
    drawn = dict(zip(store.meta.hyperparameters, store.read("hyperparameters").T, strict=True))
    rates, gammas = drawn["learning_rate"], drawn["gamma"]
    assert len(set(rates)) == 8 and rates.min() > 1e-4 and rates.max() < 1e-2
    assert np.median(rates) < 4e-3, "every factor is as likely as any other"
    assert len(set(gammas)) == 8 and gammas.min() > 0.9 and gammas.max() < 0.99
    np.testing.assert_array_equal(drawn["clip"], np.float32(PPO.clip))
    # They matter: the run with the largest step size moves its policy most.
    policies = store.read("policy")[:, :, : -3 * 4]
    moved = np.abs(policies[:, -1] - policies[:, 0]).mean(-1)
    assert np.corrcoef(np.log(rates), np.log(moved))[0, 1] > 0.8


@pytest.mark.parametrize(
    "ranges", [{"gamma": (0.9, 1.1)}, {"learning_rate": (0.0, 1.0)}, {"clip": (0.3, 0.2)}]
)
def test_ranges_out_of_bounds_are_refused(ranges):
    with pytest.raises(GlaError, match=f"vary {next(iter(ranges))} is"):
        HyperRanges(**ranges)


@pytest.mark.parametrize(("storage", "error"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_half_precision_keeps_its_word(stores, tmp_path, storage, error):
    config, whole = stores("RandomLinear")
    store = collect(dataclasses.replace(config, storage=storage), tmp_path / "s", progress=False)
    assert store.size() < whole.size() and storage in store.describe()
    for name in ("observation", "action", "distribution", "value"):
        exact, found = whole.read(name), store.read(name)
        assert found.dtype == np.float32
        assert (np.abs(found - exact) <= error * np.abs(exact) + 1e-7).all(), name
        assert (found != exact).any(), name
    np.testing.assert_array_equal(store.read("reward"), whole.read("reward"))


def test_one_program_serves_all_blocks_and_parts(tmp_path):
    # gymnax's Pendulum gives weak types from its reset.
    config = dataclasses.replace(CONFIG, environment="gla/Pendulum-v0", chunk=2)
    maker = PPOMaker(config)
    record(maker, tmp_path / "s", progress=False)
    # A call with weak types would be refused by the compiled program.
    assert maker._begin._cache_size() == 1 and list(maker._programs) == [2]


def test_large_environments_act_and_learn_in_programs_of_their_own(stores, tmp_path, monkeypatch):
    config, whole = stores("RandomLinear")
    monkeypatch.setattr("gla.agents.collect.LARGE", 0)
    maker = PPOMaker(dataclasses.replace(config, chunk=3))
    store = record(maker, tmp_path / "s", progress=False)
    assert maker._halves is not None and not maker._programs
    for name, value in arrays_of(whole).items():
        np.testing.assert_allclose(store.read(name), value, rtol=1e-3, atol=1e-3, err_msg=name)


DEVICES = """
import os, sys
from gla.agents import backends
backends.usable_cores = lambda: 2
backends.use_all_cores()
import jax
assert os.environ["PJRT_NPROC"] == "1"
from gla.agents import collect, ppo
config = collect.CollectConfig(runs=3, streams_per_run=2, seed=3, block=2, window=40,
    ppo=ppo.PPOConfig(
        num_envs=3, num_steps=60, num_updates=4, epochs=1, minibatches=2, hidden=8))
collect.collect(config, sys.argv[1], progress=False)
assert jax.device_count() == 2
"""


def test_several_devices_make_the_same_histories(stores, tmp_path):
    _, whole = stores("RandomLinear")
    environment = {k: v for k, v in os.environ.items() if k not in ("PJRT_NPROC", "NPROC")}
    command = [sys.executable, "-c", DEVICES, str(tmp_path / "s")]
    subprocess.run(command, check=True, timeout=300, env=environment)
    for name, value in arrays_of(whole).items():
        found = HistoryStore.open(tmp_path / "s").read(name)
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5, err_msg=name)
