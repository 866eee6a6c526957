"""Experiments on the machines of a Ray cluster: a task for each part of the simulations.

A task knows the experiment, its number and the number of parts, and gives the lines of its
journal: it may run twice, on any machine, with the same result. What has come lies in the
result folder, as of any run that is not finished; so nothing is simulated again when the
driver starts again. The results are put together from there, with the bytes of one machine.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from kv_router_sim._native import Experiment, Results, _Gathered

#: Times that a part is begun again after its machine was lost.
RETRIES = 5

#: Seconds between two looks at what has come; also how long an answer may take to arrive.
BEAT_S = 5.0

#: Parts for each task that the cluster runs at once: machines are not equally fast.
PARTS_PER_SLOT = 4

_JOURNAL = "journal.jsonl"


def run(
    experiment: Experiment,
    *,
    jobs: int | None,
    shards: int | None,
    progress: Callable[[int, int], object] | None,
    out: Path | None,
    force: bool,
    figures: bool,
    columns: bool,
) -> Results:
    """As ``Experiment.run``, on the cluster that Ray is connected to, or finds."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("executor=\"ray\" needs Ray: pip install ray") from error
    if not ray.is_initialized():
        ray.init()
    cores = jobs or 1
    of = _default_shards(ray, experiment.simulations, cores) if shards is None else shards
    with contextlib.ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        gathered = experiment._gather(folder, force, columns)
        try:
            _simulate(ray, experiment, gathered, of, cores, progress)
            return gathered.finish(out=out, figures=figures, jobs=jobs)
        finally:
            gathered.leave()


def _default_shards(ray: Any, simulations: int, cores: int) -> int:
    slots = int(ray.cluster_resources().get("CPU", 1)) // cores
    return max(1, min(simulations, PARTS_PER_SLOT * max(slots, 1)))


def _part(experiment: Experiment, number: int, of: int, cores: int) -> bytes:
    """Simulates a part, on some machine."""
    with tempfile.TemporaryDirectory() as folder:
        experiment._run_part(folder, number, of, cores)
        return (Path(folder) / _JOURNAL).read_bytes()


def _simulate(
    ray: Any,
    experiment: Experiment,
    gathered: _Gathered,
    of: int,
    cores: int,
    progress: Callable[[int, int], object] | None,
) -> None:
    """Has every part simulated that is not there yet."""
    most = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if cores > most:
        warnings.warn(
            f"jobs = {cores}: no machine of the cluster has so many processors now (most: "
            f"{most:g}); the run waits for one",
            stacklevel=3,
        )

    def tell() -> None:
        if progress is not None:
            progress(gathered.done, experiment.simulations)

    task = ray.remote(num_cpus=cores, max_retries=RETRIES)(_part)
    waiting = {task.remote(experiment, number, of, cores): number for number in gathered.missing(of)}
    tell()
    try:
        while waiting:
            come, _ = ray.wait(list(waiting), num_returns=1, timeout=BEAT_S)
            for ref in come:
                _take(ray, ref, waiting.pop(ref), of, gathered, waiting)
                tell()
    finally:
        for ref in waiting:
            ray.cancel(ref, force=True)


def _take(
    ray: Any, ref: Any, number: int, of: int, gathered: _Gathered, waiting: dict[Any, int]
) -> None:
    """Takes what a task has found."""
    failures = ray.exceptions
    try:
        journal = ray.get(ref, timeout=BEAT_S)
    except failures.GetTimeoutError:
        # Its machine was lost after its end: Ray simulates the part again.
        waiting[ref] = number
        return
    except failures.RayTaskError as error:
        # What went wrong in the simulator is said as if it had run here.
        raise getattr(error, "cause", None) or error from None
    except failures.RayError as error:
        raise RuntimeError(
            f"part {number} of {of} was lost with its machine {RETRIES + 1} times; what other "
            f"parts have found is kept with out= ({error})"
        ) from error
    gathered.take(number, of, journal)
    if number in gathered.missing(of):
        raise RuntimeError(f"part {number} of {of} came incomplete from its machine")
