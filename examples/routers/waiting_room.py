"""Requests wait in the router until a worker has fewer than `room` in flight.

First come, first served; the emptiest worker takes the next. It shows `HOLD` and `release`.
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "sdk", "python"))

from sim_router import HOLD, Release, Router, run  # noqa: E402


class WaitingRoom(Router):
    """See above."""

    def start(self):
        self.room = int(self.facts.parameters.get("room", 16))
        self.waiting = []

    def route(self, now_ns, request, view):
        worker = min(view.available(), key=lambda worker: view.inflight[worker])
        if not self.waiting and view.inflight[worker] < self.room:
            return worker
        self.waiting.append(request.id)
        return HOLD

    def release(self, now_ns, view):
        inflight, released = list(view.inflight), []
        workers = view.available()
        while self.waiting and workers:
            worker = min(workers, key=lambda worker: inflight[worker])
            if inflight[worker] >= self.room:
                break
            inflight[worker] += 1
            released.append(Release(self.waiting.pop(0), worker))
        return released


if __name__ == "__main__":
    run(WaitingRoom)
