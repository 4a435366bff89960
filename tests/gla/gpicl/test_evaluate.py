import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import datasets
from gla.errors import GlaError
from gla.gpicl.evaluate import Score, evaluate
from gla.gpicl.tasks import TaskConfig, to_device

TASKS = TaskConfig(length=6, input_dim=7)


class Constant:
    """Guesses class 3 with certainty, or what it was told last."""

    name, jittable, input_dim, classes = "constant", True, 0, 10

    def __init__(self, repeats=False, jittable=True):
        self.repeats, self.jittable = repeats, jittable

    def guess(self, params, inputs, told, positions=None):
        count = inputs.shape[1]
        if self.repeats:
            last = jnp.pad(jnp.asarray(told), ((0, 0), (1, 0)))[:, :count]
        else:
            last = jnp.full(told.shape, 3)
        scores = 40.0 * jax.nn.one_hot(last, 10)
        return scores if positions is None else scores[:, jnp.asarray(positions)]


@pytest.fixture(scope="module")
def digits():
    return to_device(datasets.load("digits", "test"), TASKS)


@pytest.mark.parametrize("jittable", [True, False])
def test_a_constant_guess_is_right_by_chance(digits, jittable):
    score = evaluate(Constant(jittable=jittable), (), digits, TASKS, 1000, positions=(0, 5))
    assert score.positions == (0, 5) and score.correct.shape == (1000, 2)
    assert score.predictions == 1000
    low, high = score.interval()
    assert (low < 0.1).all() and (high > 0.1).all()
    assert (high - low < 0.05).all()
    # Cross-entropy of a certain guess that is wrong nine times in ten.
    assert 32 < score.loss[0] < 40


def test_the_same_seed_gives_the_same_sequences_to_everyone(digits):
    def run(**changes):
        return evaluate(Constant(repeats=True), (), digits, TASKS, 64, **changes).correct

    np.testing.assert_array_equal(run(), run())
    assert (run() != run(seed=1)).any()
    python = evaluate(Constant(repeats=True, jittable=False), (), digits, TASKS, 64).correct
    np.testing.assert_array_equal(python, run())


def test_sequences_need_not_fill_the_last_batch(digits):
    whole = evaluate(Constant(), (), digits, TASKS, 128, batch=64).correct
    part = evaluate(Constant(), (), digits, TASKS, 70, batch=64).correct
    np.testing.assert_array_equal(part, whole[:70])


def test_guesses_of_one_task_count_together(digits):
    score = evaluate(Constant(), (), digits, TASKS, 60, per_task=4)
    assert score.correct.shape == (15, 6) and score.per_task == 4 and score.predictions == 60
    assert score.correct.max() <= 4


def test_intervals():
    # 20 of 100 independent guesses: Wilson's interval, from a table.
    score = Score((0,), np.array([[1]] * 20 + [[0]] * 80), 1, np.zeros(1))
    low, high = score.interval()
    np.testing.assert_allclose([low[0], high[0]], [0.1334, 0.2888], atol=1e-4)
    # The same number from tasks that are all right or all wrong is worth much less.
    tasks = Score((0,), np.array([[10]] * 2 + [[0]] * 8), 10, np.zeros(1))
    wide = tasks.interval()
    assert wide.high[0] - wide.low[0] > 2 * (high[0] - low[0])
    # Where all are right there still is an interval.
    certain = Score((0,), np.ones((50, 1), int), 1, np.zeros(1)).interval()
    assert certain.high[0] == pytest.approx(1.0) and 0.9 < certain.low[0] < 0.95


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sequences": 0}, "0 sequences"),
        ({"sequences": 10, "per_task": 4}, "a multiple"),
        ({"positions": (6,)}, "numbers from 0 to 5"),
        ({"positions": ()}, "positions"),
    ],
)
def test_numbers_that_do_not_fit(digits, changes, message):
    with pytest.raises(GlaError, match=message):
        evaluate(Constant(), (), digits, TASKS, **changes)


def test_learners_that_do_not_fit(digits):
    learner = Constant()
    learner.input_dim = 8
    with pytest.raises(GlaError, match="reads inputs of 8 numbers and the tasks have 7"):
        evaluate(learner, (), digits, TASKS)
    learner = Constant()
    learner.classes = 3
    with pytest.raises(GlaError, match="knows 3 classes and the tasks have 10"):
        evaluate(learner, (), digits, TASKS)
