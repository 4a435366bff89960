"""Tasks of training, validation and test can never be the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gla.envs import registry
from gla.envs.splits import KeyRange, Splits, run_keys, split_of, task_key
from gla.errors import GlaError

NAMES = ("train", "validation", "test")


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(NAMES), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_key_tells_its_split(split, seed, index):
    assert split_of(task_key(split, seed, index)) == split


def test_ranges_hold_for_thousands_of_keys_and_their_tasks_differ():
    def draw(split):
        keys = jax.vmap(lambda i: jax.random.key_data(task_key(split, 0, i)))(jnp.arange(4096))
        return np.asarray(keys)[:, 0]

    words = {split: draw(split) for split in NAMES}
    assert words["train"].max() < 2**31 <= words["validation"].min()
    assert words["validation"].max() < 3 * 2**30 <= words["test"].min()
    assert all(len(np.unique(words[split])) > 4090 for split in NAMES)
    env = registry.make_functional("gla/RandomLinear-v0")
    goals = [env.sample_params(task_key(split, 0, 0)).goal for split in NAMES]
    assert not np.allclose(goals[0], goals[1]) and not np.allclose(goals[1], goals[2])


def test_keys_do_not_depend_on_the_default_generator():
    words = jax.random.key_data(task_key("test", 3, 5)).tolist()
    assert words == [3977186293, 1275232839]
    with jax.default_prng_impl("rbg"):
        assert jax.random.key_data(task_key("test", 3, 5)).tolist() == words


def test_the_task_of_a_run_is_its_key_and_shares_nothing_with_the_rest():
    key = task_key("train", 1, 2)
    keys = run_keys(key)
    children = jax.random.key_data(jax.random.split(key, 64)).tolist()
    data = [jax.random.key_data(part).tolist() for part in keys]
    assert data[0] == jax.random.key_data(key).tolist()
    assert len({tuple(d) for d in data}) == 4
    assert not any(d in children for d in data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: task_key("exam", 0), "split is 'exam'"),
        (lambda: KeyRange(5, 5), "start < stop"),
        (lambda: KeyRange(0, 2**33), "start < stop"),
        (lambda: KeyRange(0, 3 * 2**30), "power of two"),
        (lambda: KeyRange(2**29, 2**29 + 2**30), "power of two"),
        (
            lambda: Splits(train=KeyRange(0, 2**31), validation=KeyRange(2**30, 2**31)),
            "key ranges of train and validation overlap",
        ),
    ],
)
def test_bad_ranges_are_refused(make, message):
    with pytest.raises(GlaError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_ranges_of_ones_own():
    mine = Splits(KeyRange(0, 2**30), KeyRange(2**30, 2**31), KeyRange(2**31, 2**32))
    for split in NAMES:
        assert split_of(task_key(split, 7, 7, mine), mine) == split
    assert split_of(task_key("validation", 7, 7, mine), Splits()) == "train"
