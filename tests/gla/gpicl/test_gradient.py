"""Online gradient descent against loops, and gradients through it against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gla.errors import GlaError
from gla.gpicl.gradient import GradientConfig, MAMLLearner, OnlineLearner
from gla.gpicl.mlp import MLPConfig, MultiTaskMLP, classify, draw_weights

CLASSES, DIM, LENGTH = 3, 4, 6


def sequences(seed=0, rows=2, length=LENGTH, dim=DIM):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, length, dim)).astype(np.float32)
    return jnp.asarray(inputs), jnp.asarray(rng.integers(0, CLASSES, (rows, length)))


def loop(optimizer, layers, inputs, labels, updates=1):
    """Scores before every update, by a loop; layers is a list of (kernel, bias)."""

    def scores_of(layers, x):
        for kernel, bias in layers[:-1]:
            x = jax.nn.relu(x @ kernel + bias)
        return x @ layers[-1][0] + layers[-1][1]

    def loss(layers, x, label):
        return -jax.nn.log_softmax(scores_of(layers, x))[label]

    @jax.jit
    def step(layers, state, x, label):
        moves, state = optimizer.update(jax.grad(loss)(layers, x, label), state, layers)
        return optax.apply_updates(layers, moves), state

    state, found = optimizer.init(layers), []
    for x, label in zip(inputs, labels, strict=True):
        found.append(scores_of(layers, x))  # before the update
        for _ in range(updates):
            layers, state = step(layers, state, x, label)
    return jnp.stack(found)


def as_layers(weights, row):
    count = len(weights)
    return [(weights[f"layer_{i}"]["kernel"][row], weights[f"layer_{i}"]["bias"][row])
            for i in range(count)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        ("sgd", optax.sgd(0.1)),
        ("adam", optax.adam(0.1, eps_root=1e-10)),
        ("adamw", optax.adamw(0.1, eps_root=1e-10, weight_decay=0.01)),
    ],
)
@pytest.mark.parametrize(("hidden", "updates"), [((), 1), ((6, 5), 2)])
def test_the_online_learner_is_a_loop_over_examples(name, optimizer, hidden, updates):
    inputs, labels = sequences()
    learner = OnlineLearner(GradientConfig(hidden, name, 0.1, updates), DIM, CLASSES)
    found = learner.guess((), inputs, labels)
    weights = learner.initial_weights(2, DIM)
    for row in range(2):
        layers = as_layers(weights, row)
        expected = loop(optimizer, layers, inputs[row], labels[row], updates)
        np.testing.assert_allclose(found[row], expected, rtol=1e-4, atol=2e-5)


def test_a_linear_step_by_hand():
    inputs, labels = sequences(rows=1)
    learner = OnlineLearner(GradientConfig(learning_rate=0.5), DIM, CLASSES)
    weights = learner.initial_weights(1, DIM)["layer_0"]
    x, label = np.asarray(inputs[0, 0]), int(labels[0, 0])
    kernel, bias = np.asarray(weights["kernel"][0]), np.asarray(weights["bias"][0])
    share = np.exp(x @ kernel + bias)
    error = share / share.sum() - np.eye(CLASSES)[label]
    after = inputs[0, 1] @ (kernel - 0.5 * np.outer(x, error)) + (bias - 0.5 * error)
    np.testing.assert_allclose(learner.guess((), inputs, labels)[0, 1], after, rtol=1e-5)


def test_rows_and_seeds_begin_differently():
    def first(seed, rows=3):
        learner = OnlineLearner(GradientConfig((8,)), DIM, CLASSES, seed)
        return np.asarray(learner.initial_weights(rows, DIM)["layer_0"]["kernel"])

    assert len(np.unique(first(0).reshape(3, -1), axis=0)) == 3
    np.testing.assert_array_equal(first(0), first(0))
    assert (first(0) != first(1)).any()


def test_the_usual_step_size_falls_with_the_length_of_the_inputs():
    for name in ("sgd", "adam", "adamw"):
        config = GradientConfig(optimizer=name)
        assert config.rate(64) == pytest.approx(10 * config.rate(640))
        assert GradientConfig(optimizer=name, learning_rate=0.3).rate(640) == 0.3
    inputs, labels = sequences()
    usual = OnlineLearner(GradientConfig(), 0, CLASSES).guess((), inputs, labels)
    config = GradientConfig(learning_rate=GradientConfig().rate(DIM))
    np.testing.assert_array_equal(
        usual, OnlineLearner(config, 0, CLASSES).guess((), inputs, labels)
    )


# --- from meta-trained weights


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_maml_is_the_online_learner_from_weights_of_its_own(optimizer):
    inputs, labels = sequences(rows=1)
    config = GradientConfig((5,), optimizer, 0.2)
    maml, online = MAMLLearner(config, DIM, CLASSES), OnlineLearner(config, DIM, CLASSES)
    weights = jax.tree.map(lambda x: x[0], online.initial_weights(1, DIM))
    expected = online.guess((), inputs, labels)
    np.testing.assert_allclose(
        maml.guess({"weights": weights}, inputs, labels), expected, atol=1e-5
    )


def test_maml_with_a_learned_step_size():
    inputs, labels = sequences()
    fixed = MAMLLearner(GradientConfig(learning_rate=0.2), DIM, CLASSES)
    learned = MAMLLearner(GradientConfig(learning_rate=0.2, learn_rate=True), DIM, CLASSES)
    params = learned.init(jax.random.key(0))
    assert learned.parameter_count == fixed.parameter_count + 1 == (DIM + 1) * CLASSES + 1
    expected = fixed.guess({"weights": params["weights"]}, inputs, labels)
    np.testing.assert_allclose(learned.guess(params, inputs, labels), expected, atol=1e-6)
    frozen = {**params, "log_rate": jnp.float32(-80.0)}
    np.testing.assert_allclose(
        learned.guess(frozen, inputs, labels), classify(params["weights"], inputs), atol=1e-5
    )


def loss(learner, params, inputs, labels):
    scores = jax.nn.log_softmax(learner.guess(params, inputs, labels))
    return -jnp.take_along_axis(scores, labels[..., None], -1).mean()


@pytest.mark.parametrize(("optimizer", "hidden"), [("sgd", (5,)), ("adam", (5,)), ("adamw", ())])
def test_the_gradient_through_the_updates_is_that_of_differences(optimizer, hidden):
    config = GradientConfig(hidden, optimizer, 0.05, updates_per_example=2, learn_rate=True)
    learner = MAMLLearner(config, DIM, CLASSES)
    with jax.enable_x64(True):
        inputs, labels = sequences(1)
        inputs = inputs.astype(jnp.float64)
        params = jax.tree.map(lambda x: x.astype(jnp.float64), learner.init(jax.random.key(3)))
        flat, build = jax.flatten_util.ravel_pytree(params)

        def of(flat):
            return loss(learner, build(flat), inputs, labels)

        gradient = np.asarray(jax.jit(jax.grad(of))(flat))
        step, axes = 1e-6, np.eye(len(flat))
        ends = [np.asarray(jax.jit(jax.vmap(of))(flat + side * step * axes)) for side in (1, -1)]
        differences = (ends[0] - ends[1]) / (2 * step)
        assert flat.dtype == jnp.float64
        np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_inputs_that_are_always_zero_leave_the_gradient_finite(optimizer):
    learner = MAMLLearner(GradientConfig((5,), optimizer, learn_rate=True), DIM, CLASSES)
    inputs, labels = sequences()
    inputs = inputs.at[..., 0].set(0.0)
    params = learner.init(jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda p: loss(learner, p, inputs, labels)))(params)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(gradient))


def descend(learner, inputs, labels, steps, rate=0.02):
    """Losses before and after meta-training on one batch."""
    optimizer = optax.adam(rate)
    params = learner.init(jax.random.key(0))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(lambda p: loss(learner, p, inputs, labels))(params)
        moves, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, moves), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps))
    (params, _), values = run((params, optimizer.init(params)))
    return float(values[0]), float(values[-1]), params


def test_meta_training_makes_maml_learn_from_its_labels():
    # Which of two classes an example belongs to says the first number, in half of the rows its
    # opposite: no weights are right for all, so that what is left to gain comes from updates.
    rng = np.random.default_rng(0)
    inputs = rng.choice([-1.0, 1.0], (64, 8, DIM)).astype(np.float32)
    swap = np.arange(64)[:, None] % 2
    labels = jnp.asarray((inputs[..., 0] > 0).astype(np.int32) ^ swap)
    learner = MAMLLearner(GradientConfig(learning_rate=0.02, learn_rate=True), DIM, CLASSES)
    first, last, params = descend(learner, jnp.asarray(inputs), labels, 200, 0.05)
    assert first > 1.0 and last < 0.6
    assert params["log_rate"] > np.log(0.1)
    right = learner.guess(params, jnp.asarray(inputs), labels).argmax(-1) == labels
    assert right[:, -1].mean() > 0.9 and right[:, 0].mean() == pytest.approx(0.5, abs=0.15)


# --- without a sequence


def test_the_mlp_sees_one_example():
    learner = MultiTaskMLP(MLPConfig(9), DIM, CLASSES)
    inputs, labels = sequences()
    params = learner.init(jax.random.key(0))
    whole = learner.guess(params, inputs, labels)
    np.testing.assert_array_equal(whole, learner.guess(params, inputs, (labels + 1) % CLASSES))
    backwards = learner.guess(params, inputs[:, ::-1], labels)
    np.testing.assert_allclose(backwards[:, ::-1], whole, atol=1e-6)
    one = np.asarray(inputs[0, 0])
    for i in range(3):
        layer = params[f"layer_{i}"]
        one = one @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        one = np.maximum(one, 0) if i < 2 else one
    np.testing.assert_allclose(whole[0, 0], one, rtol=1e-4, atol=1e-5)
    assert learner.state_size == 0
    assert learner.parameter_count == (DIM + 1) * 9 + 10 * 9 + 10 * CLASSES


def test_the_mlp_remembers_what_it_is_trained_on():
    inputs, labels = sequences(rows=8)
    learner = MultiTaskMLP(MLPConfig(32), DIM, CLASSES)
    first, last, _ = descend(learner, inputs, labels, 200)
    assert first > 0.8 and last < 0.1


def test_initial_weights_keep_the_size_of_the_inputs():
    weights = draw_weights(jax.random.key(0), (200, 400, 300), last=0.5)
    inputs = jax.random.normal(jax.random.key(1), (500, 200))
    hidden = inputs @ weights["layer_0"]["kernel"]
    assert float(jnp.mean(jax.nn.relu(hidden) ** 2)) == pytest.approx(1.0, rel=0.05)
    assert float(classify(weights, inputs).std()) == pytest.approx(0.5, rel=0.05)


# --- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adma"}, r"optimizer is 'adma' \(did you mean adam"),
        ({"hidden": (3, 0)}, r"hidden is \(3, 0\)"),
        ({"hidden": (2.0,)}, "hidden is"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"updates_per_example": 0}, "updates_per_example is 0"),
        ({"learn_rate": 1}, "learn_rate is 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(GlaError, match=message):
        GradientConfig(**wrong)


def test_learners_that_cannot_be_are_refused():
    with pytest.raises(GlaError, match="learn_rate"):
        OnlineLearner(GradientConfig(learn_rate=True), DIM, CLASSES)
    with pytest.raises(GlaError, match="input_dim is 0"):
        MAMLLearner(GradientConfig(), 0, CLASSES)
    with pytest.raises(GlaError, match="classes is 1"):
        MultiTaskMLP(MLPConfig(), DIM, 1)
    for width in (0, 1.5, True):
        with pytest.raises(GlaError, match="mlp width is"):
            MLPConfig(width)
