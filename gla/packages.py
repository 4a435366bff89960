"""Versions of the packages that results depend on."""

from __future__ import annotations

import importlib.metadata
import platform

_NAMES = (
    "gla",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "gymnasium",
    "gymnax",
    "brax",
    "mujoco",
    "dm-control",
    "scikit-learn",
)


def package_versions() -> dict[str, str]:
    """Return {name: version} of Python and of the packages that matter and are installed."""
    versions = {"python": platform.python_version()}
    for name in _NAMES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
