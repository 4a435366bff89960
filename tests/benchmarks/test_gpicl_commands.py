"""`gla gpicl run` and `list`: what they print, and where they put it."""

import pytest

from gla import cli, datasets
from gla.benchmarks import gpicl_commands as commands
from gla.benchmarks import gpicl_grid as grid
from gla.gpicl.config import DataConfig, GPICLConfig, LearnerConfig
from gla.gpicl.tasks import TaskConfig
from gla.models import ModelConfig

TINY = GPICLConfig(
    data=DataConfig(resize=0),
    tasks=TaskConfig(length=5, input_dim=3),
    learner=LearnerConfig(model=ModelConfig(width=4, layers=1, heads=2, window=5)),
    batch_size=2,
    steps=2,
    steps_per_dispatch=1,
)


def draw(results, path):
    path.write_text("")
    return f"Drawn of {results[0].name}."


def test_running_an_experiment_says_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = {"fig1": lambda size: grid.Experiment("fig1", size, (grid.Cell(size, TINY),), draw)}
    monkeypatch.setattr(commands, "all_experiments", lambda: made)
    assert cli.main(["gpicl", "run", "fig1", "--workers.processes", "1"]) == 0
    out = tmp_path / "runs" / "gpicl-cpu"
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "Drawn of cpu.", f"figure: {out / 'fig1.png'}", f"data: {out / 'fig1.json'}",
    ]  # fmt: skip
    assert cli.main(["gpicl", "run", "fig2"]) != 0
    assert "there is no experiment 'fig2'" in capsys.readouterr().err
    assert cli.main(["gpicl", "list"]) == 0
    assert capsys.readouterr().out.split() == ["fig1", "1", "cells", "cpu"]


@pytest.mark.parametrize("size", ["cpu", "paper"])
def test_experiments_read_data_sets_that_are_known(size):
    known = {"digits", "random", *datasets._KNOWN}
    for name, make in commands.all_experiments().items():
        assert make(size).name == name
        for cell in make(size).cells:
            for used in (*cell.training.data.datasets, *(test.dataset for test in cell.tests)):
                assert used.removesuffix("-features") in known or used.startswith("digits-"), used
