"""Every id of the registry, plain and projected, through the conformance kit.

The kit (`gla.envs.testing`) includes Gymnasium's own `check_env`.
"""

import jax
import pytest

from gla.envs import registry
from gla.envs.table import TABLE
from gla.envs.testing import check

# Half a minute of compilation each, and projected by the same wrapper as the others.
DEAR = {
    f"gla/Brax{body}-Projected-v0"
    for body in (
        "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "Pusher", "Reacher", "Swimmer",
        "Walker2d",
    )
}  # fmt: skip
ALL_IDS = [
    pytest.param(id, marks=[pytest.mark.long] if id in DEAR else [])
    for spec in TABLE.values()
    for id in (spec.id, spec.projected_id)
]

# Packages that are not everywhere, by the start of the factory's path.
NEEDS = {
    "gla.envs.host:dmc_env": "dm_control",
    "gla.envs.brax_adapter": "brax",
    "gla.envs.ant_direction:Brax": "brax",
    "gla.envs.random_morphology": "brax",
    "gla.envs.supervised_bandit": "sklearn",
}


@pytest.mark.parametrize("id", ALL_IDS)
def test_every_id_keeps_the_contract(id):
    factory = registry.find(id).factory
    needed = {package for start, package in NEEDS.items() if factory.startswith(start)}
    for package in needed:
        pytest.importorskip(package, reason=f"{id} needs {package}, which is not installed")
    check(id).require()
    if "brax" in needed:
        jax.clear_caches()  # large programs, used once; all of them together take gigabytes
