"""What the tests of this room share."""

import pytest

from gla.benchmarks import board_input


@pytest.fixture(autouse=True, scope="session")
def no_baselines(tmp_path_factory):
    """Leave the submissions that come with the package out of every board that a test builds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board_input, "BASELINES", tmp_path_factory.mktemp("baselines"))
        yield
