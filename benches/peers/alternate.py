"""Runs two commands alternately and compares what they cost.

usage: alternate.py RUNS NAME_A COMMAND_A NAME_B COMMAND_B

Prints the medians of CPU time (user + system, all threads) and peak memory of
each, and the ratios A / B. Alternately, so that both meet the same moods of the
machine. A command that fails ends the comparison.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile


def run(command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one run, whose output is shown only if it fails.

    CPU time comes from the kernel to the microsecond. Memory comes from GNU time:
    a child of this process would be charged with Python's own memory.
    """
    with tempfile.TemporaryFile() as talk, tempfile.NamedTemporaryFile("r") as peak:
        child = subprocess.Popen(
            ["/usr/bin/time", "--quiet", "-f", "%M", "-o", peak.name, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=talk,
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            talk.seek(0)
            sys.stderr.write(talk.read().decode(errors="replace"))
            sys.exit(f"{shlex.join(command)} ended with {child.returncode}")
        return usage.ru_utime + usage.ru_stime, int(peak.read()) / 1024


def main() -> None:
    runs = int(sys.argv[1])
    names = (sys.argv[2], sys.argv[4])
    commands = (shlex.split(sys.argv[3]), shlex.split(sys.argv[5]))
    seconds: tuple[list[float], list[float]] = ([], [])
    memory: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for side, command in enumerate(commands):
            cpu, peak = run(command)
            seconds[side].append(cpu)
            memory[side].append(peak)
    for side, name in enumerate(names):
        cpu, peak = statistics.median(seconds[side]), statistics.median(memory[side])
        low, high = min(seconds[side]), max(seconds[side])
        print(f"{name:<24} {cpu:8.3f} CPU s ({low:.3f} to {high:.3f})  {peak:7.1f} MiB peak")
    cpu = [statistics.median(values) for values in seconds]
    peak = [statistics.median(values) for values in memory]
    print(f"ratio                    {cpu[0] / cpu[1]:8.1f} CPU    {peak[0] / peak[1]:7.1f} memory")


if __name__ == "__main__":
    main()
