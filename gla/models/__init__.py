"""Sequence models behind one interface: `init`, `apply` over sequences, `step` over one token.

All share a residual trunk (`gla.models.trunk`) and differ in what mixes positions. With W the
width, H the heads, D = W / H, M the window, N the states per channel, T the length of a training
sequence and C = 64 the length of a chunk, a layer costs, beside the MLP:

============  ===============  =======================  =========================  =================
backbone      state per layer  weights per layer        training, per token        acting, per token
============  ===============  =======================  =========================  =================
transformer   2 M W            4 W^2                    W min(T, M)                W M
linear        W (D + 1)        4 W^2                    W (C + D)                  W D
delta         W D              4 W^2 + W H              W (C + D), a solve a chunk W D
ssm           W N              4 W^2 + 3 W N            2 W N                      W N
lstm          2 W              9 W^2                    W^2, one after another     W^2
outer-lstm    W (D + 1)        17 W^2                   W^2 + W D, one by one      W^2 + W D
memoryless    0                0                        0                          0
============  ===============  =======================  =========================  =================

Every projection adds its weights to the cost of a token. All but the two LSTMs train in parallel
over the positions of a chunk or of the whole sequence. `memoryless` is the control: it sees one
token, so what it reaches is not learned in context. Counts of positions are not part of the state.
"""

from gla.models.config import ModelConfig
from gla.models.sequence import SequenceModel, make_model
from gla.models.trunk import State

__all__ = ["ModelConfig", "SequenceModel", "State", "make_model"]
