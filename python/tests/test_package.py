"""The package as a whole: its types, its command, its manual."""

from __future__ import annotations

import doctest
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kv_router_sim

ROOT = Path(__file__).parents[2]


@pytest.fixture
def check(tmp_path):
    """Runs a checker where the package is the installed one, beside `typed.py`."""
    (tmp_path / "typed.py").write_text((ROOT / "python/tests/typed.py").read_text())

    def run(*arguments):
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_the_stubs_are_those_of_the_module(check):
    pytest.importorskip("mypy")
    check("mypy.stubtest", "kv_router_sim", "--ignore-disjoint-bases")


def test_mypy_and_pyright_agree_with_the_types(check):
    pytest.importorskip("mypy")
    pytest.importorskip("pyright")
    check("mypy", "--strict", "--package", "kv_router_sim")
    check("mypy", "--strict", "typed.py")
    check("pyright", "--pythonpath", sys.executable, "typed.py")


def test_the_command_says_its_version_and_its_errors(sim):
    done = sim("--version")
    assert done.stdout == f"sim {kv_router_sim.__version__}\n"
    assert sim("rum").returncode == 2
    assert sim("policies").stdout.count("\n") > 20


def test_ctrl_c_ends_the_command(program, tmp_path):
    command = [program, "ui", "doks-3xh200", "--port", "0", "--no-open"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as page:
        try:
            assert page.stdout.readline().startswith(b"http://")
            page.send_signal(signal.SIGINT)
            assert page.wait(30) == -signal.SIGINT
        finally:
            page.kill()


def test_the_examples_in_the_documentation_run():
    failed, count = doctest.testmod(kv_router_sim)
    assert (failed, count > 0) == (0, True)


@pytest.mark.parametrize("page", ["docs/python.md", "docs/results.md", "python/README.md"])
def test_the_manual_runs(page, tmp_path, monkeypatch):
    """Every Python block of the page, one after the other, as one program."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": "manual"})
