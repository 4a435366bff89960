"""RL^2: lifetimes are those of the meta-test, returns cross episodes, and learning happens."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import checkpoints
from gla.agents import rl2
from gla.agents.base import View
from gla.agents.external import load_agent
from gla.agents.gla import GLAAgent
from gla.agents.rl2 import Learner, learn, make_learner, make_lesson, ppo_loss, rl2_train
from gla.agents.rl2_config import LifetimePPOConfig, LifetimeValidationConfig, RL2Config
from gla.agents.rl2_lifetimes import (
    Lifetimes,
    draw_tasks,
    live,
    make_interface,
    make_recurrent,
)
from gla.benchmarks.metatest import describe_agent
from gla.benchmarks.runner import MetaTestConfig, make_lens, make_world, run_agent
from gla.envs.bandits import BernoulliBandit, BernoulliBanditConfig
from gla.errors import GlaError
from gla.models import ModelConfig
from gla.normalization import normalize_reward
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.training import load_trained

ENVIRONMENTS = ("gla/RandomLinear-v0", "gla/RandomNeural-v0")


@pytest.fixture(scope="module")
def config():
    """Two environments with unequal shares, and an episode that ends within the lifetime."""
    return RL2Config(
        environments=ENVIRONMENTS,
        weights=(2.0, 1.0),
        projection=ProjectionConfig(8, 4),
        model=ModelConfig("lstm", width=8, layers=1, mlp=1),
        ppo=LifetimePPOConfig(epochs=2, minibatches=3),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=0, ema=0.5),
        validation=LifetimeValidationConfig(every=2, lifetimes=2),
        lifetimes=6,
        steps=60,
        updates=4,
        checkpoint_every=2,
        seed=5,
    )


@pytest.fixture(scope="module")
def learner(config):
    return make_learner(config)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of an uninterrupted run."""
    return rl2_train(config, tmp_path_factory.mktemp("rl2") / "whole", progress=False)


def state_of(folder, learner):
    return checkpoints.restore_latest(folder, jax.eval_shape(learner.begin))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# The agent that is trained is the agent that is tested


@pytest.fixture(scope="module")
def lived(whole, learner):
    """Lifetimes 6 to 11 of training, lived by the weights of the end of it."""
    params = state_of(whole, learner).acting
    live = jax.jit(lambda params: learner.live(params, "train", jnp.int32(6), (4, 2)))
    return live(params)


@pytest.mark.parametrize("number", [0, 1])
def test_lifetimes_of_training_are_those_of_a_meta_test(number, whole, lived, config):
    """The loaded agent meets the same tasks in the same way and does the same there."""
    first, count = ((6, 4), (10, 2))[number]
    test = MetaTestConfig(
        ENVIRONMENTS[number], count, config.steps, seed=config.seed, first=first, split="train"
    )
    agent = load_agent(str(whole))
    assert isinstance(agent, GLAAgent)
    assert agent.view == View(config.projection)
    world = make_world(test)
    lens = make_lens(world, agent.view, test)
    trace = run_agent(agent, world, test, lens)
    reward = normalize_reward(lens.statistics, jnp.asarray(trace.reward)).T
    ours = lived.reward[:4] if number == 0 else lived.reward[4:]
    assert trace.done.any()  # an end was passed
    np.testing.assert_allclose(ours, reward, rtol=1e-3, atol=1e-3)


def test_the_same_tokens_give_the_same_outputs(whole, lived, learner):
    """From step to step as the agent acts, and over whole lifetimes as it is trained."""
    agent = load_agent(str(whole))
    outputs, _ = agent.model.apply(agent.params, lived.tokens)
    trained, _ = learner.model.apply(state_of(whole, learner).acting, lived.tokens)
    np.testing.assert_allclose(outputs, trained[..., :-1], atol=1e-6)
    np.testing.assert_allclose(lived.value, trained[..., -1], atol=1e-4)
    mean = outputs[..., :4]
    noise = (lived.action - mean) / jnp.exp(-1.0 + 2.0 * jnp.tanh(outputs[..., 4:]))
    assert 0.9 < float(noise.std()) < 1.1 and abs(float(noise.mean())) < 0.1


def test_tokens_hold_what_the_step_before_brought(lived, config):
    n, m = config.projection.observation_dim, config.projection.action_dim
    tokens = np.asarray(lived.tokens)
    assert not tokens[:, 0, n:].any()
    np.testing.assert_array_equal(tokens[:, 1:, n : n + m], lived.action[:, :-1])
    np.testing.assert_array_equal(tokens[:, 1:, n + m], lived.reward[:, :-1])
    assert not tokens[..., n + m + 1].any()  # these tasks never terminate
    truncated = np.zeros(config.steps)
    truncated[50] = 1.0
    np.testing.assert_array_equal(tokens[..., n + m + 2], np.tile(truncated, (6, 1)))


def test_tasks_differ_between_lifetimes_updates_and_splits(learner, config):
    view, env = View(config.projection), learner.envs[0]

    @functools.partial(jax.jit, static_argnums=0)
    def drawn(split, first):
        tasks = draw_tasks(env, view, split, config.seed, first + jnp.arange(3))
        return tasks.params.goal, tasks.projection.observation_map

    groups = [drawn("train", 0), drawn("train", 3), drawn("validation", 0)]
    for part in (np.concatenate(column) for column in zip(*groups, strict=True)):
        assert len({row.tobytes() for row in part}) == 9


# The return of a lifetime


def lesson_of(reward, value, counts, **settings):
    nothing = jnp.zeros_like(jnp.asarray(reward))
    lifetimes = Lifetimes(nothing[..., None], nothing, nothing, jnp.asarray(value), reward)
    return make_lesson(lifetimes, LifetimePPOConfig(**settings), counts)


def test_returns_run_on_to_the_end_of_the_lifetime():
    """Lambda 1: the target is the discounted sum of all later rewards, episodes or not."""
    rng = np.random.default_rng(0)
    reward, value = (rng.normal(size=(3, 7)).astype(np.float32) for _ in range(2))
    gamma, sums = 0.8, np.zeros((3, 8))
    for t in reversed(range(7)):
        sums[:, t] = reward[:, t] * (1 - gamma) + gamma * sums[:, t + 1]
    lesson = lesson_of(reward, value, (3,), gamma=gamma, gae_lambda=1.0)
    np.testing.assert_allclose(lesson.target, sums[:, :-1], rtol=1e-4, atol=1e-5)
    advantage = sums[:, :-1] - value
    advantage = (advantage - advantage.mean()) / advantage.std()
    np.testing.assert_allclose(lesson.advantage, advantage, rtol=1e-3, atol=1e-4)


def test_no_environment_drowns_another():
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(5, 9)).astype(np.float32) * np.array([[1, 1, 1, 100, 100]]).T
    advantage = np.asarray(lesson_of(reward, np.zeros((5, 9)), (3, 2)).advantage)
    for part in (advantage[:3], advantage[3:]):
        assert abs(part.mean()) < 1e-5 and part.std() == pytest.approx(1.0, rel=1e-3)


def test_an_undiscounted_return_is_the_mean_reward():
    lesson = lesson_of(jnp.ones((2, 5)), jnp.zeros((2, 5)), (2,), gamma=1.0, gae_lambda=1.0)
    np.testing.assert_allclose(lesson.target[:, 0], 1.0, rtol=1e-6)


@pytest.fixture(scope="module")
def first(learner, config):
    """Weights before training, and what their first lifetimes teach."""
    params = learner.begin().params
    lived = jax.jit(lambda p: learner.live(p, "train", jnp.int32(0), config.counts))(params)
    return params, make_lesson(lived, config.ppo, config.counts)


@pytest.fixture(scope="module")
def evaluate(learner, config):
    """Loss and gradient of the policy's part alone."""
    settings = dataclasses.replace(config.ppo, value_coefficient=0.0, entropy_coefficient=0.0)

    def loss(params, lesson):
        return ppo_loss(params, lesson, learner.model, learner.interface, settings)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_the_policy_that_acted_is_its_own_reference(first, evaluate):
    """Before the first gradient step all ratios are 1; a step downhill makes them differ."""
    params, lesson = first
    (loss, terms), grads = evaluate(params, lesson)
    assert abs(float(terms["policy"])) < 1e-4 and abs(float(terms["kl"])) < 1e-6
    assert float(terms["clipped"]) == 0.0
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g, params, grads)
    (after, terms), _ = evaluate(moved, lesson)
    assert float(after) < float(loss) and float(terms["kl"]) > 1e-6


def test_the_entropy_bonus_moves_in_a_straight_line(first, learner, config):
    params, lesson = first
    settings = dataclasses.replace(config.ppo, entropy_coefficient=0.4, entropy_final=0.2)

    @jax.jit
    def terms(progress):
        found = ppo_loss(params, lesson, learner.model, learner.interface, settings, progress)
        return found[1]

    for progress, weight in ((0.0, 0.4), (0.5, 0.3), (1.0, 0.2)):
        found = {name: float(x) for name, x in terms(progress).items()}
        rest = found["policy"] + settings.value_coefficient * found["value"]
        assert rest - found["loss"] == pytest.approx(weight * found["entropy"], rel=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_ratio_is_clipped(first, evaluate, sign):
    """Where the policy has moved out of the range for the better, nothing pulls it further."""
    params, lesson = first
    lived = lesson.lifetimes

    def size_of_gradient(change):
        """Of a policy whose actions are exp(change) times as likely as they were."""
        moved = lived._replace(log_prob=lived.log_prob - change)
        same = sign * jnp.ones_like(lesson.advantage)
        _, grads = evaluate(params, lesson._replace(lifetimes=moved, advantage=same))
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))

    assert size_of_gradient(0.5 * sign) == 0.0
    assert size_of_gradient(-0.5 * sign) > 0.0


def test_a_step_that_is_not_finite_changes_no_weights(first, learner, config):
    _, lesson = first
    lesson = lesson._replace(advantage=lesson.advantage.at[0, 0].set(jnp.nan))
    take = jax.jit(
        lambda state: learn(
            state, lesson, jax.random.key(0), learner.model, learner.interface, config
        )
    )
    after, metrics = take(learner.begin())
    assert int(metrics.taken) == 4 and int(after.watch.skipped) == 2  # of 2 epochs x 3 minibatches
    assert int(after.step) == 1
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after.params))
    assert np.isfinite(float(metrics.terms["loss"]))


# The folder


def test_a_run_that_is_killed_goes_on_bit_for_bit(whole, config, learner, tmp_path, monkeypatch):
    folder, told = tmp_path / "killed", []
    note = rl2._note

    def dies(values):
        told.append(values)
        if len(told) == 3:
            raise RuntimeError("killed")
        return note(values)

    monkeypatch.setattr(rl2, "_note", dies)
    with pytest.raises(RuntimeError, match="killed"):
        rl2_train(config, folder, progress=False)
    assert checkpoints.steps_of(folder) == [2]
    monkeypatch.undo()
    rl2_train(config, folder, progress=False)
    assert_same(state_of(folder, learner), state_of(whole, learner))
    assert lines(folder) == lines(whole)
    assert_same(*(load_trained(f, "best").params for f in (folder, whole)))


def test_the_folder_describes_itself(whole, config):
    details, sources = describe_agent(str(whole))
    assert sources == ENVIRONMENTS and details["step"] == config.updates
    assert details["training"] == json.loads(json.dumps(dataclasses.asdict(config)))
    updates = [line for line in lines(whole) if "loss" in line]
    assert [line["step"] for line in updates] == [1, 2, 3, 4]
    assert len(updates[0]["by_segment"]) == rl2.SEGMENTS
    for name in ("RandomLinear-v0/late", "RandomNeural-v0/gain", "entropy", "kl"):
        assert np.isfinite(updates[-1][name])
    found = {
        line["step"]: line["validation"]["score"] for line in lines(whole) if "loss" not in line
    }
    assert sorted(found) == [2, 4]
    assert checkpoints.latest_step(whole, "best") == max(found, key=found.get)


def test_the_average_of_the_weights_acts_and_has_no_value(whole, learner):
    state, trained = state_of(whole, learner), load_trained(whole)
    head, ours = state.ema["params"]["head"], trained.params["params"]["head"]
    assert ours["kernel"].shape[-1] == trained.interface.outputs == head["kernel"].shape[-1] - 1
    np.testing.assert_array_equal(ours["kernel"], head["kernel"][:, :-1])
    np.testing.assert_array_equal(ours["bias"], head["bias"][:-1])
    assert_same(trained.params["params"]["embed"], state.ema["params"]["embed"])
    assert trained.config.model == learner.config.model


def test_a_folder_with_other_settings_is_refused(whole, config):
    other = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, gamma=0.5))
    with pytest.raises(GlaError, match="gamma is 0.9 there and 0.5 here"):
        rl2_train(other, whole, progress=False)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"lifetimes": 0}, "lifetimes is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"updates": 0}, "updates is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"updates": 2**30}, "more tasks than have numbers"),
        ({"lifetimes": 5}, "minibatches=4 does not divide the 5 lifetimes"),
        ({"weights": (1.0,)}, "1 weights for 0 environments"),
        ({"environments": ENVIRONMENTS, "weights": (1.0, 0.0)}, "numbers above 0"),
        ({"environments": ENVIRONMENTS[:1] * 2}, "each at most once"),
        (
            {"environments": ENVIRONMENTS, "lifetimes": 1, "ppo": LifetimePPOConfig(minibatches=1)},
            "1 lifetimes cannot be shared by 2 environments",
        ),
    ],
)
def test_a_config_out_of_range_is_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        RL2Config(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0}, {"minibatches": 0}, {"gamma": 1.1}, {"gae_lambda": -0.1}, {"clip": 0.0},
        {"entropy_coefficient": -1.0}, {"entropy_final": -1.0}, {"value_coefficient": float("nan")},
    ],
)  # fmt: skip
def test_ppo_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match=next(iter(settings))):
        LifetimePPOConfig(**settings)


@pytest.mark.parametrize("settings", [{"every": -1}, {"lifetimes": 0}, {"patience": 2}])
def test_a_validation_out_of_range_is_refused(settings):
    with pytest.raises(GlaError, match="validation"):
        LifetimeValidationConfig(**settings)


@pytest.mark.parametrize(
    "environments, words",
    [
        ((), "given no environments"),
        (("gla/RandomLineal-v0",), "RandomLinear"),
        (("gla/HalfCheetah-v0",), "a host simulator"),
        (("gla/RandomLinear-Projected-v0",), "already projected"),
        (("gla/RandomLinear-v0", "gla/CartPole-v0"), "mix continuous and discrete"),
        (("gla/BernoulliBandit-v0",), "raise action_dim to at least 10"),
    ],
)
def test_environments_that_do_not_suit_are_refused(environments, words, tmp_path):
    with pytest.raises(GlaError, match=words):
        rl2_train(RL2Config(environments=environments), tmp_path / "c", progress=False)
    assert not (tmp_path / "c").exists()


# Learning


def test_it_learns_to_learn_a_two_armed_bandit():
    """Arms pay nearly always or nearly never: which is the better one, only a lifetime can show."""
    config = RL2Config(
        environments=("gla/BernoulliBandit-v0",),
        projection=ProjectionConfig(1, 2),
        model=ModelConfig("lstm", width=16, layers=1, mlp=1),
        ppo=LifetimePPOConfig(epochs=4, minibatches=1, gamma=0.8, entropy_coefficient=0.01),
        optimizer=OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup=0),
        lifetimes=128,
        steps=12,
        updates=40,
    )
    # Episodes of four pulls: what is learned is carried over their ends.
    bandit = BernoulliBandit(BernoulliBanditConfig(arms=2, horizon=4, prior=(0.1, 0.1)))
    interface = make_interface(config, [bandit])
    model = make_recurrent(config, interface)
    learner = Learner(config, (bandit,), ("bandit",), interface, model)
    update = jax.jit(learner.update, donate_argnums=0)
    state = jax.jit(learner.begin)()
    for _ in range(config.updates):
        state, _ = update(state, None)

    tasks = draw_tasks(bandit, View(config.projection), "test", 0, jnp.arange(256))
    lived = jax.jit(lambda p: live(p, model, interface, (bandit,), [tasks], config.steps))(
        state.params
    )
    arms = jnp.take_along_axis(tasks.projection.slots, lived.action, 1)
    paid = jnp.take_along_axis(tasks.params.means, arms, 1)
    best, worst = (pick(tasks.params.means, axis=1) for pick in (jnp.max, jnp.min))
    unlike = np.asarray(best - worst > 0.5)
    right = np.asarray(paid == best[:, None])[unlike].mean(0)
    # Only chance is right at first. A third of the tasks are unlike.
    assert unlike.sum() > 60 and 0.3 < right[0] < 0.7
    assert right[-4:].mean() > 0.85
