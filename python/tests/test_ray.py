"""A sweep on a Ray cluster of two nodes gives the bytes of one machine."""

from __future__ import annotations

import signal

import pytest

from kv_router_sim import Experiment, SimError, policies

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

#: Seconds that a test may take: what hangs is a failure.
LIMIT_S = 60

#: Of a node. The store keeps results on their way; the smallest that Ray takes is 75 MB.
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}

FILES = ("summary.json", "summary.csv", "runs.json", "details.json")


@pytest.fixture(autouse=True)
def limit():
    def give_up(*_):
        raise TimeoutError(f"longer than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def cluster():
    """A head with one processor, and a second node."""
    cluster = Cluster()
    try:
        cluster.add_node(**NODE)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def second(cluster):
    node = cluster.add_node(**NODE)
    cluster.wait_for_nodes(timeout=30)
    yield node
    if node in cluster.list_all_nodes():
        cluster.remove_node(node)


@pytest.fixture
def exp(doks):
    return doks.set({"workload.concurrency": [40, 60, 80]})


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_node_that_is_lost_on_the_way_changes_no_byte(exp, cluster, second, tmp_path):
    told = []

    def lose(done, of):
        told.append((done, of))
        if done > 0 and second in cluster.list_all_nodes():
            # Without a farewell, as a machine that loses its power.
            cluster.remove_node(second, allow_graceful=False)

    there = exp.run(executor="ray", shards=6, progress=lose, out=tmp_path / "there", figures=False)
    here = exp.run(out=tmp_path / "here", figures=False)
    assert second not in cluster.list_all_nodes()
    assert there.digests == here.digests
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    counts = [done for done, _ in told]
    assert counts == sorted(set(counts)), "nothing comes twice"
    assert told[-1] == (exp.simulations, exp.simulations)
    assert not (tmp_path / "there/journal.jsonl").exists()


def test_a_run_that_was_stopped_goes_on(exp, cluster, tmp_path):
    class Enough(Exception):
        pass

    def stop(done, _):
        if done >= 4:
            raise Enough

    with pytest.raises(Enough):
        exp.run(executor="ray", shards=6, progress=stop, out=tmp_path / "there", figures=False)
    begun = []
    there = exp.run(
        executor="ray", shards=3, out=tmp_path / "there", figures=False,
        progress=lambda done, _: begun.append(done),
    )
    assert begun[0] >= 4
    assert there.digest == exp.run().digest


def test_policies_in_python_travel(doks, cluster):
    class Nth:
        """Every request to the worker of this number."""

        def __init__(self, number=0):
            self.number = number

        def route(self, now, request, view):
            if self.number > 9:
                raise LookupError("no such worker")
            return self.number

    exp = Experiment.load("doks-3xh200", policies=[Nth])
    exp = exp.set({"measure.window": "100s", "measure.seeds": 1, "workload.concurrency": 20})
    exp = exp.set("router.policy", ["kv", Nth])
    assert exp.run(executor="ray").digests == exp.run().digests
    with pytest.raises(LookupError, match="no such worker"):
        exp.set({"router.policy": "nth", "router.number": 10}).run(executor="ray")


def test_what_makes_no_sense_is_refused(doks):
    assert "kv" in policies()
    for arguments, message in [
        ({"executor": "dask"}, 'must be "ray"'),
        ({"shards": 2}, 'shards= is for executor="ray"'),
        ({"executor": "ray", "requests": True}, "other machines keep no requests"),
    ]:
        with pytest.raises(SimError, match=message):
            doks.run(**arguments)
