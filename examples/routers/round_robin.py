"""Workers in turn: the smallest router.

    sim run doks-3xh200 --set 'router.command=["python3", "examples/routers/round_robin.py"]' \
        --set router.policy=external --out round-robin
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "sdk", "python"))

from sim_router import Router, run  # noqa: E402


class RoundRobin(Router):
    """One counter over the workers that are there, blind to load."""

    def start(self):
        self.turns = 0

    def route(self, now_ns, request, view):
        there = [at for at in range(len(self.facts.workers)) if at not in view.absent]
        worker = there[self.turns % len(there)]
        self.turns += 1
        return worker


if __name__ == "__main__":
    run(RoundRobin)
