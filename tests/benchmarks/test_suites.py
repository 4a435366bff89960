"""Suites: what was released stays as it is."""

import dataclasses
import re

import pytest

from gla.benchmarks import suites
from gla.benchmarks.suites import SUITES
from gla.envs import registry
from gla.errors import GlaError

# Never change a line: a suite that must change gets the next version instead.
RELEASED = {
    "random-systems-v1": "f40068af831684d2",
    "cross-domain-v1": "6e635ecd692a398c",
    "gla-fig5-v1": "f60586060232e9cb",
    "gla-fig5-short-v1": "1a12eef32699d21a",
    "ant-direction-v1": "7286afc1d2362d88",
    "gridworld-v1": "e100a689e2fa9031",
    "tabular-v1": "3a971898d9952952",
    "bandits-v1": "7891a7b4338d90c4",
    "supervised-v1": "e4bc8a4d73227ace",
}


def test_released_suites_are_frozen():
    assert {name: suite.digest for name, suite in SUITES.items()} == RELEASED


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", 1), ("lifetimes", 31), ("window", 100), ("null_steps", 1), ("allowed", ()),
     ("excluded", ("gla/Ant-v0",)), ("tasks", ()), ("name", "other-v1")],
)  # fmt: skip
def test_the_digest_covers_all_that_an_agent_meets(field, value):
    suite = SUITES["random-systems-v1"]
    assert dataclasses.replace(suite, **{field: value}).digest != suite.digest
    assert dataclasses.replace(suite, about="In other words.").digest == suite.digest


@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
def test_suites_are_sound(suite):
    assert re.fullmatch(r"[a-z0-9-]+-v\d+", suite.name) and suite.about.endswith(".")
    assert len(set(suite.environments)) == len(suite.tasks) >= 1
    for task in suite.tasks:
        plain, options = registry.split_options(task.environment)
        spec = registry.find(plain)
        assert spec.id == plain and not spec.projected
        assert task.steps >= 4 * spec.horizon, "a lifetime is several episodes"
        assert suite.foreign([plain]) == [plain] or not suite.excluded


def test_suites_are_found_with_and_without_a_version():
    assert suites.find("tabular-v1") is suites.find("tabular") is SUITES["tabular-v1"]
    with pytest.raises(GlaError, match="no suite 'gridwold'.*did you mean .*gridworld-v1"):
        suites.find("gridwold")
    with pytest.raises(GlaError, match="no suite 'tabular-v9'"):
        suites.find("tabular-v9")


def test_a_version_may_follow_another(monkeypatch):
    newer = dataclasses.replace(SUITES["tabular-v1"], name="tabular-v10")
    monkeypatch.setitem(SUITES, "tabular-v10", newer)
    monkeypatch.setitem(SUITES, "tabular-v9", dataclasses.replace(newer, name="tabular-v9"))
    assert suites.find("tabular") is newer


@pytest.mark.parametrize(
    ("name", "sources", "foreign"),
    [
        ("tabular-v1", ["gla/RandomTabular-v0", "gla/RandomTabular-v0?states=36"], []),
        ("cross-domain-v1", ["gla/Hopper-v0?x=1"], ["gla/Hopper-v0?x=1"]),
        ("tabular-v1", ["gla/RandomTabular-v0", "gla/FrozenLake-v0"], ["gla/FrozenLake-v0"]),
        ("gla-fig5-v1", ["gla/Ant-v0"], []),
        ("gla-fig5-v1", ["gla/RandomLinear-v0"], ["gla/RandomLinear-v0"]),
        ("cross-domain-v1", ["gla/RandomMechanics-v0", "gla/Ant-v0"], []),
        ("cross-domain-v1", ["gla/BraxReacher-v0", "gla/CheetahRun-v0"],
         ["gla/BraxReacher-v0", "gla/CheetahRun-v0"]),
        ("random-systems-v1", ["gla/RandomLinear-v0"], []),
        ("bandits-v1", [], []),
    ],
)  # fmt: skip
def test_training_sources_are_judged(name, sources, foreign):
    assert SUITES[name].foreign(sources) == foreign


def test_options_are_read():
    split = registry.split_options
    assert split("gla/X-v0") == ("gla/X-v0", {})
    assert split("gla/X-v0?a=1&b=two&c=true") == ("gla/X-v0", {"a": 1, "b": "two", "c": True})
    for bad in ("gla/X-v0?", "gla/X-v0?a", "gla/X-v0?a=1&a=2", "gla/X-v0?1=2"):
        with pytest.raises(GlaError, match="options once each, as"):
            split(bad)
    assert registry.references("gla/SupervisedBandit-v0?resize=8") == {}
    assert registry.references("gla/SupervisedBandit-v0")["expert"]["return"] == 100.0
