"""Facts about environments, as text for the terminal and as the committed pages."""

import math
import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs import catalog, catalog_pages, registry
from gla.envs.base import Environment, timestep
from gla.envs.drawing import AGENT, Canvas
from gla.envs.table import TABLE, EnvironmentSpec
from gla.errors import GlaError

DOCS = Path(__file__).parent.parent.parent / "docs"


@dataclass(frozen=True)
class ToyConfig:
    """Size.

    Attributes:
        width: how wide it is, in a sentence that
            goes on in the next line.
        names: what is in it.
    """

    width: int = 3
    names: tuple[str, ...] = ("a",)


class Toy(Environment):
    """A toy.

    Args:
        flavour: what it tastes of.
        config: its size.
        loud: whether it makes a noise.
        **kwargs: anything else.
    """

    name, horizon, distinct_tasks, can_render = "Toy", 7, 4, True

    def __init__(self, flavour, config: ToyConfig | None = None, loud=False, **kwargs):
        self.config = config or ToyConfig()
        high = np.array([1.0, 2.0, 2.0], np.float32)[: self.config.width]
        self.observation_space = gymnasium.spaces.Box(-high, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def sample_params(self, key):
        return jnp.zeros(())

    def reset(self, key, params):
        return jnp.zeros(()), jnp.zeros(self.config.width)

    def step(self, key, state, action, params):
        no = jnp.zeros((), bool)
        return state + 1, timestep(jnp.zeros(self.config.width), jnp.zeros(()), no, no)

    def render(self, state, params):
        canvas = Canvas(0, 10, 32)
        canvas.disc((float(state), 5), 2, AGENT)
        return canvas.array()


class Blind(Toy):
    can_render = False


@pytest.fixture
def toys(monkeypatch):
    """A table of two toys, one of which cannot be drawn."""
    module = types.ModuleType("toys")
    module.Toy, module.Blind = Toy, Blind
    monkeypatch.setitem(sys.modules, "toys", module)
    for id in list(TABLE):
        monkeypatch.delitem(TABLE, id)
    for name in ("Toy", "Blind"):
        spec = EnvironmentSpec(
            f"gla/{name}-v0",
            f"toys:{name}",
            "toys",
            "functional",
            "discrete",
            7,
            "a box",
            "play with it",
            ("sweet",),
            family=name == "Toy",
        )
        monkeypatch.setitem(TABLE, spec.id, spec)
    catalog.facts.cache_clear()
    yield
    catalog.facts.cache_clear()


def test_filters_keep_what_fits_and_only_that():
    assert catalog.select() == list(TABLE.values())
    for domain in catalog.domains():
        assert {spec.domain for spec in catalog.select(domain=domain)} == {domain}
    both = catalog.select(kind="functional", actions="discrete", family=True)
    assert both == [
        s
        for s in TABLE.values()
        if s.kind == "functional" and s.action_kind == "discrete" and s.family
    ]
    assert both


@pytest.mark.parametrize("word", ["pendulum", "PENDULUM-V0", "Pendulum-v1", "swing a pendulum up"])
def test_a_word_is_looked_for_in_ids_sources_and_descriptions(word):
    found = [spec.id for spec in catalog.select(word)]
    assert "gla/Pendulum-v0" in found and "gla/CartPole-v0" not in found


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"domain": "braks"}, r"did you mean brax.*random-linear, .*brax"),
        ({"kind": "hosts"}, "one of functional, host"),
        ({"actions": "none"}, "one of continuous, discrete"),
        ({"word": "xyzzy", "kind": "host"}, "no environment fits 'xyzzy' \\+ 'host'"),
    ],
)
def test_filters_that_do_not_exist_are_said_in_one_line(filters, message):
    with pytest.raises(GlaError, match=message) as caught:
        catalog.select(**filters)
    assert "\n" not in str(caught.value)


def test_the_listing_is_aligned_in_80_columns_and_whole():
    lines = catalog.listing(TABLE.values()).splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines[1:] if line.startswith("gla/")]
    assert [row.split()[0] for row in rows] == list(TABLE)
    assert {len(row) for row in rows} == {len(lines[0])}
    [pendulum] = [row.split() for row in rows if row.startswith("gla/Pendulum-v0 ")]
    stored = registry.references("gla/Pendulum-v0")
    assert pendulum[1:4] == ["continuous", "200", "1"]
    assert float(pendulum[4]) == pytest.approx(stored["null"]["return"], abs=0.051)
    assert float(pendulum[5]) == pytest.approx(stored["expert"]["return"], abs=0.051)


def test_scores_are_short():
    assert [catalog.number(x) for x in (0.2, -9.99, -9.999, 5717.66)] == [
        "0.20",
        "-9.99",
        "-10.0",
        "5717.7",
    ]


def test_listing_imports_neither_jax_nor_a_simulator():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from gla import cli; cli.main(['envs', 'list', '--kind', 'host']); "
            "assert not {'jax', 'gymnax', 'brax', 'mujoco', 'dm_control'} & set(sys.modules)",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "gla/Ant-v0" in done.stdout and "\x1b" not in done.stdout


def test_settings_come_from_the_signature_and_the_docstrings(toys):
    config, loud, rest = catalog.settings_of(TABLE["gla/Toy-v0"])
    assert config.call == "config=ToyConfig()" and config.meaning == "its size."
    assert [field.call for field in config.fields] == ["width=3", "names=('a',)"]
    wide = "how wide it is, in a sentence that goes on in the next line."
    assert config.fields[0].meaning == wide
    assert (loud.call, loud.meaning) == ("loud=False", "whether it makes a noise.")
    assert (rest.call, rest.meaning) == ("**kwargs", "anything else.")


def test_facts_come_from_the_environment(toys):
    plain = catalog.facts("gla/Toy-v0")
    assert plain.observation_space.shape == (3,) and plain.action_space.n == 2
    assert plain.distinct_tasks == 4 and plain.projected_sizes == (64, 16)
    projected = catalog.facts("gla/Toy-Projected-v0")
    assert projected.observation_space.shape == (64,) and projected.action_space.n == 16


def test_everything_about_an_environment_fits_its_columns(toys):
    for width in (80, 60):
        text = catalog.describe("gla:gla/Toy-v0", width)
        assert max(map(len, text.splitlines())) <= width
    text = " ".join(catalog.describe("Toy-v0", 200).split())
    for part in (
        "gla/Toy-v0: play with it",
        "3 numbers within [-2, 2]",
        "one of 2, 0 to 1",
        "tasks 4, one for every task seed",
        "7 steps in an episode",
        "score 1 not measured",
        "task_seed=0 which task",
        "render_mode=None",
        "width=3 how wide it is",
        'gymnasium.make("gla:gla/Toy-v0")',
        'make_functional("gla/Toy-v0")',
    ):
        assert part in text, part
    blind = catalog.describe("Blind-v0")
    assert "task_seed" not in blind and "render_mode" not in blind
    assert "projection_seed=0" in catalog.describe("Toy-Projected-v0")


def test_references_are_told_with_their_source_and_their_command():
    text = " ".join(catalog.describe("gla/RandomLinear-v0", 200).split())
    stored = registry.references("gla/RandomLinear-v0")
    for side in ("null", "expert"):
        assert catalog.number(stored[side]["return"]) in text
        assert catalog.number(stored[side]["low"]) in text
    assert stored["null"]["controller"] in text and stored["expert"]["provenance"] in text
    assert stored["expert"]["command"] in text


def test_an_environment_that_cannot_be_built_here_is_described_without_it(toys, monkeypatch):
    monkeypatch.setitem(
        TABLE, "gla/Toy-v0", replace(TABLE["gla/Toy-v0"], factory="no_such_simulator:Toy")
    )
    text = catalog.describe("gla/Toy-v0")
    assert "not here" in text and "no_such_simulator" in text and "7 steps" in text
    with pytest.raises(GlaError, match="did you mean Toy-v0"):
        catalog.describe("gla/Toi-v0")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gymnasium.spaces.Box(-1, 1, (1,)), "1 number in [-1, 1]"),
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "2 numbers, all unbounded"),
        (gymnasium.spaces.Box(np.float32([0, -np.inf]), 1), "2 numbers, some of them unbounded"),
        (gymnasium.spaces.Discrete(5), "one of 5, 0 to 4"),
    ],
)
def test_spaces_are_told_in_a_phrase(space, words):
    assert catalog.describe_space(space) == words


def test_tasks_are_told_in_a_phrase():
    assert catalog.describe_tasks(1) == "1, fixed"
    assert catalog.describe_tasks(2).startswith("2, ")
    assert catalog.describe_tasks(math.inf).startswith("endlessly many, ")


def test_a_frame_shows_the_state_after_some_steps(toys):
    start, later = catalog.frame("gla/Toy-v0"), catalog.frame("gla/Toy-v0", steps=5)
    assert start.shape == (32, 32, 3) and start.dtype == np.uint8
    columns = [np.nonzero((x == AGENT).all(-1))[1].mean() for x in (start, later)]
    assert columns[1] - columns[0] > 10  # five tenths of the picture, less what is cut off
    with pytest.raises(GlaError, match="no pictures of gla/Blind-v0"):
        catalog.frame("gla/Blind-v0")


def test_pages_hold_every_environment_and_the_pictures_that_there_are(toys, tmp_path, monkeypatch):
    assert catalog_pages.write_pages(tmp_path) == []
    assert {p.name for p in (tmp_path / "environments").iterdir()} == {"README.md", "toys.md"}
    assert {p.name for p in (tmp_path / "images/environments").iterdir()} == {"Toy.png"}
    text = (tmp_path / "environments" / "toys.md").read_text()
    toy, blind = (line for line in text.splitlines() if "play with it" in line)
    assert 'src="../images/environments/Toy.png"' in toy and "img" not in blind
    assert "| 3 | 2 discrete | 7 | 4 |" in toy
    assert "| `width` | `3` | how wide it is" in text
    again = catalog_pages.write_pages(tmp_path, pictures=False)
    assert again == [] and (tmp_path / "environments" / "toys.md").read_text() == text

    def no_renderer(self, state, params):
        raise GlaError("no OpenGL")

    monkeypatch.setattr(Toy, "render", no_renderer)
    assert catalog_pages.write_pages(tmp_path) == ["gla/Toy-v0: no OpenGL."]
    text = (tmp_path / "environments" / "toys.md").read_text()
    assert "img" not in text and "| 3 | 2 discrete | 7 | 4 |" in text


@pytest.mark.parametrize("domain", catalog.domains())
def test_the_committed_pages_are_those_of_the_registry(domain):
    if domain == "dmc":
        pytest.importorskip("dm_control")
    pictured = catalog_pages.pictures_in(DOCS)
    written = (DOCS / "environments" / f"{domain}.md").read_text()
    assert written == catalog_pages.page(domain, pictured), "run: gla envs docs docs"


def test_there_is_a_page_for_every_domain_and_no_other():
    index = (DOCS / "environments" / "README.md").read_text()
    assert index == catalog_pages.index_page(), "run: gla envs docs docs"
    names = {path.name for path in (DOCS / "environments").iterdir()}
    assert names == {"README.md", *(f"{domain}.md" for domain in catalog.domains())}


def test_links_of_the_pages_resolve_and_pictures_are_small():
    for path in (DOCS / "environments").glob("*.md"):
        text = path.read_text()
        targets = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
        assert targets
        for target in targets:
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
    pictures = list((DOCS / "images" / "environments").iterdir())
    assert {p.stem for p in pictures} <= {catalog_pages.short(spec) for spec in TABLE.values()}
    assert sum(p.stat().st_size for p in pictures) < 1_500_000
