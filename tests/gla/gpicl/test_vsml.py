"""VSML: its symmetries, and its cells against loops over a library's LSTM cell."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gla.errors import GlaError
from gla.gpicl.learners import Learner
from gla.gpicl.vsml import VSML, Cells, PlainVSML, VSMLConfig, lstm_step, update

CLASSES, DIM, LENGTH = 3, 5, 6
SMALL = VSMLConfig(hidden=6, messages=4, grid=4)
TICKS = SMALL.ticks


def sequences(seed=0, rows=2, length=LENGTH, dim=DIM, classes=CLASSES):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, length, dim)).astype(np.float32)
    return jnp.asarray(inputs), jnp.asarray(rng.integers(0, classes, (rows, length)))


def draw(learner, seed=0):
    """Weights like none at the start: gates open and shut, and every input counts."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.tree.map(lambda x: np.float32(0.7 * rng.normal(size=x.shape)), shapes)


@pytest.fixture(scope="module")
def vsml():
    learner = VSML(SMALL, CLASSES)
    return learner, draw(learner), jax.jit(learner.guess, static_argnames="positions")


@pytest.fixture(scope="module")
def plain():
    learner = PlainVSML(SMALL, DIM, CLASSES)
    return learner, draw(learner), jax.jit(learner.guess, static_argnames="positions")


@pytest.fixture(params=["vsml", "plain"])
def either(request):
    return request.getfixturevalue(request.param)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def loop(params, inputs, told, enter, leave):
    """Scores f32[T, C] of one sequence, cell by cell, with the LSTM cell of flax.

    Inputs are f32[T, rows], one number for each row of the grid; a label of -1 stays unknown.
    """
    size = params["score"].size
    cell = nn.OptimizedLSTMCell(size)

    def of_gate(name, i):
        return params[name][:, i * size : (i + 1) * size]

    weights = {}
    for i, gate in enumerate("ifgo"):
        kernels = [of_gate(name, i) for name in ("row_input", "column_input", "row_hear",
                                                 "column_hear")]  # fmt: skip
        bias = params["bias"][i * size : (i + 1) * size]
        weights[f"i{gate}"] = {"kernel": np.concatenate(kernels)}
        weights[f"h{gate}"] = {"kernel": of_gate("recurrent", i), "bias": bias}
    step = jax.jit(lambda carry, x: cell.apply({"params": weights}, carry, x)[0])

    height, classes = inputs.shape[1], leave(enter(np.zeros(CLASSES))).size
    width = enter(np.zeros(classes)).size
    hidden, memory = np.zeros((2, height, width, size), np.float32)
    last, label, scores, found = np.zeros(height), None, np.zeros(classes), []
    for x, y in zip(inputs, told, strict=True):
        shown = np.zeros(classes) if label is None else np.eye(classes)[label]
        error = shown - (0 if label is None else softmax(scores))
        columns = np.stack([enter(error), enter(shown)])
        for _ in range(TICKS):
            to_row = (hidden @ params["row_send"]).mean(1)
            to_column = (hidden @ params["column_send"]).mean(0)
            given = np.stack([[
                np.concatenate([[x[i], last[i]], columns[:, j], to_row[i], to_column[j]])
                for j in range(width)] for i in range(height)])  # fmt: skip
            memory, hidden = map(np.array, step((memory, hidden), given.astype(np.float32)))
        scores = leave(10 * (hidden @ params["score"]).mean(0))
        found.append(scores)
        last, label = x, None if y < 0 else y
    return np.stack(found)


def test_cells_are_lstm_cells_that_exchange_means(vsml):
    _, params, guess = vsml
    inputs, told = sequences()
    told = told.at[0, 2].set(-1)  # it stays unknown
    found = guess(params, inputs, told)
    for row in range(2):
        expected = loop(params, np.array(inputs[row]), np.array(told[row]), lambda x: x,
                        lambda x: x)  # fmt: skip
        np.testing.assert_allclose(found[row], expected, atol=2e-4, rtol=1e-4)


def test_without_symmetries_the_same_cells_stand_between_projections(plain):
    _, params, guess = plain
    inputs, told = sequences(seed=1)
    told = told.at[1, 0].set(-1)
    found = guess(params, inputs, told)
    for row in range(2):
        expected = loop(
            params["cell"], np.array(inputs[row]) @ params["inputs"], np.array(told[row]),
            lambda x: x @ params["labels"],
            lambda x: x @ params["scores"] + params["score_bias"],
        )  # fmt: skip
        np.testing.assert_allclose(found[row], expected, atol=2e-4, rtol=1e-4)


def test_an_lstm_step_by_hand():
    hidden, memory = lstm_step(jnp.array(2.0), jnp.array([0.0, np.log(3.0), 100.0, 0.0]))
    assert memory == pytest.approx(0.75 * 2 + 0.5 * 1)  # three quarters kept, half admitted
    assert hidden == pytest.approx(0.5 * np.tanh(2.0))


def test_the_order_of_inputs_does_not_matter(vsml):
    _, params, guess = vsml
    inputs, told = sequences()
    order = np.random.default_rng(3).permutation(DIM)
    expected = guess(params, inputs, told)
    spread = np.std(expected, -1)
    np.testing.assert_allclose(spread[:, 0], 0, atol=1e-5)  # nothing tells classes apart yet
    assert spread[:, 1:].min() > 1e-3
    np.testing.assert_allclose(guess(params, inputs[..., order], told), expected, atol=1e-5)


def test_renaming_the_classes_renames_the_guesses(vsml):
    _, params, guess = vsml
    inputs, told = sequences()
    names = np.array([2, 0, 1])  # class i becomes names[i]
    renamed = guess(params, inputs, jnp.asarray(names)[told])
    np.testing.assert_allclose(renamed[..., names], guess(params, inputs, told), atol=1e-5)


def test_without_symmetries_order_and_names_matter(plain):
    _, params, guess = plain
    inputs, told = sequences()
    expected = guess(params, inputs, told)
    turned = guess(params, inputs[..., ::-1], told)
    assert np.abs(turned - expected).max() > 1e-2
    names = np.array([2, 0, 1])
    renamed = guess(params, inputs, jnp.asarray(names)[told])
    assert np.abs(renamed[..., names] - expected).max() > 1e-2


@pytest.mark.parametrize(("dim", "classes"), [(DIM, CLASSES), (9, 4), (1, 2)])
def test_one_set_of_weights_serves_any_inputs_and_classes(vsml, dim, classes):
    learner, params, _ = vsml
    other = VSML(SMALL, classes)
    scores = other.guess(params, *sequences(dim=dim, classes=classes))
    assert scores.shape == (2, LENGTH, classes)
    assert np.isfinite(scores).all()
    assert other.parameter_count == learner.parameter_count


def test_guesses_depend_on_what_came_before_and_on_nothing_later(either):
    _, params, guess = either
    inputs, told = sequences()
    expected = guess(params, inputs, told)
    t = 3
    later = guess(params, inputs.at[:, t + 1 :].add(1.0), told.at[:, t:].add(1) % CLASSES)
    np.testing.assert_array_equal(later[:, : t + 1], expected[:, : t + 1])
    for changed in ((inputs.at[:, t].add(1.0), told), (inputs, (told.at[:, t].add(1)) % CLASSES)):
        moved = np.abs(guess(params, *changed) - expected).max((0, 2))
        assert moved[t + 1 :].min() > 1e-4


def test_only_wanted_positions_come_back(either):
    _, params, guess = either
    inputs, told = sequences()
    everywhere = guess(params, inputs, told)
    np.testing.assert_allclose(
        guess(params, inputs, told, positions=(1, 4)), everywhere[:, [1, 4]], atol=1e-6
    )


def test_gradients_are_those_of_finite_differences_and_reach_every_weight(either):
    learner, params, guess = either
    inputs, told = sequences()

    def loss(params):
        scores = guess(params, inputs, told)
        return optax.softmax_cross_entropy_with_integer_labels(scores, told).mean()

    found = jax.device_get(jax.jit(jax.grad(loss))(params))
    rng = np.random.default_rng(0)
    along = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
        assert (leaf != 0).all()
    step = 1e-3
    above, below = (
        float(loss(jax.tree.map(lambda x, d: x + sign * step * d, params, along)))  # noqa: B023
        for sign in (1, -1)
    )
    slope = sum(
        float(np.sum(g * d))
        for g, d in zip(jax.tree.leaves(found), jax.tree.leaves(along), strict=True)
    )
    assert slope == pytest.approx((above - below) / (2 * step), rel=0.02)


def test_long_sequences_neither_fade_nor_explode():
    learner = VSML(VSMLConfig(), 4)
    params = jax.jit(learner.init)(jax.random.key(0))
    inputs, told = sequences(rows=1, length=100, dim=4, classes=4)

    def last(x):
        scores = learner.guess(params, inputs.at[:, 0].add(x), told, positions=(50, 99))
        return jnp.sum(scores[0, 1] * jnp.arange(4))

    felt = abs(jax.jit(jax.grad(last))(0.0))
    assert 1e-6 < felt < 1e3  # the first example still counts at the last


def test_counts(either):
    learner, params, _ = either
    assert learner.parameter_count == sum(x.size for x in jax.tree.leaves(params))
    assert isinstance(learner, Learner)
    assert learner.jittable


def test_state_is_what_an_update_carries():
    def cells(learner, height, width):
        still = jnp.zeros((learner.hidden, 1, width, height))
        params = jax.eval_shape(learner.init, jax.random.key(0))
        rows, columns = jnp.zeros((2, 1, height)), jnp.zeros((2, 1, width))
        after, _ = jax.eval_shape(
            lambda params: update(
                params.get("cell", params), Cells(still, still), rows, columns, 1
            ),
            params,
        )
        return after.hidden.size + after.memory.size

    full = VSML(VSMLConfig(), 10, 64)
    assert full.state_size == cells(full, 64, 10) + 64 + 10 == 2 * 16 * 640 + 74
    plain = PlainVSML(VSMLConfig(grid=3), 64, 10)
    assert plain.state_size == cells(plain, 3, 3) + 64 + 10 == 2 * 64 * 9 + 74
    assert VSML(VSMLConfig(), 10).state_size == 0  # not known without the length of the inputs


def test_sizes_of_the_paper_are_the_defaults():
    assert VSML(VSMLConfig(), 10).hidden == 16
    assert PlainVSML(VSMLConfig(), 64, 10).hidden == 64
    assert (
        VSML(VSMLConfig(hidden=3), 10).hidden == PlainVSML(VSMLConfig(hidden=3), 4, 2).hidden == 3
    )


def test_jit_compiles_once(vsml):
    learner, params, _ = vsml
    traces = []

    @jax.jit
    def guess(params, inputs, told):
        traces.append(None)
        return learner.guess(params, inputs, told)

    first = guess(params, *sequences(seed=1))
    second = guess(params, *sequences(seed=2))
    assert len(traces) == 1
    assert np.abs(first - second).max() > 0


@pytest.mark.parametrize("name", ["hidden", "messages", "ticks", "grid"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bad_configs_are_refused(name, value):
    with pytest.raises(GlaError, match=f"vsml {name} is {value}"):
        VSMLConfig(**{name: value})


def test_bad_sizes_and_shapes_are_refused(vsml, plain):
    with pytest.raises(GlaError, match="classes"):
        VSML(SMALL, 1)
    with pytest.raises(GlaError, match="input_dim"):
        PlainVSML(SMALL, 0, CLASSES)
    inputs, told = sequences()
    for learner, params, _ in (vsml, plain):
        with pytest.raises(GlaError, match="shape"):
            learner.guess(params, inputs, told[:, 1:])
    with pytest.raises(GlaError, match="inputs are of 4 numbers"):
        plain[0].guess(plain[1], inputs[..., :4], told)
    with pytest.raises(GlaError, match="inputs are of 5 numbers"):
        VSML(SMALL, CLASSES, 4).guess(vsml[1], inputs, told)


@pytest.mark.learning
@pytest.mark.parametrize("kind", [VSML, PlainVSML])
def test_learns_to_learn_two_classes(kind):
    config = VSMLConfig(hidden=8, grid=4)
    learner = kind(config, 2, 4) if kind is VSML else kind(config, 4, 2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.02))

    def step(carry, key):
        """One step on 16 tasks: points around two centres, labels without a meaning."""
        params, state = carry
        centre_key, label_key, noise_key = jax.random.split(key, 3)
        labels = jax.random.randint(label_key, (16, 12), 0, 2)
        centres = 1.5 * jax.random.normal(centre_key, (16, 2, 4))
        inputs = jnp.take_along_axis(centres, labels[..., None], 1)
        inputs += 0.5 * jax.random.normal(noise_key, inputs.shape)

        def loss(params):
            scores = learner.guess(params, inputs, labels)
            right = (scores.argmax(-1) == labels).mean(0)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean(), right

        gradient, right = jax.grad(loss, has_aux=True)(params)
        moves, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, moves), state), right

    @jax.jit
    def train(key):
        params = learner.init(key)
        keys = jax.random.split(key, 160)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[1]

    right = train(jax.random.key(0))[-30:].mean(0)
    assert 0.4 < right[0] < 0.6  # nobody can know the first
    assert right[-3:].mean() > 0.9
