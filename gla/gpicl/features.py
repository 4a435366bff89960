"""Features of a network in the place of raw inputs (GPICL, section 4.4 and figure 9).

`embed` applies any function of images to a data set and writes a data set of its results, to be
projected and learned like any other: the ImageNet features of the paper, for instance, by a
function that the user brings. `train_features` makes such a function with nothing to download: a
small convolutional network, trained on the classes of a data set at hand.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gla import datasets
from gla.datasets.files import Raw, write_npz
from gla.errors import GlaError

Features = Callable[[np.ndarray], Any]

CHANNELS = 64  # of the last layer; there are four features for each
LEAST_SIDE = 5  # of an image, so that every quarter of the last layer holds something
_WIDTHS = (16, 32)
_RATE = 3e-3
_TOGETHER = 500  # images that pass the trained network at once


def embed(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    features: Features | str,
    *,
    folder: str | os.PathLike[str] | None = None,
    batch: int = 256,
) -> Path:
    """Write the features of both parts of a data set, atomically.

    Args:
        source: what `gla.datasets.load` takes.
        path: of the `.npz` file. `gla.datasets.load` reads it as features, which are never resized
            or shown; the classes keep their names and their order.
        features: images u8 or f32[n, height, width(, 3)], as stored and not scaled, to numbers
            [n, D]; inputs that are no images come in the shape that they have. Or `module:function`
            of it, the module also from the current folder.
        folder: where bare names are looked for, as in `gla.datasets.load`.
        batch: the largest n.

    Returns:
        The path of the file.

    Raises:
        GlaError: if the data set or the function cannot be loaded, the function returns anything
            but finite numbers of that shape, or the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.suffix != ".npz":
        raise GlaError(f"the file of features is {path}", "a name that ends in .npz")
    if batch < 1:
        raise GlaError(f"batch is {batch}", "at least 1")
    name = features if isinstance(features, str) else getattr(features, "__name__", "features")
    function = _import(features) if isinstance(features, str) else features
    arrays: list[np.ndarray] = []
    for part in ("train", "test"):
        data = datasets.load(source, part, folder=folder, normalize="none")
        images = data.values.reshape(len(data), *(data.image_shape or data.shape))
        blocks: list[np.ndarray] = []
        for start in range(0, len(data), batch):
            block = images[start : start + batch]
            blocks.append(_check(name, function(block), len(block)))
        sizes = {block.shape[1] for block in (*arrays[:1], *blocks)}
        if len(sizes) > 1:
            raise GlaError(
                f"{name} returned {' and '.join(map(str, sorted(sizes)))} numbers for an image",
                "the same number of features for all",
            )
        arrays += [np.concatenate(blocks), np.array(data.class_names)[data.labels]]
    write_npz(path, Raw(arrays, features=True))
    return path


def _import(spec: str) -> Features:
    """Import `module:function`."""
    module, _, name = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last, so that it hides no installed package
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise GlaError(
            f"features {spec!r} cannot be loaded ({error})",
            "module:function of a module that can be imported",
        ) from None
    if not callable(function):
        raise GlaError(f"features {spec!r} is a {type(function).__name__}", "a function of images")
    return function


def _check(name: str, found: Any, count: int) -> np.ndarray:
    """Return what a function made of some images as f32[count, D]."""
    try:
        array = np.asarray(found)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"numbers of type {array.dtype}")
    except (ValueError, TypeError) as error:
        raise GlaError(f"{name} returned no array of numbers ({error})", "an array") from None
    if array.ndim != 2 or len(array) != count or not array.size:
        raise GlaError(
            f"{name} returned an array of shape {array.shape} for {count} images",
            f"({count}, number of features)",
        )
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise GlaError(f"{name} returned a feature that is not finite", "finite numbers")
    return array


class _Network(nn.Module):
    """Three convolutions; the features are means over the quarters of the last one.

    Attributes:
        classes: that it tells apart while it is trained.
    """

    classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return features f32[n, 4 * CHANNELS] and logits f32[n, classes] of f32[n, H, W, C]."""
        # Each image by its own statistics, as other data sets have other ones.
        mean = images.mean((1, 2, 3), keepdims=True)
        x = (images - mean) / (images.std((1, 2, 3), keepdims=True) + 1e-3)
        for width in _WIDTHS:
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        x = nn.relu(nn.Conv(CHANNELS, (3, 3))(x))
        halves = jnp.array_split(x, 2, 1)
        quarters = [part.mean((1, 2)) for half in halves for part in jnp.array_split(half, 2, 2)]
        features = jnp.concatenate(quarters, -1)
        return features, nn.Dense(self.classes)(features)


def train_features(
    data: datasets.Dataset, *, steps: int = 1200, batch: int = 128, seed: int = 0
) -> Features:
    """Train a small convolutional network to tell classes apart, and return what it sees in images.

    The same seed gives the same network on the same machine. Features help most where images are
    like those of `data`, and less elsewhere.

    Args:
        data: images of at least `LEAST_SIDE` pixels each way; 1,200 steps on images of 28 x 28 take
            about 20 seconds of one CPU core.
        steps: optimiser steps (Adam, with a rate that falls to zero as a cosine does).
        batch: images in a step.
        seed: of the initial weights and the order of the examples.

    Returns:
        A function for `embed`: images [n, height, width(, 3)] of any size to
        f32[n, 4 * CHANNELS]. It turns grey images into coloured ones or the other way round as it
        was trained.

    Raises:
        GlaError: if `data` are no images or are too small, or a setting is out of range; the
            function, if it is given anything but images.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise GlaError(f"{name} is {value!r}", "a whole number of at least 1")
    shape = data.image_shape
    if shape is None:
        raise GlaError(f"the inputs of {data.name} have shape {data.shape}", "images")
    channels = 1 if len(shape) == 2 else 3
    images = jnp.asarray(data.values.reshape(len(data), *shape))
    labels = jnp.asarray(data.labels)
    network = _Network(data.classes)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, steps))

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array) -> tuple[Any, Any]:
        rows = jax.random.randint(key, (batch,), 0, len(labels))

        def loss(params: Any) -> jax.Array:
            _, logits = network.apply(params, _with_channels(images[rows], channels))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
            return losses.mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    first, rest = jax.random.split(jax.random.key(seed))
    params = network.init(first, _with_channels(_images(images[:1]), channels))
    state = optimizer.init(params)
    # A loop in Python: inside one of XLA, convolutions on CPUs are many times slower.
    for key in jax.random.split(rest, steps):
        params, state = step(params, state, key)

    @jax.jit
    def apply(images: jax.Array) -> jax.Array:
        return network.apply(params, _with_channels(images, channels))[0]

    def features(images: np.ndarray) -> np.ndarray:
        images = _images(images)
        blocks = range(0, len(images), _TOGETHER)
        return np.concatenate([np.asarray(apply(images[i : i + _TOGETHER])) for i in blocks])

    features.__name__ = f"features of {data.name}"
    return features


def _images(images: Any) -> Any:
    """Return images of [n, height, width(, 1 or 3)], large enough, or raise `GlaError`."""
    shape = images.shape
    if (
        len(shape) not in (3, 4)
        or shape[3:] not in ((), (1,), (3,))
        or min(shape[1:3]) < LEAST_SIDE
    ):
        raise GlaError(
            f"the inputs of a network of images have shape {shape[1:]}",
            f"images of at least {LEAST_SIDE} x {LEAST_SIDE}, grey or of three colours",
        )
    return images


def _with_channels(images: jax.Array, channels: int) -> jax.Array:
    """Return images as f32[n, height, width, channels]: grey, or the same grey thrice."""
    images = images.astype(jnp.float32)
    if images.ndim == 3:
        images = images[..., None]
    if channels == 1:
        return images.mean(-1, keepdims=True)
    return jnp.broadcast_to(images, (*images.shape[:3], channels))
