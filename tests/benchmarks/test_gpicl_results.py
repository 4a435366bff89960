import dataclasses
import json

import pytest

from gla.benchmarks.gpicl_results import Cell, SupervisedResults, read, table, write
from gla.errors import GlaError

CELL = Cell(
    learner="GPICL Transformer", sort="meta-trained", path="runs/a", dataset="digits", examples=449,
    part="test", trained_on=("mnist",), training_seed=0, training_steps=10, parameters=5,
    state_size=6, tasks={"length": 3}, seed=0, per_task=1, predictions=100, positions=(0, 2),
    accuracy=(0.1, 0.8), low=(0.05, 0.7), high=(0.2, 0.9), loss=1.0, seconds=2.0,
)  # fmt: skip


def other(**changes):
    return dataclasses.replace(CELL, **changes)


def test_what_is_written_is_read(tmp_path):
    results = SupervisedResults().with_cell(CELL).with_cell(other(dataset="x/y.npz", loss=None))
    write(tmp_path / "r.json", results)
    assert read(tmp_path / "r.json") == results


def test_cells_are_one_if_the_test_is_the_same():
    assert CELL.same_test == other(accuracy=(0.2, 0.3), seconds=9.0).same_test
    for changes in ({"seed": 1}, {"dataset": "mnist"}, {"training_steps": 11}, {"path": "b"}):
        assert CELL.same_test != other(**changes).same_test


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not whole JSON.*delete it"),
        ("{}", "not a results file of learners"),
        ('{"schema": "gla-supervised-results", "version": 9}', "has version 9"),
        ('{"schema": "gla-supervised-results", "version": 1, "cells": [{}]}', "cannot be read"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(GlaError, match=message) as caught:
        read(file)
    assert str(file) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(GlaError, match="cannot be read"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"accuracy": (0.1, 1.2), "high": (0.2, 1.3)}, "in order within"),
        ({"low": (0.15, 0.7)}, "in order within"),
        ({"positions": (0,)}, "unlike or no number"),
        ({"sort": "magic"}, "of the sort"),
        ({"predictions": 0}, "0 predictions"),
        ({"accuracy": (0.1, float("nan"))}, "in order within"),
    ],
)
def test_cells_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(GlaError, match=message):
        write(tmp_path / "r.json", SupervisedResults((other(**changes),)))
    assert not (tmp_path / "r.json").exists()
    write(tmp_path / "r.json", SupervisedResults((CELL,)))
    document = json.loads((tmp_path / "r.json").read_text())
    document["cells"][0].update(json.loads(json.dumps(changes)))
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(GlaError, match=message):
        read(tmp_path / "r.json")


def test_the_table_has_means_over_seeds():
    cells = [CELL, other(training_seed=1, path="runs/b", accuracy=(0.1, 0.74), high=(0.2, 0.84))]
    cells.append(other(learner="1-NN", sort="hand-written", path="", dataset="x/mine.npz"))
    cells.append(other(sort="labels hidden"))
    lines = table(cells, 2).splitlines()
    assert lines[0] == "| learner | digits | mine |"
    # Half-widths of .1 and .04 below, and of .1 and .1 above, add in squares.
    assert lines[2] == "| GPICL Transformer | 77.0 [71.6, 84.1] (80.0, 74.0) | - |"
    assert lines[3] == "| 1-NN | - | 80.0 [70.0, 90.0] |"
    assert lines[4].startswith("| GPICL Transformer, labels hidden | 80.0")


def test_the_table_keeps_unlike_tests_apart():
    small = other(tasks={"length": 3, "input_dim": 2})
    large = other(tasks={"length": 3, "input_dim": 9}, accuracy=(0.1, 0.9), high=(0.2, 0.95))
    few = other(tasks=small.tasks, predictions=1, accuracy=(0.1, 0.1), low=(0.0, 0.0))
    lines = table([small, few, large], 2).splitlines()[2:]
    # Of the two that differ in the number of guesses, that of most.
    assert lines == [
        "| GPICL Transformer (input_dim 2) | 80.0 [70.0, 90.0] |",
        "| GPICL Transformer (input_dim 9) | 90.0 [70.0, 95.0] |",
    ]


def test_a_position_that_was_not_tested():
    with pytest.raises(GlaError, match="not tested at position 1; expected one of 0, 2"):
        CELL.at(1)
    assert "| - |" in table([CELL], 1)
