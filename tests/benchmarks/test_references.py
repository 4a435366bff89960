"""Reference scores: the stored table is whole and sound, and measuring gives such entries."""

import json
import math

import jax
import numpy as np
import pytest

from gla.agents import ppo
from gla.benchmarks import experts, references, suites
from gla.benchmarks.experts import play_oracle
from gla.benchmarks.recipes import RECIPES, Recipe
from gla.benchmarks.references import measure, thin, update_file
from gla.envs import registry
from gla.errors import GlaError

IDS = list(registry.TABLE)
NULL_KEYS = {"controller", "return", "low", "high", "episodes"}
EXPERT_KEYS = {
    "return", "low", "high", "episodes", "steps", "seed", "provenance", "command", "seconds",
    "curve",
}  # fmt: skip


def check_entry(id, entry):
    assert set(entry) == {"null", "expert", "expert_beats_null"}
    null, expert = entry["null"], entry["expert"]
    assert set(null) == NULL_KEYS and set(expert) - {"seeds"} == EXPERT_KEYS
    for part in (null, expert):
        assert math.isfinite(part["return"])
        assert part["low"] <= part["return"] <= part["high"]
    assert entry["expert_beats_null"] is (expert["low"] > null["high"])
    assert expert["command"] == f"gla references {id}"
    curve = expert["curve"]
    if expert["provenance"].startswith(("oracle", "controller", "planner")):
        assert expert["steps"] == 0 and curve == []
        return
    assert expert["provenance"].startswith("PPO") and expert["seconds"] > 0
    assert 1 <= len(curve) <= 50
    steps = [point[0] for point in curve]
    assert steps == sorted(set(steps)) and steps[0] > 0 and steps[-1] <= expert["steps"]
    assert all(math.isfinite(value) for _, value in curve)
    if "seeds" in expert:
        seeds = expert["seeds"]
        assert seeds["returns"][0] == expert["return"] and seeds["curves"][0] == curve
        assert len(seeds["returns"]) == len(seeds["curves"]) > 1
        assert seeds["low"] <= seeds["iqm"] <= seeds["high"]


@pytest.mark.parametrize("id", RECIPES)
def test_every_recipe_was_measured(id):
    entry = registry.references(id)
    check_entry(id, entry)
    recipe = RECIPES[id]
    assert entry["expert"]["steps"] == recipe.steps, "measured with another recipe"
    assert entry["expert"]["seed"] == recipe.seed
    assert len(entry["expert"].get("seeds", {"returns": [0]})["returns"]) == recipe.seeds
    assert entry["expert"]["episodes"] == recipe.lifetimes * recipe.episodes >= 64


@pytest.mark.parametrize("name", suites.SUITES)
def test_every_id_of_a_leaderboard_suite_has_references(name):
    for id in suites.find(name).environments:
        if "?" not in id:  # with options the expert is an oracle, which runs in the test itself
            assert registry.references(id)["expert_beats_null"] is True


def test_recipes_are_for_registered_ids():
    assert set(RECIPES) <= set(IDS)


def test_an_unknown_suite_suggests_near_matches():
    with pytest.raises(GlaError, match="did you mean .*gridworld"):
        suites.find("gridwold")


def test_stored_nulls_agree_with_known_floors():
    null = {id: registry.references(id)["null"]["return"] for id in RECIPES}
    # Standing still: measured for the same simulators before this package.
    assert null["gla/HalfCheetah-v0"] == pytest.approx(0, abs=3)
    assert null["gla/Reacher-v0"] == pytest.approx(-11.9, abs=1.0)
    assert null["gla/Ant-v0"] == pytest.approx(1000, abs=30)
    assert null["gla/CartpoleBalance-v0"] >= 700
    # Zero action earns nothing here, but a constant push that whirls the pole about does.
    assert null["gla/CartpoleSwingup-v0"] < 200


def test_the_oracle_of_a_bandit_earns_what_the_best_arms_pay():
    spec = registry.find("gla/GaussianBandit-v0")
    lives = play_oracle(spec, lifetimes=16, episodes=2)
    env = registry.make_functional(spec.id)
    tasks = [env.sample_params(experts.task_key("test", 0, i)) for i in range(16)]
    best = np.array([np.max(task.means) for task in tasks])
    earned = np.array([np.mean(life.episode_returns) for life in lives])
    # Two episodes of a hundred noisy rewards each.
    np.testing.assert_allclose(earned / spec.horizon, best, atol=0.5)


def tiny(per_task=False, seeds=1, **changes):
    config = ppo.PPOConfig(num_envs=2, num_steps=100, num_updates=2, epochs=1, hidden=4, **changes)
    return Recipe(config, lifetimes=3, screening=2, per_task=per_task, block=2, seeds=seeds)


def key_bias(key):
    return jax.random.normal(key)


def fake_training(vec, config, key, progress):
    """Return an untrained learner and two episodes; the real thing has tests of its own."""
    learner = ppo.init(key, ppo.policy_shape(vec, config), config)
    learner = learner._replace(policy=learner.policy._replace(b3=learner.policy.b3 + key_bias(key)))
    return learner, np.array([[100.0, -40.0], [400.0, -30.0]])


@pytest.mark.parametrize(
    ("id", "per_task", "seeds"),
    [
        ("gla/RandomLinear-v0", True, 1),
        ("gla/Pendulum-v0", False, 3),
        ("gla/Reacher-v0", False, 2),
    ],
)
def test_measure_gives_a_whole_entry(id, per_task, seeds, monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, id, tiny(per_task, seeds))
    if id != "gla/Reacher-v0":  # compiling takes seconds; one end in each case is enough
        floor = "zero action", references.Interval(-50.0, -51.0, -49.0)
        monkeypatch.setattr(references, "_measure_null", lambda *_: floor)
    else:
        monkeypatch.setattr(experts, "train_host", fake_training)
    nulls = references.null_controllers
    monkeypatch.setattr(references, "null_controllers", lambda space: nulls(space)[:2])
    entry = measure(id, progress=False)
    assert entry["expert"]["steps"] == 400 and entry["expert"]["episodes"] == 3
    assert entry["null"]["controller"] == "zero action"  # not a constant -1
    returns = entry["expert"].get("seeds", {"returns": [0]})["returns"]
    assert len(set(returns)) == len(returns) == seeds
    path = tmp_path / "references.json"
    update_file(path, id, entry)
    stored = json.loads(path.read_text(encoding="utf-8"))[id]
    check_entry(id, stored)
    assert stored["null"] == entry["null"]


def test_finished_episodes_are_cut_where_they_ended():
    # One run, two environments, two updates of three steps; environment 1 never ends.
    reward = np.array([[[[1, 2, 3], [4, 5, 6]], [[1, 1, 1], [1, 1, 1]]]], np.float32)
    done = np.zeros((1, 2, 2, 3), bool)
    done[0, 0, 0, 1] = done[0, 0, 1, 0] = True
    np.testing.assert_array_equal(experts._finished(reward, done), [[4, 3], [8, 7]])


def test_experts_of_a_family_train_on_the_tasks_of_the_test():
    task, keys = experts._training_keys(tiny(per_task=True), 0, 1)
    tested = experts.run_keys(experts.task_key("test", 0, 1))
    np.testing.assert_array_equal(jax.random.key_data(task), jax.random.key_data(tested.task))
    trained, seen = (jax.random.key_data(k.environment) for k in (keys, tested))
    assert (trained != seen).any()  # the same task, other episodes


def test_the_winner_of_the_screening_is_measured_afresh(monkeypatch):
    class Stub:
        def __init__(self, spec, recipe, split, lifetimes):
            self.split = split
            self.world = type("World", (), {"action_space": None})

        def play(self, agents, what, progress):
            values = {"validation": [5, 1, 4, 3, 5], "test": [2, 7, 6]}[self.split]
            if self.split == "test":
                assert agents == [names[0], names[4], names[2]]  # of equals the first stays first
            return [references.Interval(v, v - 1, v + 1) for v in values]

    names = [type("Agent", (), {"name": name}) for name in "abcde"]
    monkeypatch.setattr(references, "_World", Stub)
    monkeypatch.setattr(references, "null_controllers", lambda space: names)
    name, interval = references._measure_null(None, tiny(), False)
    assert name == "e" and interval.estimate == 7


def test_update_file_keeps_the_others_in_the_order_of_the_table(tmp_path):
    path = tmp_path / "references.json"
    for number, id in enumerate((IDS[3], IDS[0], IDS[2], IDS[0])):
        update_file(path, id, {"null": {"return": number}})
    table = json.loads(path.read_text(encoding="utf-8"))
    assert list(table) == [IDS[0], IDS[2], IDS[3]]
    assert table[IDS[0]] == {"null": {"return": 3}} and table[IDS[3]] == {"null": {"return": 0}}
    before = path.read_text(encoding="utf-8")
    with pytest.raises(GlaError, match="cannot be written as JSON"):
        update_file(path, IDS[0], {"null": {"return": math.nan}})
    assert path.read_text(encoding="utf-8") == before
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(GlaError, match="holds a list"):
        update_file(path, IDS[0], {})
    path.write_text("{", encoding="utf-8")
    with pytest.raises(GlaError, match="cannot be read as JSON"):
        update_file(path, IDS[0], {})


def test_thin_averages_episodes_over_windows():
    finished = np.array([[10, 1.0], [20, 3.0], [21, 5.0], [100, 7.0]])
    assert thin(finished, 100, 5) == [(20, 2.0), (40, 5.0), (100, 7.0)]
    assert len(thin(np.stack([np.arange(1, 1001), np.ones(1000)], 1), 1000)) == 50


def test_bad_input_is_named():
    with pytest.raises(GlaError, match="gla/Ant-v0, whose returns mean the same"):
        measure("gla/Ant-Projected-v0", progress=False)
    with pytest.raises(GlaError, match="no environment"):
        measure("gla/Nothing-v0", progress=False)
    with pytest.raises(GlaError, match="lifetimes is 0"):
        Recipe(ppo.PPOConfig(), lifetimes=0)
