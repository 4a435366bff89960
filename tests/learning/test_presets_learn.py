"""AD, DPT and GLA, one trainer: on a grid world with a hidden goal, agents learn where it is.

PPO takes some thirty updates of 8 x 20 steps to find the goal and keep to it. Each agent is trained
for a few hundred steps on one of its eight streams and then acts for 400 steps, weights frozen, in
64 lifetimes, the goal unknown to it. What is measured is the reward per step, which says how often
the goal was reached (each time the agent starts again).

These tests train a dozen agents, about a minute each on two cores: `./run-tests -m long`.
"""

import dataclasses

import jax
import numpy as np
import pytest

from gla.agents.collect import CollectConfig, collect
from gla.agents.gla import load
from gla.agents.ppo import PPOConfig
from gla.benchmarks.runner import MetaTestConfig, make_lens, make_world, run_agent
from gla.benchmarks.statistics import bootstrap_interval
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.presets import preset
from gla.projection import ProjectionConfig
from gla.training import MetaTrainConfig, meta_train

pytestmark = [pytest.mark.learning, pytest.mark.long]

LIFETIMES, STEPS, QUARTER, EPISODE = 64, 400, 100, 20
TEST = MetaTestConfig("gla/Gridworld-v0", LIFETIMES, STEPS)


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    path = tmp_path_factory.mktemp("grid") / "histories"
    ppo = PPOConfig(num_envs=8, num_steps=20, num_updates=80, hidden=16, learning_rate=5e-4)
    collect(CollectConfig("gla/Gridworld-v0", runs=128, ppo=ppo), path, progress=False)
    return str(path)


@pytest.fixture(scope="module")
def reward(histories, tmp_path_factory):
    """A function: train an agent, let it act, and return rewards f64[STEPS, LIFETIMES]."""
    done = {}

    def play(folder, masked, ask):
        agent = load(folder, ask=ask)
        world = make_world(TEST)
        lens = make_lens(world, agent.view, TEST)
        return run_agent(agent, world, TEST, lens, masked).reward.astype(np.float64)

    def train(name, backbone="transformer", masked=False, ask=None, **sampling):
        cut, objective = preset(name)
        cut = dataclasses.replace(
            cut, segments=20, segment_length=20, **{"first_update": cut.first_update, **sampling}
        )
        config = MetaTrainConfig(
            histories=(histories,),
            projection=ProjectionConfig(9, 4, "identity"),
            sampling=cut,
            objective=objective,
            model=ModelConfig(backbone, width=64, layers=2, heads=4, window=400),
            optimizer=OptimizerConfig(learning_rate=3e-3, warmup=20),
            batch_size=16,
            steps=400,
        )
        key = repr((config, masked, ask))
        if key not in done:
            folder = tmp_path_factory.mktemp("agent") / "checkpoint"
            trained = [path for other, path in done.items() if other == repr(config)]
            folder = trained[0] if trained else meta_train(config, folder, progress=False)
            done[repr(config)] = folder
            done[key] = play(folder, masked, ask)
        return done[key]

    yield train
    jax.clear_caches()


def rise(rewards):
    """Last quarter of the lifetimes less their first 20 steps, reward per step, as an interval."""
    return bootstrap_interval(rewards[-QUARTER:].mean(0) - rewards[:EPISODE].mean(0))


def early(rewards):
    """Reward per step in the first half of each lifetime, f64[LIFETIMES]."""
    return rewards[: STEPS // 2].mean(0)


GAP = {"gap": (4, 4)}
# A lead as large as GLA's default asks for the goal at once, as DPT does. An episode ends there, so
# the flags alone then tell enough; with a smaller one, rewards matter.
SHORT_LEAD = {**GAP, "lead": (8, 8)}


def test_algorithm_distillation_learns_and_the_memoryless_model_does_not(reward):
    learned = rise(reward("ad", **GAP))
    print(f"transformer: {learned}")
    assert learned.low > 0.2, learned
    not_learned = rise(reward("ad", "memoryless", **GAP))
    print(f"memoryless: {not_learned}")
    assert not_learned.high < 0.15 and not_learned.low < 0.05, not_learned


@pytest.mark.parametrize("backbone", ["linear", "delta", "ssm", "lstm"])
def test_other_backbones_learn_too(reward, backbone):
    learned = rise(reward("ad", backbone, **GAP))
    print(f"{backbone}: {learned}")
    assert learned.low > 0.1, learned


@pytest.mark.parametrize(
    ("name", "settings", "least"), [("gla", SHORT_LEAD, 0.2), ("dpt", {}, 0.0)]
)
def test_the_other_presets_learn_too(reward, name, settings, least):
    # DPT's agent is near its end within 20 steps, so little is left to rise.
    learned = rise(reward(name, **settings))
    print(f"{name}: {learned}")
    assert learned.low > least, learned


@pytest.mark.parametrize("name", ["ad", "gla"])
def test_a_larger_gap_is_faster_learning(reward, name):
    """The claim of Fig. 3 of the GLA paper, without relabelled targets (lead 0)."""
    plain = {"lead": (0, 0)}
    slow, fast = (reward(name, gap=(gap, gap), **plain) for gap in (1, 8))
    difference = bootstrap_interval(early(fast) - early(slow))
    print(f"{name}: first half of the lifetime, gap 8 less gap 1: {difference}")
    assert difference.low > 0.1, difference
    assert rise(slow).low > 0.1, "the slow one learns as well, only later"


def test_asking_for_a_larger_gap_is_faster_learning(reward):
    """One agent, conditioned on the gap (eta): its user decides how fast it learns."""
    settings = {"gap": (1, 8), "lead": (0, 0), "conditions": ("gap",), "condition_dropout": 0.1}
    slow, fast = (reward("ad", ask={"gap": gap}, **settings) for gap in (1.0, 8.0))
    difference = bootstrap_interval(early(fast) - early(slow))
    print(f"first half of the lifetime, asked for gap 8 less asked for gap 1: {difference}")
    assert difference.low > 0.1, difference


def test_rewards_are_what_is_learned_from(reward):
    seen, hidden = (reward("gla", masked=masked, **SHORT_LEAD) for masked in (False, True))
    gained = bootstrap_interval(seen[-QUARTER:].mean(0) - hidden[-QUARTER:].mean(0))
    print(f"last quarter, rewards seen less rewards hidden: {gained}")
    assert gained.low > 0.05, gained
