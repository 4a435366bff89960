"""The table of environments: it tells the truth, and every form of an id is understood."""

import dataclasses
import os
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.vector import AutoresetMode

from gla.envs import registry
from gla.envs.base import is_discrete
from gla.errors import GlaError

SPECS = list(registry.TABLE.values())
ALL_IDS = [id for spec in SPECS for id in (spec.id, spec.projected_id)]


def needs_dmc(id):
    if registry.find(id).domain == "dmc":
        pytest.importorskip("dm_control")


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_the_table_tells_the_truth(spec):
    needs_dmc(spec.id)
    if spec.kind == "functional":
        env = registry.make_functional(spec.id)
        assert env.horizon == spec.horizon
    else:
        env = registry.make_host_single(spec.id)
        limit = env.simulator.spec.max_episode_steps if env.simulator.spec else 1000
        assert limit == spec.horizon
    assert is_discrete(env.action_space) == (spec.action_kind == "discrete")
    if spec.action_kind == "continuous":
        assert env.action_space == gymnasium.spaces.Box(-1, 1, env.action_space.shape)


def run_fresh(code):
    environment = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    environment["JAX_PLATFORMS"] = "cpu"
    return subprocess.run(
        [sys.executable, "-W", "always::UserWarning", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_make_works_in_a_fresh_process_without_a_word_on_stderr():
    ids = ["gla:gla/Reacher-Projected-v0", "gla/HalfCheetah-v0", "gla/Pendulum-v0"]
    if sys.version_info < (3, 13):
        ids.append("gla/CartpoleSwingup-v0")
    done = run_fresh(
        "import gymnasium as gym\n"
        f"for id in {ids}:\n"
        "    env = gym.make(id)\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
        "    env.close()\n"
        "print('done')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_importing_gla_imports_no_jax_and_no_simulator():
    done = run_fresh(
        "import gla, gla.envs, sys\n"
        "heavy = {'jax', 'mujoco', 'dm_control', 'gymnax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "gla.envs.find('Ant-v0'); gla.envs.references('Ant-v0')\n"
        "assert 'jax' not in sys.modules"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("form", ["Ant-v0", "gla/Ant-v0", "gla:gla/Ant-v0"])
def test_find_takes_every_form(form):
    assert registry.find(form) == registry.TABLE["gla/Ant-v0"]
    projected = registry.find(form.replace("-v0", "-Projected-v0"))
    assert projected.projected and projected.id == "gla/Ant-v0"
    assert projected.full_id == "gla/Ant-Projected-v0"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gla/Pendlum-v0", "Pendulum-v0"),
        ("HalfCheeta-v0", "HalfCheetah-v0"),
        ("gla:gla/ant-projected-v0", "Ant-Projected-v0"),
        ("Ant", "Ant-v0"),
    ],
)
def test_an_unknown_id_suggests_near_matches(typed, meant):
    with pytest.raises(GlaError, match=rf"did you mean .*\b{meant}") as caught:
        registry.find(typed)
    assert "\n" not in str(caught.value)


def test_an_id_like_nothing_is_refused_without_suggestions():
    with pytest.raises(GlaError, match="no environment is called 'xyzzy'"):
        registry.find("xyzzy")


@pytest.mark.parametrize(
    "id", ["gla/Pendulum-v0", "gla/Pendulum-Projected-v0", "gla/Reacher-Projected-v0"]
)
def test_make_vec_resets_in_the_same_step(id):
    envs = gymnasium.make_vec(id, num_envs=2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.num_envs == 2 and envs.spec.id == id
    observations, _ = envs.reset(seed=0)
    assert observations.shape == envs.observation_space.shape
    envs.close()


def test_projected_ids_take_their_settings():
    env = gymnasium.make("gla/Reacher-Projected-v0", observation_dim=12, action_dim=3)
    assert env.observation_space.shape == (12,) and env.action_space.shape == (3,)
    env = registry.make_functional("gla/CartPole-Projected-v0", kind="identity", action_dim=5)
    assert env.action_space.n == 5 and env.augmentation.kind == "identity"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gymnasium.make("gla/Ant-Projected-v0", observation_dim=20), "observation_dim"),
        (lambda: gymnasium.make("gla/Ant-Projected-v0", kind="magic"), "kind"),
        (lambda: registry.make_functional("Ant-v0"), "host simulator"),
        (lambda: registry.make_host("Pendulum-v0", 2), "functional"),
        (lambda: registry.make_host("Reacher-v0", 0), "num_envs"),
        (lambda: gymnasium.make("gla/Pendulum-v0", colour="red"), "colour"),
        (lambda: registry.load("gla.envs.nowhere:Nothing"), "cannot be loaded"),
    ],
)
def test_bad_settings_are_said_in_one_line(call, message):
    with pytest.raises(GlaError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_registering_again_does_nothing():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.register_all()
    assert gymnasium.registry == before


def test_references_of_a_projected_id_are_those_of_the_plain_one():
    for spec in SPECS:
        stored = registry.references(spec.id)
        assert stored == {} or {"null", "expert"} <= set(stored)
        assert registry.references(spec.projected_id) == stored
    assert registry.references("Ant-v0") and registry.references("BraxHopper-v0") == {}


def test_there_are_at_least_120_ids_and_all_are_registered():
    assert len(ALL_IDS) >= 120 and len(set(ALL_IDS)) == len(ALL_IDS)
    assert set(ALL_IDS) <= set(gymnasium.registry)


def test_projections_grow_with_the_task_unless_told_otherwise():
    env = gymnasium.make("gla/Pong-Projected-v0")
    assert env.observation_space.shape == (4096,) and env.action_space.n == 16
    assert gymnasium.make("gla/Reacher-Projected-v0").observation_space.shape == (64,)
    with pytest.raises(GlaError, match="observation_dim=64"):
        gymnasium.make("gla/Pong-Projected-v0", observation_dim=64)


def test_an_id_with_options_is_resolved():
    named = registry.resolve("RandomMechanics-v0?joints=3&leak=[0.1,0.2]")
    assert named.spec.id == "gla/RandomMechanics-v0"
    assert named.options == {"joints": 3, "leak": [0.1, 0.2]}
    assert named.id == "gla/RandomMechanics-v0?joints=3&leak=[0.1,0.2]"
    assert registry.resolve("gla/Pendulum-v0").id == "gla/Pendulum-v0"


def test_fields_of_a_config_are_settings():
    env = registry.make_functional("gla/RandomNeural-v0", state_size=3, leak=[0.1, 0.2])
    assert env.observation_space.shape == (3,) and env.config.leak == (0.1, 0.2)
    changed = registry.make_functional("gla/RandomNeural-v0", config=env.config, horizon=7)
    assert changed.config == dataclasses.replace(env.config, horizon=7)
    with pytest.raises(GlaError, match=r"has no setting 'stat_size' \(did you mean state_size"):
        registry.make_functional("gla/RandomNeural-v0", stat_size=3)
