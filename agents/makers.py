"""Find a maker of histories by what a user typed: a name, or `module:factory`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gla.agents.external import load_factory
from gla.envs import registry
from gla.errors import GlaError, near_matches
from gla.histories import HistoryMaker
from gla.histories.importing import ImportConfig, make_importer

# name: what it does, its configuration and what makes it from one, each as module:attribute.
BUILT_IN: dict[str, tuple[str, str, str]] = {
    "ppo": (
        "PPO on every task, every version of its policy kept",
        "gla.agents.collect:CollectConfig",
        "gla.agents.collect:make_maker",
    ),
    "generalist": (
        "one expert of a whole family that is told its tasks, every version of it kept",
        "gla.agents.generalist:GeneralistConfig",
        "gla.agents.generalist:GeneralistMaker",
    ),
    "noise-distilled": (
        "the last policies of a PPO store behind fading noise",
        "gla.agents.distillation:NoiseDistilledConfig",
        "gla.agents.distillation:NoiseDistilledMaker",
    ),
    "mixed-quality": (
        "policies of all qualities from a PPO store in turns",
        "gla.agents.distillation:MixedQualityConfig",
        "gla.agents.distillation:MixedQualityMaker",
    ),
    "oracle": (
        "the oracle of a bandit or a random MDP behind fading noise",
        "gla.agents.oracle:OracleConfig",
        "gla.agents.oracle:OracleMaker",
    ),
    "q-learning": (
        "tabular Q-learning",
        "gla.agents.tabular_learning:QLearningConfig",
        "gla.agents.tabular_learning:QLearningMaker",
    ),
    "value-iteration": (
        "an expert that plans ever further ahead on tabular tasks",
        "gla.agents.tabular_learning:ValueIterationConfig",
        "gla.agents.tabular_learning:ValueIterationMaker",
    ),
    "agent": (
        "any agent's lifetimes, labelled by the experts of a PPO store if there is one",
        "gla.agents.agent_histories:AgentHistoriesConfig",
        "gla.agents.agent_histories:AgentMaker",
    ),
    "import": (
        "transitions that others recorded, from files",
        "gla.agents.makers:FilesConfig",
        "gla.agents.makers:import_maker",
    ),
}


@dataclass(frozen=True, kw_only=True)
class FilesConfig(ImportConfig):
    """Which files are imported, and how they are cut into histories.

    Attributes:
        files: files or data sets of transitions, in order: npz, HDF5 in D4RL's layout, Minari.
    """

    files: tuple[str, ...]


def import_maker(config: FilesConfig) -> HistoryMaker:
    """Return what makes histories of files.

    Raises:
        GlaError: as `gla.histories.importing.make_importer`.
    """
    names = [field.name for field in dataclasses.fields(ImportConfig)]
    return make_importer(config.files, ImportConfig(**{n: getattr(config, n) for n in names}))


@dataclass(frozen=True)
class NoSettings:
    """The configuration of a maker that has none."""


@dataclass(frozen=True)
class MakerEntry:
    """A way of making histories.

    Attributes:
        name: what the user types.
        config: the class of its configuration, a dataclass that tyro can read.
        factory: makes the maker from an instance of it.
    """

    name: str
    config: type
    factory: Callable[[Any], Any]

    def make(self, config: Any) -> HistoryMaker:
        """Return the maker of a configuration.

        Raises:
            GlaError: if the configuration makes no sense, or what the factory gives is no maker.
        """
        return check_maker(self.factory(config), self.name)


def load_maker(text: str) -> MakerEntry:
    """Return the maker that a user means.

    Args:
        text: a name of `BUILT_IN`, or `module:factory`. The factory takes one argument, annotated
            with a dataclass, or none, and gives a `gla.histories.HistoryMaker`; the class of a
            maker is one. Modules are also looked for in the current folder.

    Raises:
        GlaError: if there is no such name, module or factory, or its argument is no dataclass.
    """
    if text in BUILT_IN:
        _, config, factory = BUILT_IN[text]
        return MakerEntry(text, registry.load(config), registry.load(factory))
    if ":" not in text:
        raise GlaError(
            f"no maker of histories is called {text!r}{near_matches(text, BUILT_IN)}",
            f"{', '.join(BUILT_IN)}, or module:factory",
        )
    return _entry(text, load_factory(text, "maker", "module:factory"))


def _entry(name: str, factory: Any) -> MakerEntry:
    """Return a user's maker, whose configuration is what its factory says it takes."""
    expected = "a factory that takes one argument, annotated with a dataclass, or none"
    if not callable(factory):
        raise GlaError(f"maker {name!r} is a {type(factory).__name__}", expected)
    try:
        wanted = list(inspect.signature(factory).parameters.values())
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (TypeError, ValueError, NameError) as error:
        raise GlaError(f"what maker {name!r} takes cannot be told ({error})", expected) from None
    needed = [
        p
        for p in wanted
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if not needed and not (wanted and dataclasses.is_dataclass(hints.get(wanted[0].name))):
        return MakerEntry(name, NoSettings, lambda _: factory())
    config = hints.get(wanted[0].name)
    if len(needed) > 1 or not (inspect.isclass(config) and dataclasses.is_dataclass(config)):
        raise GlaError(f"maker {name!r} takes {', '.join(p.name for p in wanted)}", expected)
    return MakerEntry(name, config, factory)


def check_maker(maker: Any, name: str) -> HistoryMaker:
    """Return `maker` if it has what the protocol asks for.

    Raises:
        GlaError: if `meta` or `parts` is missing.
    """
    # Classes have them too, but make nothing.
    if inspect.isclass(maker) or not isinstance(maker, HistoryMaker):
        raise GlaError(
            f"maker {name!r} gave a {type(maker).__name__}",
            "an object with meta, a HistoryMeta, and parts(runs, first, state)",
        )
    return maker
