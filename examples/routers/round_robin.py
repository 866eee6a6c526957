"""Workers in turn: the smallest router.

    sim run doks-3xh200 --set 'router.command=["python3", "examples/routers/round_robin.py"]' \
        --set router.policy=external --out round-robin
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "sdk", "python"))

from sim_router import Router, run  # noqa: E402


class RoundRobin(Router):
    """One counter, blind to load; workers that are gone are passed over."""

    def start(self):
        self.next = 0

    def route(self, now_ns, request, view):
        workers = len(self.facts.workers)
        turns = (turn % workers for turn in range(self.next, self.next + workers))
        worker = next(worker for worker in turns if worker not in view.absent)
        self.next = worker + 1
        return worker


if __name__ == "__main__":
    run(RoundRobin)
