"""A deterministic simulator of LLM serving fleets with KV-aware routing.

>>> from kv_router_sim import Experiment
>>> exp = Experiment.load("doks-3xh200").set("workload.concurrency", [60, 180])
>>> exp.points[0]
{'router.policy': 'round_robin', 'workload.concurrency': 60}

``docs/python.md`` of the repository is the manual.
"""

from __future__ import annotations

from kv_router_sim import _native
from kv_router_sim._native import (
    ClusterView,
    Comparison,
    Experiment,
    Figure,
    Fleet,
    Frontier,
    KvEvent,
    Report,
    Reported,
    Request,
    Results,
    RouteRequest,
    SimError,
    Simulation,
    Table,
    WorkerEvent,
    __version__,
    compare,
    frontier,
    policies,
)
from kv_router_sim._policies import REJECT

_native.loaded_from(_native.__file__)

__all__ = [
    "REJECT",
    "ClusterView",
    "Comparison",
    "Experiment",
    "Figure",
    "Fleet",
    "Frontier",
    "KvEvent",
    "Report",
    "Reported",
    "Request",
    "Results",
    "RouteRequest",
    "SimError",
    "Simulation",
    "Table",
    "WorkerEvent",
    "__version__",
    "compare",
    "frontier",
    "policies",
]
