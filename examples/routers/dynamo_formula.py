"""NVIDIA Dynamo's KV router, as `kv` with `semantics = "1.6"` and its default parameters.

For every worker: how many leading blocks of the prompt it holds (from its KV events), the
prompt tokens that are being computed there, and the distinct blocks of requests in flight
there. The lowest sum of blocks to compute and blocks in flight wins; equal ones are drawn.
Source: crate dynamo-kv-router 1.6.1, scheduling/selector/reference.rs.

It makes the decisions of `kv`, to the last one, on a whole run of `doks-3xh200`
(docs/external-routers.md says how that is tested).

`router.parameters` may set `overlap_weight`, the weight of the blocks to compute (1).
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "sdk", "python"))

from sim_router import Choice, Cost, Router, run  # noqa: E402


class DynamoFormula(Router):
    """See above."""

    def start(self):
        workers = len(self.facts.workers)
        # The key of the stream from which `kv` draws among equal costs.
        self.draws = self.facts.rng(5, 0, 0)
        self.weight = float(self.facts.parameters.get("overlap_weight", 1.0))
        # By worker.
        self.held = [set() for _ in range(workers)]
        self.prefill_tokens = [0] * workers
        # By worker: block in flight -> requests that have it.
        self.active = [{} for _ in range(workers)]
        # By request: worker, prompt tokens to compute, blocks.
        self.booked = {}

    # What workers hold.

    def on_stored(self, at_ns, worker, parent, blocks):
        held = self.held[worker]
        if parent is None or parent in held:
            held.update(blocks)

    def on_removed(self, at_ns, worker, blocks):
        self.held[worker].difference_update(blocks)

    # What is in flight.

    def book(self, worker, request, cached_tokens):
        tokens = max(request.prompt_tokens - cached_tokens, 0)
        self.prefill_tokens[worker] += tokens
        active = self.active[worker]
        for block in request.block_ids():
            active[block] = active.get(block, 0) + 1
        self.booked[request.id] = [worker, tokens, request]

    def on_first_token(self, at_ns, worker, request):
        booking = self.booked.get(request)
        if booking is not None:
            self.prefill_tokens[booking[0]] -= booking[1]
            booking[1] = 0

    def on_end(self, at_ns, worker, request, how):
        if how == "prefilled":
            return
        booking = self.booked.pop(request, None)
        if booking is None:
            return
        worker, tokens, booked = booking
        self.prefill_tokens[worker] -= tokens
        active = self.active[worker]
        for block in booked.block_ids():
            if active[block] == 1:
                del active[block]
            else:
                active[block] -= 1

    def on_left(self, worker):
        self.held[worker].clear()
        gone = [request for request, booking in self.booked.items() if booking[0] == worker]
        for request in gone:
            self.on_end(0, worker, request, "failed")

    def on_peer_sent(self, worker, overlap_blocks, request):
        self.book(worker, request, overlap_blocks * self.facts.block_size)

    # The choice.

    def route(self, now_ns, request, view):
        block_size, count = self.facts.block_size, request.block_count
        best, ties, costs, overlaps = None, 0, [], [0] * len(view.inflight)
        for worker in view.available():
            overlap = leading(request, self.held[worker])
            new = count - leading(request, self.active[worker])
            cached = overlap * block_size
            uncached = max(request.prompt_tokens - cached, 0)
            tokens = self.prefill_tokens[worker] + uncached + cached
            prefill = self.weight * max(tokens / block_size - overlap, 0.0)
            decode = float(len(self.active[worker]) + new)
            cost = prefill + decode
            overlaps[worker] = overlap
            costs.append(Cost(worker, cost, {"prefill": prefill, "decode": decode}))
            # One of n equal costs, each as likely.
            if best is None or cost < best[0]:
                best, ties = (cost, worker), 1
            elif cost == best[0]:
                ties += 1
                if self.draws.below(ties) == 0:
                    best = (cost, worker)
        worker = best[1]
        self.book(worker, request, overlaps[worker] * block_size)
        return Choice(worker, costs=costs, overlap_blocks=overlaps)


def leading(request, blocks):
    """How many leading blocks of the prompt are among `blocks`."""
    found = 0
    for run in request.blocks:
        for block in run:
            if block not in blocks:
                return found
            found += 1
    return found


if __name__ == "__main__":
    run(DynamoFormula)
