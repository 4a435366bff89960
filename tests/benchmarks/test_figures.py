"""Figures from stored results: steps are done once, resumed, refused if changed."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
import tyro

from gla.agents.collect import CollectConfig
from gla.agents.ppo import PPOConfig
from gla.benchmarks import figures, figures_gla, figures_run
from gla.benchmarks.figures_parts import Figure, Line, Panel
from gla.benchmarks.figures_steps import Collect, MetaTest, SuiteTest, Train
from gla.benchmarks.worlds import MetaTestConfig
from gla.errors import GlaError
from gla.histories import HistoryStore
from gla.models import ModelConfig
from gla.projection import ProjectionConfig
from gla.sampling import SamplingConfig
from gla.training_config import MetaTrainConfig

CORNER = "gla/Darkroom-v0?size=2&horizon=5&goal=[1,1]&goal_ends=true&observation=one-hot"
PPO = PPOConfig(num_envs=2, num_steps=10, num_updates=3, epochs=1, minibatches=1, hidden=4)


def tiny(seed: int = 0) -> Figure:
    """A figure that takes seconds: one task, one agent, one panel."""
    collect = Collect("corner", 0.1, CollectConfig(CORNER, runs=2, block=2, seed=seed, ppo=PPO))
    training = MetaTrainConfig(
        projection=ProjectionConfig(4, 5, "identity"),
        sampling=SamplingConfig(segments=2, segment_length=10),
        model=ModelConfig(width=8, layers=1, heads=2, window=20),
        batch_size=2,
        steps=2,
        steps_per_dispatch=1,
        checkpoint_every=2,
    )
    train = Train("small", 0.1, ("corner",), training)
    test = MetaTest("small", 0.1, "small", MetaTestConfig(CORNER, 3, 20, null_steps=10))
    lines = (Line("GLA", (test.made,)), Line("GLA, rewards masked", (test.made,), twin=True))
    panel = Panel("a corner", lines, test.made, own=("corner",), read=(("first", 0.5),), log=True)
    return Figure(
        "tiny", "cpu", "A tiny figure", "What it shows.", (collect, train, test), (panel,)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("figures")
    figures_run.make_figure(tiny(), out, progress=False)
    return out


def changed(folder, before):
    return [path for path, time in before.items() if path.stat().st_mtime_ns != time]


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_figure_is_made_with_its_page_and_numbers(finished):
    assert (finished / "tiny.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads((finished / "tiny.json").read_text())
    assert data["command"] == f"gla figures tiny --size cpu --out {finished}"
    [row] = data["rows"]
    assert row["verdict"].startswith(("learned", "did not learn")) and row["null"] and row["masked"]
    low, high = row["numbers"]["last"][1:]
    assert low <= row["numbers"]["last"][0] <= high
    commands = [step.command for step in tiny().steps]
    assert list(data["seconds"]) == commands and all(s > 0 for s in data["seconds"].values())
    page = (finished / "tiny.md").read_text()
    assert "What it shows." in page and row["last"] in page and all(c in page for c in commands)


def test_a_second_run_does_nothing_again_but_drawing(finished, capsys):
    before = times(finished)
    figures_run.make_figure(tiny(), finished)
    assert "0 of 3 steps to do" in capsys.readouterr().out
    assert {path.name for path in changed(finished, before)} == {
        "tiny.png", "tiny.json", "tiny.md",
    }  # fmt: skip


def test_a_killed_figure_goes_on_with_what_is_missing(finished, tmp_path, monkeypatch):
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(finished, out)
    for gone in ("steps/meta-test-small.json", "results/small.json", "tiny.png"):
        (out / gone).unlink()
    done = []
    for kind in (Collect, Train):
        monkeypatch.setattr(kind, "run", lambda self, *_: pytest.fail(f"{self.name} again"))
    whole = MetaTest.run
    monkeypatch.setattr(MetaTest, "run", lambda self, *a: (done.append(self.name), whole(self, *a)))
    figures_run.make_figure(tiny(), out, progress=False)
    assert done == ["small"]
    lives = [json.loads((f / "results/small.json").read_text())["agents"] for f in (finished, out)]
    played = [[one["lifetimes"] for one in agents] for agents in lives]
    assert played[0] == played[1]


def test_drawing_alone_computes_nothing_and_names_what_is_missing(finished, tmp_path):
    with pytest.raises(GlaError, match="small.json is not there"):
        figures_run.make_figure(tiny(), tmp_path, draw_only=True)
    with pytest.raises(GlaError, match="one of fresh and draw_only"):
        figures_run.make_figure(tiny(), tmp_path, draw_only=True, fresh=True)
    before = times(finished)
    figures_run.make_figure(tiny(), finished, draw_only=True, progress=False)
    assert {path.suffix for path in changed(finished, before)} == {".png", ".json", ".md"}


def test_a_finished_step_of_other_settings_is_refused(finished, tmp_path):
    with pytest.raises(GlaError, match="histories/corner .* was made with other settings"):
        figures_run.make_figure(tiny(seed=1), finished, progress=False)
    step = tiny().steps[0]
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "collect-corner.json").write_text("{")
    with pytest.raises(GlaError, match="delete it to do that step again"):
        figures_run._finished(tmp_path, step)


def test_fresh_deletes_the_steps_of_this_figure_alone(tmp_path, monkeypatch):
    kept = tmp_path / "histories" / "another"
    ours = tmp_path / "histories" / "corner"
    for folder in (kept, ours):
        folder.mkdir(parents=True)
    monkeypatch.setattr(figures_run, "_run_steps", lambda *_: None)
    with pytest.raises(GlaError, match="not there"):  # nothing is left to be drawn
        figures_run.make_figure(tiny(), tmp_path, fresh=True, progress=False)
    assert kept.exists() and not ours.exists()


def test_histories_of_one_task_are_of_that_task(finished):
    store = HistoryStore.open(finished / "histories" / "corner")
    assert store.meta.environment == CORNER and store.meta.horizon == 5
    assert store.meta.observation_size == 4  # cells of the grid that the options name
    reward, done = store.read("reward"), store.read("terminated")
    assert set(np.unique(reward)) <= {0.0, 1.0}
    # In every run the goal is the same corner, which ends the episode.
    cells = store.read("observation").argmax(-1)
    assert np.array_equal(reward == 1.0, done) and 3 not in cells
    own = json.loads((finished / "curves" / "corner.json").read_text())
    assert own["steps"] == 20 and np.shape(own["returns"]) == (2, 3)


@pytest.mark.parametrize("size", ["cpu", "paper"])
@pytest.mark.parametrize("name", list(figures_gla.FIGURES))
def test_commands_say_exactly_what_the_steps_do(name, size):
    figure = figures.all_figures()[name](size)
    assert (figure.name, figure.size) == (name, size)
    made = {step.made for step in figure.steps}
    for step in figure.steps:
        words = shlex.split(step.command)
        assert words == step.words() and step.made in words
        if isinstance(step, SuiteTest):
            continue
        kind = type(step.config)
        first = next(i for i, word in enumerate(words) if word.startswith("--"))
        rest = words[first:]
        for name_ in ("--histories", "--agent"):  # what the step adds to its config
            if name_ in rest:
                start = rest.index(name_)
                stop = start + 1
                while stop < len(rest) and not rest[stop].startswith("--"):
                    assert rest[stop] in made
                    stop += 1
                del rest[start:stop]
        assert tyro.cli(kind, args=rest) == step.config
        assert json.loads(json.dumps(step.settings())) == step.settings()
    for panel in figure.panels:
        assert {step.name for step in figure.steps if isinstance(step, Collect)} >= set(panel.own)
        for line in panel.lines:
            for file in line.files:
                assert file in made or file.rsplit("/", 1)[0] in made
    if size == "cpu":
        assert sum(step.minutes for step in figure.steps) <= 30


def test_steps_need_what_comes_before_them():
    figure = tiny()
    with pytest.raises(GlaError, match="needs histories/corner"):
        dataclasses.replace(figure, steps=figure.steps[1:])
    with pytest.raises(GlaError, match="two steps of tiny make agents/small"):
        dataclasses.replace(figure, steps=(*figure.steps, figure.steps[1]))


def test_the_command_lists_shows_and_draws(finished, monkeypatch, capsys):
    monkeypatch.setattr(figures, "all_figures", lambda: {"tiny": lambda size: tiny()})
    assert figures.figures() == 0
    assert capsys.readouterr().out.startswith("tiny         3 steps, less than a minute")
    assert figures.figures("tiny", commands=True, out="somewhere") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "mkdir -p somewhere; cd somewhere" and len(printed) == 4
    assert figures.figures("tiny", out=str(finished), draw_only=True) == 0
    assert f"figure: {finished / 'tiny.png'}" in capsys.readouterr().out
    with pytest.raises(GlaError, match="did you mean"):
        figures.figures("tyni")


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "all_figures", lambda: {"tiny": lambda size: tiny()})

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Collect, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        figures.figures("tiny", out=str(tmp_path))
    assert "go on with: gla figures tiny --size cpu" in capsys.readouterr().out
    assert not list((tmp_path / "steps").iterdir())


def test_expected_times():
    steps = tiny().steps
    assert figures_run.expected(()) == "nothing to wait for"
    assert (
        figures_run.expected([dataclasses.replace(steps[0], minutes=None)]) == "time not measured"
    )
    assert figures_run.expected([dataclasses.replace(steps[0], minutes=12.4)]) == (
        "about 12 min of one core"
    )
