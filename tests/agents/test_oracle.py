import numpy as np
import pytest

from gla.agents.oracle import OracleConfig, OracleMaker, parse_settings
from gla.agents.rollouts import Schedule
from gla.envs import registry
from gla.envs.splits import task_key
from gla.errors import GlaError
from gla.histories import record

SETTINGS = {"runs": 3, "updates": 4, "steps": 20, "block": 3, "window": 20}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    config = OracleConfig(options=("pool=50", "horizon=20"), **SETTINGS)
    return record(OracleMaker(config), tmp_path_factory.mktemp("o") / "s", progress=False)


def test_noise_fades_and_the_target_is_the_oracle(store):
    target = store.read("target").argmax(-1)
    action, reward = store.read("action"), store.read("reward")
    np.testing.assert_array_equal(reward, (action == target).astype(np.float32))
    share = np.exp(store.read("distribution").min(-1)) * 10
    np.testing.assert_allclose(share[0, 0, 0], 0.9, atol=1e-5)
    np.testing.assert_allclose(share[0, -1, -1], 1e-3, atol=1e-5)
    assert reward[:, 0].mean() < 0.5 < 0.9 < reward[:, -1, 10:].mean()
    assert store.meta.method == "oracle"
    assert list(store.meta.settings["options"]) == ["pool=50", "horizon=20"]


def test_the_target_is_the_right_class_of_what_is_shown(store):
    env = registry.make_functional("gla/SupervisedBandit-v0", pool=50, horizon=20)
    params = env.sample_params(task_key("train", 0, 0))
    shown = store.read("observation")[0].reshape(-1, 64)
    found = np.abs(shown[:, None] - np.asarray(params.inputs)[None]).sum(-1).argmin(-1)
    np.testing.assert_array_equal(
        np.asarray(params.labels)[found], store.read("target")[0].argmax(-1).reshape(-1)
    )


def test_random_mdps_have_oracles_too(tmp_path):
    config = OracleConfig(environment="gla/RandomTabular-v0", noise=Schedule(0.0, 0.0), **SETTINGS)
    found = record(OracleMaker(config), tmp_path / "s", progress=False)
    same = found.read("target").argmax(-1) == found.read("action")
    assert same.mean() > 0.98
    assert np.isfinite(found.read("reward")).all()


@pytest.mark.parametrize(
    "words, found",
    [((), {}), (("pool=8", 'dataset="mnist"'), {"pool": 8, "dataset": "mnist"})],
)
def test_settings_are_read(words, found):
    assert parse_settings(words) == found


@pytest.mark.parametrize("word", ["pool", "pool=", "=8", "po ol=8", "dataset=mnist"])
def test_settings_that_cannot_be_read(word):
    with pytest.raises(GlaError, match="name=value"):
        parse_settings((word,))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"environment": "gla/Pendulum-v0"}, "no oracle"),
        ({"options": ("pol=8",)}, "pol"),
        ({"runs": 0}, "runs is 0"),
        ({"noise": Schedule(2.0, 0.0)}, "noise start is 2.0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(GlaError, match=message):
        OracleMaker(OracleConfig(**{**SETTINGS, **changes}))


def test_a_run_does_not_depend_on_its_block(store, tmp_path):
    settings = {**SETTINGS, "block": 1}
    config = OracleConfig(options=("pool=50", "horizon=20"), **settings)
    other = record(OracleMaker(config), tmp_path / "s", progress=False)
    np.testing.assert_array_equal(other.read("action"), store.read("action"))
