"""The command ``sim``."""

from __future__ import annotations

import sys

from kv_router_sim import _native


def main() -> None:
    """Does what the arguments say, and ends the process with the exit code of ``sim``."""
    sys.exit(_native.command(["sim", *sys.argv[1:]]))
