"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GlaError(Exception):
    """Bad input, said in one plain line: what is wrong, what was expected, how to mend it.

    The command line prints it without a traceback and exits with status 2.

    Args:
        what: what is wrong, with the offending value.
        expected: what would have been right.
        mend: what the reader can do now.
    """

    def __init__(self, what: str, expected: str = "", mend: str = ""):
        self.what, self.expected, self.mend = what, expected, mend
        parts = [what.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        if mend:
            parts.append(mend.rstrip("."))
        super().__init__("; ".join(parts) + ".")

    def __reduce__(self):
        """Survive pickling between processes, which would otherwise pass the joined line."""
        return type(self), (self.what, self.expected, self.mend)


def near_matches(word: str, known: Iterable[str], most: int = 3) -> str:
    """Return " (did you mean a, b?)" for names close to `word`, or an empty string.

    Args:
        word: what the user typed.
        known: the names that exist.
        most: the largest number of suggestions.
    """
    known = sorted(known)
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=most, cutoff=0.5)
    if not found:
        return ""
    return " (did you mean " + ", ".join(lowered[name] for name in found) + "?)"
