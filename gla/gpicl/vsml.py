"""Variable Shared Meta Learning: a grid of small LSTMs that share their weights.

After "Meta Learning Backpropagation And Improving It" (Kirsch & Schmidhuber 2020), in the version
of GPICL, appendix A.5: one layer, that is one grid, whose messages return to itself. Where a linear
classifier has a weight, from input i to class j, VSML has an LSTM cell (i, j). Cells know their
place only from what they are given:

    the row i      x_t[i] and x_{t-1}[i];
    the column j   whether y_{t-1} = j, and the error of the last guess, [y_{t-1} = j] - p_{t-1}[j];
    both           a message from the cells of row i, and one from those of column j: a linear map
                   of the mean of their hidden states.

An update is two ticks of all cells, so that messages arrive within it. The score of class j is a
linear map of the mean hidden state of column j. As weights are shared and means have no order, one
set of weights serves inputs of any length and any number of classes; the order of inputs does not
matter, and renaming the classes renames the guesses.

The original gives x_t with the error of the guess before it, so that cells must remember x_{t-1}
to learn from it, and offers a second update per example, with x_t and its own error. Giving both
inputs at once learned faster here than either, at half the cost of the latter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gla.errors import GlaError
from gla.gpicl.learners import at, before, check_sequences, check_sizes
from gla.models.layers import scan_recomputing

Params = dict[str, jax.Array]

_CHANNELS = 2  # of a row: x_t and x_{t-1}; of a column: error and label
# What is added to the forget and input gates at first, so that cells can remember a whole sequence
# and do not fill up (VSML: 5 and -5).
_REMEMBER, _ADMIT = 4.0, -2.0
_GAIN = 10.0  # of scores: means over a column are small


@dataclass(frozen=True)
class VSMLConfig:
    """Size of VSML; the defaults are the paper's.

    Attributes:
        hidden: hidden size of the LSTMs; none: 16, or 64 without symmetries.
        messages: length of the messages.
        ticks: updates of all cells per example. After the first, cells have heard of each other's
            inputs.
        grid: k, rows and columns of the grid. Without symmetries only; else it is M x C.

    Raises:
        GlaError: if a value is below 1.
    """

    hidden: int | None = None
    messages: int = 8
    ticks: int = 2
    grid: int = 8

    def __post_init__(self):
        for name in ("hidden", "messages", "ticks", "grid"):
            value = getattr(self, name)
            if name == "hidden" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise GlaError(f"vsml {name} is {value!r}", "a whole number >= 1")


class Cells(NamedTuple):
    """State of a grid of R rows and C columns, of H numbers per cell.

    Features come first, and rows last, because CPUs compute that three times as fast.

    Attributes:
        hidden: f32[H, B, C, R].
        memory: f32[H, B, C, R].
    """

    hidden: jax.Array
    memory: jax.Array


def lstm_step(memory: jax.Array, gates: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Advance LSTM cells (Gers et al. 2000, no peepholes).

    Args:
        memory: f32[...].
        gates: four f32[...], before their nonlinearity: input, forget, new content, output.

    Returns:
        Hidden state and memory, each f32[...].
    """
    admit, keep, new, show = gates
    memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(admit) * jnp.tanh(new)
    return jax.nn.sigmoid(show) * jnp.tanh(memory), memory


def draw_cell(key: jax.Array, hidden: int, messages: int) -> Params:
    """Draw the weights that all cells share.

    Args:
        key: random key.
        hidden: H.
        messages: K.

    Returns:
        Matrices f32[inputs, outputs]. Those that end in 4 H columns add to the gates, in the order
        of `lstm_step`.
    """
    sizes = {
        "recurrent": (hidden, 4 * hidden),
        "row_input": (_CHANNELS, 4 * hidden),
        "column_input": (_CHANNELS, 4 * hidden),
        "row_send": (hidden, messages),
        "column_send": (hidden, messages),
        "row_hear": (messages, 4 * hidden),
        "column_hear": (messages, 4 * hidden),
    }
    params = {
        name: jax.random.normal(k, size) / math.sqrt(size[0])
        for k, (name, size) in zip(jax.random.split(key, len(sizes)), sizes.items(), strict=True)
    }
    bias = jnp.array([_ADMIT, _REMEMBER, 0.0, 0.0])
    score = jax.random.normal(jax.random.fold_in(key, len(sizes)), (hidden,)) / math.sqrt(hidden)
    return params | {"bias": jnp.repeat(bias, hidden), "score": score}


def count_cell(hidden: int, messages: int) -> int:
    """Return how many numbers `draw_cell` draws."""
    gates = 4 * hidden * (hidden + 2 * _CHANNELS + 2 * messages + 1)
    return gates + 2 * hidden * messages + hidden


def update(
    params: Params, state: Cells, rows: jax.Array, columns: jax.Array, ticks: int
) -> tuple[Cells, jax.Array]:
    """Let all cells take in one example.

    Args:
        params: of `draw_cell`.
        state: before.
        rows: f32[2, B, R], given to all cells of a row.
        columns: f32[2, B, C], given to all cells of a column.
        ticks: how often cells are updated.

    Returns:
        The state after, and a score for each column, f32[B, C].
    """
    row_given = _gates(params["row_input"], rows)
    column_given = _gates(params["column_input"], columns) + params["bias"].reshape(4, -1, 1, 1)
    # Messages are linear, so the mean of messages is the message of the mean.
    row_heard = params["row_send"] @ params["row_hear"]
    column_heard = params["column_send"] @ params["column_hear"]
    # On CPUs, products of plain matrices, one for each gate, are the fastest.
    kernels = jnp.split(params["recurrent"].T, 4)
    shape = state.hidden.shape
    for _ in range(ticks):
        flat = state.hidden.reshape(shape[0], -1)
        row = row_given + _gates(row_heard, state.hidden.mean(2))
        column = column_given + _gates(column_heard, state.hidden.mean(3))
        gates = [
            (kernel @ flat).reshape(shape) + r[:, :, None] + c[..., None]
            for kernel, r, c in zip(kernels, row, column, strict=True)
        ]
        state = Cells(*lstm_step(state.memory, gates))
    return state, _GAIN * jnp.tensordot(params["score"], state.hidden.mean(3), 1)


def _gates(kernel: jax.Array, values: jax.Array) -> jax.Array:
    """Map features to what they add to the gates: f32[F, 4 H], f32[F, ...] -> f32[4, H, ...]."""
    return jnp.tensordot(kernel, values, (0, 0)).reshape(4, -1, *values.shape[1:])


def learn(
    params: Params,
    rows: jax.Array,
    shown: jax.Array,
    ticks: int,
    enter: Callable[[jax.Array], jax.Array],
    leave: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Guess the label of every example of a batch of sequences, in turn.

    The backward pass keeps the state before each example and computes ticks anew.

    Args:
        params: of `draw_cell`.
        rows: f32[B, T, R], one number per row and example.
        shown: f32[B, T, C], the label before each example, one-hot or zeros.
        ticks: per example.
        enter: maps classes to columns, f32[..., B, C] -> f32[..., B, columns].
        leave: maps the scores of columns to those of classes, f32[B, columns] -> f32[B, C].

    Returns:
        Scores f32[B, T, C].
    """

    def step(carry: Any, example: Any) -> Any:
        state, scores = carry
        inputs, label = example
        known = label.sum(-1, keepdims=True)
        error = label - known * jax.nn.softmax(scores)
        state, columns = update(params, state, inputs, enter(jnp.stack([error, label])), ticks)
        scores = leave(columns)
        return (state, scores), scores

    batch, _, height = rows.shape
    last = jnp.pad(rows, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    inputs = jnp.moveaxis(jnp.stack([rows, last]), 2, 0)
    width = jax.eval_shape(enter, shown[:, 0]).shape[-1]
    still = jnp.zeros((params["score"].size, batch, width, height))
    first = Cells(still, still), jnp.zeros_like(shown[:, 0])
    _, scores = scan_recomputing(step, first, (inputs, jnp.swapaxes(shown, 0, 1)), 1)
    return jnp.swapaxes(scores, 0, 1)


@dataclass(frozen=True)
class VSML:
    """VSML with its symmetries: a grid of M x C cells, for any M and any C (row VSML of Table 1).

    Attributes:
        config: its size.
        classes: C, labels. Weights fit any other number as well.
        input_dim: M, length of the inputs; 0 if any will do.

    Raises:
        GlaError: if `classes` or `input_dim` is too small.
    """

    config: VSMLConfig
    classes: int
    input_dim: int = 0
    name = "VSML"
    jittable = True

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes, least_input=0)

    @property
    def hidden(self) -> int:
        """Hidden size of the LSTMs."""
        return 16 if self.config.hidden is None else self.config.hidden

    @property
    def state_size(self) -> int:
        """Numbers of cells, last input and last guess; 0 as long as `input_dim` is not known."""
        if not self.input_dim:
            return 0
        cells = self.input_dim * self.classes
        return 2 * self.hidden * cells + self.input_dim + self.classes

    @property
    def parameter_count(self) -> int:
        """Numbers that are meta-trained, whatever M and C."""
        return count_cell(self.hidden, self.config.messages)

    def init(self, key: jax.Array) -> Params:
        """Draw weights; see `draw_cell`."""
        return draw_cell(key, self.hidden, self.config.messages)

    def guess(
        self,
        params: Params,
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`. A label of -1 is not shown.

        Raises:
            GlaError: if shapes do not fit.
        """
        check_sequences(inputs, told, positions, self.input_dim)
        shown = before(told, self.classes)
        scores = learn(params, inputs, shown, self.config.ticks, lambda x: x, lambda x: x)
        return at(scores, positions)


@dataclass(frozen=True)
class PlainVSML:
    """VSML without symmetries: learned projections onto a grid of k x k cells and back.

    Inputs are projected onto the rows, labels and errors onto the columns, and the scores of the
    columns onto the classes, so nothing is known in advance about inputs or classes. Its state
    grows with k and its weights hardly do (GPICL, section 4.2 and appendix A.5).

    Attributes:
        config: its size.
        input_dim: M, length of the inputs.
        classes: C, labels.

    Raises:
        GlaError: if `input_dim` or `classes` is too small.
    """

    config: VSMLConfig
    input_dim: int
    classes: int
    name = "VSML without symmetries"
    jittable = True

    def __post_init__(self):
        check_sizes(self.input_dim, self.classes)

    @property
    def hidden(self) -> int:
        """Hidden size of the LSTMs."""
        return 64 if self.config.hidden is None else self.config.hidden

    @property
    def state_size(self) -> int:
        """Numbers of cells, last input and last guess."""
        return 2 * self.hidden * self.config.grid**2 + self.input_dim + self.classes

    @property
    def parameter_count(self) -> int:
        """Numbers that are meta-trained."""
        projections = self.config.grid * (self.input_dim + 2 * self.classes) + self.classes
        return count_cell(self.hidden, self.config.messages) + projections

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draw weights: `cell` of `draw_cell`, projections `inputs`, `labels` and `scores`."""
        cell_key, input_key, label_key, score_key = jax.random.split(key, 4)
        size, dim, classes = self.config.grid, self.input_dim, self.classes
        return {
            "cell": draw_cell(cell_key, self.hidden, self.config.messages),
            "inputs": jax.random.normal(input_key, (dim, size)) / math.sqrt(dim),
            "labels": jax.random.normal(label_key, (classes, size)),
            "scores": jax.random.normal(score_key, (size, classes)) / math.sqrt(size),
            "score_bias": jnp.zeros(classes),
        }

    def guess(
        self,
        params: dict[str, Any],
        inputs: jax.Array,
        told: jax.Array,
        positions: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """Guess labels; see `gla.gpicl.learners.Learner.guess`. A label of -1 is not shown.

        Raises:
            GlaError: if shapes do not fit.
        """
        check_sequences(inputs, told, positions, self.input_dim)
        scores = learn(
            params["cell"],
            inputs @ params["inputs"],
            before(told, self.classes),
            self.config.ticks,
            lambda x: x @ params["labels"],
            lambda x: x @ params["scores"] + params["score_bias"],
        )
        return at(scores, positions)
