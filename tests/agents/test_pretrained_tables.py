"""The agent `tables`, which comes with the package, learns from rewards and from nothing else."""

import numpy as np
import pytest

import gla
from gla.agents.external import load_agent
from gla.benchmarks.metatest import describe_agent
from gla.benchmarks.runner import meta_test
from gla.benchmarks.suites import SUITES
from gla.benchmarks.worlds import MetaTestConfig
from gla.errors import GlaError

STEPS = 600


def test_it_has_met_random_decision_processes_only():
    _, sources = describe_agent("tables")
    assert {source.partition("?")[0] for source in sources} == {"gla/RandomTabular-v0"}
    assert not SUITES["tabular-v1"].foreign(sources)


def test_it_reads_no_conditions():
    with pytest.raises(GlaError, match="holds a tabular agent, which reads no conditions"):
        load_agent("tables", ask={"gap": 1.0})


@pytest.fixture(scope="module")
def returns():
    """Mean late return: the shipped agent, its twin, the best null controller, the best policy."""
    environment = "gla/RandomTabular-v0?states=8&actions=3&horizon=20"
    test = MetaTestConfig(environment, 8, STEPS, split="validation", null_steps=200)
    results = meta_test(gla.load("tables"), test, progress=False)
    found = {"null": -np.inf}
    for run in results.agents:
        late = np.mean([life.episode_returns[-5:] for life in run.lifetimes])
        found[run.kind] = max(late, found["null"]) if run.kind == "null" else late
    return {kind: float(value) for kind, value in found.items()}


def test_the_shipped_agent_goes_more_than_half_of_the_way_in_unseen_tasks(returns):
    scale = returns["expert"] - returns["null"]
    assert returns["agent"] > returns["null"] + 0.5 * scale


def test_its_twin_without_rewards_does_not(returns):
    scale = returns["expert"] - returns["null"]
    assert returns["masked"] < returns["null"] + 0.3 * scale
