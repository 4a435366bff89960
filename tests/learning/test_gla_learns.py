"""The whole path, small: histories, meta-training, and an agent that learns from rewards alone."""

import pytest

from gla.agents.collect import CollectConfig, collect
from gla.agents.gla import load
from gla.benchmarks.runner import MetaTestConfig, meta_test
from gla.benchmarks.statistics import best_null, first_episode, judge, last_episode, whole_lifetime
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, meta_train

pytestmark = pytest.mark.learning


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """64 lifetimes on tasks and projections never seen, after 200 steps of meta-training."""
    folder = tmp_path_factory.mktemp("gla")
    histories = folder / "histories"
    collect(CollectConfig("gla/RandomLinear-v0", runs=48), histories, progress=False)
    config = MetaTrainConfig(
        histories=(str(histories),),
        # A small agent space, just larger than the tasks', is what makes so short a training do.
        projection=ProjectionConfig(observation_dim=8, action_dim=3, kind="orthogonal"),
        sampling=SamplingConfig(
            segments=8, segment_length=50, first_update=(0, 3), gap=(3, 7), lead=(8, 8)
        ),
        model=ModelConfig(width=64, layers=2, heads=4, window=400),
        batch_size=8,
        steps=200,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=20),
    )
    checkpoint = meta_train(config, folder / "checkpoint", progress=False)
    test = MetaTestConfig("gla/RandomLinear-v0", lifetimes=64, steps=400, null_steps=200)
    return meta_test(load(checkpoint), test, ("gla/RandomLinear-v0",), progress=False)


def agent_of(results, kind):
    (agent,) = results.of_kind(kind)
    return agent


def test_it_learns_in_context(results):
    # First episode, best null controller and reward-masked twin, with intervals apart.
    verdict = judge(results)
    assert verdict.status == "learned", verdict.sentence
    agent, masked = agent_of(results, "agent"), agent_of(results, "masked")
    # With seeds 0 to 2 the first and last episodes were -45 to -56 and -21 to -27, the twin's last
    # -57 to -77, the best null controller's -50. Half of those margins must be left.
    last = last_episode(agent).mean()
    assert last > first_episode(agent).mean() + 12
    assert last > last_episode(masked).mean() + 15
    assert last > whole_lifetime(best_null(results)).mean() + 12


def test_without_rewards_it_does_not_learn(results):
    masked = agent_of(results, "masked")
    gained = last_episode(masked) - first_episode(masked)
    learned = last_episode(agent_of(results, "agent")) - first_episode(agent_of(results, "agent"))
    assert gained.mean() < 0.25 * learned.mean()
