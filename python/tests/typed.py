"""A program that the type checkers read, and no test runs."""

from __future__ import annotations

from collections.abc import Iterator

from kv_router_sim import (
    ClusterView,
    Experiment,
    Request,
    Results,
    RouteRequest,
    SimError,
    WorkerEvent,
    compare,
)


class Mine:
    def __init__(self, room: int = 20) -> None:
        self.room = room

    def route(self, now: float, request: RouteRequest, view: ClusterView) -> int:
        return min(view.available, key=view.inflight)

    def observe(self, now: float, event: WorkerEvent) -> None:
        print(event.kind, event.output_tokens or 0)


def requests() -> Iterator[Request]:
    yield Request(0.0, 1000, 20, blocks=range(10))


def main() -> None:
    exp = Experiment.load("doks-3xh200", policies=[Mine]).set("workload.concurrency", [60, 180])
    results: Results = exp.run(progress=True)
    print(results.digest, results.metrics["ttft_ms_p95"], compare(results, results).markdown())
    simulation = exp.simulation({"router.policy": "kv"}, workload=requests())
    simulation.steer("load", concurrency=5)
    over: bool = simulation.step(10)
    try:
        exp.set("router.policy", "kw")
    except SimError as error:
        print(error.key, error.place, over)
