import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gla.benchmarks import gpicl_features, gpicl_figures, gpicl_panels
from gla.benchmarks.gpicl_figures import EXPERIMENTS, draw_fig5
from gla.benchmarks.gpicl_grid import Cell, CellResult, Experiment, Test
from gla.benchmarks.gpicl_panels import at, by, floors, gain, over_trainings, percent, power
from gla.benchmarks.gpicl_phases import draw_fig10, fig4, phase
from gla.benchmarks.statistics import Interval
from gla.gpicl.config import DataConfig
from gla.gpicl.tasks import TaskConfig

SIZES = ("cpu", "paper")
PANELS = {
    "fig2": 4,
    "fig3": 2,
    "fig4": 2,
    "fig5": 2,
    "fig9": 1,
    "fig10": 1,
    "fig11": 1,
}  # with colour bars


def made_up(experiment: Experiment, accuracy, loss=lambda cell: 1.0) -> list[CellResult]:
    """Results in which test `t` of cell `c` has accuracy(c, t, share of the sequence)."""
    found = []
    for number, cell in enumerate(experiment.cells):
        tests = {}
        for test in cell.tests:
            places = test.positions or tuple(range(test.tasks.length))
            values = [accuracy(cell, test, p / (test.tasks.length - 1)) for p in places]
            tests[test.name] = {
                "positions": list(places),
                "accuracy": values,
                "low": [max(x - 0.03, 0.0) for x in values],
                "high": [min(x + 0.03, 1.0) for x in values],
                "loss": [1.0] * len(values),
                "predictions": test.sequences,
            }
        curve = [[step, loss(cell) if step > 50 else 2.3] for step in range(10, 1001, 10)]
        found.append(
            CellResult(
                cell.name, dict(cell.labels), 1000 * (1 + number % 7), 100 * (1 + number), 1.0,
                1000, curve, [], [], tests,
            )
        )  # fmt: skip
    return found


def rising(cell: Cell, test: Test, share: float) -> float:
    return 0.1 + (0.5 + 0.01 * (len(cell.name) % 3)) * share


def one_test(name: str, **values: list[float]) -> CellResult:
    test = {"positions": [0, 9], "predictions": 100, "loss": [1.0, 1.0], **values}
    return CellResult("one", {"seed": 0}, 1, 1, 1.0, 1, [[1, 1.0]], [], [], {name: test})


@pytest.fixture
def drawn(monkeypatch):
    """Keep every figure that is written."""
    kept = []
    write = gpicl_panels.save_figure

    def save(figure, path):
        kept.append(figure)
        write(figure, path)

    monkeypatch.setattr(gpicl_panels, "save_figure", save)
    return kept


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Work in an empty folder, and shorten what takes its time without being looked at."""
    monkeypatch.setattr(gpicl_panels, "FLOOR_SEQUENCES", 32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpicl_features, "PRETRAINING_STEPS", 2)
    return tmp_path


# --- experiments


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_cell_is_tested_as_it_was_trained(name, size):
    experiment = EXPERIMENTS[name](size)
    assert experiment.name == name
    for cell in experiment.cells:
        assert cell.name.startswith(f"{name}-")
        assert "seed" in cell.labels and cell.training.seed == cell.labels["seed"]
        assert cell.tests
        for test in cell.tests:
            ours, theirs = cell.training.tasks, test.tasks
            assert (ours.length, ours.input_dim, ours.classes, ours.projection) == (
                theirs.length, theirs.input_dim, theirs.classes, theirs.projection,
            )  # fmt: skip
            if test.name == "seen":
                assert theirs == ours and test.part == "train"
            else:
                assert theirs == dataclasses.replace(ours.uniform, tasks=0)
                assert test.part == "test"
        model = cell.training.learner.model
        if cell.training.learner.kind == "sequence" and model.backbone == "transformer":
            assert model.window == cell.training.tasks.length


def _check_halves(data: DataConfig) -> None:
    """Check the files of fig9, which were made when the first of them was read."""
    names = ("digits-0-to-4", "digits-5-to-9")
    halves = [data.load(name, part) for name in names for part in ("train", "test")]
    assert [half.class_names for half in halves] == [tuple("01234")] * 2 + [tuple("56789")] * 2
    assert sum(map(len, halves)) == 1797
    assert {half.image_shape for half in halves} == {(8, 8)}
    found = data.load("digits-5-to-9-features", "train")
    assert found.image_shape is None and found.class_names == tuple("56789")
    assert (found.labels == halves[2].labels).all()
    times = {path.name: path.stat().st_mtime_ns for path in Path(data.folder).iterdir()}
    assert len(times) == 5
    data.load("random", "test")
    assert times == {path.name: path.stat().st_mtime_ns for path in Path(data.folder).iterdir()}
    # What a checkpoint rebuilds is of the parent's class, and finds the files.
    plain = DataConfig(**dataclasses.asdict(data))
    assert (plain.load("digits-0-to-4", "test").values == halves[1].values).all()


def test_cpu_cells_need_nothing_that_is_not_installed(monkeypatch, here):
    monkeypatch.delenv("GLA_DATA", raising=False)
    needed = {
        (cell.training.data, test.dataset, test.part)
        for make in EXPERIMENTS.values()
        for cell in make("cpu").cells
        for test in cell.tests
    }
    for data, dataset, part in needed:
        assert len(data.load(dataset, part)) >= 80
    _check_halves(next(data for data, *_ in needed if data.datasets == ("digits-5-to-9",)))


def test_numbers_that_the_paper_states():
    for name in ("fig2", "fig4", "fig10"):
        for cell in EXPERIMENTS[name]("paper").cells:
            assert cell.training.tasks.tasks == cell.labels["tasks"]
            assert cell.training.tasks.fixed_share == 0 and cell.training.tasks.length == 100
            assert cell.training.data.datasets == ("mnist",)
    (fig4_data,) = {cell.training.data for cell in EXPERIMENTS["fig4"]("paper").cells}
    assert fig4_data.normalize == "range"
    fig3 = EXPERIMENTS["fig3"]("paper").cells
    assert {cell.training.data.datasets for cell in fig3} == {("mnist",), ("fashion-mnist",)}
    for cell in fig3:
        training, model = cell.training, cell.training.learner.model
        assert (training.tasks.tasks, training.tasks.fixed_share) == (2**25, 0.9)
        assert (training.batch_size, training.tasks.input_dim) == (128, 32 * 32 * 3)
        assert (model.width, model.layers, model.heads, model.head_size) == (256, 4, 8, 32)
        assert (model.mlp, model.positions, training.learner.tokens) == (4, "learned", "paper")
    assert sum(cell.labels["seed"] == 7 for cell in fig3) == 2  # 8 seeds of each
    fig10 = EXPERIMENTS["fig10"]("paper").cells
    assert {cell.training.learner.model.width for cell in fig10} == {64}
    assert {cell.labels["seed"] for cell in fig10} == set(range(32))
    fig5 = EXPERIMENTS["fig5"]("paper").cells
    batches = {(cell.labels["family"], cell.training.batch_size) for cell in fig5}
    assert ("Transformer", 512) in batches and ("LSTM", 128) in batches
    grids = {c.training.learner.vsml.grid for c in fig5 if c.labels["family"] == "LSTMs on a grid"}
    assert grids == {1, 2, 4, 8, 16, 24}


# --- pictures


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PANELS)
def test_figures_are_drawn(name, size, here, drawn, monkeypatch):
    def made(data, name, tasks, positions):
        return {one: np.linspace(0.1, 0.7, len(positions)) for one in ("1-NN", "ridge")}

    for module in (gpicl_figures, gpicl_features):
        monkeypatch.setattr(module, "floors", made)
    experiment = EXPERIMENTS[name](size)
    path = here / "new" / "figure.png"
    words = experiment.draw(made_up(experiment, rising), path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 600 and picture.height > 400
    (figure,) = drawn
    assert len(figure.axes) == PANELS[name]
    assert words.endswith(".") and any(c.isdigit() for c in words) and "nan" not in words


def test_fig4_names_the_phases(tmp_path):
    experiment = fig4("cpu", other="digits")

    def accuracy(cell: Cell, test: Test, share: float) -> float:
        count = cell.labels["tasks"]
        if test.name == "seen" and count <= 16:
            return 0.9
        learns = count >= 4096 or (test.name == "seen" and count >= 64)
        return 0.1 + 0.6 * share * learns

    words = experiment.draw(made_up(experiment, accuracy), tmp_path / "a.png")
    assert "instances remembered with 1 to 16 tasks; " in words
    assert "tasks told apart with 64 to 2^10 tasks; " in words
    assert "learning in general with 2^12, 2^14 tasks" in words
    assert "60% [60, 60] on unseen tasks" in words
    flat = made_up(experiment, lambda cell, test, share: 0.1)
    words = experiment.draw(flat, tmp_path / "a.png")
    assert "nothing learned with 1 to 2^14 tasks." in words


@pytest.mark.parametrize(
    ("first", "seen", "unseen", "name"),
    [
        (0.9, 0.05, 0.0, "instances remembered"),
        (0.5, 0.4, 0.1, "tasks told apart"),
        (0.1, 0.5, 0.5, "learning in general"),
        (0.12, 0.02, 0.02, "nothing learned"),
    ],
)
def test_phases(first, seen, unseen, name):
    assert phase(first, seen, unseen, chance=0.1) == name


def test_fig10_counts_those_that_learn(tmp_path, drawn):
    experiment = EXPERIMENTS["fig10"]("cpu")
    most = max(cell.labels["tasks"] for cell in experiment.cells)

    def learns(cell: Cell) -> bool:
        return cell.labels["tasks"] == most and cell.labels["seed"] < 2

    results = made_up(
        experiment,
        lambda cell, test, share: 0.1 + 0.5 * share * learns(cell),
        lambda cell: 1.2 if learns(cell) else 1.8 + 0.01 * cell.labels["seed"],
    )
    words = draw_fig10(results, tmp_path / "a.png")
    seeds = sum(cell.labels["tasks"] == most for cell in experiment.cells)
    assert (
        f"{most:,} tasks: of {seeds} trainings 2 with learning (loss 1.20 to 1.20), "
        f"{seeds - 2} without learning (loss 1.82 to {1.8 + 0.01 * (seeds - 1):.2f})" in words
    )
    shown = sum(len(one.get_xdata()) for one in drawn[0].axes[0].lines)
    assert shown == len(results)


def test_fig5_ranks_by_state(tmp_path, drawn):
    """State decides here, and parameters are in the opposite order."""
    results = [
        one_test("unseen", accuracy=[0.1, x], low=[0.0, x - 0.01], high=[0.2, x + 0.01])._replace(
            labels={"family": family, "model": f"{family}-{x}", "seed": 0},
            state_size=state, parameters=10**5 // state, steps=1000,
        )
        for family, x, state in (("A", 0.2, 10), ("B", 0.4, 100), ("A", 0.6, 1000))
    ]  # fmt: skip
    words = draw_fig5(results, tmp_path / "a.png")
    assert "with numbers in the state 1.00" in words and "with parameters -1.00" in words
    assert "The best is A-0.6 with 60% [59, 61]" in words
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["A", "B"]


def test_fig2_says_how_many_tasks_fit(tmp_path):
    experiment = EXPERIMENTS["fig2"]("cpu")

    def accuracy(cell: Cell, test: Test, share: float) -> float:
        if cell.labels["kind"] == "mlp":
            return 0.8 if cell.labels["tasks"] <= 8 else 0.1
        return 0.7 if test.name == "seen" else 0.1 + 0.5 * (cell.labels["tasks"] >= 64)

    words = experiment.draw(made_up(experiment, accuracy), tmp_path / "a.png")
    mlp, seen, unseen = words.split(". ")
    assert mlp.startswith("(a) MLP, seen tasks: some width exceeds 50% with 1, 8 tasks; with 2^12")
    assert "the best is 10%, at width 8" in mlp
    assert seen.startswith(
        "(b) Transformer, seen tasks: some width exceeds 50% with 1 to 2^12 tasks"
    )
    assert unseen.startswith(
        "(c) Transformer, unseen tasks: some width exceeds 50% with 64 to 2^12 tasks"
    )
    nothing = made_up(experiment, lambda cell, test, share: 0.1)
    assert experiment.draw(nothing, tmp_path / "a.png").count("with no number of tasks") == 3


def test_fig3_stands_beside_hand_written_learners(here, drawn):
    experiment = EXPERIMENTS["fig3"]("cpu")
    words = experiment.draw(made_up(experiment, rising), here / "a.png")
    last = experiment.cells[0].training.tasks.length - 1
    assert f"10% [10, 10] before the first label, 62% [62, 62] after {last} examples" in words
    (legend,) = drawn[0].legends
    names = [text.get_text() for text in legend.get_texts()]
    assert {"1-NN", "kernel ridge (NTK)"} < set(names)


# --- numbers


def test_intervals_over_trainings_are_students():
    values = [Interval(x, 0.0, 1.0) for x in (0.4, 0.5, 0.6)]
    found = over_trainings(values)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.estimate == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert over_trainings(values[:1]) == values[0]
    wide = over_trainings([Interval(0.0, 0.0, 0.0), Interval(1.0, 1.0, 1.0)])
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_gain_is_last_less_first():
    result = one_test("t", accuracy=[0.2, 0.6], low=[0.17, 0.56], high=[0.23, 0.64])
    assert at(result, "t", 0) == Interval(0.2, 0.17, 0.23)
    assert at(result, "t") == Interval(0.6, 0.56, 0.64)
    found = gain(result, "t")
    assert found.estimate == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((0.35, 0.45))  # 3 and 4 make 5


def test_groups_keep_their_order():
    cells = [one_test("t")._replace(labels={"a": a, "b": b}) for a, b in ((2, 1), (1, 1), (2, 1))]
    assert {key: len(group) for key, group in by(cells, "a").items()} == {2: 2, 1: 1}
    assert list(by(cells, "a", "b")) == [(2, 1), (1, 1)]


def test_words():
    assert percent(0.625) == "62%"
    assert percent(Interval(0.62, 0.58, 0.65)) == "62% [58, 65]"
    assert percent(Interval(0.62, -math.inf, math.inf)) == "62%"
    assert [power(n) for n in (1, 512, 1024, 6144)] == ["1", "512", "2^10", "6,144"]


def test_floors_learn():
    tasks = TaskConfig(length=30, input_dim=24, tasks=4, fixed_share=0.5, fewest_classes=2)
    found = floors(DataConfig(), "digits", tasks, (0, 29))
    assert set(found) == {"1-NN", "kernel ridge (NTK)"}
    for accuracy in found.values():
        assert accuracy[0] < 0.2 and 0.4 < accuracy[1] < 0.9


def test_fig9_tests_both_arms_on_the_same_data_sets():
    cells = EXPERIMENTS["fig9"]("cpu").cells
    raw, features = (
        {t.name: t.dataset for t in next(c for c in cells if c.labels["inputs"] == arm).tests}
        for arm in ("raw", "features")
    )
    assert features == {name: f"{dataset}-features" for name, dataset in raw.items()}
    trained_on = {cell.training.data.datasets for cell in cells}
    assert trained_on == {("digits-5-to-9",), ("digits-5-to-9-features",)}
