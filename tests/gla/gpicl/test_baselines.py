"""Hand-written learners against scikit-learn, and what no learner may do: look ahead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from gla import datasets
from gla.errors import GlaError
from gla.gpicl import baselines
from gla.gpicl.baselines import BASELINES, make_baseline, tangent_kernel
from gla.gpicl.evaluate import evaluate
from gla.gpicl.gradient import GradientConfig, MAMLLearner
from gla.gpicl.learners import Learner
from gla.gpicl.mlp import MLPConfig, MultiTaskMLP
from gla.gpicl.tasks import TaskConfig, to_device

KEEPERS = ("1-nn", "kernel-ridge", "logistic-regression", "svm")
CLASSES, DIM = 4, 5
LEARNERS = {
    **{name: make_baseline(name, CLASSES) for name in BASELINES},
    "maml": MAMLLearner(GradientConfig((6,), learn_rate=True), DIM, CLASSES),
    "maml-adam": MAMLLearner(GradientConfig(optimizer="adam"), DIM, CLASSES),
    "mlp": MultiTaskMLP(MLPConfig(7), DIM, CLASSES),
}


def clouds(seed, rows=2, length=30, classes=CLASSES, dim=DIM, shift=3.0):
    """Examples of classes around random centres, far from 0; f32[B, T, M], i32[B, T]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (rows, length)).astype(np.int32)
    centres = rng.normal(size=(classes, dim))
    inputs = centres[labels] + rng.normal(size=(rows, length, dim)) + shift
    return inputs.astype(np.float32), labels


@functools.cache
def compiled(name, positions):
    learner = LEARNERS[name]
    guess = functools.partial(learner.guess, positions=positions)
    return learner.init(jax.random.key(1)), jax.jit(guess) if learner.jittable else guess


def guesses(name, inputs, told, positions=None):
    params, guess = compiled(name, positions)
    return np.asarray(guess(params, inputs, told))


def units(inputs):
    """Inputs up to the query, centred by their mean and of length 1, in f64."""
    centred = inputs.astype(np.float64) - inputs.astype(np.float64).mean(0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


# --- the same as scikit-learn


def test_nearest_neighbour_is_that_of_scikit_learn():
    inputs, labels = clouds(0)
    found = guesses("1-nn", inputs, labels).argmax(-1)
    for row in range(2):
        for t in range(1, 30):
            z = units(inputs[row, : t + 1])
            model = KNeighborsClassifier(1, metric="cosine").fit(z[:t], labels[row, :t])
            assert found[row, t] == model.predict(z[t:])[0], (row, t)


def kernel_by_integration(cosine):
    """The tangent kernel of one ReLU layer, averaged over the angles of a weight vector.

    In the plane of two inputs a Gaussian weight has a uniform angle and a squared length of mean 2.
    """
    angles = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    first = np.cos(angles)
    second = np.cos(angles - np.arccos(np.clip(cosine, -1, 1))[..., None])
    outer = 2 * 2 * (np.maximum(first, 0) * np.maximum(second, 0)).mean(-1)
    inner = 2 * cosine * ((first > 0) & (second > 0)).mean(-1)
    return outer + inner


def test_the_tangent_kernel_is_the_average_over_all_weights():
    cosine = np.linspace(-1, 1, 41)
    found = tangent_kernel(jnp.asarray(cosine, jnp.float32))
    np.testing.assert_allclose(found, kernel_by_integration(cosine), atol=2e-3)


def test_the_tangent_kernel_is_that_of_a_wide_network():
    hidden, rng = 20_000, np.random.default_rng(0)
    inputs = rng.normal(size=(6, 3))
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    weights = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32),
        {"in": rng.normal(size=(3, hidden)), "out": rng.normal(size=hidden)},
    )

    def network(weights, x):
        return jnp.sqrt(2 / hidden) * jax.nn.relu(x @ weights["in"]) @ weights["out"]

    def gradient(x):
        leaves = jax.tree.leaves(jax.grad(network)(weights, x))
        return jnp.concatenate([leaf.ravel() for leaf in leaves])

    gradients = np.stack([gradient(x) for x in jnp.asarray(inputs, jnp.float32)])
    expected = tangent_kernel(jnp.asarray(np.clip(inputs @ inputs.T, -1, 1), jnp.float32))
    np.testing.assert_allclose(gradients @ gradients.T, expected, atol=0.06)


def test_kernel_ridge_is_that_of_scikit_learn():
    inputs, labels = clouds(1, rows=1)
    found = guesses("kernel-ridge", inputs, labels)[0]
    for t in (1, 2, 3, 8, 29):
        z = units(inputs[0, : t + 1])
        kernel = kernel_by_integration(z @ z.T)
        targets = np.eye(CLASSES)[labels[0, :t]]
        model = KernelRidge(alpha=baselines.RIDGE, kernel="precomputed")
        model.fit(kernel[:t, :t], targets - targets.mean(0))
        expected = model.predict(kernel[t:, :t])[0] + targets.mean(0)
        np.testing.assert_allclose(found[t], expected, atol=5e-3)


def test_logistic_regression_is_that_of_scikit_learn():
    inputs, labels = clouds(2, rows=1)
    found = guesses("logistic-regression", inputs, labels, (5, 12, 29))[0]
    for scores, t in zip(found, (5, 12, 29), strict=True):
        z = units(inputs[0, : t + 1])
        model = LogisticRegression(C=100.0, max_iter=1000).fit(z[:t], labels[0, :t])
        expected = model.predict_log_proba(z[t:])[0]
        np.testing.assert_allclose(scores[model.classes_], expected, atol=2e-2, rtol=1e-2)
        assert set(np.flatnonzero(scores > baselines.UNSEEN)) == set(labels[0, :t])


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_the_svm_is_that_of_scikit_learn(classes):
    inputs, labels = clouds(3, rows=1, classes=classes)
    found = guesses("svm", inputs, labels)[0].argmax(-1)
    for t in range(2, 30):
        if len(set(labels[0, :t])) > 1:
            z = units(inputs[0, : t + 1])
            model = SVC(C=10.0, gamma=0.5, break_ties=True).fit(z[:t], labels[0, :t])
            assert found[t] == model.predict(z[t:])[0], t


# --- what all have in common


@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_keeps_to_the_protocol(name):
    learner = LEARNERS[name]
    inputs, labels = clouds(4, length=8)
    assert isinstance(learner, Learner) and hash(learner) == hash(learner)
    params = learner.init(jax.random.key(0))
    assert learner.parameter_count == sum(x.size for x in jax.tree.leaves(params))
    whole = guesses(name, inputs, labels)
    assert whole.shape == (2, 8, CLASSES) and whole.dtype == np.float32
    assert np.isfinite(whole).all()
    some = guesses(name, inputs, labels, (6, 0, 3))
    np.testing.assert_allclose(some, whole[:, [6, 0, 3]], atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**20), t=st.integers(0, 7), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_no_learner_looks_ahead(name, seed, t, scale):
    inputs, labels = clouds(seed, rows=1, length=8)
    before = guesses(name, inputs, labels)
    rng = np.random.default_rng(seed + 1)
    later_inputs, later_labels = inputs.copy(), labels.copy()
    later_inputs[:, t + 1 :] = scale * rng.normal(size=later_inputs[:, t + 1 :].shape)
    later_labels[:, t:] = (labels[:, t:] + rng.integers(1, CLASSES, labels[:, t:].shape)) % CLASSES
    after = guesses(name, later_inputs, later_labels)
    np.testing.assert_array_equal(after[:, : t + 1], before[:, : t + 1])


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "mlp"])
def test_every_learner_but_the_mlp_uses_the_labels(name):
    inputs, labels = clouds(5, length=6)
    other = labels.copy()
    other[:, 4] = (labels[:, 4] + 1) % CLASSES
    first, second = guesses(name, inputs, labels), guesses(name, inputs, other)
    assert np.abs(first[:, 5] - second[:, 5]).max() > 1e-6


@pytest.mark.parametrize("name", KEEPERS)
def test_position_and_scale_of_the_inputs_do_not_matter(name):
    inputs, labels = clouds(6, rows=1, length=20)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(DIM, DIM)))[0]
    moved = ((inputs - 7.0) @ turn * 50.0).astype(np.float32)
    first, second = guesses(name, inputs, labels), guesses(name, moved, labels)
    np.testing.assert_array_equal(first.argmax(-1), second.argmax(-1))
    np.testing.assert_allclose(first, second, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", KEEPERS)
def test_one_class_or_none_leaves_no_choice(name):
    inputs, _ = clouds(7, length=5)
    found = guesses(name, inputs, np.full((2, 5), 2, np.int32))
    assert (found[:, 0] == found[:, :1, 0]).all()  # all classes alike: the guess is class 0
    np.testing.assert_array_equal(found[:, 1:].argmax(-1), 2)


@pytest.mark.parametrize("name", KEEPERS)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_inputs_that_do_not_differ_are_no_division_by_zero(name, value):
    inputs = np.full((1, 7, 3), value, np.float32)
    labels = np.array([[3, 1, 1, 1, 3, 1, 0]], np.int32)
    found = guesses(name, inputs, labels)
    assert np.isfinite(found).all()
    assert set(found[0, 2:].argmax(-1)) <= {1, 3}
    if name in ("kernel-ridge", "logistic-regression"):  # which follow the frequencies
        np.testing.assert_array_equal(found[0, 3:].argmax(-1), 1)


@pytest.mark.parametrize("name", ["kernel-ridge", "1-nn"])
def test_an_input_equal_to_the_mean_is_like_no_other(name):
    # The third input is the mean of the three.
    inputs = np.array([[[0.0, 1.0], [2.0, 3.0], [1.0, 2.0]]], np.float32)
    scores = guesses(name, inputs, np.array([[1, 2, 0]], np.int32))[0, 2]
    assert scores[1] == scores[2] > scores[0]


# --- names and bad input


def test_state_sizes():
    assert make_baseline("1-nn", 10, 64).state_size == 99 * 65
    assert make_baseline("svm", 10, 3, length=5).state_size == 4 * 4
    assert make_baseline("sgd", 10, 64).state_size == 65 * 10
    assert make_baseline("adam", 10, 64).state_size == 3 * 65 * 10 + 1  # and the number of steps
    assert {make_baseline(name, 10).state_size for name in BASELINES} == {0}


def test_unknown_names_are_refused():
    with pytest.raises(GlaError, match=r"kernel-rigde' \(did you mean kernel-ridge\?\); expected"):
        make_baseline("kernel-rigde", 10)
    with pytest.raises(GlaError, match="classes is 1"):
        make_baseline("1-nn", 1)
    with pytest.raises(GlaError, match="input_dim is -1"):
        make_baseline("sgd", 10, -1)
    with pytest.raises(GlaError, match="length is 1"):
        make_baseline("svm", 10, length=1)


@pytest.mark.parametrize("name", LEARNERS)
def test_arguments_that_do_not_fit_are_refused(name):
    inputs, labels = clouds(8, length=4)
    with pytest.raises(GlaError, match=r"inputs have shape \(2, 4, 5\) and labels \(2, 3\)"):
        guesses(name, inputs, labels[:, :3])
    with pytest.raises(GlaError, match=r"inputs have shape \(2, 4\)"):
        guesses(name, inputs[..., 0], labels)
    for positions in ((0, 4), (-1,)):
        with pytest.raises(GlaError, match="positions are .* 0 to 3"):
            guesses(name, inputs, labels, positions)
    if LEARNERS[name].input_dim:
        with pytest.raises(GlaError, match="inputs are of 3 numbers; expected 5"):
            guesses(name, inputs[..., :3], labels)


@pytest.mark.parametrize("name", ["logistic-regression", "svm"])
def test_what_scikit_learn_cannot_use_is_refused(name):
    inputs, labels = clouds(9, length=4)
    for wrong in (-1, CLASSES):
        with pytest.raises(GlaError, match="labels are from"):
            guesses(name, inputs, np.where(labels == labels[0, 0], wrong, labels))
    inputs[1, 2, 0] = np.nan
    with pytest.raises(GlaError, match="not a number"):
        guesses(name, inputs, labels)


# --- floors


@pytest.mark.parametrize(
    ("name", "bar"),
    [
        ("1-nn", 0.84), ("kernel-ridge", 0.86), ("logistic-regression", 0.82), ("svm", 0.85),
        ("sgd", 0.68), ("adam", 0.70),
    ],
)  # fmt: skip
def test_the_hundredth_digit_is_guessed(name, bar):
    tasks = TaskConfig(length=100, input_dim=64)
    examples = to_device(datasets.load("digits", "test"), tasks)
    sequences = 256 if LEARNERS[name].jittable else 64
    learner = make_baseline(name, tasks.classes, tasks.input_dim)
    score = evaluate(learner, (), examples, tasks, sequences, positions=(0, 99))
    first, last = score.accuracy
    assert last > bar
    assert first < 0.25  # nothing can be known
