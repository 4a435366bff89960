"""The submissions that come with the package."""

import pytest

from gla.benchmarks import submissions
from gla.benchmarks.board_input import BASELINES
from gla.benchmarks.suites import SUITES

FOLDERS = sorted(path.parent for path in BASELINES.glob("*/*/submission.json"))


def test_there_are_baselines():
    named = {(path.parent.name, path.name) for path in FOLDERS}
    for agent in ("nulls", "ppo", "sac", "random-search", "ad", "dpt", "gla", "rl2"):
        assert ("random-systems-v1", agent) in named


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_baseline_is_sound_and_of_a_suite_of_this_release(folder):
    read = submissions.read(folder)
    assert read.complete and read.suite.name == folder.parent.name in SUITES
    assert not read.suite.foreign(read.submission.training_sources)
    for path in folder.iterdir():
        assert '"/' not in path.read_text(), "no place of the machine that it was made on"
