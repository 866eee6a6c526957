"""Records golden decisions of Ray Serve's PrefixCacheAffinityRouter.

Its own router and its own prefix tree run in this process, without a cluster: what it
would ask the actor of its tree it asks the tree, and its replicas say how many requests
they have. Histories are those of gateways.py. README.md says how.
"""

import argparse
import asyncio
import json
import random
import sys
from types import SimpleNamespace

from gateways import History, in_short
from ray.llm._internal.serve.routing_policies.prefix_aware import prefix_aware_router
from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_tree import PrefixTree
from ray.serve._private.common import (
    DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata,
)
from ray.serve._private.request_router.common import PendingRequest

# The tree answers at once.
prefix_aware_router.ray = SimpleNamespace(get=lambda answer: answer)

DEPLOYMENT = DeploymentID(name="record")
# Match rate and imbalance that decide; requests in flight at most; workers, where a draw of
# two must decide nothing.
SETTINGS = [(0.1, 64, 120, None), (0.5, 4, 30, 2), (0.3, 64, 120, None), (0.1, 8, 60, 2)]


class Tree:
    """An actor of one process."""

    def __init__(self):
        self._tree = PrefixTree()

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._tree, name))


class Replica:
    """As much of a RunningReplica as is asked for."""

    node_id, availability_zone, multiplexed_model_ids = "node", None, frozenset()
    max_ongoing_requests = 1_000_000
    inflight = 0

    def __init__(self, place):
        self.replica_id = ReplicaID(f"replica{place}", deployment_id=DEPLOYMENT)

    async def get_queue_len(self, *, deadline_s):
        return self.inflight


async def play(history, match_rate, imbalance):
    router = prefix_aware_router.PrefixCacheAffinityRouter(
        deployment_id=DEPLOYMENT, handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=False,
    )
    router.initialize_state(
        imbalanced_threshold=imbalance, match_rate_threshold=match_rate, tree_actor=Tree()
    )
    replicas = [Replica(place) for place in range(history.workers)]
    router.update_replicas(replicas)
    chosen = []
    for act in history.acts:
        if act[0] == "end":
            replicas[chosen[act[1]]].inflight -= 1
            continue
        _, number, text, blocks = act
        asked = SimpleNamespace(prompt=history.prompt(text, blocks))
        metadata = RequestMetadata(request_id=str(number), internal_request_id=str(number))
        pending = PendingRequest(args=[asked], kwargs={}, metadata=metadata)
        candidates = (await router.choose_replicas(replicas, pending))[0]
        replica = await router._select_from_candidate_replicas(candidates, backoff_index=0)
        replica.inflight += 1
        router.on_request_routed(pending, replica.replica_id, None)
        chosen.append(replicas.index(replica))
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", help="name and version, as the file is to say")
    parser.add_argument("out")
    parser.add_argument("--histories", type=int, default=8)
    parser.add_argument("--sends", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draws, recorded = random.Random(args.seed), []
    for number in range(args.histories):
        match_rate, imbalance, most, workers = SETTINGS[number % len(SETTINGS)]
        history = History(draws, workers or draws.randint(2, 5), args.sends, most, False)
        chosen = asyncio.run(play(history, match_rate, imbalance))
        recorded.append({
            "cache_threshold": match_rate, "balance_abs_threshold": imbalance, "balance_rel_threshold": 0,
            "workers": history.workers, "texts": history.texts, "acts": in_short(history.acts), "chosen": chosen,
        })
        print(f"{args.original}: history {number}, {len(chosen)} decisions", file=sys.stderr)
    with open(args.out, "w") as out:
        out.write(json.dumps({"original": args.original, "histories": recorded}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
