"""The agent of tables keeps the protocol and says what it cannot do."""

import gymnasium
import numpy as np
import pytest

from gla.agents import tabular
from gla.agents.testing import check
from gla.benchmarks.runner import meta_test
from gla.benchmarks.worlds import MetaTestConfig
from gla.errors import GlaError


def test_it_keeps_the_protocol():
    check(tabular.untrained, kinds=("discrete",)).require()


def test_set_by_hand_it_finds_a_distant_goal_again_and_again():
    """Twenty states in a row and traps beside them: uniform actions hardly ever arrive."""
    environment = (
        "gla/RandomTabular-v0?states=20&spread=0.1&reach=2&traps=3&successors=2"
        "&reward_share=0&step_reward=0&horizon=40"
    )
    test = MetaTestConfig(environment, 8, 800, split="validation", nulls=False, masked_twin=False)
    results = meta_test(tabular.by_hand(), test, progress=False)
    late = [life.episode_returns[-8:] for life in results.agents[0].lifetimes]
    first = [life.episode_returns[0] for life in results.agents[0].lifetimes]
    assert np.mean(first) < 0.3 and np.mean(late) > 0.7


def test_continuous_actions_are_refused_in_one_line():
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    with pytest.raises(GlaError, match="keeps tables and this environment's actions are") as raised:
        tabular.untrained().init(None, 2, box, box)
    assert "\n" not in str(raised.value)
