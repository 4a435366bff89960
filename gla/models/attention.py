"""Causal attention, rotary and ALiBi positions, and attention to a ring cache."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gla.models.blocked_attention import blocked_attention

_DIGIT = 256


def rotate(x: jax.Array, positions: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Apply rotary position embedding (Su et al. 2021).

    Args:
        x: f32[..., H, D], D even.
        positions: i32[...], one per leading index of x.
        base: wavelength base.
    """
    half = x.shape[-1] // 2
    frequency = base ** (-np.arange(half) / half)
    # In two digits, whole turns left out: float32 has no room for the angle of position 64,000.
    turned = np.asarray((_DIGIT * frequency) % (2 * np.pi), np.float32)
    high, low = positions // _DIGIT, positions % _DIGIT
    high, low = (digit[..., None, None].astype(jnp.float32) for digit in (high, low))
    angle = high * turned + low * np.asarray(frequency, np.float32)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Return each head's slope (Press et al. 2022): from 2^(-8/heads) down to 2^-8."""
    return tuple(2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads))


def causal_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int, slopes: jax.Array | None = None
) -> jax.Array:
    """Softmax attention of each position to itself and the `window - 1` before it.

    On a GPU with 16-bit numbers and heads of at most 128 numbers this is cuDNN's fused attention,
    else on accelerators XLA's; on a CPU `gla.models.blocked_attention`, computed in f32.

    Args:
        q: f32 or bf16 [B, T, H, D].
        k: likewise.
        v: likewise.
        window: number of positions that a query sees, itself included.
        slopes: f32[H], subtracted from a head's scores per step of distance (ALiBi), or None.

    Returns:
        [B, T, H, D] of the type of q.
    """
    if jax.default_backend() != "cpu":
        return fused_attention(q, k, v, window, slopes)
    if slopes is None:
        slopes = jnp.zeros(q.shape[2])
    wide = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    return jnp.asarray(blocked_attention(*wide, window, slopes), q.dtype)


def fused_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, window: int, slopes: jax.Array | None = None
) -> jax.Array:
    """Do as `causal_attention` does through `jax.nn.dot_product_attention`."""
    length, depth, bias = q.shape[1], q.shape[-1], None
    if slopes is not None:
        at = jnp.arange(length)
        away = at[:, None] - at[None, :]
        bias = jnp.asarray(-slopes[:, None, None] * away, q.dtype)[None]
    # What cuDNN's kernels take.
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and depth % 8 == 0 and depth <= 128
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        bias=bias,
        is_causal=True,
        local_window_size=(window - 1, 0) if window < length else None,
        implementation="cudnn" if fits and jax.default_backend() == "gpu" else "xla",
    )
