"""Progress that a person can see, in a terminal and in a log file."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """A progress bar in a terminal; elsewhere one plain line every ten seconds.

    Args:
        title: what is under way.
        total: amount of work.
        unit: what is counted.
        done: work that an earlier, interrupted call has finished.
        enabled: whether to show anything.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, enabled: bool = True):
        self._title, self._total, self._unit, self._done = title, total, unit, done
        self._first, self._started, self._spoken = done, time.monotonic(), 0.0
        self._bar: tqdm | None = None
        self._speaks = enabled and not sys.stderr.isatty()
        if enabled and not self._speaks:
            self._bar = tqdm(
                desc=title, total=total, initial=done, unit=" " + unit, unit_scale=True,
                dynamic_ncols=True,
            )  # fmt: skip

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object):
        if self._bar is not None:
            self._bar.close()

    def advance(self, amount: int, note: str = ""):
        """Count `amount` more as done and show `note` beside the bar."""
        self._done += amount
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif self._speaks:
            now = time.monotonic()
            if now - self._spoken >= 10.0 or self._done >= self._total:
                self._spoken = now
                rate = (self._done - self._first) / max(now - self._started, 1e-9)
                print(
                    f"{self._title}: {self._done:,}/{self._total:,} {self._unit} "
                    f"({self._done / self._total:.0%}, {rate:,.0f}/s) {note}",
                    file=sys.stderr,
                    flush=True,
                )
