"""The agent of tables keeps the protocol and says what it cannot do."""

import gymnasium
import numpy as np
import pytest

from gla.agents import tabular
from gla.agents.testing import check
from gla.errors import GlaError


def test_it_keeps_the_protocol():
    check(tabular.untrained, kinds=("discrete",)).require()


def test_continuous_actions_are_refused_in_one_line():
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    with pytest.raises(GlaError, match="keeps tables and this environment's actions are") as raised:
        tabular.untrained().init(None, 2, box, box)
    assert "\n" not in str(raised.value)
