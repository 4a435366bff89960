"""The bridge between supervised in-context learning (GPICL) and RL, in both directions.

A classifier that learns from labels in its context acts in a bandit whose reward says whether the
answer was right (`GPICLAgent`), and an agent that learned to learn from rewards is asked for labels
(`AgentLearner`). So either can be put on the tables of the other.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Protocol, runtime_checkable

import gymnasium
import jax
import jax.numpy as jnp

from gla import projection as proj
from gla.agents.base import View, each
from gla.agents.gla import GLAAgent
from gla.checkpoints import Which
from gla.envs.base import is_discrete
from gla.errors import GlaError
from gla.gpicl.learners import Learner, at
from gla.normalization import Statistics, normalize_observation, normalize_reward


@runtime_checkable
class Stepper(Protocol):
    """A learner that goes on from example to example, such as `gla.gpicl.sequence`'s.

    Attributes:
        name: for tables.
        input_dim: M, length of the inputs.
        classes: C, labels.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def input_dim(self) -> int: ...  # noqa: D102

    @property
    def classes(self) -> int: ...  # noqa: D102

    def initial_state(self, rows: int) -> Any:
        """Return the state of sequences that have not begun; every leaf has leading axis `rows`."""
        ...

    def step(
        self, params: Any, input: jax.Array, told: jax.Array, state: Any
    ) -> tuple[jax.Array, Any]:
        """Read one example f32[B, M] and the label before it i32[B] or -1; guess: f32[B, C]."""
        ...


class GPICLState(NamedTuple):
    """What acting needs. N lifetimes.

    Attributes:
        params: the learner's parameters, never changed.
        memory: of the learner, after the examples whose labels are known, the last one left out.
        pending: the memory after the example that was answered last.
        told: i32[N], the label of the last known example, -1 before the first.
        action: i32[N], the last answer, -1 before the first.
        known: i32[N, C], known examples of each class.
        actions: i32[], number of actions there are.
    """

    params: Any
    memory: Any
    pending: Any
    told: jax.Array
    action: jax.Array
    known: jax.Array
    actions: jax.Array


class GPICLAgent:
    """A learner that was meta-trained on labelled sequences, let loose on a bandit of its kind.

    The observation is an example, the action names its class, and the reward is 1 if that was right
    and 0 if not, as in `gla/SupervisedBandit-v0`. A right answer makes the label known. A wrong one
    leaves it unknown, and then the example is forgotten: memory only ever holds a sequence of
    labelled examples, which is what the learner was meta-trained on. For the same reason it holds
    no more of them than a sequence in meta-training did; the first ones are kept. Lifetimes go on
    over the ends of episodes.

    What is known is no fair sample: classes that were found first are answered, found right and
    known ever more, and the others are never tried. So while there is room, classes of which less
    is known are preferred, and answers are drawn at random; once memory is full, there is nothing
    to be gained by that, and the best answer is given.

    Rewards are shown as they are, without a `View`: the tasks project and scale by themselves.

    Args:
        params: the learner's parameters.
        learner: what learns.
        length: examples of a sequence in meta-training, at least 2.
        balance: the score of a class (a log-probability) is lowered by this times
            log(1 + its known examples), >= 0.
        temperature: answers are drawn from the softmax of these scores divided by this; 0 takes the
            best.
        name: for tables.

    Raises:
        GlaError: if the learner cannot go from example to example, or a setting is out of range.
    """

    jittable = True

    def __init__(
        self,
        params: Any,
        learner: Stepper | Learner,
        length: int = 100,
        balance: float = 3.0,
        temperature: float = 0.5,
        name: str = "gpicl",
    ):
        if not isinstance(learner, Stepper):
            raise GlaError(
                f"the learner {getattr(learner, 'name', learner)!r} starts anew at every example "
                "and cannot act",
                "a learner with initial_state and step",
                "such as those of kind sequence",
            )
        if length < 2:
            raise GlaError(f"length is {length}", "a whole number of at least 2")
        for what, value in (("balance", balance), ("temperature", temperature)):
            if not 0 <= value < float("inf"):
                raise GlaError(f"{what} is {value}", "a number >= 0")
        self.params, self.learner, self.length = params, learner, length
        self.balance, self.temperature, self.name = balance, temperature, name
        self.view: View | None = None

    def init(
        self,
        keys: jax.Array | None,
        num_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> GPICLState:
        """Return lifetimes that have not begun.

        Raises:
            GlaError: if observations are no inputs of the learner, or actions no labels of it.
        """
        del keys
        if not is_discrete(action_space):
            raise GlaError(
                f"the agent {self.name!r} names classes and this environment's actions are "
                "continuous",
                "a bandit with discrete actions, such as gla/SupervisedBandit-v0",
            )
        actions = int(action_space.n)  # type: ignore[attr-defined]
        if actions > self.learner.classes:
            raise GlaError(
                f"the agent {self.name!r} knows {self.learner.classes} classes and this "
                f"environment has {actions} actions",
                f"at most {self.learner.classes}",
            )
        if observation_space.shape != (self.learner.input_dim,):
            raise GlaError(
                f"the agent {self.name!r} reads inputs of {self.learner.input_dim} numbers and "
                f"this environment shows observations of shape {observation_space.shape}",
                f"observations of {self.learner.input_dim} numbers",
                "set observation_dim of the bandit to input_dim of the meta-training",
            )
        none = jnp.full(num_envs, -1, jnp.int32)
        fresh = self.learner.initial_state(num_envs)
        known = jnp.zeros((num_envs, self.learner.classes), jnp.int32)
        return GPICLState(
            self.params, fresh, fresh, none, none, known, jnp.asarray(actions, jnp.int32)
        )

    def act(self, state, observation, reward, terminated, truncated, keys):
        """Learn the label of the last answer if it was right, and answer the next example."""
        del terminated, truncated
        # The example that is asked about takes the last place of a sequence.
        right = (reward > 0.5) & self._has_room(state.known)
        told = jnp.where(right, state.action, state.told)
        known = state.known + right[:, None] * jax.nn.one_hot(
            state.action, self.learner.classes, dtype=jnp.int32
        )
        memory = jax.tree.map(
            lambda new, old: jnp.where(right.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            state.pending, state.memory,
        )  # fmt: skip
        scores, pending = self.learner.step(state.params, observation, told, memory)
        scores = jnp.where(jnp.arange(scores.shape[-1]) < state.actions, scores, -jnp.inf)
        tried = scores - self.balance * jnp.log1p(known)
        if self.temperature:
            tried += self.temperature * each(
                lambda key: jax.random.gumbel(key, tried.shape[1:]), keys
            )
        tried = jnp.where(self._has_room(known)[:, None], tried, scores)
        action = jnp.argmax(tried, -1).astype(jnp.int32)
        state = GPICLState(state.params, memory, pending, told, action, known, state.actions)
        return state, action

    def _has_room(self, known: jax.Array) -> jax.Array:
        """Return whether another known example fits in, bool[N]."""
        return jnp.sum(known, -1) < self.length - 1


def load(
    path: str | os.PathLike,
    name: str = "gpicl",
    which: Which = "latest",
    balance: float = 3.0,
    temperature: float = 0.5,
) -> GPICLAgent:
    """Load the agent of a folder that GPICL meta-training wrote.

    Args:
        path: the folder.
        name: for tables.
        which: `latest`, or `best` for the weights of the best validation.
        balance: see `GPICLAgent`.
        temperature: likewise.

    Raises:
        GlaError: if the folder is none, or holds no checkpoint, or a learner that cannot act.
    """
    from gla.gpicl.training import load_learner

    found = load_learner(path, which)
    return GPICLAgent(
        found.params, found.learner, found.config.tasks.length, balance, temperature, name
    )


class AgentLearner:
    """An agent that was meta-trained on bandits, shown what a supervised learner is shown.

    The label of each example is shown as if the agent had answered it and been paid for it: as the
    previous action, with the reward of a right answer. Its log-probability of an answer is the
    guess. As the runner does, every row of a batch gets a projection into agent space of its own;
    probabilities of slots that stand for the same label are added up.

    A supervised sequence has no window of random actions before it that would give the task's
    normalisation. What such a window measures of rewards is known beforehand: a uniform agent is
    right once in C times, so a right answer is worth 1 / std = C / sqrt(C - 1). Inputs are centred
    and scaled by those seen so far, in which an imagined mean of 0 and deviation of 1 count as much
    as `prior` inputs. A label that stays unknown is shown as no action and no reward.

    Args:
        agent: meta-trained on discrete actions.
        input_dim: M, length of the inputs; at most the agent's.
        classes: C, labels, at least 2; at most the agent's slots.
        prior: inputs that the imagined ones count as, above 0.
        seed: of the projections.
        name: for tables (default: the agent's).

    Raises:
        GlaError: if the inputs or labels do not fit the agent, or its actions are continuous.
    """

    jittable = True

    def __init__(
        self,
        agent: GLAAgent,
        input_dim: int = 64,
        classes: int = 10,
        prior: float = 5.0,
        seed: int = 0,
        name: str | None = None,
    ):
        if not agent.interface.discrete:
            raise GlaError(
                f"the agent {agent.name!r} was meta-trained on continuous actions",
                "discrete ones, which name classes",
            )
        if input_dim < 1 or classes < 2:
            raise GlaError(f"input_dim is {input_dim} and classes {classes}", "at least 1 and 2")
        if not 0 < prior < float("inf"):
            raise GlaError(f"prior is {prior}", "a number above 0")
        if agent.view is None:
            raise GlaError(f"the agent {agent.name!r} has no view", "an agent with a projection")
        self._space = agent.view.projection
        proj.check_sizes(self._space, input_dim, classes, "the task of a supervised learner")
        self.agent, self.input_dim, self.classes = agent, input_dim, classes
        self.prior, self.seed, self.name = prior, seed, name or agent.name

    @property
    def state_size(self) -> int:
        """Numbers that are carried from example to example, sums for the normalisation included."""
        return self.agent.model.state_size + self.agent.interface.action_dim + 2 * self.input_dim

    @property
    def parameter_count(self) -> int:
        """Numbers that the agent was meta-trained in."""
        return self.agent.model.parameter_count

    def init(self, key: jax.Array | None = None) -> Any:
        """Return the agent's weights, which are there already."""
        del key
        return self.agent.params

    def guess(
        self,
        params: Any,
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`.

        Args:
            params: of `init`.
            inputs: f32[B, T, M].
            told: i32[B, T], -1 for a label that stays unknown.
            positions: where guesses are wanted; None for everywhere.

        Returns:
            f32[B, P, C], log-probabilities.
        """
        projection, slots = self.projections(told)
        seen = jax.vmap(proj.project_observation)(projection, self._normalized(inputs))
        # What is shown at a position is the answer to the one before it.
        last = jnp.pad(told, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
        slots = jnp.pad(slots, ((0, 0), (1, 0)))[:, :-1]
        known = last >= 0
        action = jax.nn.one_hot(slots, self._space.action_dim) * known[..., None]
        going = jnp.zeros(told.shape, bool)
        position = jnp.broadcast_to(jnp.arange(told.shape[1]), told.shape)
        tokens = self.agent.tokens(seen, action, self.paid * known, going, going, position)
        outputs, _ = self.agent.model.apply(params, tokens)
        logits = at(self.agent.interface.split(outputs).action, positions)
        return label_scores(projection.slots, logits, self.classes)

    @property
    def paid(self) -> jax.Array:
        """The normalised reward of a right answer, f32[]."""
        chance = 1.0 / self.classes
        statistics = Statistics(
            jnp.zeros(()), jnp.ones(()), jnp.sqrt(jnp.float32(chance * (1.0 - chance)))
        )
        return normalize_reward(statistics, jnp.ones(()))

    def projections(self, told: jax.Array) -> tuple[proj.Projection, jax.Array]:
        """Draw a projection for each row, and the slots in which its labels are shown.

        Args:
            told: i32[B, T].

        Returns:
            Projections with leading axis B, and slots i32[B, T], any of those that stand for the
            label (and any at all where it is -1).
        """
        rows = told.shape[0]
        keys = jax.random.split(jax.random.key(self.seed), (rows, 2))
        projection = jax.vmap(
            lambda key: proj.sample(key, self._space, self.input_dim, self.classes)
        )(keys[:, 0])
        return projection, jax.vmap(proj.lift_slot)(keys[:, 1], projection, jnp.maximum(told, 0))

    def _normalized(self, inputs: jax.Array) -> jax.Array:
        """Centre and scale inputs f32[B, T, M], each by those up to itself."""
        count = self.prior + jnp.arange(1, inputs.shape[1] + 1, dtype=jnp.float32)[:, None]
        mean = jnp.cumsum(inputs, 1) / count
        square = (self.prior + jnp.cumsum(inputs**2, 1)) / count
        deviation = jnp.sqrt(jnp.maximum(square - mean**2, 1e-6))
        return normalize_observation(Statistics(mean, deviation, jnp.ones(())), inputs)


def label_scores(slots: jax.Array, logits: jax.Array, classes: int) -> jax.Array:
    """Add up the probabilities of slots that stand for the same label.

    Args:
        slots: i32[B, m], the label behind each slot.
        logits: f32[B, P, m].
        classes: C.

    Returns:
        f32[B, P, C], log-probabilities; -inf of labels that no slot stands for.
    """
    stands_for = slots[:, None, :] == jnp.arange(classes)[:, None]  # [B, C, m]
    shares = jax.nn.log_softmax(logits)[:, :, None, :]
    return jax.nn.logsumexp(jnp.where(stands_for[:, None], shares, -jnp.inf), -1)
