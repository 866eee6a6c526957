"""What several tests need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kv_router_sim import Experiment

#: Changes that make the main experiment short.
SHORT = {"measure.window": "100s", "measure.seeds": 2}


@pytest.fixture
def doks() -> Experiment:
    """Two policies on three workers, two seeds of 100 s, 60 conversations."""
    return Experiment.load("doks-3xh200").set(SHORT).set("workload.concurrency", 60)


@pytest.fixture
def program() -> str:
    """The file of the command `sim` that came with the package."""
    program = shutil.which("sim", path=str(Path(sys.executable).parent))
    assert program is not None, "the package has no command `sim`"
    return program


@pytest.fixture
def sim(program: str, tmp_path: Path):
    """The command `sim`, in a folder of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )

    return run
