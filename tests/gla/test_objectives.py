"""Losses against a float64 re-implementation in NumPy, by hand, and by their properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from gla import objectives
from gla.errors import GlaError
from gla.objectives import ObjectiveConfig, losses
from gla.presets import PRESETS, preset
from gla.projection import LiftedGaussian
from gla.sampling import LAST, SamplingConfig, Sequences, pad_target
from gla.tokens import LOG_STD_HIGH, LOG_STD_LOW, Interface

LENGTH, N, M, K = 5, 3, 4, 2
TOLD = 4
HEADS = {"predict_reward": True, "predict_observation": True, "told": TOLD}
KINDS = {
    "gaussian": Interface(N, M, **HEADS),
    "tanh": Interface(N, M, squashed=True, **HEADS),
    "categorical": Interface(N, M, discrete=True, **HEADS),
}
ALL = {"nll": 0.5, "reward": 0.4, "observation": 0.2, "told": 0.3}
CONFIGS = {
    "gaussian": ObjectiveConfig(0.7, 1.3, **ALL),
    "tanh": ObjectiveConfig(0.0, 0.0, squashed=True, **ALL),
    "categorical": ObjectiveConfig(0.7, 1.3, **ALL),
}


def sequence(kind, seed=0):
    """One sequence of random numbers in float64."""
    rng = np.random.default_rng(seed)
    if kind == "categorical":
        target = scipy.special.log_softmax(rng.normal(size=(LENGTH, M)), -1)
        action = rng.integers(0, M, LENGTH).astype(np.int32)
    else:
        b = np.linalg.qr(rng.normal(size=(M, K)))[0]
        log_std = rng.uniform(-1.5, 0.3, (LENGTH, K))
        null = rng.uniform(-1.5, 0.3, LENGTH)
        target = LiftedGaussian(rng.normal(size=(LENGTH, K)) @ b.T, log_std, null, b)
        action = rng.normal(size=(LENGTH, M))
        if kind == "tanh":
            action = np.tanh(action)
    return Sequences(
        tokens=np.zeros((LENGTH, 1)),
        target=target,
        action=action,
        reward=rng.normal(size=LENGTH),
        next_observation=rng.normal(size=(LENGTH, N)),
        known=np.array([True, True, False, True, False]),
        weight=np.ones(LENGTH),
        told=np.where(np.arange(TOLD) == 2, np.nan, rng.normal(size=(LENGTH, TOLD))),
    )


def outputs_of(kind, seed=1):
    return np.random.default_rng(seed).normal(size=(LENGTH, KINDS[kind].outputs))


def reference(outputs, sequence, kind):
    """All terms in NumPy, with full covariance matrices and scipy's densities."""
    terms = {name: np.zeros(LENGTH) for name in ("forward_kl", "reverse_kl", "nll")}
    size = M if kind == "categorical" else 2 * M
    for i in range(LENGTH):
        head = outputs[i, :size]
        if kind == "categorical":
            p, q = np.exp(sequence.target[i]), scipy.special.softmax(head)
            terms["forward_kl"][i] = np.sum(p * np.log(p / q))
            terms["reverse_kl"][i] = np.sum(q * np.log(q / p))
            terms["nll"][i] = -np.log(q[sequence.action[i]])
            continue
        mean = head[:M]
        log_std = LOG_STD_LOW + (LOG_STD_HIGH - LOG_STD_LOW) * scipy.special.expit(2 * head[M:])
        std, action = np.exp(log_std), sequence.action[i]
        if kind == "tanh":
            slope = np.sum(np.log(1 - action**2))
            density = scipy.stats.norm(mean, std).logpdf(np.arctanh(action)).sum()
            terms["nll"][i] = slope - density
            continue
        terms["nll"][i] = -scipy.stats.norm(mean, std).logpdf(action).sum()
        target = LiftedGaussian(*(x[i] for x in sequence.target[:3]), sequence.target.action_map)
        b, null = target.action_map, np.exp(2 * target.null_log_std)
        p = b @ np.diag(np.exp(2 * target.log_std)) @ b.T + null * (np.eye(M) - b @ b.T)
        q = np.diag(std**2)
        terms["forward_kl"][i] = full_kl(target.mean, p, mean, q)
        terms["reverse_kl"][i] = full_kl(mean, q, target.mean, p)
    if kind == "tanh":
        del terms["forward_kl"], terms["reverse_kl"]
    terms["reward"] = (outputs[:, size] - sequence.reward) ** 2
    error = ((outputs[:, size + 1 : -TOLD] - sequence.next_observation) ** 2).mean(-1)
    terms["observation"] = np.where(sequence.known, error, 0)
    there = [0, 1, 3]  # nothing is told of the third number
    terms["told"] = ((outputs[:, -TOLD:] - sequence.told)[:, there] ** 2).mean(-1)
    config = CONFIGS[kind]
    weights = {"forward_kl": config.forward, "reverse_kl": config.reverse, **ALL}
    return {"loss": sum(weights[name] * value for name, value in terms.items()), **terms}


def full_kl(mean_p, cov_p, mean_q, cov_q):
    inverse, delta = np.linalg.inv(cov_q), mean_q - mean_p
    log_dets = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    return 0.5 * (np.trace(inverse @ cov_p) + delta @ inverse @ delta - len(delta) + log_dets)


@functools.cache
def program(kind):
    return jax.jit(lambda o, s: losses(o, s, CONFIGS[kind], KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_term_is_that_of_the_definition(kind):
    outputs, one = outputs_of(kind), sequence(kind)
    expected = reference(outputs, one, kind)
    with jax.enable_x64(True):
        found = program(kind)(outputs, one)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-9, err_msg=name)
    single = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else x.dtype), (outputs, one)
    )
    for name, value in program(kind)(*single).items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_finite_differences_of_the_definition(kind):
    """Of the independent implementation, so that a mistake in a derivative cannot hide in both."""
    outputs, one = outputs_of(kind), sequence(kind)
    names = list(reference(outputs, one, kind))
    step = 1e-5
    numeric = {name: np.zeros_like(outputs) for name in names}
    for place in np.ndindex(outputs.shape):
        moved = [outputs.copy(), outputs.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        ahead, behind = (reference(x, one, kind) for x in moved)
        for name in names:
            numeric[name][place] = np.sum(ahead[name] - behind[name]) / (2 * step)
    with jax.enable_x64(True):
        jacobian = jax.jit(
            jax.jacrev(lambda o: {k: jnp.sum(v) for k, v in program(kind)(o, one).items()})
        )(outputs)
        for name in names:
            assert np.abs(numeric[name]).max() > 0.01
            np.testing.assert_allclose(
                jacobian[name], numeric[name], rtol=1e-5, atol=1e-7, err_msg=name
            )


def test_by_hand():
    """One action, unit variances, means apart by 2: both divergences are 2."""
    interface = Interface(1, 1)
    middle = np.arctanh(-(LOG_STD_LOW + LOG_STD_HIGH) / (LOG_STD_HIGH - LOG_STD_LOW))  # std 1
    target = LiftedGaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1), jnp.ones((1, 1)))
    one = sequence("gaussian")._replace(target=target, action=jnp.full((1, 1), 2.0))
    outputs = jnp.array([[2.0, middle]])
    found = losses(outputs, one, ObjectiveConfig(forward=1.0, reverse=3.0, nll=1.0), interface)
    assert float(found["forward_kl"][0]) == pytest.approx(2.0, rel=1e-5)
    assert float(found["reverse_kl"][0]) == pytest.approx(2.0, rel=1e-5)
    assert float(found["nll"][0]) == pytest.approx(0.5 * np.log(2 * np.pi), rel=1e-5)
    assert float(found["loss"][0]) == pytest.approx(8 + 0.5 * np.log(2 * np.pi), rel=1e-5)
    # Half against a quarter: KL = log 2 - log 3 / 2 of a coin with probability 1/4.
    coin = Interface(1, 2, discrete=True)
    one = one._replace(target=jnp.log(jnp.array([[0.5, 0.5]])), action=jnp.array([1]))
    found = losses(jnp.log(jnp.array([[0.75, 0.25]])), one, ObjectiveConfig(nll=1.0), coin)
    assert float(found["forward_kl"][0]) == pytest.approx(np.log(2 / np.sqrt(3)), rel=1e-5)
    assert float(found["nll"][0]) == pytest.approx(np.log(4), rel=1e-5)


REAL = st.floats(-3, 3, width=32)


@given(st.lists(REAL, min_size=2 * M, max_size=2 * M), st.integers(0, 100))
def test_kl_is_never_negative_and_zero_where_the_distributions_agree(numbers, seed):
    numbers = np.array(numbers)
    with jax.enable_x64(True):
        # A lifted policy of one standard deviation is diagonal, so the model can be equal to it.
        model = np.stack([numbers, numbers])
        model[1, M:] = numbers[M]
        log_std = LOG_STD_LOW + (LOG_STD_HIGH - LOG_STD_LOW) * scipy.special.expit(2 * numbers[M])
        b = np.linalg.qr(np.random.default_rng(seed).normal(size=(M, K)))[0]
        target = LiftedGaussian(
            np.tile(numbers[:M], (2, 1)), np.full((2, K), log_std), np.full(2, log_std), b
        )
        apart = np.ptp(numbers[M:])
        for kl in map(np.asarray, _kls(target, model)):
            assert (kl > -1e-12).all() and abs(kl[1]) < 1e-12
            assert kl[0] > 1e-6 or apart < 0.1, "zero only where they agree"
        moved = np.asarray(_kls(target._replace(mean=target.mean + 0.1), model))
        assert (moved[:, 1] > 1e-6).all()
        # Categoricals are the same where logits differ by a constant alone.
        logits = np.stack([numbers[:M], numbers[:M] + 5])
        same = np.asarray(_kls(logits, logits[::-1].copy()))
        assert (np.abs(same) < 1e-12).all()
        other = np.stack([numbers[M:]] * 2)
        kl = np.asarray(_kls(logits, other))
        assert (kl > -1e-12).all()
        assert (kl > 1e-9).all() or np.ptp(numbers[:M] - numbers[M:]) < 1e-3


_kls = jax.jit(objectives.action_kls)


@pytest.mark.parametrize("k", [K + 1, M, M + 2])
def test_padded_targets_have_the_same_divergences_and_gradients(k):
    one, outputs = sequence("gaussian"), outputs_of("gaussian")[:, : 2 * M]
    with jax.enable_x64(True):
        padded = pad_target(one.target, k)
        assert padded.log_std.shape == (LENGTH, k) and padded.action_map.shape == (M, k)
        for plain, other in zip(_kls(one.target, outputs), _kls(padded, outputs), strict=True):
            np.testing.assert_allclose(other, plain, rtol=1e-12)
        slope = jax.jit(jax.grad(lambda o, t: sum(jnp.sum(x) for x in objectives.action_kls(t, o))))
        np.testing.assert_allclose(slope(outputs, padded), slope(outputs, one.target), rtol=1e-11)
    assert pad_target(one.target, K) is one.target


def test_what_is_not_known_is_not_asked_for():
    one, outputs = sequence("gaussian"), outputs_of("gaussian")
    slope = jax.jit(jax.grad(lambda o: jnp.sum(program("gaussian")(o, one)["loss"])))(outputs)
    told = np.asarray(slope)[:, -TOLD:]
    assert (told[:, 2] == 0).all() and (told[:, [0, 1, 3]] != 0).all()
    at = np.asarray(slope)[:, 2 * M + 1 : -TOLD]
    assert (at[~one.known] == 0).all() and (at[one.known] != 0).all()
    # Nor does what stands there matter.
    other = one._replace(next_observation=np.where(one.known[:, None], one.next_observation, 99.0))
    found, again = (program("gaussian")(outputs, x) for x in (one, other))
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_terms_of_weight_zero_are_left_out():
    one = sequence("gaussian")
    outputs = outputs_of("gaussian")[:, : 2 * M]
    found = losses(outputs, one, ObjectiveConfig(), Interface(N, M))
    assert set(found) == {"loss", "forward_kl", "reverse_kl"}
    np.testing.assert_array_equal(found["loss"], found["forward_kl"] + found["reverse_kl"])
    only = losses(outputs, one, ObjectiveConfig(0.0, 0.0, 2.0), Interface(N, M))
    assert set(only) == {"loss", "nll"}
    np.testing.assert_array_equal(only["loss"], 2 * only["nll"])


def test_bad_objectives_are_refused():
    with pytest.raises(GlaError, match="objective reward is -1"):
        ObjectiveConfig(reward=-1.0)
    with pytest.raises(GlaError, match="objective nll is nan"):
        ObjectiveConfig(nll=float("nan"))
    with pytest.raises(GlaError, match="forward, reverse and nll are all 0"):
        ObjectiveConfig(forward=0.0, reverse=0.0, observation=1.0)
    with pytest.raises(GlaError, match="no closed-form KL.*expected forward 0 and reverse 0"):
        ObjectiveConfig(squashed=True)
    one, outputs = sequence("tanh"), outputs_of("tanh")
    with pytest.raises(GlaError, match="no closed-form KL"):
        losses(outputs, one, ObjectiveConfig(), KINDS["tanh"])
    plain = Interface(N, M)
    for name in ("reward", "observation"):
        with pytest.raises(GlaError, match=f"predicts {name}s but the model has no head"):
            losses(outputs, one, ObjectiveConfig(**{name: 1.0}), plain)


# Presets


def test_presets_are_three_papers_settings():
    assert PRESETS == ("gla", "ad", "dpt")
    assert preset("gla") == (SamplingConfig(), ObjectiveConfig())
    cut, loss = preset("ad")
    assert cut.lead == (0, 0) and cut.gap[0] > 1
    assert loss == ObjectiveConfig(forward=0.0, reverse=0.0, nll=1.0)
    cut, loss = preset("dpt")
    assert cut.lead == (LAST, LAST) and cut.first_update == (0, LAST) and cut.stages == 1
    assert loss.forward == 1 and loss.reverse == loss.nll == 0
    with pytest.raises(GlaError, match=r"no preset 'DTP' \(did you mean dpt"):
        preset("DTP")
