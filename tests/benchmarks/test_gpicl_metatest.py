import dataclasses

import numpy as np
import pytest

from gla.benchmarks.gpicl_curves import _style, plot_curves
from gla.benchmarks.gpicl_metatest import Blind, LearnerTestConfig, meta_test_learners
from gla.benchmarks.gpicl_quickstart import Plan, run, verdict
from gla.benchmarks.gpicl_results import read
from gla.benchmarks.gpicl_table import DATASETS, PAPER, available, paper_rows, recipe, table1
from gla.datasets import FOLDER_VARIABLE
from gla.errors import GlaError
from gla.gpicl.config import DataConfig, GPICLConfig, LearnerConfig
from gla.gpicl.tasks import TaskConfig
from gla.gpicl.training import gpicl_train
from gla.models import ModelConfig

SMALL = GPICLConfig(
    data=DataConfig(resize=4),
    tasks=TaskConfig(length=12, input_dim=8, fixed_share=0.5),
    learner=LearnerConfig(model=ModelConfig(width=16, layers=1, heads=2, window=12)),
    batch_size=4,
    steps=2,
    steps_per_dispatch=2,
    checkpoint_every=2,
)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    return str(gpicl_train(SMALL, tmp_path_factory.mktemp("learner") / "c", progress=False))


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """Colour images of an odd size with names for classes, in the form of Keras."""
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    rng = np.random.default_rng(0)
    labels = np.array(["ant", "bee", "cat"])[np.arange(90) % 3]
    images = rng.integers(0, 256, (90, 11, 7, 3), dtype=np.uint8)
    np.savez(path, x_train=images[:60], y_train=labels[:60], x_test=images[60:], y_test=labels[60:])
    return str(path)


def test_learners_meet_the_same_sequences_and_finished_cells_are_kept(learner, colour, tmp_path):
    config = LearnerTestConfig((learner, "1-nn"), ("digits", colour), sequences=64, hidden=True)
    out = tmp_path / "r.json"
    results = meta_test_learners(config, out, progress=False)
    assert read(out) == results
    cells = {(cell.learner, cell.sort, cell.dataset): cell for cell in results.cells}
    assert len(cells) == 6
    own = cells["GPICL Transformer", "meta-trained", colour]
    assert (
        own.positions == tuple(range(12)) and own.examples == 30 and own.trained_on == ("digits",)
    )
    # Hand-written learners see what the meta-trained one sees, at a few places.
    nearest = cells["1-NN", "hand-written", "digits"]
    assert nearest.tasks == own.tasks and own.tasks["resize"] == 4 and nearest.loss is None
    assert nearest.positions == (0, 1, 2, 4, 9, 11)
    assert nearest.at(11)[0] > nearest.at(0)[2]
    hidden = cells["GPICL Transformer", "labels hidden", "digits"]
    assert (
        hidden.path == own.path
        and hidden.accuracy != cells["GPICL Transformer", "meta-trained", "digits"].accuracy
    )
    # Again, with one more learner: only that one is measured.
    more = dataclasses.replace(config, learner=(learner, "1-nn", "adam"))
    again = meta_test_learners(more, out, progress=False)
    assert again.cells[:6] == results.cells and len(again.cells) == 8


def test_hand_written_learners_need_no_checkpoint(tmp_path):
    config = LearnerTestConfig(("1-nn",), length=15, input_dim=5, resize=0, sequences=32)
    (cell,) = meta_test_learners(config, tmp_path / "r.json", progress=False).cells
    assert cell.tasks["length"] == 15 and cell.tasks["input_dim"] == 5
    assert cell.positions[-1] == 14 and cell.trained_on == ()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learner": ()}, "no learner is named"),
        ({"learner": ("1-n",)}, "there is no learner '1-n' .did you mean 1-nn"),
        ({"dataset": ()}, "no data set is named"),
        ({"dataset": ("nowhere.npz",)}, "no data set at nowhere.npz"),
        ({"sequences": 0}, "sequences is 0"),
        ({"resize": -2}, "resize is -2"),
    ],
)
def test_bad_requests_are_one_plain_line_and_write_nothing(tmp_path, changes, message):
    given = {"learner": ("1-nn",), **changes}
    with pytest.raises(GlaError, match=message):
        meta_test_learners(LearnerTestConfig(**given), tmp_path / "r.json", progress=False)
    assert not (tmp_path / "r.json").exists()


def test_data_that_do_not_fit_are_refused_before_anything_is_computed(learner, tmp_path):
    many = tmp_path / "many.npz"
    rng = np.random.default_rng(0)
    np.savez(many, inputs=rng.random((400, 6)), labels=np.arange(400) % 11)
    config = LearnerTestConfig((learner,), ("digits", str(many)), sequences=8)
    with pytest.raises(GlaError, match="has 11 classes; expected at most the 10"):
        meta_test_learners(config, tmp_path / "r.json", progress=False)
    assert not (tmp_path / "r.json").exists()


def test_a_blind_learner_is_told_nothing():
    class Teller:
        name, jittable, classes = "t", True, 3

        def guess(self, params, inputs, told, positions=None):
            return told

    blind = Blind(Teller())
    assert (np.asarray(blind.guess((), None, np.arange(4))) == -1).all()
    assert blind.name == "t" and blind.classes == 3


def test_the_quickstart_runs_and_says_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    plan = Plan(SMALL, LearnerTestConfig(("1-nn", "adam"), sequences=32, hidden=True))
    results = run(plan, tmp_path / "q")
    assert {cell.dataset for cell in results.cells} == {"digits"} and len(results.cells) == 4
    for name in ("results.json", "table.md", "accuracy.png"):
        assert (tmp_path / "q" / name).stat().st_size > 100
    said = capsys.readouterr().out
    assert verdict(results.cells) in said and "| 1-NN |" in said
    assert "not above the best hand-written learner" in verdict(results.cells)
    assert "with labels hidden" in verdict(results.cells)
    # Again: nothing is measured anew.
    assert run(plan, tmp_path / "q") == results


def test_curves_of_several_data_sets(learner, colour, tmp_path):
    from PIL import Image

    config = LearnerTestConfig((learner, "1-nn"), ("digits", colour), sequences=32)
    results = meta_test_learners(config, tmp_path / "r.json", progress=False)
    with Image.open(plot_curves(results.cells, tmp_path / "p.png")) as picture:
        wide = picture.size[0]
    with Image.open(plot_curves(results.cells[:1], tmp_path / "one.png")) as picture:
        assert picture.size[0] < wide


def test_learners_can_be_told_apart_in_a_picture(learner, tmp_path):
    config = LearnerTestConfig((learner, "1-nn"), ("digits",), sequences=32, hidden=True)
    cells = list(meta_test_learners(config, tmp_path / "r.json", progress=False).cells)
    cells += [
        dataclasses.replace(cells[0], learner="VSML"),
        dataclasses.replace(cells[0], training_seed=1),
    ]
    looks = [tuple(map(str, _style(cell, cells).values())) for cell in cells]
    # Another seed of the same learner looks like it, and nothing else does.
    assert looks[-1] == looks[0] and len(set(looks)) == len(cells) - 1
    kinds = {(_style(cell, cells)["color"], str(_style(cell, cells)["ls"])) for cell in cells}
    assert len(kinds) == len(cells) - 1


def test_table1_as_the_paper_has_it():
    assert all(len(row) == len(DATASETS) for row in PAPER.values())
    paper = recipe("paper", "mnist", None)
    one = paper.learners["transformer"]
    model = one.learner.model
    assert (model.width, model.layers, model.heads, model.head_size) == (256, 4, 8, 32)
    assert (one.tasks.length, one.tasks.fixed_share, one.tasks.tasks) == (100, 0.9, 2**25)
    assert one.batch_size == 128 and one.learner.tokens == "paper" and one.data.resize == 32
    assert paper.learners["vsml"].batch_size == 8
    assert paper.learners["lstm"].steps == 100_000
    assert paper.sequences >= 20_000 and recipe("cpu", "mnist", None).sequences >= 20_000


def test_table1_runs_on_what_is_there(tmp_path, monkeypatch, capsys, learner):
    from gla.benchmarks import gpicl_table

    monkeypatch.setattr(
        gpicl_table, "_cpu_learners", lambda data: {"transformer": dataclasses.replace(
            SMALL, data=dataclasses.replace(data, resize=4))}
    )  # fmt: skip
    arguments = {"learners": ("transformer",), "seeds": (0, 1), "train_on": "digits"}
    table1(str(tmp_path / "t"), **arguments, dataset=("digits",), sequences=16)
    cells = read(tmp_path / "t" / "results.json").cells
    assert sorted(cell.training_seed for cell in cells if cell.path) == [0, 1]
    said = capsys.readouterr().out
    assert "| 1-NN |" in said and (tmp_path / "t" / "table.md").read_text() in said
    with pytest.raises(GlaError, match="there is no learner 'gru'"):
        table1(str(tmp_path / "t"), learners=("gru",))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(GlaError, match="none of the data sets mnist, kmnist is there"):
        available(("mnist", "kmnist"), None)
    assert available(("mnist", "digits"), None) == ("digits",)


def test_the_papers_figures_stand_beside_the_same_data_sets():
    class One:
        dataset = "fashion-mnist"

    text = paper_rows([One()])
    assert "| VSML | 68.5 |" in text and "mnist |" in text.splitlines()[0]
