"""The command ``sim``."""

from __future__ import annotations

import signal
import sys

from kv_router_sim import _native


def main() -> None:
    """Does what the arguments say, and ends the process with the exit code of ``sim``."""
    # Python's own handler only takes a note, which nothing reads before the command ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.command(["sim", *sys.argv[1:]]))
