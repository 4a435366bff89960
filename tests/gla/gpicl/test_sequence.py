import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.gpicl.learners import Learner
from gla.gpicl.sequence import SequenceLearner
from gla.models import ModelConfig


def make(tokens="pairs", backbone="transformer"):
    config = ModelConfig(backbone, width=16, layers=2, heads=2, window=12, positions="learned")
    return SequenceLearner(config, input_dim=5, classes=4, tokens=tokens)


@pytest.fixture(scope="module")
def sequences():
    inputs = jax.random.normal(jax.random.key(0), (3, 9, 5))
    told = jax.random.randint(jax.random.key(1), (3, 9), -1, 4)
    return inputs, told


@pytest.mark.parametrize("tokens", ["pairs", "paper"])
@pytest.mark.parametrize("backbone", ["transformer", "lstm"])
def test_steps_folded_over_a_sequence_are_guesses_over_it(sequences, tokens, backbone):
    learner = make(tokens, backbone)
    assert isinstance(learner, Learner)
    params = learner.init(jax.random.key(2))
    inputs, told = sequences
    state, last, scores = learner.initial_state(3), jnp.full(3, -1), []
    step = jax.jit(learner.step)
    for t in range(9):
        one, state = step(params, inputs[:, t], last, state)
        scores.append(one)
        last = told[:, t]
    whole = learner.guess(params, inputs, told)
    np.testing.assert_allclose(jnp.stack(scores, 1), whole, atol=1e-5)
    some = learner.guess(params, inputs, told, (8, 2))
    np.testing.assert_allclose(some, whole[:, jnp.array([8, 2])], atol=1e-6)


@pytest.mark.parametrize("tokens", ["pairs", "paper"])
def test_a_guess_depends_on_the_past_and_on_nothing_else(sequences, tokens):
    learner = make(tokens)
    # Larger weights, so that every dependence is plainly visible.
    params = jax.tree.map(lambda x: 3 * x, learner.init(jax.random.key(2)))
    inputs, told = sequences
    whole = learner.guess(params, inputs, told)

    def changed(new_inputs, new_told):
        apart = np.abs(learner.guess(params, new_inputs, new_told) - whole).max((0, 2))
        return [t for t in range(9) if apart[t] > 1e-5]

    assert changed(inputs.at[:, 4].add(1.0), told) == [4, 5, 6, 7, 8]
    assert changed(inputs, told.at[:, 4].set((told[:, 4] + 2) % 4)) == [5, 6, 7, 8]


def test_what_tokens_hold():
    pairs, paper = make("pairs"), make("paper")
    assert pairs.model.inputs == 2 * 5 + 4 and paper.model.inputs == 5 + 4
    assert pairs.state_size == paper.state_size + 5
    assert pairs.parameter_count > paper.parameter_count
    assert pairs.name == "GPICL Transformer" and make(backbone="outer-lstm").name != pairs.name


def test_an_untold_label_is_the_same_as_no_label():
    learner = make()
    params = learner.init(jax.random.key(2))
    inputs = jnp.ones((1, 1, 5))
    first, _ = learner.step(params, inputs[:, 0], jnp.array([-1]), learner.initial_state(1))
    np.testing.assert_allclose(
        first, learner.guess(params, inputs, jnp.array([[-1]]))[:, 0], atol=1e-6
    )
