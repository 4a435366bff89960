"""Makers are found by name, or by module:factory, and are what they say."""

import dataclasses
import textwrap

import numpy as np
import pytest
import tyro

from gla.agents.makers import BUILT_IN, NoSettings, check_maker, load_maker
from gla.agents.tabular_learning import QLearningConfig, QLearningMaker, ValueIterationConfig
from gla.errors import GlaError
from gla.histories import HistoryMaker, record

NEEDED = {
    "generalist": ["--teacher", "x.npz"],
    "noise-distilled": ["--experts", "x"],
    "mixed-quality": ["--experts", "x"],
    "agent": ["--agent", "ppo", "--experts", "x"],
    "import": ["--files", "x.npz"],
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_maker_is_there_and_its_settings_can_be_typed(name):
    entry = load_maker(name)
    assert entry.name == name and dataclasses.is_dataclass(entry.config)
    config = tyro.cli(entry.config, args=[*NEEDED.get(name, []), "--window", "33"])
    assert isinstance(config, entry.config) and config.window == 33
    for field in dataclasses.fields(entry.config):
        # Explained where it is defined, as tyro shows it.
        owners = [
            c for c in entry.config.__mro__ if field.name in vars(c).get("__annotations__", {})
        ]
        assert f"        {field.name}: " in owners[0].__doc__, field.name


@pytest.mark.parametrize(
    ("name", "arguments", "setting", "value"),
    [
        ("q-learning", ["--epsilon.shape", "cosine"], lambda c: c.epsilon.shape, "cosine"),
        ("q-learning", ["--targets", "last"], lambda c: c.targets, "last"),
        ("value-iteration", ["--power", "1.5"], lambda c: c.power, 1.5),
        ("mixed-quality", ["--late", "0.8", "1"], lambda c: c.late, (0.8, 1.0)),
        ("mixed-quality", ["--shares.random", "0"], lambda c: c.shares.random, 0.0),
        ("noise-distilled", ["--noise.hold", "0.1"], lambda c: c.noise.hold, 0.1),
        ("noise-distilled", ["--seed", "3"], lambda c: c.seed, 3),
    ],
)
def test_settings_are_read(name, arguments, setting, value):
    config = tyro.cli(load_maker(name).config, args=[*NEEDED.get(name, []), *arguments])
    assert setting(config) == value


def test_a_named_maker_is_made():
    entry = load_maker("q-learning")
    maker = entry.make(entry.config(runs=2, updates=2, steps=5))
    assert isinstance(maker, QLearningMaker) and isinstance(maker, HistoryMaker)
    assert maker.meta.method == "q-learning"
    entry = load_maker("value-iteration")
    assert entry.config is ValueIterationConfig


def test_the_importer_is_made_of_files(tmp_path):
    entry = load_maker("import")
    with pytest.raises(GlaError) as caught:
        entry.make(entry.config(files=(str(tmp_path / "none.npz"),), environment="x"))
    assert "none.npz" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(GlaError, match="no file to import"):
        entry.make(entry.config(files=()))


OWN = """
from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gla.agents.tabular_learning import QLearningConfig, QLearningMaker
from gla.histories import Part


@dataclass(frozen=True)
class Settings:
    reward: float = 2.0


class Constant:
    # Every reward is the same.
    def __init__(self, settings: Settings):
        self.settings = settings
        self.inner = QLearningMaker(QLearningConfig(runs=2, updates=2, steps=5, window=5))
        self.meta = dataclasses.replace(self.inner.meta, method="constant")

    def parts(self, runs, first=0, state=None):
        for arrays, state in self.inner.parts(runs, first, state):
            reward = np.full_like(arrays["reward"], self.settings.reward)
            yield Part({**arrays, "reward": reward}, state)


def default():
    return Constant(Settings())


def with_defaults(settings: Settings = Settings(3.0)):
    return Constant(settings)


def nothing():
    return 5


def untyped(settings):
    return Constant(settings)


def two(a: Settings, b: Settings):
    return Constant(a)


def number(a: int):
    return Constant(Settings(a))


NOT_CALLABLE = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_maker.py").write_text(textwrap.dedent(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "own_maker", raising=False)
    return tmp_path


def test_makers_of_your_own_are_loaded(own):
    entry = load_maker("own_maker:Constant")
    assert entry.config.__name__ == "Settings"
    config = tyro.cli(entry.config, args=["--reward", "7"])
    store = record(entry.make(config), own / "s", progress=False)
    assert (store.read("reward") == 7).all() and store.meta.method == "constant"
    assert np.isfinite(store.read("target")).all()
    entry = load_maker("own_maker:default")
    assert entry.config is NoSettings and entry.make(NoSettings()).settings.reward == 2.0
    entry = load_maker("own_maker:with_defaults")
    assert entry.config.__name__ == "Settings"
    assert entry.make(entry.config(4.0)).settings.reward == 4.0


def test_a_maker_of_this_package_can_be_named_by_its_class():
    entry = load_maker("gla.agents.tabular_learning:QLearningMaker")
    assert entry.config is QLearningConfig


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("q-lerning", r"no maker of histories is called 'q-lerning' \(did you mean q-learning\?\)"),
        ("", "no maker of histories is called ''; expected ppo, "),
        ("own_maker:Missing", "maker 'own_maker:Missing' cannot be loaded .*no attribute"),
        ("no_such_module_here:make", "cannot be loaded .*No module named"),
        (":make", "cannot be loaded"),
        ("own_maker:untyped", "takes settings; expected a factory that takes one argument"),
        ("own_maker:two", "takes a, b; expected a factory"),
        ("own_maker:number", "takes a; expected a factory"),
        ("own_maker:NOT_CALLABLE", "is a int; expected a factory"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_line(own, text, words):
    with pytest.raises(GlaError, match=words) as caught:
        load_maker(text)
    assert "\n" not in str(caught.value)


def test_what_is_no_maker_is_refused(own):
    with pytest.raises(GlaError, match="maker 'own_maker:nothing' gave a int; expected an object"):
        load_maker("own_maker:nothing").make(NoSettings())
    with pytest.raises(GlaError, match="gave a type"):
        check_maker(int, "x")
