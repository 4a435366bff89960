"""Counting tasks, and families of a chosen number of them."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla.envs.gridworld import Gridworld, GridworldConfig
from gla.envs.random_tabular import TabularParams
from gla.envs.splits import task_key
from gla.envs.tasks import FiniteTasks, count_distinct_tasks
from gla.envs.wrappers import Wrapper
from gla.errors import GlaError


class Bits(NamedTuple):
    number: jax.Array
    key: jax.Array
    nothing: jax.Array


class Signed(Gridworld):
    """A family of three tasks that differ in one bit or in a random key alone."""

    def __init__(self):
        super().__init__(GridworldConfig())
        self.distinct_tasks = 3

    def sample_params(self, key):
        choice = jax.random.randint(key, (), 0, 3)
        return Bits(
            jnp.array([0.0, -0.0, 0.0])[choice], jax.random.key(choice // 2), jnp.zeros((0,))
        )


class Continuous(Gridworld):
    """A family with an endless number of start distributions."""

    def __init__(self):
        super().__init__(GridworldConfig(goal=(1, 1)))
        self.distinct_tasks = math.inf

    def sample_params(self, key):
        return super().sample_params(key)._replace(starts=jax.random.uniform(key, (9,)))


class Labelled(Wrapper):
    """Draws a label of its own for every task, as a projection draws its map."""

    def sample_params(self, key):
        task_key, label_key = jax.random.split(key)
        return self.env.sample_params(task_key), jax.random.uniform(label_key)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def test_tasks_are_counted_bit_by_bit():
    assert count_distinct_tasks(Signed(), keys(40)) == 3
    assert count_distinct_tasks(Continuous(), keys(300)) == 300
    repeated = jnp.concatenate([keys(5), keys(5)])
    assert count_distinct_tasks(Continuous(), repeated) == 5
    assert count_distinct_tasks(Gridworld(GridworldConfig(goal=(1, 1))), keys(3)) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (jnp.zeros(3), "keys is"),
        (jax.random.key(0), r"keys has shape \(\)"),
        (7, "keys is int"),
    ],
)
def test_what_is_no_batch_of_keys_is_refused(bad, message):
    with pytest.raises(GlaError, match=message):
        count_distinct_tasks(Gridworld(), bad)


@pytest.fixture(scope="module")
def families():
    """The grid cut down to 5 tasks and to all 8."""
    return FiniteTasks(Gridworld(), 5, seed=3), FiniteTasks(Gridworld(), 8, seed=3)


def test_a_finite_family_has_exactly_as_many_tasks_as_asked_for(families):
    goals = []
    for env in families:
        tasks = jax.jit(jax.vmap(env.task))(jnp.arange(env.count))
        assert isinstance(tasks, TabularParams), "the wrapped family steps them as they are"
        goals.append(np.asarray(tasks.terminal).argmax(1).tolist())
        assert len(set(goals[-1])) == env.count == env.distinct_tasks
    assert goals[1][:5] == goals[0], "a larger count contains the tasks of a smaller one"


def test_all_tasks_are_equally_likely(families):
    params = jax.jit(jax.vmap(families[0].sample_params))(keys(2000))
    counted = np.unique(np.asarray(params.terminal).argmax(1), return_counts=True)[1]
    assert len(counted) == 5
    assert (np.abs(counted - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8)).all()


def test_a_continuous_family_is_cut_down_to_tasks_of_the_training_split():
    env = FiniteTasks(Continuous(), 6)
    assert env.distinct_tasks == 6 == count_distinct_tasks(env, keys(200))
    direct = jax.jit(Continuous().sample_params)(task_key("train", 0, 4))
    np.testing.assert_array_equal(jax.jit(env.task)(4).starts, direct.starts)
    other = jax.jit(FiniteTasks(Continuous(), 6, seed=1).task)
    assert not np.allclose(other(4).starts, direct.starts)


def test_what_a_wrapper_inside_draws_is_part_of_the_task():
    labelled = Labelled(Gridworld())
    labelled.distinct_tasks = math.inf
    assert count_distinct_tasks(labelled, keys(100)) == 100
    assert count_distinct_tasks(FiniteTasks(labelled, 3), keys(100)) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteTasks(Gridworld(), 9), "Gridworld has 8 different tasks and count is 9"),
        (lambda: FiniteTasks(Gridworld(), 0), "count is 0"),
        (lambda: FiniteTasks(Gridworld(), 2.0), "count is 2.0"),
        (lambda: FiniteTasks(Gridworld(), 2, seed=-1), "seed is -1"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(GlaError, match=message):
        make()


def test_a_family_that_claims_too_many_tasks_is_found_out():
    env = Signed()
    env.distinct_tasks = 5
    with pytest.raises(GlaError, match="only 3 different tasks of Gridworld were found"):
        FiniteTasks(env, 4)
    assert math.isfinite(FiniteTasks(env, 3).distinct_tasks)
