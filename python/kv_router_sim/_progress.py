"""How far a run has come, on one line of the terminal or of a notebook."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Bar:
    """Called with the simulations that are done and with all of them."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._started = time.monotonic()

    def __call__(self, done: int, all_: int) -> None:
        width = 30
        filled = width * done // max(all_, 1)
        elapsed = time.monotonic() - self._started
        bar = "█" * filled + "░" * (width - filled)
        end = "\n" if done >= all_ else ""
        self._out.write(f"\r{bar} {done}/{all_} simulations, {elapsed:.1f} s{end}")
        self._out.flush()
