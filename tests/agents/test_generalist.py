import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import policy as pol
from gla import sampling
from gla.agents import gla as gla_agent
from gla.agents import ppo
from gla.agents.collect import CollectConfig, collect
from gla.agents.distillation import Experts, MixedQualityConfig, MixedQualityMaker
from gla.agents.generalist import (
    GeneralistConfig,
    GeneralistMaker,
    Told,
    specialize,
    train,
)
from gla.envs import registry
from gla.envs.telling import telling, told_size, told_vector
from gla.errors import GlaError
from gla.histories import HistoryStore, record
from gla.models import ModelConfig
from gla.objectives import ObjectiveConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import meta_train
from gla.training_config import MetaTrainConfig, make_interface

SMALL = ppo.PPOConfig(num_envs=4, num_steps=20, num_updates=4, epochs=1, minibatches=1, hidden=8)


def configure(tmp_path, **changes):
    settings = {
        "teacher": str(tmp_path / "teacher.npz"), "runs": 3, "block": 2, "updates": 3, "steps": 10,
        "versions": 3, "checkpoint_every": 2, "ppo": SMALL,
    }  # fmt: skip
    return GeneralistConfig(**(settings | changes))


@pytest.mark.parametrize(
    ("id", "options"),
    [
        ("gla/RandomPotential-v0", {}),
        ("gla/RandomPotential-v0", {"body": "pair"}),
        ("gla/RandomMechanics-v0", {}),
        ("gla/RandomTabular-v0", {}),
    ],
)
def test_a_specialist_does_what_the_generalist_does_in_its_task(id, options):
    env = registry.make_functional(id, **options)
    told_env = Told(env)
    state, shown = told_env.reset(jax.random.key(0), ())
    shape = ppo.policy_shape(told_env, SMALL)
    policy = pol.init(jax.random.key(1), shape)
    policy = policy._replace(
        w3=jax.random.normal(jax.random.key(2), policy.w3.shape),
        b3=jax.random.normal(jax.random.key(5), policy.b3.shape),
        mean=0.1 * jax.random.normal(jax.random.key(3), policy.mean.shape),
        std=jnp.exp(0.3 * jax.random.normal(jax.random.key(4), policy.std.shape)),
    )
    own = specialize(policy, state.told)
    discrete = shape.discrete
    for number in range(5):
        observation = jnp.linalg.solve(state.told.frame, shown[: state.told.frame.shape[0]])
        wanted = pol.output(policy, shown)
        found = pol.output(own, observation)
        np.testing.assert_allclose(
            found, wanted if discrete else wanted * state.told.signs, rtol=1e-3, atol=1e-4
        )
        action = jnp.argmax(wanted).astype(jnp.int32) if discrete else jnp.tanh(wanted)
        state, ts = told_env.step(jax.random.key(number), state, action, ())
        shown = ts.observation


def test_actions_and_observations_go_through_the_frame():
    env = registry.make_functional("gla/RandomPotential-v0")
    told_env = Told(env)
    state, shown = told_env.reset(jax.random.key(7), ())
    numbers, frame, signs = telling(env, state.params)
    np.testing.assert_array_equal(shown[3:], numbers)
    _, ts = told_env.step(jax.random.key(0), state, jnp.array([0.7]), ())
    _, raw = env.step(jax.random.key(0), state.inner, 0.7 * signs, state.params)
    np.testing.assert_allclose(ts.observation[:3], frame @ raw.observation, atol=1e-6)
    np.testing.assert_allclose(ts.reward, raw.reward)


def test_histories_hold_the_versions_and_serve_as_experts(tmp_path):
    config = configure(tmp_path)
    maker = GeneralistMaker(config, progress=False)
    store = record(maker, tmp_path / "h", progress=False)
    assert store.meta.method == "generalist" and store.meta.hidden == SMALL.hidden
    policies = store.read("policy")
    assert policies.shape[:2] == (3, 3)
    versions = train(config, maker._env, progress=False)
    assert not np.allclose(versions[0], versions[-1])
    # The recorded policy is the one that acted, and the expert of the run's own task.
    own = pol.unflatten(pol.PolicyShape(3, 1, SMALL.hidden), jnp.asarray(policies[1, 2]))
    seen = store.read("observation")[1, 2]
    np.testing.assert_allclose(
        pol.gaussian(own, seen)[0], store.read("distribution")[1, 2], atol=1e-5
    )
    params = maker._env.sample_params(maker.keys(jnp.int32(1)).task)
    shape = ppo.policy_shape(Told(maker._env), SMALL)
    expert = specialize(pol.unflatten(shape, versions[-1]), telling(maker._env, params))
    np.testing.assert_allclose(pol.flatten(expert), policies[1, 2], atol=1e-5)
    # As experts of mixed qualities.
    mixed = MixedQualityConfig(experts=str(tmp_path / "h"), updates=4, steps=10, block=2)
    assert "generalist on gla/RandomPotential-v0" in Experts(mixed).name
    labelled = record(MixedQualityMaker(mixed), tmp_path / "mixed", progress=False)
    seen = labelled.read("observation")[1, 3]
    np.testing.assert_allclose(pol.gaussian(own, seen)[0], labelled.read("target")[1, 3], atol=1e-5)


def test_what_is_told_is_recorded_and_shown_to_the_objective(tmp_path):
    maker = GeneralistMaker(configure(tmp_path), progress=False)
    store = record(maker, tmp_path / "h", progress=False)
    env, told = maker._env, store.read("told")
    size, env_id = told_size(env), "gla/RandomPotential-v0"
    assert store.meta.told == size == told.shape[1] > 24
    for run in range(3):
        params = env.sample_params(maker.keys(jnp.int32(run)).task)
        np.testing.assert_allclose(told[run], told_vector(env, params), atol=1e-5)
    # The same tasks in the store of another maker.
    mixed = MixedQualityConfig(experts=str(tmp_path / "h"), updates=4, steps=10, block=2)
    labelled = record(MixedQualityMaker(mixed), tmp_path / "mixed", progress=False)
    np.testing.assert_allclose(labelled.read("told"), told, atol=1e-5)

    # And PPO's, of the same tasks.
    by_ppo = CollectConfig(env_id, runs=3, block=2, window=20, ppo=SMALL)
    alone = collect(by_ppo, tmp_path / "ppo", progress=False)
    np.testing.assert_allclose(alone.read("told"), told, atol=1e-5)

    settings = MetaTrainConfig(
        histories=(str(labelled.path),),
        projection=ProjectionConfig(4, 2, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=5, first_update=(0, 1), gap=(1, 1)),
        objective=ObjectiveConfig(told=0.5, told_size=size + 2),
        model=ModelConfig(width=8, layers=1, heads=1, mlp=1, window=8),
        batch_size=2, steps=2, steps_per_dispatch=1, checkpoint_every=1,
    )  # fmt: skip
    read = sampling.from_store(labelled)
    scaled = (told - told.mean(0)) / np.where(told.std(0) > 1e-6, told.std(0), 1)
    np.testing.assert_allclose(read.told, scaled, atol=1e-4)
    interface = make_interface(settings, discrete=False)
    found = sampling.sample_sequence(
        jax.random.key(0), read, settings.sampling, settings.projection, interface
    )
    assert found.told.shape == (10, size + 2) and np.isnan(found.told[:, size:]).all()
    assert any(np.allclose(found.told[3, :size], row, atol=1e-4) for row in scaled)
    folder = meta_train(settings, tmp_path / "agent", progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["told"] > 0 and gla_agent.load(folder).interface.told == size + 2
    few = dataclasses.replace(settings, objective=ObjectiveConfig(told=0.5, told_size=3))
    with pytest.raises(GlaError, match="more than objective.told_size=3; raise"):
        meta_train(few, tmp_path / "few", progress=False)


def test_training_that_was_stopped_goes_on_as_if_it_was_not(tmp_path):
    env = registry.make_functional("gla/RandomPotential-v0")
    whole = train(configure(tmp_path), env, progress=False)
    path = tmp_path / "teacher.npz"
    finished = path.read_bytes()
    assert np.array_equal(train(configure(tmp_path), env, progress=False), whole)
    assert path.read_bytes() == finished, "what is there is only read"

    class Stop(Exception):
        pass

    # Killed right after the first time that the file was written.
    other = configure(tmp_path, teacher=str(tmp_path / "other.npz"))
    with pytest.MonkeyPatch.context() as patch:
        from gla.agents import generalist

        write = generalist._write

        def once(*args):
            write(*args)
            raise Stop

        patch.setattr(generalist, "_write", once)
        with pytest.raises(Stop):
            train(other, env, progress=False)
    with np.load(other.teacher) as saved:
        assert saved[".update"] == 2
    assert np.array_equal(train(other, env, progress=False), whole)


def test_the_wrong_file_is_refused(tmp_path):
    env = registry.make_functional("gla/RandomPotential-v0")
    config = configure(tmp_path, versions=1)
    train(config, env, progress=False)
    for change in (
        {"seed": 1}, {"versions": 2}, {"ppo": dataclasses.replace(SMALL, gamma=0.5)},
        {"environment": "gla/RandomPotential-v0?free=1.0"},
    ):  # fmt: skip
        with pytest.raises(GlaError, match="an expert with other settings.*name another file"):
            train(configure(tmp_path, **{"versions": 1} | change), env, progress=False)
    (tmp_path / "teacher.npz").write_bytes(b"no zip")
    with pytest.raises(GlaError, match="damaged or no expert"):
        train(config, env, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "teacher"}, "ends in .npz"),
        ({"versions": 6}, "6 versions of an expert of 4 updates; expected at most 5"),
        ({"versions": 0}, "versions is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_settings_are_named(tmp_path, settings, message):
    with pytest.raises(GlaError, match=message):
        configure(tmp_path, **settings)


def test_host_simulators_and_unknown_ids_are_refused(tmp_path):
    for id, message in (("gla/Ant-v0", "host simulator"), ("gla/Nothing-v0", "no environment")):
        with pytest.raises(GlaError, match=message):
            GeneralistMaker(configure(tmp_path, environment=id), progress=False)


def test_the_store_reopens(tmp_path):
    record(GeneralistMaker(configure(tmp_path), progress=False), tmp_path / "h", progress=False)
    store = HistoryStore.open(tmp_path / "h")
    assert not store.missing_blocks()
    # A second collection finds it complete.
    record(GeneralistMaker(configure(tmp_path), progress=False), tmp_path / "h", progress=False)
