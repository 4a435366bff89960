"""Experiments on the plateau: that they ask what they should, and say what they found."""

import dataclasses
import math
import re

import numpy as np
import pytest
from PIL import Image

from gla.benchmarks import gpicl_grid as grid
from gla.benchmarks import gpicl_optimization as experiments
from gla.benchmarks import gpicl_optimization_plots as plots
from gla.benchmarks.gpicl_panels import mean_over
from gla.errors import GlaError

CHANCE = math.log(10)
# Steps after which the loss falls, by arm.
LEFT = {
    experiments.UNIFORM: 2500, experiments.HALF: 1800, experiments.MORE: 900,
    experiments.BIASED: 0, experiments.LARGE: 3500, experiments.SMALL: 1000,
    experiments.SIGNED: 1500,
}  # fmt: skip
TENSORS = ("params/embed/kernel", "params/head/kernel")


def losses(steps, left):
    return CHANCE - 1.2 * np.where(steps > left, 1 - np.exp((left - steps) / 300), 0.0)


def left_of(cell):
    labels = cell.labels
    if "arm" in labels:
        return LEFT[labels["arm"]]
    if "batch" in labels:  # larger batches leave it earlier, more tasks later
        return 100 * math.log2(labels["tasks"]) * 64 / labels["batch"]
    return 2000


def result_of(cell, shift=0):
    """What a cell might have found."""
    config = cell.training
    steps = np.arange(25, config.steps + 1, 25)
    left = left_of(cell) + (0 if not left_of(cell) else 50 * cell.labels["seed"] + shift)
    held = np.arange(100, config.steps + 1, 100)
    validations = [
        {"step": int(s), "unseen tasks of digits": {"loss": float(x)}, "score": -float(x),
         "seen tasks of digits": {"loss": float(x)}}
        for s, x in zip(held, losses(held, left), strict=True)
    ]  # fmt: skip
    learned = 0.5 if left < config.steps - 200 else 0.0
    memory = cell.labels.get("tasks", 0) == 2**8
    tests = {
        name: {"accuracy": ends, "low": ends, "high": ends}
        for name, ends in {
            "unseen": [0.1, 0.1 + (0.0 if memory else learned)], "seen": [0.1, 0.1 + learned],
        }.items()
    }  # fmt: skip
    statistics = [
        {"step": int(s), "loss": 2.0, "distance": float(s) ** 0.5, "tensors": {
            name: {"gradient_norm": norm, "gradient_cosine": 0.1, "update_norm": 2 * norm,
                   "update_cosine": 0.9, "first_moment_norm": norm if s <= left else 10 * norm,
                   "second_moment_norm": norm**2}
            for name, norm in zip(TENSORS, (3e-4, 4e-4), strict=True)}}
        for s in held
    ] if config.statistics else []  # fmt: skip
    curve = [[int(s), float(x)] for s, x in zip(steps, losses(steps, left), strict=True)]
    return grid.CellResult(
        cell.name, dict(cell.labels), 100, 10, 1.0, config.steps, curve, validations, statistics,
        tests,
    )  # fmt: skip


def drawn(name, tmp_path, change=lambda results: results):
    experiment = experiments.EXPERIMENTS[name]("cpu")
    path = tmp_path / f"{name}.png"
    words = experiment.draw(change([result_of(cell) for cell in experiment.cells]), path)
    with Image.open(path) as picture:
        assert min(picture.size) >= 250 and np.asarray(picture.convert("L")).std() > 5
    return words


@pytest.mark.parametrize("size", ["cpu", "paper"])
def test_experiments_are_what_they_say(size):
    assert list(experiments.EXPERIMENTS) == [
        "fig6", "fig7", "fig8", "fig12", "fig13", "fig14", "fig15", "fig16", "fig17", "plateau",
    ]  # fmt: skip
    settings = {}
    for name, make in experiments.EXPERIMENTS.items():
        experiment = make(size)
        assert experiment.name == name
        for cell in experiment.cells:
            # Experiments that share a cell by its name agree on what it is.
            assert settings.setdefault(cell.name, grid._settings(cell)) == grid._settings(cell)
            config = cell.training
            assert config.optimizer.max_grad_norm == 0  # small gradients are to stay small
            unseen = cell.tests[0].tasks
            assert unseen.tasks == 0 and not unseen.fixed_share  # endless and uniform
            for test in cell.tests[1:]:
                assert test.name == "seen" and test.tasks == config.tasks
            if size == "cpu":
                assert config.data.datasets == ("digits",) and not config.validation.datasets
            else:
                assert config.data.datasets == ("fashion-mnist",)
                assert (config.steps, config.learner.model.width) == (50_000, 256)
                assert config.tasks.length == 100 and config.tasks.tasks
                assert config.learner.tokens == "paper" and config.learner.model.heads == 8
    # The cells of a comparison differ in one thing.
    arms = {cell.labels["arm"]: cell.training for cell in experiments.plateau(size).cells
            if cell.labels["seed"] == 0}  # fmt: skip
    assert len(arms) == 5
    uniform = arms.pop(experiments.UNIFORM)
    for config in arms.values():
        changed = [
            field.name for field in dataclasses.fields(config)
            if getattr(config, field.name) != getattr(uniform, field.name)
        ]  # fmt: skip
        assert changed in (["tasks"], ["optimizer"])
    assert arms[experiments.BIASED].tasks.fixed_share == 0.9
    assert arms[experiments.SMALL].optimizer.eps == 1e-12
    assert arms[experiments.SIGNED].optimizer.name == "sign"


def test_cpu_experiments_share_cells():
    shared = {cell.name for cell in experiments.plateau("cpu").cells}
    for one in (experiments.fig8, experiments.fig16):
        names = {cell.name for cell in one("cpu").cells}
        assert len(names & shared) >= 10
    assert [c.name for c in experiments.fig7("cpu").cells] == [
        c.name for c in experiments.fig15("cpu").cells
    ]


def said(words, arm):
    """The mean plateau length and its bounds, as words tell them."""
    text = words.split(f"{arm} ")[-1].split(";")[0].replace(",", "")
    return [float(x) for x in re.findall(r"\d+", text)][:3]


def test_remedies_are_told_in_words(tmp_path):
    words = drawn("plateau", tmp_path)
    assert words.startswith("What shortens the plateau, 5 seeds. Plateau: uniform (Adam eps 1e-8) ")
    assert "90% fixed permutation 0 steps [0, 0]" in words
    for arm, name in {
        experiments.UNIFORM: "(Adam eps 1e-8)",
        experiments.SMALL: experiments.SMALL,
        experiments.SIGNED: experiments.SIGNED,
    }.items():
        mean, low, high = said(words, name)
        # Seeds leave it 0 to 200 steps later than the first; it begins with the first validation.
        assert mean == pytest.approx(LEFT[arm], abs=100)
        assert 50 < mean - low < 150 and high - mean == pytest.approx(mean - low, abs=1)


def test_plateaus_that_are_not_left_have_no_interval(tmp_path):
    def change(results):
        late = result_of(experiments.plateau("cpu").cells[0], shift=50_000)
        return [late, *results[1:]]

    words = drawn("plateau", tmp_path, change)
    uniform = words.split("uniform (Adam eps 1e-8) ")[1].split(";")[0]
    assert uniform.startswith("≥ 4,900, 2,") and uniform.endswith(" steps (1 of 5 not left)")


def test_one_seed_has_no_interval(tmp_path):
    words = drawn("plateau", tmp_path, lambda all: [r for r in all if r.labels["seed"] == 0])
    assert "1 seed." in words and "[" not in words


def test_the_plateau_and_its_zoom(tmp_path):
    words = drawn("fig6", tmp_path)
    assert "stays near that of guessing, 2.30 nats, for " in words
    length = words.split("nats, for ")[1].split()[0].replace(",", "")
    assert float(length) == pytest.approx(2000, abs=100)
    assert "seen tasks of digits 1.10" in words


def test_phases(tmp_path):
    words = drawn("fig7", tmp_path)
    # 2^8 tasks are memorised, and many tasks in small batches never leave the plateau.
    assert "Of 24 pairs of task count and batch size" in words
    counts = [int(part.split()[0]) for part in words.split("batch size, ")[1].split(",")[:3]]
    assert sum(counts) == 24 and min(counts) > 0
    cells = experiments.fig7("cpu").cells
    found = {(c.labels["tasks"], c.labels["batch"]): result_of(c) for c in cells}
    assert plots.PHASES[plots.end_of(found[2**8, 64], 0.1)] == "memorises"
    assert plots.PHASES[plots.end_of(found[2**17, 64], 0.1)] == "generalises"
    assert plots.PHASES[plots.end_of(found[2**17, 8], 0.1)] == "on the plateau"
    assert "never left the plateau" in drawn("fig15", tmp_path)


def test_biases_and_optimisers(tmp_path):
    words = drawn("fig8", tmp_path)
    assert "75% fixed" in words and "90% fixed 0 steps" in words
    words = drawn("fig16", tmp_path)
    # The arm without a change is told by its epsilon here.
    names = {experiments.UNIFORM: "Adam eps 1e-8"}
    for arm in (experiments.UNIFORM, experiments.LARGE, experiments.SMALL, experiments.SIGNED):
        assert said(words, names.get(arm, arm))[0] == pytest.approx(LEFT[arm] + 100, abs=100)


def test_weight_decay(tmp_path):
    words = drawn("fig17", tmp_path)
    assert "32 tasks and decay 0.01: training 1.10, unseen 1.10 at the end, 1.10 at best" in words


def test_statistics_of_gradients(tmp_path):
    assert "before the end of the plateau, 0.005 after" in drawn("fig12", tmp_path)
    words = drawn("fig13", tmp_path)
    # Norms of tensors add up by their squares: 3e-4 and 4e-4 make 5e-4.
    assert (
        "gradient norm 0.0005, gradient cosine 0.1, update norm 0.001, update cosine 0.9" in words
    )
    assert "that of params/head/kernel (0.0004)" in drawn("fig14", tmp_path)


def test_what_was_not_measured_is_named(tmp_path):
    experiment = experiments.fig13("cpu")
    bare = [result_of(cell)._replace(statistics=[]) for cell in experiment.cells]
    with pytest.raises(GlaError, match="holds no statistics"):
        experiment.draw(bare, tmp_path / "figure.png")
    with pytest.raises(GlaError, match="was not validated on unseen tasks"):
        plots.validation_curve(bare[0]._replace(validations=[]))


def test_the_interval_is_students():
    # The half width of three values is 4.303 standard errors.
    mean = mean_over([1.0, 2.0, 3.0])
    assert mean.estimate == 2 and mean.high - 2 == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert not mean_over([1.0]).known
