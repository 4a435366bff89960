"""The bridge: classifiers act on rewards, and agents of bandits classify."""

from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gla import datasets
from gla import projection as proj
from gla.agents.base import Agent, View
from gla.agents.gla import GLAAgent
from gla.agents.gpicl import AgentLearner, GPICLAgent, label_scores, load
from gla.benchmarks.runner import MetaTestConfig, make_lens, make_world, run_agent
from gla.errors import GlaError
from gla.gpicl.config import DataConfig, GPICLConfig, LearnerConfig
from gla.gpicl.evaluate import evaluate
from gla.gpicl.learners import Learner
from gla.gpicl.tasks import TaskConfig, to_device
from gla.gpicl.training import gpicl_train, load_learner
from gla.models import ModelConfig, make_model
from gla.optimizers import OptimizerConfig
from gla.projection import ProjectionConfig
from gla.tokens import Interface

CONFIG = MetaTestConfig("gla/SupervisedBandit-v0", lifetimes=32, steps=300, seed=3)


# Learners that are made by hand


class Log(NamedTuple):
    """What a `Recorder` was shown: f32[B, 8, M] and i32[B, 8], and how much of it, i32[B]."""

    inputs: jax.Array
    told: jax.Array
    count: jax.Array


class Recorder:
    """Repeats the label that it was told last, guesses `first` before, and logs everything."""

    name, input_dim, classes = "recorder", 2, 4

    def __init__(self, first=1):
        self.first = first

    def initial_state(self, rows):
        shape = (rows, 8)
        return Log(
            jnp.zeros((*shape, self.input_dim)), jnp.full(shape, -9), jnp.zeros(rows, jnp.int32)
        )

    def step(self, params, input, told, state):
        row = jnp.arange(len(told))
        log = Log(
            state.inputs.at[row, state.count].set(input),
            state.told.at[row, state.count].set(told),
            state.count + 1,
        )
        return 100.0 * jax.nn.one_hot(jnp.where(told < 0, self.first, told), self.classes), log


class Known(NamedTuple):
    """Examples with labels, f32[B, K, M] and i32[B, K] (-1: none), and the last input f32[B, M]."""

    inputs: jax.Array
    labels: jax.Array
    count: jax.Array
    last: jax.Array


class Neighbours:
    """Scores classes by the nearest example of each."""

    name, input_dim, classes, room = "neighbours", 64, 10, 128

    def __init__(self, deaf=False):
        self.deaf = deaf

    def initial_state(self, rows):
        return Known(
            jnp.zeros((rows, self.room, self.input_dim)),
            jnp.full((rows, self.room), -1),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros((rows, self.input_dim)),
        )

    def step(self, params, input, told, state):
        told = jnp.full_like(told, -1) if self.deaf else told
        row = jnp.arange(len(told))
        inputs = state.inputs.at[row, state.count].set(state.last)
        labels = state.labels.at[row, state.count].set(told)
        count = jnp.minimum(state.count + (told >= 0), self.room - 1)
        distance = jnp.mean((inputs - input[:, None]) ** 2, -1)
        near = jnp.where(labels[..., None] == jnp.arange(self.classes), -distance[..., None], -1.0)
        return params * jnp.max(near, 1), Known(inputs, labels, count, input)


def box(size):
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def begin(agent, rows=1, actions=4):
    size = agent.learner.input_dim
    return agent.init(jax.random.key(0), rows, box(size), gymnasium.spaces.Discrete(actions))


def act(agent, state, step, reward, key=0, truncated=False):
    """Show example number `step` of every row after these rewards."""
    reward = jnp.asarray(reward, jnp.float32)
    ends = jnp.full(reward.shape, truncated)
    shown = jnp.stack([jnp.full(reward.shape, float(step)), jnp.arange(len(reward)) * 1.0], -1)
    keys = jax.random.split(jax.random.key(key), len(reward))
    return agent.act(state, shown, reward, ends, ends, keys)


# A classifier that acts


def test_a_right_answer_becomes_known_and_a_wrong_one_is_forgotten():
    agent = GPICLAgent((), Recorder(), balance=0.0, temperature=0.0)
    assert isinstance(agent, Agent) and agent.view is None
    state = begin(agent, rows=3)
    # Of three rows the first is always right, the second never, the third from its second answer.
    rewards = [(0, 0, 0), (1, 0, 0), (1, 0, 1), (1, 0, 0)]
    actions = []
    for step, reward in enumerate(rewards):
        state, action = act(agent, state, step, reward)
        actions.append(np.asarray(action).tolist())
    assert actions == [[1, 1, 1]] * 4 and action.dtype == jnp.int32
    log = state.pending
    np.testing.assert_array_equal(log.count, [4, 1, 2])
    np.testing.assert_array_equal(log.told[0, :4], [-1, 1, 1, 1])
    np.testing.assert_array_equal(log.inputs[0, :4, 0], [0, 1, 2, 3])
    # Nothing was learned: only the present example is there.
    np.testing.assert_array_equal(log.told[1, :1], [-1])
    np.testing.assert_array_equal(log.inputs[1, 0], [3, 1])
    # Example 0 was answered wrongly and is gone; 1 was right, 2 wrong, 3 is asked about.
    np.testing.assert_array_equal(log.told[2, :2], [-1, 1])
    np.testing.assert_array_equal(log.inputs[2, :2], [[1, 2], [3, 2]])
    np.testing.assert_array_equal(state.known.sum(-1), [3, 0, 1])


def test_the_label_is_the_answer_that_was_right():
    agent = GPICLAgent((), Recorder(first=2), balance=0.0, temperature=0.0)
    state, _ = act(agent, begin(agent), 0, [0])
    state, action = act(agent, state._replace(action=jnp.array([3])), 1, [1])
    assert action.tolist() == [3] and state.told.tolist() == [3]


def test_memory_outlives_episodes():
    agent = GPICLAgent((), Recorder(), balance=0.0, temperature=0.0)
    state, _ = act(agent, begin(agent), 0, [0])
    ended, _ = act(agent, state, 1, [1], truncated=True)
    went_on, _ = act(agent, state, 1, [1])
    jax.tree.map(np.testing.assert_array_equal, ended, went_on)
    assert ended.known.tolist() == [[0, 1, 0, 0]]


def test_it_is_shown_no_longer_sequence_than_in_meta_training():
    agent = GPICLAgent((), Recorder(), length=3, balance=0.0, temperature=0.0)
    state = begin(agent)
    for step in range(6):
        state, _ = act(agent, state, step, [float(step > 0)])
    assert state.known.sum() == 2
    # The last of three places is that of the example that is asked about.
    assert state.pending.count.tolist() == [3]
    assert state.pending.inputs[0, :3, 0].tolist() == [0, 1, 5]


def test_answers_are_drawn_from_the_softmax_of_the_scores():
    rows = 4000

    class Even(Recorder):
        def step(self, params, input, told, state):
            scores, state = super().step(params, input, told, state)
            return scores / 100.0, state

    agent = GPICLAgent((), Even(), length=10, balance=0.5, temperature=0.5)
    fresh = begin(agent, rows)
    # Scores 0 1 0 0; of the first class three examples are known, of the last one.
    for known, lowered in (([0, 0, 0, 0], [1, 1, 1, 1]), ([3, 0, 0, 1], [4, 1, 1, 2])):
        state = fresh._replace(known=jnp.tile(jnp.array(known), (rows, 1)))
        _, action = act(agent, state, 0, np.zeros(rows))
        expected = np.exp(2.0 * np.array([0, 1, 0, 0])) / np.array(lowered)  # 0.5 / 0.5 = 1
        share = np.bincount(action, minlength=4) / rows
        np.testing.assert_allclose(share, expected / expected.sum(), atol=0.03)
    # Nothing fits in any more: the best answer, whatever is known of its class.
    full = fresh._replace(known=jnp.tile(jnp.array([0, 9, 0, 0]), (rows, 1)))
    _, action = act(agent, full, 0, np.zeros(rows))
    assert set(np.asarray(action)) == {1}
    # Without chance it is the best of the lowered scores.
    agent = GPICLAgent((), Even(), length=10, balance=0.8, temperature=0.0)
    state = fresh._replace(known=jnp.tile(jnp.array([1, 3, 0, 1]), (rows, 1)))
    _, action = act(agent, state, 0, np.zeros(rows))
    assert set(np.asarray(action)) == {2}


def test_only_actions_that_there_are_are_chosen():
    rows = 500
    for temperature in (0.0, 1.0):
        agent = GPICLAgent((), Recorder(first=3), temperature=temperature)
        _, action = act(agent, begin(agent, rows, actions=2), 0, np.zeros(rows))
        assert set(np.asarray(action)) <= {0, 1}, "class 3 would be the best"


class Forgetful(GPICLAgent):
    """Answers every example like its first."""

    def act(self, state, observation, reward, terminated, truncated, keys):
        begun, action = super().act(
            state, observation, jnp.zeros_like(reward), terminated, truncated, keys
        )
        return state, action


@pytest.fixture(scope="module")
def world():
    return make_world(CONFIG)


def test_it_learns_from_rewards_alone_and_its_masked_twin_does_not(world):
    agent = GPICLAgent(jnp.float32(6.0), Neighbours())
    found = run_agent(agent, world, CONFIG).reward
    assert found.shape == (CONFIG.steps, CONFIG.lifetimes)
    # The nearest of a few examples tells digits apart, and six in ten are known in the end.
    assert found[:50].mean() < 0.3 and found[-50:].mean() > 0.45
    masked = run_agent(agent, world, CONFIG, masked=True).reward
    # 9,600 guesses among ten: a standard error of 0.003.
    assert masked.mean() == pytest.approx(0.1, abs=0.015)
    forgetful = Forgetful(jnp.float32(6.0), Neighbours())
    np.testing.assert_array_equal(masked, run_agent(forgetful, world, CONFIG).reward)


@pytest.mark.parametrize(
    ("observations", "actions", "message"),
    [
        (3, gymnasium.spaces.Discrete(4), "inputs of 2 numbers"),
        (2, gymnasium.spaces.Discrete(5), "4 classes and this environment has 5 actions"),
        (2, gymnasium.spaces.Box(-1, 1, (2,)), "actions are continuous"),
    ],
)
def test_environments_that_do_not_fit_are_refused(observations, actions, message):
    agent = GPICLAgent((), Recorder())
    with pytest.raises(GlaError, match=message):
        agent.init(None, 1, box(observations), actions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": object()}, "cannot act"),
        ({"length": 1}, "length is 1"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"balance": -0.1}, "balance is -0.1"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(GlaError, match=message):
        GPICLAgent(**({"params": (), "learner": Recorder()} | settings))


def test_a_folder_of_meta_training_acts(tmp_path):
    model = ModelConfig(width=8, layers=1, heads=2, mlp=1, window=8)
    config = GPICLConfig(
        DataConfig(("digits",)),
        TaskConfig(length=8),
        LearnerConfig(model=model),
        OptimizerConfig("sgd"),
        batch_size=2, steps=1, steps_per_dispatch=1, checkpoint_every=1,
    )  # fmt: skip
    path = gpicl_train(config, tmp_path / "learner", progress=False)
    agent = load(path, name="mine", balance=0.0, temperature=0.0)
    assert (agent.name, agent.length, agent.temperature) == ("mine", 8, 0.0)
    learner, params = load_learner(path)[1:]
    state = begin(agent, rows=5, actions=10)
    inputs = jax.random.normal(jax.random.key(1), (2, 5, 64))
    none = jnp.zeros(5, bool)
    state, first = agent.act(
        state, inputs[0], jnp.zeros(5), none, none, jax.random.split(jax.random.key(0), 5)
    )
    _, second = agent.act(
        state, inputs[1], jnp.ones(5), none, none, jax.random.split(jax.random.key(0), 5)
    )
    told = jnp.stack([first, second], 1)
    scores = learner.guess(params, jnp.swapaxes(inputs, 0, 1), told)
    np.testing.assert_array_equal(told, jnp.argmax(scores, -1))


# An agent that classifies

TASK = TaskConfig(length=12, input_dim=64)


def bandit_agent(scale=1.0, slots=13, conditions=(), kind=GLAAgent, **settings):
    """Return an agent with random weights, whose logits are stretched."""
    interface = Interface(70, slots, discrete=True, conditions=conditions)
    model = ModelConfig(width=16, layers=2, heads=2, mlp=2, window=6)
    params = make_model(model, interface.token_size, interface.outputs).init(jax.random.key(0))
    head = params["params"]["head"]
    params["params"]["head"] = jax.tree.map(lambda x: 100.0 * scale * x, head)
    view = View(ProjectionConfig(70, slots))
    return kind(params, model, interface, view, "bandit agent", **settings)


@pytest.fixture(scope="module")
def sequences():
    """Inputs f32[4, 12, 64] and labels i32[4, 12], some of them unknown."""
    keys = jax.random.split(jax.random.key(7), 3)
    told = jax.random.randint(keys[1], (4, 12), 0, 10)
    told = jnp.where(jax.random.uniform(keys[2], told.shape) < 0.2, -1, told)
    return 2.0 * jax.random.normal(keys[0], (4, 12, 64)) + 0.5, told


def test_slots_of_a_label_add_up():
    slots = jnp.array([[0, 1, 2, 1], [2, 2, 0, 2]])
    logits = jnp.log(jnp.array([[[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]] * 2))
    found = np.exp(label_scores(slots, logits, 4))
    expected = [
        [[0.1, 0.6, 0.3, 0.0], [0.4, 0.4, 0.2, 0.0]],
        [[0.3, 0.0, 0.7, 0.0], [0.2, 0.0, 0.8, 0.0]],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


class Spy(GLAAgent):
    """Keeps what it is shown."""

    def tokens(self, *parts):
        self.parts = parts
        return super().tokens(*parts)


def guess(learner, inputs, told, positions=None):
    return jax.jit(learner.guess, static_argnums=3)(learner.init(), inputs, told, positions)


def watch(learner, inputs, told):
    """Return the guesses, what the agent was shown, and the projections."""

    def run(params):
        return learner.guess(params, inputs, told), learner.agent.parts, learner.projections(told)

    found, parts, (projection, _) = jax.jit(run)(learner.init())
    return found, [np.asarray(part) for part in parts], projection


def test_labels_are_shown_as_answers_that_were_paid_for(sequences):
    inputs, told = sequences
    learner = AgentLearner(bandit_agent(kind=Spy), seed=5)
    _, shown, projection = watch(learner, inputs, told)
    observation, action, reward, terminated, truncated, position = shown
    assert observation.shape == (4, 12, 70) and not terminated.any() and not truncated.any()
    np.testing.assert_array_equal(position, np.tile(np.arange(12), (4, 1)))
    assert not action[:, 0].any() and not reward[:, 0].any(), "nothing was done before"
    for row in range(4):
        for t in range(1, 12):
            label = int(told[row, t - 1])
            if label < 0:
                assert not action[row, t].any() and reward[row, t] == 0
                continue
            assert action[row, t].sum() == 1 and reward[row, t] == pytest.approx(10 / 3)
            assert projection.slots[row, action[row, t].argmax()] == label
    # Every row has a projection of its own.
    assert len(np.unique(projection.slots, axis=0)) == 4
    assert len({float(x) for x in projection.observation_map[:, 0, 0]}) == 4


def test_inputs_are_normalised_by_those_up_to_themselves(sequences):
    inputs = np.asarray(sequences[0])
    _, (seen, *_), projection = watch(AgentLearner(bandit_agent(kind=Spy), prior=2.0), *sequences)
    for t in (0, 5):
        # Two imagined inputs of mean 0 and square 1 count like those that were seen.
        mean = inputs[:, : t + 1].sum(1) / (t + 3)
        square = (2.0 + (inputs[:, : t + 1] ** 2).sum(1)) / (t + 3)
        shown = (inputs[:, t] - mean) / np.sqrt(square - mean**2)
        shown = jax.vmap(proj.project_observation)(projection, jnp.asarray(shown))
        np.testing.assert_allclose(seen[:, t], shown, rtol=1e-3, atol=1e-4)


def test_a_right_answer_pays_what_the_window_before_a_lifetime_gives(world):
    learner = AgentLearner(bandit_agent())
    scale = make_lens(world, learner.agent.view, CONFIG).statistics.reward_scale
    assert float(learner.paid) == pytest.approx(1 / float(jnp.mean(scale)), rel=0.1)


def test_guesses_are_those_of_the_agent_step_by_step(sequences):
    inputs, told = sequences
    # Steep, so that what the agent draws is what it finds most likely.
    settings = {"scale": 1e4, "conditions": ("gap", "position"), "ask": {"gap": 8.0}}
    agent, spy = (bandit_agent(kind=kind, **settings) for kind in (GLAAgent, Spy))
    learner = AgentLearner(spy)
    guesses, (observation, shown, reward, *_), projection = watch(learner, inputs, told)
    assert isinstance(learner, Learner) and guesses.shape == (4, 12, 10)
    state = agent.init(None, 4, box(70), gymnasium.spaces.Discrete(13))
    going = jnp.zeros(4, bool)
    step = jax.jit(agent.act)
    for t in range(12):
        state = state._replace(previous_action=jnp.asarray(shown[:, t]))
        state, slot = step(
            state,
            observation[:, t],
            reward[:, t],
            going,
            going,
            jax.random.split(jax.random.key(t), 4),
        )
        answer = jax.vmap(proj.lower_action)(projection, slot)
        np.testing.assert_array_equal(answer, jnp.argmax(guesses[:, t], -1), err_msg=str(t))
    assert len(np.unique(jnp.argmax(guesses, -1))) > 3, "the agent tells examples apart"
    few = guess(learner, inputs, told, (2, 11))
    np.testing.assert_allclose(few, guesses[:, jnp.array([2, 11])], rtol=1e-5)


def test_guesses_do_not_look_ahead(sequences):
    inputs, told = sequences
    learner = AgentLearner(bandit_agent())
    before = guess(learner, inputs, told)
    others = told.at[:, 5:].set((told[:, 5:] + 1) % 10)
    changed = guess(learner, inputs.at[:, 6:].add(1.0), others)
    np.testing.assert_allclose(changed[:, :6], before[:, :6], rtol=1e-5)
    assert np.abs(changed[:, 6:] - before[:, 6:]).max() > 1e-2
    relabelled = guess(learner, inputs, told.at[:, 3].set(4))
    assert np.abs(relabelled[:, 4] - before[:, 4]).max() > 1e-3


def test_it_stands_on_the_table_of_learners():
    learner = AgentLearner(bandit_agent(), name="mine")
    examples = to_device(datasets.load("digits", "test"), TASK)
    score = evaluate(learner, learner.init(), examples, TASK, sequences=64, batch=32)
    assert score.accuracy.shape == (12,) and learner.name == "mine"
    assert 0.02 < score.accuracy.mean() < 0.25, "random weights guess"
    assert learner.parameter_count == sum(x.size for x in jax.tree.leaves(learner.init()))
    assert learner.state_size > learner.agent.model.state_size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_dim": 71}, "more than the projection's 70"),
        ({"classes": 14}, "more than the projection's 13"),
        ({"classes": 1}, "classes 1"),
        ({"prior": 0.0}, "prior is 0"),
    ],
)
def test_supervised_tasks_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(GlaError, match=message):
        AgentLearner(bandit_agent(), **settings)


def test_agents_of_continuous_actions_name_no_classes():
    interface = Interface(70, 13)
    agent = GLAAgent((), ModelConfig(), interface, View(ProjectionConfig(70, 13)))
    with pytest.raises(GlaError, match="continuous actions"):
        AgentLearner(agent)
