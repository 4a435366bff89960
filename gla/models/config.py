"""Size and kind of a sequence model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gla.errors import GlaError, near_matches

Backbone = Literal["transformer", "linear", "delta", "ssm", "lstm", "outer-lstm", "memoryless"]
Positions = Literal["rotary", "alibi", "learned"]
Compute = Literal["float32", "bfloat16"]

_SIZES = ("width", "layers", "heads", "mlp", "window", "state")
_SPLIT_IN_HEADS = ("transformer", "linear", "delta", "outer-lstm")


@dataclass(frozen=True)
class ModelConfig:
    """Kind and size of the model. GLA states none; the defaults suit two CPU cores.

    Attributes:
        backbone: what mixes a token with those before it; `gla.models` compares them.
        width: size of the residual stream.
        layers: number of blocks.
        heads: heads of `transformer`, `linear`, `delta` and `outer-lstm`; must divide `width`,
            for rotary positions into an even head size. Others don't read it.
        mlp: hidden units of a block's MLP, as a multiple of `width`.
        window: `transformer` only: a position attends to itself and the `window - 1` transitions
            before it, in training and at meta-test (GLA: about 4,096).
        positions: `transformer` only: how attention knows places. `rotary` turns queries and keys
            (Su et al. 2021); `alibi` lowers scores in proportion to the distance (Press et al.
            2022); `learned` adds one of `window` vectors to each token, in turn, and begins again
            after the last.
        state: `ssm` only: recurrent states of each channel.
        dtype: type of projections, attention and cached keys. Parameters, norms, softmax,
            recurrent states and outputs are float32 always.
        remat: recompute each block in the backward pass: less memory for one more forward pass.

    Raises:
        GlaError: for a name that is unknown or a size that does not fit.
    """

    backbone: Backbone = "transformer"
    width: int = 128
    layers: int = 3
    heads: int = 4
    mlp: int = 4
    window: int = 512
    positions: Positions = "rotary"
    state: int = 16
    dtype: Compute = "float32"
    remat: bool = False

    def __post_init__(self):
        for name, kind in (("backbone", Backbone), ("positions", Positions), ("dtype", Compute)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise GlaError(
                    f"model {name} {value!r} is unknown{near_matches(str(value), known)}",
                    "one of " + ", ".join(known),
                )
        for name in _SIZES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise GlaError(f"model {name} is {value!r}", "a whole number >= 1")
        if not isinstance(self.remat, bool):
            raise GlaError(f"model remat is {self.remat!r}", "True or False")
        if self.backbone in _SPLIT_IN_HEADS:
            even = self.backbone == "transformer" and self.positions == "rotary"
            if self.width % ((1 + even) * self.heads):
                raise GlaError(
                    f"model width {self.width} does not split into {self.heads} heads of "
                    + ("even size" if even else "equal size"),
                    mend=f"choose a width that is a multiple of {'2 x ' if even else ''}heads",
                )

    @property
    def head_size(self) -> int:
        """Numbers per head."""
        return self.width // self.heads
