"""Evolution of a tabular agent: what is measured, what is estimated, and that it can be resumed."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gla
from gla import checkpoints, pretrained
from gla.agents import evolution
from gla.agents.evolution import centred, estimate, evolve, make_evolution, ranks, vary
from gla.agents.evolution_lifetimes import Tasks, episode_returns, judge
from gla.agents.tabular import TabularAgent
from gla.benchmarks.metatest import describe_agent
from gla.benchmarks.runner import run_agent
from gla.benchmarks.worlds import MetaTestConfig, make_world
from gla.errors import GlaError
from gla.optimizers import OptimizerConfig
from gla.tabular.config import EvolutionConfig, EvolutionValidationConfig
from gla.tabular.rule import initial_rule, optimistic_rule, wary_rule
from gla.tabular.tables import TablesConfig
from gla.tabular.trained import first_state, load_rule

SMALL = "gla/RandomTabular-v0?states=4&actions=2&successors=1&reward_share=0.2&horizon=8"


@pytest.fixture(scope="module")
def config():
    return EvolutionConfig(
        environments=(SMALL,),
        tables=TablesConfig(8, 2),
        pairs=8,
        tasks=4,
        noise=0.2,
        steps=64,
        generations=6,
        optimizer=OptimizerConfig(
            learning_rate=0.2, warmup=1, weight_decay=0.0, max_grad_norm=0.0, ema=0.5
        ),
        validation=EvolutionValidationConfig(every=3, lifetimes=32),
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The folder of an uninterrupted run."""
    return evolve(config, tmp_path_factory.mktemp("evolved") / "whole", progress=False)


def state_of(folder, config):
    return checkpoints.restore_latest(folder, jax.eval_shape(lambda: first_state(config)))


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# What is measured


def test_every_step_has_the_return_of_its_episode():
    reward = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    ended = jnp.array([False, True, True, False, True, False])
    returns, finished = episode_returns(reward, ended)
    np.testing.assert_array_equal(returns[:5], [3, 3, 4, 24, 24])
    np.testing.assert_array_equal(finished, [True] * 5 + [False])


def test_fitness_lies_between_uniform_and_best():
    """Ten steps in episodes of two; the last is unfinished and counts for nothing."""
    reward = jnp.array([[0.0, 1, 0, 1, 2, 1, 2, 1, 2, 9]])
    ended = jnp.array([[False, True] * 4 + [True, False]])
    tasks = Tasks(None, None, jnp.array([1.0]), jnp.array([3.0]))  # type: ignore[arg-type]
    found = judge(reward, ended, tasks, 2)
    np.testing.assert_allclose(found.life, (0 * 4 + 1 * 4 + 0.5) / 9, rtol=1e-6)
    np.testing.assert_allclose(found.late, 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.by_segment[0], [1 / 5, 3.5 / 4], rtol=1e-6)


def test_ranks_are_even_and_equals_share_theirs():
    found = ranks(jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 0.0]]))
    np.testing.assert_allclose(found[:, 0], [0.5, -0.5, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-6)


def test_tasks_on_which_all_do_equally_well_count_for_nothing_in_scores():
    fitness = jnp.array([[0.25, 0.99], [0.5, 1.0], [0.75, 1.01]])
    np.testing.assert_allclose(centred(fitness), fitness - np.array([0.5, 1.0]), atol=1e-6)
    np.testing.assert_allclose(ranks(fitness)[:, 0], ranks(fitness)[:, 1], atol=1e-6)


def test_the_estimate_points_along_the_gradient():
    """Of a function that is linear in every number of the rule."""
    rule = initial_rule(jax.random.key(0))
    rules, numbers = vary(jax.random.key(1), rule, 6000, 0.1)
    middle = jax.tree.map(lambda leaf: (leaf[:6000] + leaf[6000:]) / 2, rules)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[None] + 0 * a, atol=1e-5), middle, rule
    )
    fitness = 3.0 * rules.weight[:, 2] - 2.0 * rules.fall[:, 1]
    found = estimate(fitness, numbers, 0.1)
    expected = jax.tree.map(jnp.zeros_like, rule)
    expected = expected._replace(
        weight=expected.weight.at[2].set(3.0), fall=expected.fall.at[1].set(-2.0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.3), found, expected)


# The agent that is trained is the agent that is tested


def test_lifetimes_of_training_are_those_of_a_meta_test(whole, config):
    made, found = make_evolution(config), load_rule(whole)
    env = made.envs[0]

    def lived(rule):
        tasks = evolution.draw_tasks(env, "train", config.seed, jnp.arange(5, 9))
        rules = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 4, 0), rule)
        return evolution.live(rules, env, tasks, config.tables, config.sweeps, config.steps)[0]

    test = MetaTestConfig(SMALL, 4, config.steps, seed=config.seed, first=5, split="train")
    agent = gla.load(str(whole))
    assert isinstance(agent, TabularAgent) and agent.config == config.tables
    trace = run_agent(agent, make_world(test), test, None)
    np.testing.assert_allclose(jax.jit(lived)(found.params), trace.reward.T, rtol=1e-6)
    assert trace.done.any() and trace.reward.any()


# The folder


def test_it_gets_better_than_where_it_began(whole, config):
    scores = [line["validation"]["score"] for line in lines(whole) if "validation" in line]
    made = make_evolution(config)
    before = float(jax.jit(made.validate)(first_state(config).params)["score"])
    assert before > 0.0, "better than uniform actions from the start"
    assert max(scores) > before + 0.05


def test_evolution_begins_from_the_rule_that_was_asked_for(config):
    for start, rule in (("optimistic", optimistic_rule()), ("wary", wary_rule())):
        assert_same(first_state(dataclasses.replace(config, start=start)).params, rule)
    key = jax.random.fold_in(jax.random.key(config.seed), 0)
    assert_same(first_state(config).params, initial_rule(key))


def test_the_shaping_that_was_asked_for_weighs_the_variations(config):
    optimizer = dataclasses.replace(config.optimizer, warmup=0)

    def moved(shaping):
        other = dataclasses.replace(config, shaping=shaping, optimizer=optimizer)
        first, made = first_state(other), make_evolution(other)
        state, _ = jax.jit(lambda state: made.generation(state, None))(first)
        return np.sign(state.params.w1 - first.params.w1)

    ranked, scored = moved("rank"), moved("score")
    assert ranked.any() and scored.any() and (ranked != scored).any()


def test_a_run_that_is_killed_goes_on_bit_for_bit(whole, config, tmp_path, monkeypatch):
    folder, told = tmp_path / "killed", []
    note = evolution._note

    def dies(values):
        told.append(values)
        if len(told) == 4:
            raise RuntimeError("killed")
        return note(values)

    monkeypatch.setattr(evolution, "_note", dies)
    with pytest.raises(RuntimeError, match="killed"):
        evolve(config, folder, progress=False)
    assert checkpoints.steps_of(folder)[0] == 2
    monkeypatch.undo()
    evolve(config, folder, progress=False)
    assert_same(state_of(folder, config), state_of(whole, config))
    assert lines(folder) == lines(whole)
    assert_same(load_rule(folder, "best").params, load_rule(whole, "best").params)


def test_the_folder_describes_itself(whole, config):
    details, sources = describe_agent(str(whole))
    assert sources == (SMALL,) and details["step"] == config.generations
    assert details["training"] == json.loads(json.dumps(dataclasses.asdict(config)))
    generations = [line for line in lines(whole) if "loss" in line]
    assert [line["step"] for line in generations] == [1, 2, 3, 4, 5, 6]
    assert len(generations[0]["by_segment"]) == evolution.SEGMENTS
    assert_same(load_rule(whole).params, state_of(whole, config).ema)


def test_it_is_exported_small(whole, tmp_path):
    small = pretrained.export(whole, tmp_path / "small", "best")
    assert (small / "weights.npz").stat().st_size < 10_000
    ours, theirs = load_rule(whole, "best"), load_rule(small)
    assert theirs.config == ours.config and theirs.sources == (SMALL,)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-11, atol=1e-6),
        theirs.params,
        ours.params,
    )
    with pytest.raises(GlaError, match="nothing to go on with"):
        evolve(ours.config, small, progress=False)


def test_a_folder_with_other_settings_is_refused(whole, config):
    with pytest.raises(GlaError, match="noise is 0.2 there and 0.3 here"):
        evolve(dataclasses.replace(config, noise=0.3), whole, progress=False)


def test_a_folder_that_does_not_fit_is_refused(whole, tmp_path):
    with pytest.raises(GlaError, match="holds no evolved rule"):
        load_rule(pretrained.find("systems"))
    other = shutil.copytree(whole, tmp_path / "other")
    content = json.loads((other / "config.json").read_text())
    content["training"]["unheard"] = 1
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(GlaError, match="lacks or adds settings"):
        load_rule(other)


# What is refused


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"generations": 0}, "generations is 0"),
        ({"noise": 0.0}, "noise is 0.0"),
        ({"late": 1.5}, "late is 1.5"),
        ({"start": "hopeful"}, "start is 'hopeful'; expected blank or optimistic or wary"),
        ({"shaping": "none"}, "shaping is 'none'; expected rank or score"),
        ({"seed": -1}, "seed is -1"),
        ({"generations": 2**20, "tasks": 2**12}, "more tasks than have numbers"),
        ({"environments": (SMALL, SMALL)}, "each at most once"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        EvolutionConfig(**settings)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"every": -1}, "every is -1"),
        ({"lifetimes": 0}, "lifetimes is 0"),
        ({"patience": 2}, "validation.every is 0"),
    ],
)
def test_impossible_validations_are_refused(settings, words):
    with pytest.raises(GlaError, match=words):
        EvolutionValidationConfig(**settings)


@pytest.mark.parametrize(
    "environments, words",
    [
        ((), "evolve was given no environments"),
        (("gla/RandomLinear-v0",), "is no tabular environment"),
        (("gla/RandomTabular-Projected-v0",), "is no tabular environment"),
        (("gla/NoSuch-v0",), "NoSuch"),
    ],
)
def test_environments_that_cannot_be_judged_are_refused(environments, words, tmp_path):
    with pytest.raises(GlaError, match=words) as raised:
        evolve(EvolutionConfig(environments=environments), tmp_path / "a", progress=False)
    assert "\n" not in str(raised.value) and not (tmp_path / "a").exists()
