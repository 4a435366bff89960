"""The agent `seek`, which comes with the package, finds a goal and learns to stay there."""

import numpy as np
import pytest

import gla
from gla.benchmarks.metatest import describe_agent
from gla.benchmarks.runner import meta_test
from gla.benchmarks.suites import SUITES
from gla.benchmarks.worlds import MetaTestConfig


def test_it_has_met_no_body_of_the_suite():
    _, sources = describe_agent("seek")
    assert "gla/RandomGoal-v0" in {source.partition("?")[0] for source in sources}
    assert not SUITES["cross-domain-v1"].foreign(sources)


@pytest.mark.learning
def test_it_is_paid_more_often_than_without_rewards():
    easy = "gla/RandomGoal-v0?seen=1.0&width=[0.3,0.6]&crossing=[8.0,20.0]&cheap=0.0&costly=0.0"
    test = MetaTestConfig(easy, 12, 500, split="validation", null_steps=200)
    results = meta_test(gla.load("seek"), test, progress=False)
    late = {
        run.kind: np.mean([life.episode_returns[-1] for life in run.lifetimes])
        for run in results.agents
        if run.kind in ("agent", "masked")
    }
    assert late["agent"] > late["masked"] + 20.0
