"""What the configurations of trainings have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gla.errors import GlaError


def check_counts(config: Any, words: str, least: Mapping[str, int]) -> None:
    """Check that fields of a configuration are at least what is given for them.

    Args:
        config: with such fields.
        words: what it is, for messages.
        least: the lowest value of each field.

    Raises:
        GlaError: if one is lower.
    """
    for name, lowest in least.items():
        value = getattr(config, name)
        if value < lowest:
            raise GlaError(f"{words} {name} is {value}", f"a whole number >= {lowest}")


def plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that were read from JSON, which has lists where there are tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in part.items()}
