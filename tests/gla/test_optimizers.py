"""Optimisers: what a step does to a number, worked out by hand, and when the step size falls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gla.errors import GlaError
from gla.optimizers import OptimizerConfig, average, make_optimizer, make_schedule

PLAIN = {"schedule": "constant", "warmup": 0, "max_grad_norm": 0.0, "weight_decay": 0.0}


def walk(config, gradients, params):
    """The parameters after each gradient."""
    optimizer = make_optimizer(config, len(gradients) + 1)
    state, found = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(params)
    return found


def numbers(config, gradients, start=0.0):
    return [float(x) for x in walk(config, [jnp.float32(g) for g in gradients], jnp.float32(start))]


def test_adamw_by_hand():
    config = OptimizerConfig("adamw", 0.1, **PLAIN, b1=0.5, b2=0.5, eps=1.0)
    # m / (1 - b1^t) = 2, then (0.5 * 1 + 0.5 * 0) / 0.75; v likewise of the squares 4 and 0.
    first = -0.1 * 2 / (2 + 1)
    second = first - 0.1 * (0.5 / 0.75) / ((1.0 / 0.75) ** 0.5 + 1)
    np.testing.assert_allclose(numbers(config, [2.0, 0.0]), [first, second], rtol=1e-5)


def test_a_small_eps_lets_small_gradients_take_whole_steps():
    for eps, step in ((1e-8, 0.1 * 1e-9 / (1e-9 + 1e-8)), (1e-12, 0.1 * 1e-9 / (1e-9 + 1e-12))):
        config = OptimizerConfig("adamw", 0.1, **PLAIN, eps=eps)
        np.testing.assert_allclose(numbers(config, [1e-9]), [-step], rtol=1e-3)


def test_lion_by_hand():
    config = OptimizerConfig("lion", 0.1, **PLAIN, b1=0.5, b2=0.0)
    # What is remembered is the last gradient; the sign is that of the mean with the new one.
    assert numbers(config, [1.0, -3.0, 1.0]) == pytest.approx([-0.1, 0.0, 0.1])


def test_sign_goes_by_the_sign_of_the_averaged_gradient():
    config = OptimizerConfig("sign", 0.1, "constant", warmup=0, max_grad_norm=0.0, b1=0.5)
    average_, expected, x = 0.0, [], 0.0
    for gradient in (4.0, -1.0, -1.0, -1.0):  # averages 2, 0.5, -0.25, -0.625
        average_ = 0.5 * average_ + 0.5 * gradient
        x -= 0.1 * np.sign(average_)
        expected.append(x)
    assert numbers(config, [4.0, -1.0, -1.0, -1.0]) == pytest.approx(expected)
    assert expected[-1] == pytest.approx(0.0)
    # And no decay: a parameter without gradient stays.
    assert numbers(config, [0.0], start=5.0) == [5.0]


def test_sgd_has_momentum():
    config = OptimizerConfig("sgd", 0.1, **PLAIN, b1=0.5)
    assert numbers(config, [1.0, 0.0, 0.0]) == pytest.approx([-0.1, -0.15, -0.175])


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sgd"])
def test_weight_decay_is_decoupled(name):
    config = OptimizerConfig(name, 0.1, "constant", warmup=0, weight_decay=0.5)
    params = {"matrix": jnp.full((2, 2), 4.0), "bias": jnp.full((2,), 4.0)}
    after = walk(config, [jax.tree.map(jnp.zeros_like, params)], params)[0]
    for leaf in jax.tree.leaves(after):
        np.testing.assert_allclose(leaf, 4.0 * (1 - 0.1 * 0.5), rtol=1e-5)


def test_muon_makes_matrices_orthogonal_and_leaves_the_rest_to_adamw():
    rng = np.random.default_rng(0)
    params = {
        "kernel": jnp.zeros((6, 4)), "heads": jnp.zeros((6, 3, 2, 2)), "bias": jnp.zeros(3)
    }  # fmt: skip
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    settings = {**PLAIN, "learning_rate": 0.1}
    after = walk(OptimizerConfig("muon", **settings), [gradient], params)[0]
    for name, matrix in (("kernel", after["kernel"]), ("heads", after["heads"].reshape(6, 12))):
        values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
        # Newton-Schulz brings singular values near 1, times a factor of the shape.
        scale = 0.1 * max(1.0, matrix.shape[1] / matrix.shape[0]) ** 0.5
        assert values.min() > 0.6 * scale and values.max() < 1.3 * scale, name
    rest = optax.adamw(0.1, weight_decay=0.0, nesterov=True)
    only, _ = rest.update(gradient["bias"], rest.init(params["bias"]), params["bias"])
    np.testing.assert_allclose(after["bias"], only, rtol=1e-6)


def test_gradients_are_clipped_only_where_asked():
    for norm, step in ((1.0, -0.1), (0.0, -0.5), (100.0, -0.5)):
        config = OptimizerConfig("sgd", 0.1, "constant", 0, b1=0.0, max_grad_norm=norm)
        assert numbers(config, [5.0]) == pytest.approx([step])


@pytest.mark.parametrize(
    ("name", "places"),
    [
        # Warm-up of 10 in 100 steps, peak 1, last 0.2: the step sizes at certain steps.
        ("constant", {0: 0.0, 5: 0.5, 10: 1.0, 99: 1.0}),
        ("linear", {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.6, 100: 0.2}),
        ("cosine", {0: 0.0, 5: 0.5, 10: 1.0, 55: 0.6, 100: 0.2, 32: 0.8 * 0.8597 + 0.2}),
        ("wsd", {0: 0.0, 5: 0.5, 10: 1.0, 59: 1.0, 60: 1.0, 80: 0.6, 100: 0.2}),
    ],
)
def test_schedules(name, places):
    config = OptimizerConfig(learning_rate=1.0, schedule=name, warmup=10, final_rate=0.2, decay=0.4)
    schedule = make_schedule(config, 100)
    for step, rate in places.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-3), step


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 50), (2, 0), (3, 50), (10, 9)])
def test_schedules_of_very_short_trainings_are_sane(name, steps, warmup):
    schedule = make_schedule(OptimizerConfig(schedule=name, warmup=warmup, decay=1.0), steps)
    rates = np.array([float(schedule(step)) for step in range(steps + 1)])
    assert np.all(np.isfinite(rates)) and np.all((rates >= 0) & (rates <= 1.001e-3))


def test_defaults_differ_by_optimizer():
    zero = jnp.zeros(())
    for name, decay in (("adamw", 1e-4), ("lion", 1e-3), ("sign", 0.0), ("sgd", 0.0)):
        config = OptimizerConfig(name, 1.0, "constant", warmup=0)
        after = walk(config, [zero], jnp.float32(100.0))[0]
        assert float(after) == pytest.approx(100 * (1 - decay), rel=1e-6), name


def test_the_average_of_weights_starts_short():
    for taken, decay in ((0, 1 / 10), (1, 2 / 11), (70, 71 / 80), (1000, 0.9)):
        ema = average({"x": jnp.float32(2.0)}, {"x": jnp.float32(5.0)}, 0.9, jnp.int32(taken))
        assert float(ema["x"]) == pytest.approx(decay * 2 + (1 - decay) * 5), taken


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "adam"}, "the optimizer is 'adam'"),
        ({"schedule": "step"}, "the schedule is 'step'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": 1e-46}, "eps is 1e-46"),
        ({"warmup": -1}, "warmup is -1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"final_rate": 1.5}, "final_rate is 1.5"),
        ({"decay": 0.0}, "decay 0.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"b1": 1.0}, "b1 is 1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"name": "sign", "weight_decay": 0.1}, "`sign` has no b2 and no weight decay"),
        ({"name": "sgd", "b2": 0.9}, "`sgd` has no b2"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(GlaError) as caught:
        OptimizerConfig(**settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)
