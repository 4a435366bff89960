"""Our Transformer as it is usually written in PyTorch, to be trained and stepped for comparison.

`peer_worker` loads this file by its path in an interpreter that has PyTorch and need not have gla,
so nothing of ours is imported. Settings: `job` (a key of `JOBS`), the sizes `width`, `layers`,
`heads`, `mlp` (a multiple of `width`), `inputs`, `outputs`, `rows` and `window`, and for acting
`cache` (a key of `CACHES`) and `steps`. Everything is float32 and computed on the CPU, with as many
threads as `OMP_NUM_THREADS` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Settings = dict[str, Any]

RATE, DECAY, MAX_NORM = 3e-4, 1e-4, 1.0
"""AdamW's step size and weight decay, and the norm to which gradients are clipped."""


class Ring:
    """Keys and values in buffers of a fixed size that are written in place, the usual fast way.

    Args:
        layers: of the model.
        shape: rows, heads, window and head size.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int]):
        self.count, self.window = 0, shape[2]
        self._keys = [torch.zeros(shape) for _ in range(layers)]
        self._values = [torch.zeros(shape) for _ in range(layers)]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write f32[rows, heads, T, D] of new positions; return all that can be seen."""
        slots = torch.arange(self.count, self.count + keys.shape[2]) % self.window
        self._keys[layer].index_copy_(2, slots, keys)
        self._values[layer].index_copy_(2, slots, values)
        seen = min(self.count + keys.shape[2], self.window)
        return self._keys[layer][:, :, :seen], self._values[layer][:, :, :seen]


class Growing:
    """Keys and values that are appended to what is there and cut to the window, the usual way.

    Args:
        layers: of the model.
        shape: rows, heads, window and head size.
    """

    def __init__(self, layers: int, shape: tuple[int, int, int, int]):
        self.count, self.window = 0, shape[2]
        nothing = torch.zeros(*shape[:2], 0, shape[3])
        self._keys, self._values = [nothing] * layers, [nothing] * layers

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append f32[rows, heads, T, D] of new positions; return all that can be seen."""
        keys = torch.cat([self._keys[layer], keys], 2)[:, :, -self.window :]
        values = torch.cat([self._values[layer], values], 2)[:, :, -self.window :]
        self._keys[layer], self._values[layer] = keys, values
        return keys, values


CACHES: dict[str, type[Ring] | type[Growing]] = {"ring": Ring, "growing": Growing}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn f32[..., T, D] by rotary angles, given by cosines and sines f32[T, D / 2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Block(nn.Module):
    """One pre-norm block.

    Args:
        width: of the residual stream.
        heads: of attention.
        mlp: hidden units, as a multiple of the width.
    """

    def __init__(self, width: int, heads: int, mlp: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, mlp * width), nn.Linear(mlp * width, width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, remember: Callable | None) -> Tensor:
        """Return f32[rows, T, width] of the same; `remember` maps new keys and values to all."""
        rows, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if remember is not None:
            k, v = remember(k, v)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=length > 1)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        hidden = functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        return x + self.down(hidden)


class Transformer(nn.Module):
    """Pre-norm Transformer with rotary positions, one token per transition.

    Args:
        settings: the sizes.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        width, heads = settings["width"], settings["heads"]
        self.depth = width // heads
        self.embed = nn.Linear(settings["inputs"], width)
        self.blocks = nn.ModuleList(
            Block(width, heads, settings["mlp"]) for _ in range(settings["layers"])
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, settings["outputs"])

    def forward(self, tokens: Tensor, cache: Ring | Growing | None = None) -> Tensor:
        """Return f32[rows, T, outputs] of tokens f32[rows, T, inputs].

        Args:
            tokens: a whole sequence of at most a window; with a cache that holds something, one.
            cache: remembers what was seen.
        """
        first = cache.count if cache else 0
        positions = torch.arange(first, first + tokens.shape[1], dtype=torch.float32)
        frequency = 10_000.0 ** (-torch.arange(self.depth // 2) / (self.depth // 2))
        angle = positions[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            remember = None if cache is None else lambda k, v, i=i: cache.append(i, k, v)
            x = block(x, cos, sin, remember)
        if cache is not None:
            cache.count += tokens.shape[1]
        return self.head(self.norm(x))


def make_update(model: Transformer, tokens: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    """Return a function that makes one step of AdamW on a mean squared error and returns it."""
    # The fused kernel is the fastest of PyTorch's three on a CPU.
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, fused=True)

    def update() -> Tensor:
        loss = functional.mse_loss(model(tokens), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        return loss.detach()

    return update


def train(settings: Settings) -> Callable[[int], int]:
    """Make training on random numbers: a call is one step and returns its tokens."""
    _start()
    rows, length = settings["rows"], settings["window"]
    tokens = torch.randn(rows, length, settings["inputs"])
    update = make_update(
        Transformer(settings), tokens, torch.randn(rows, length, settings["outputs"])
    )

    def call(seed: int) -> int:
        del seed
        update()
        return rows * length

    return call


def act(settings: Settings) -> Callable[[int], int]:
    """Make acting with a full window: a call is `steps` tokens a row, one by one."""
    _start()
    rows, steps, heads = settings["rows"], settings["steps"], settings["heads"]
    model = Transformer(settings).eval()
    shape = (rows, heads, settings["window"], settings["width"] // heads)
    cache = CACHES[settings["cache"]](settings["layers"], shape)
    tokens = torch.randn(steps, rows, 1, settings["inputs"])
    with torch.inference_mode():
        model(torch.randn(rows, settings["window"], settings["inputs"]), cache)

    def call(seed: int) -> int:
        del seed
        with torch.inference_mode():
            for token in tokens:
                model(token, cache)
        return rows * steps

    return call


JOBS: dict[str, Callable[[Settings], Callable[[int], int]]] = {"train": train, "act": act}


def _start():
    """Set what is global in PyTorch."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    torch.manual_seed(0)
