"""Experiments of many cells: what is written, what is skipped, and what a kill costs."""

import dataclasses
import json
import shutil

import pytest

from gla import loop
from gla.benchmarks import gpicl_grid as grid
from gla.errors import GlaError
from gla.gpicl.config import (
    DataConfig,
    GPICLConfig,
    LearnerConfig,
    LearnerValidationConfig,
)
from gla.gpicl.tasks import TaskConfig
from gla.models import ModelConfig
from gla.optimizers import OptimizerConfig

HERE = grid.WorkerConfig(processes=1)
TASKS = TaskConfig(length=5, input_dim=3)
TRAINING = GPICLConfig(
    data=DataConfig(resize=0),
    tasks=TASKS,
    learner=LearnerConfig(model=ModelConfig(width=4, layers=1, heads=2, window=5)),
    optimizer=OptimizerConfig("adamw", 1e-3, "constant", warmup=0),
    batch_size=2,
    steps=20,
    steps_per_dispatch=5,
    checkpoint_every=10,
)
VALIDATED = LearnerValidationConfig(every=10, sequences=16)
UNSEEN = grid.Test("unseen", "digits", "test", TASKS, sequences=32, positions=(0, 4))


def cell(name="one", seed=0, **changes):
    training = dataclasses.replace(TRAINING, seed=seed, **changes)
    return grid.Cell(name, training, (UNSEEN,), {"seed": seed})


def experiment(*cells, name="figure"):
    def draw(results, path):
        path.write_text(",".join(result.name for result in results))
        return "A picture of " + " and ".join(str(result.labels["seed"]) for result in results)

    return grid.Experiment(name, "A figure", cells or (cell(),), draw)


def run(out, *cells, **options):
    return grid.run_experiment(experiment(*cells), out, HERE, progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which an experiment of two cells is finished."""
    out = tmp_path_factory.mktemp("finished")
    watched = cell("two", 1, statistics=True, validation=VALIDATED)
    run(out, cell(), dataclasses.replace(watched, tests=(), keep=True))
    return out


@pytest.fixture
def untrained(monkeypatch):
    """Where nothing is to be trained."""

    def train(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(grid, "gpicl_train", train)


def test_an_experiment_leaves_cells_figure_and_data(finished):
    assert (finished / "figure.png").read_text() == "one,two"
    data = json.loads((finished / "figure.json").read_text())
    assert data["words"] == "A picture of 0 and 1"
    assert data["packages"]["gla"] and data["title"] == "A figure"
    assert data["settings"]["two"]["training"]["seed"] == 1
    assert data["settings"]["one"]["tests"]["unseen"]["positions"] == [0, 4]
    assert [one["name"] for one in data["cells"]] == ["one", "two"]
    # Checkpoints of cells that do not keep them are gone.
    assert {path.name for path in (finished / "work").iterdir() if path.is_dir()} == {"two"}


def test_a_cell_says_what_it_found(finished):
    one = grid.read_cell(finished / "cells" / "one.json")
    assert (one.name, one.labels, one.steps) == ("one", {"seed": 0}, 20)
    assert [step for step, _ in one.curve] == [5, 10, 15, 20]
    assert all(1.5 < loss < 4 for _, loss in one.curve)
    assert one.parameters > 100 and one.state_size > 0 and one.seconds > 0
    assert one.statistics == one.validations == []
    found = one.tests["unseen"]
    assert found["positions"] == [0, 4] and found["predictions"] == 32
    for low, mean, high in zip(found["low"], found["accuracy"], found["high"], strict=True):
        assert 0 <= low <= mean <= high <= 1 and high - low > 0.05
    assert all(1.5 < loss < 4 for loss in found["loss"])


def test_validations_and_statistics_are_kept(finished):
    two = grid.read_cell(finished / "cells" / "two.json")
    assert [row["step"] for row in two.validations] == [10, 20]
    assert 1.5 < two.validations[0]["unseen tasks of digits"]["loss"] < 4
    assert [row["step"] for row in two.statistics] == [5, 10, 15, 20]
    tensors = two.statistics[-1]["tensors"]
    head = next(values for name, values in tensors.items() if name.endswith("head/kernel"))
    assert head["gradient_norm"] > 0 and -1 <= head["update_cosine"] <= 1
    assert two.statistics[-1]["distance"] > two.statistics[0]["distance"] > 0


def test_finished_cells_are_shared_and_drawn_with_the_labels_of_now(finished, untrained):
    again = dataclasses.replace(cell(), labels={"seed": "a name"})
    figure = grid.run_experiment(experiment(again, name="other"), finished, HERE, progress=False)
    assert figure == finished / "other.png"
    words = json.loads((finished / "other.json").read_text())["words"]
    assert words == "A picture of a name"


def test_other_settings_are_refused(finished, untrained):
    with pytest.raises(
        GlaError, match=r"cell one in .*: batch_size is 2 there and 4 here; .*fresh"
    ):
        run(finished, cell(batch_size=4))
    with pytest.raises(GlaError, match="sequences is 32 there and 64 here"):
        run(
            finished,
            dataclasses.replace(cell(), tests=(dataclasses.replace(UNSEEN, sequences=64),)),
        )
    # Where data lie and how many devices there are changes nothing.
    run(finished, cell(data=DataConfig(resize=0, folder="elsewhere"), tensorboard=True))


def test_a_setting_that_came_later_stands_at_its_default(finished, untrained, tmp_path):
    (tmp_path / "cells").mkdir()
    content = json.loads((finished / "cells" / "one.json").read_text())
    del content["settings"]["training"]["optimizer"]["ema"]
    del content["settings"]["tests"]["unseen"]["per_task"]
    (tmp_path / "cells" / "one.json").write_text(json.dumps(content))
    run(tmp_path)
    with pytest.raises(GlaError, match=r"ema is 0\.0 there and 0\.5 here"):
        run(tmp_path, cell(optimizer=dataclasses.replace(TRAINING.optimizer, ema=0.5)))


def test_a_damaged_cell_is_named(finished, untrained, tmp_path):
    (tmp_path / "cells").mkdir()
    text = (finished / "cells" / "one.json").read_text()
    (tmp_path / "cells" / "one.json").write_text(text[: len(text) // 2])
    with pytest.raises(GlaError, match=r"one\.json cannot be read .*delete it"):
        run(tmp_path)


def test_an_interrupted_cell_goes_on_to_the_same_end(finished, tmp_path, monkeypatch):
    advance, calls = loop.Progress.advance, []

    def interrupted(self, amount, note=""):
        calls.append(amount)
        if len(calls) == 3:
            raise KeyboardInterrupt
        advance(self, amount, note)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Progress, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert list((tmp_path / "cells").iterdir()) == []
    assert not (tmp_path / "figure.png").exists()
    run(tmp_path)
    whole, resumed = (grid.read_cell(out / "cells" / "one.json") for out in (finished, tmp_path))
    assert resumed._replace(seconds=0) == whole._replace(seconds=0)
    assert not (tmp_path / "work" / "one").exists()


def test_a_cell_that_fails_is_named_and_the_others_go_on(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "figure.png").unlink()
    missing = cell("missing", data=DataConfig(("no-such-data",), resize=0))
    again = cell(steps=5)
    with pytest.raises(GlaError, match=r"1 of the 2 cells of figure failed \(missing: .*no-such"):
        run(tmp_path, missing, again, fresh=True)
    # All of the experiment's cells were to be computed afresh, and the one that can was.
    assert grid.read_cell(tmp_path / "cells" / "one.json").steps == 5
    assert (tmp_path / "cells" / "two.json").exists()
    assert not (tmp_path / "figure.png").exists()


def test_two_processes_do_not_train_one_cell(tmp_path):
    (tmp_path / "work").mkdir()
    with (
        grid._lock(tmp_path, cell()),
        pytest.raises(GlaError, match="another process is at work on the cell one"),
    ):
        run(tmp_path)


def test_long_curves_are_averaged():
    thin = grid._thin([(step, float(step % 2)) for step in range(1, 1001)])
    assert len(thin) <= grid.MOST_POINTS and thin[-1][0] == 1000
    assert sum(loss for _, loss in thin) / len(thin) == pytest.approx(0.5, abs=0.01)


def test_names_are_checked():
    with pytest.raises(GlaError, match="a cell is named 'a/b'"):
        cell("a/b")
    with pytest.raises(GlaError, match="cells of the experiment figure are named 'one'"):
        experiment(cell(), cell())
    with pytest.raises(GlaError, match="two tests of the cell one are named 'unseen'"):
        dataclasses.replace(cell(), tests=(UNSEEN, UNSEEN))
    with pytest.raises(GlaError, match="has no cells"):
        grid.Experiment("figure", "A figure", (), lambda results, path: "")
