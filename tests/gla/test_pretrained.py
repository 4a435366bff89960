"""Small checkpoints: what is exported acts like what was trained, and nothing more is there."""

import json
import shutil

import jax
import numpy as np
import pytest

import gla
from gla import checkpoints, pretrained, training
from gla.errors import GlaError
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training import MetaTrainConfig, load_trained, meta_train


@pytest.fixture(scope="module")
def config(policy_store, tmp_path_factory):
    return MetaTrainConfig(
        histories=(policy_store(tmp_path_factory.mktemp("histories") / "s"),),
        projection=ProjectionConfig(4, 3, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=4, first_update=(0, 1), gap=(1, 2)),
        model=ModelConfig(width=16, layers=1, heads=2, mlp=2, window=8),
        optimizer=OptimizerConfig(learning_rate=3e-2, warmup=2, ema=0.8),
        batch_size=2,
        steps=4,
        steps_per_dispatch=2,
        checkpoint_every=4,
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    return meta_train(config, tmp_path_factory.mktemp("trained") / "agent", progress=False)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return pretrained.export(trained, tmp_path_factory.mktemp("exported") / "small")


def test_weights_are_those_that_act_in_half_precision(trained, exported):
    whole, small = load_trained(trained), load_trained(exported)
    assert small.interface == whole.interface and small.config.model == whole.config.model
    paired = zip(jax.tree.leaves(whole.params), jax.tree.leaves(small.params), strict=True)
    for ours, theirs in paired:
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours, rtol=2**-11, atol=1e-7)
    assert sorted(file.name for file in exported.iterdir()) == ["config.json", "weights.npz"]


def test_it_is_known_by_what_it_learned_and_tells_no_place(trained, exported, config):
    described = checkpoints.describe(exported)
    assert described["exported"] == {"step": 4, "which": "latest"}
    assert checkpoints.latest_step(exported) == 4
    assert described["sources"] == ["gla/Made-v0"]
    assert '"/' not in (exported / "config.json").read_text()
    before = checkpoints.describe(trained)
    assert described["histories"] == before["histories"]


def test_it_is_begun_from_but_not_gone_on_with(exported, config, tmp_path):
    with pytest.raises(GlaError, match="nothing to go on with; begin from them with --initial"):
        meta_train(config, exported, progress=False)
    more = training.MetaTrainConfig(**{**vars(config), "initial": str(exported)})
    folder = meta_train(more, tmp_path / "more", progress=False)
    assert json.loads((folder / "config.json").read_text())["began"]["initial_step"] == 4


def test_what_cannot_be_exported_or_read_is_said(trained, exported, tmp_path):
    with pytest.raises(GlaError, match="is not empty"):
        pretrained.export(trained, exported)
    with pytest.raises(GlaError, match="not a checkpoint folder"):
        pretrained.export(tmp_path, tmp_path / "out")
    with pytest.raises(GlaError, match="holds no best weights"):
        pretrained.export(trained, tmp_path / "best", "best")
    with pytest.raises(GlaError, match="holds the latest weights of its training and no others"):
        load_trained(exported, "best")
    cut = shutil.copytree(exported, tmp_path / "cut")
    content = (cut / "weights.npz").read_bytes()
    (cut / "weights.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(GlaError, match=r"weights.npz cannot be read .*weights that gla exported"):
        load_trained(cut)
    other = shutil.copytree(exported, tmp_path / "other")
    np.savez(other / "weights.npz", **{"params/head/kernel": np.zeros((2, 2), np.float16)})
    with pytest.raises(GlaError, match="does not fit the model"):
        load_trained(other)


def test_a_weight_that_half_precision_cannot_hold_is_refused(trained, tmp_path, monkeypatch):
    found = load_trained(trained)
    huge = found._replace(params=jax.tree.map(lambda x: x + 1e6, found.params))
    monkeypatch.setattr(training, "load_trained", lambda *_: huge)
    with pytest.raises(GlaError, match="larger than 65504"):
        pretrained.export(trained, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The agents that come with gla


def test_every_agent_that_comes_with_gla_loads_and_has_a_card():
    assert pretrained.names(), "the package holds its agents"
    size = 0
    for name in pretrained.names():
        folder = pretrained.find(name)
        agent = gla.load(name)
        assert agent.jittable and callable(agent.act)
        card = pretrained.card(name)
        assert card.startswith(f"# {name}: ")
        for heading in ("## Data", "## How it was made", "## What it does", "## What it does not"):
            assert heading in card, (name, heading)
        assert '"/' not in (folder / "config.json").read_text()
        size += sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 50e6


def test_other_names_are_refused():
    with pytest.raises(GlaError, match="no agent called 'system' .*did you mean systems"):
        pretrained.find("system")
    with pytest.raises(GlaError, match="did you mean systems"):
        gla.load("system")
