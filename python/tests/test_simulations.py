"""Simulations are stepped, watched and steered, with workloads of one's own."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

import pytest

from kv_router_sim import Experiment, Request, SimError

CHOICE = {"router.policy": "kv"}


@pytest.fixture
def exp(doks):
    return doks.set(CHOICE)


def test_cut_into_steps_it_is_the_run(exp):
    digests = exp.run().digests
    for seed, digest in zip(exp.seeds, digests):
        simulation = exp.simulation(seed=seed)
        while not simulation.step(7.3):
            pass
        assert simulation.digest == digest
        whole = exp.simulation(seed=seed)
        whole.run()
        assert whole.digest == digest


def test_its_metrics_are_those_of_the_run(exp):
    results = exp.run()
    simulation = exp.simulation(seed=1)
    simulation.run()
    (metrics,) = simulation.finish()
    table = results.metrics_by_seed
    for name, value in metrics.items():
        if name in table.column_names:
            assert table[name][0] == value, name
    with pytest.raises(SimError, match="has been finished"):
        simulation.step(1)


def test_time_is_put_in_and_looked_at(exp):
    simulation = exp.simulation()
    simulation.watch(10)
    assert simulation.now == 0
    assert simulation.step(30) is False and simulation.now == 30
    assert simulation.step_until(40.5) is False and simulation.now == 40.5
    assert simulation.step_until(3) is False and simulation.now == 40.5
    snapshot = simulation.snapshot()
    assert snapshot["at"] == 40.5 and len(snapshot["workers"]) == 3
    assert snapshot["live_requests"] == sum(worker["inflight"] for worker in snapshot["workers"])
    assert snapshot["ttft_ms_p95"] > snapshot["ttft_ms_p50"] > 0


def test_steering_is_written_down_and_replays(exp, tmp_path):
    simulation = exp.simulation(seed=1)
    simulation.step(20)
    simulation.steer("load", concurrency=90)
    simulation.step(20)
    simulation.steer("parameter", key="overlap_weight", value=2)
    simulation.steer("crash", worker=1, restart_after="10s")
    simulation.run()
    file = tmp_path / "again.toml"
    file.write_text('name = "again"\nextends = "sim:/experiments/doks-3xh200.toml"\n' + simulation.applied)
    changes = {"measure.window": "100s", "measure.seeds": 1, "workload.concurrency": 60}
    again = Experiment.load(file, set={**changes, **CHOICE})
    assert again.run().digests == [simulation.digest]


@pytest.mark.parametrize(
    ("what", "keys", "message"),
    [
        ("lode", {}, "unknown variant"),
        ("load", {}, "concurrency"),
        ("load", {"concurrency": 5, "rate": 3}, "rate"),
        ("rate", {"rate": 3}, "process of arrivals"),
        ("crash", {"worker": 17}, "17"),
        ("parameter", {"key": "overlap_wait", "value": 1}, "overlap_weight"),
        ("load", {"concurrency": 5, "at": "3s"}, "left out"),
    ],
)
def test_steering_that_makes_no_sense_is_refused(exp, what, keys, message):
    simulation = exp.simulation()
    with pytest.raises(SimError, match=message):
        simulation.steer(what, **keys)
    assert simulation.applied.strip() == ""


def test_observers_hear_everything_and_change_nothing(exp):
    plain = exp.simulation()
    plain.run()
    heard: dict[str, int] = {}
    watched = exp.simulation()
    watched.observe(lambda it: heard.update({it["kind"]: heard.get(it["kind"], 0) + 1}))
    watched.run()
    assert watched.digest == plain.digest
    assert heard["arrival"] >= heard["dispatch"] >= heard["end"] > 100


def test_an_exception_of_an_observer_comes_out(exp):
    simulation = exp.simulation()

    def fails(it):
        raise ArithmeticError(it["kind"])

    simulation.observe(fails)
    with pytest.raises(ArithmeticError):
        simulation.run()


def of(policy):
    """A short experiment with one policy."""
    small = {"measure.window": "100s", "workload.concurrency": 60, "router.policy": policy}
    return Experiment.load("doks-3xh200", policies=[policy]).set(small)


def test_it_cannot_be_asked_from_inside_its_own_call(exp):
    asked = "cannot be asked from inside its own call"
    watched = exp.simulation()
    watched.observe(lambda it: watched.now)
    with pytest.raises(RuntimeError, match=asked):
        watched.step(10)

    class Asks:
        def route(self, now, request, view):
            return len(routed.snapshot()["workers"]) - 1

    routed = of(Asks).simulation()
    with pytest.raises(RuntimeError, match=asked) as error:
        routed.step(10)
    assert any("while routing request 0" in note for note in error.value.__notes__)

    def iterates():
        yield Request(0.5, 100, 10)
        yield Request(fed.now, 100, 10)

    fed = exp.simulation(workload=iterates())
    with pytest.raises(RuntimeError, match=asked):
        fed.run()


@pytest.mark.parametrize("method", ["route", "observe", "wake_at"])
def test_after_an_exception_of_its_policy_it_stays_where_it_is(method):
    class Fails:
        calls = 0

        def route(self, now, request, view):
            return 0

        def release(self, now, view):
            return None

    def fail(self, *arguments):
        self.calls += 1
        if self.calls > 30:
            raise ZeroDivisionError("no reason")
        return 0 if method == "route" else None

    setattr(Fails, method, fail)
    exp = of(Fails)
    simulation, ends = exp.simulation(), []
    simulation.observe(lambda it: ends.append(it) if it["kind"] == "end" else None)
    with pytest.raises(ZeroDivisionError, match="no reason") as error:
        simulation.run()
    assert error.value.__notes__
    for ask in (lambda: simulation.step(50), simulation.run, simulation.run):
        with pytest.raises(SimError, match='the policy "fails" failed before: Zero.*no reason'):
            ask()
    assert not [end for end in ends if end["end"] == "rejected"]


def test_simulations_of_one_experiment_do_not_end_each_other():
    under_way, failed = threading.Event(), threading.Event()
    made = []

    class Meets:
        """Of those made since the experiment was loaded, the second fails."""

        def __init__(self):
            made.append(self)
            self.fails = len(made) == 2

        def route(self, now, request, view):
            if self.fails:
                raise ZeroDivisionError("no reason")
            under_way.set()
            assert failed.wait(60)
            return 0

    exp = of(Meets)
    made.clear()
    good, bad = exp.simulation(), exp.simulation()
    assert len(made) == 2
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(good.step(15)))
    thread.start()
    assert under_way.wait(60)
    with pytest.raises(ZeroDivisionError):
        bad.step(15)
    failed.set()
    thread.join()
    assert outcome == [False] and good.now == 15


def test_any_thread_may_step_it(exp):
    simulation = exp.simulation()
    threads = [threading.Thread(target=simulation.step_until, args=(20 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other = exp.simulation()
    other.step_until(80)
    assert (simulation.now, simulation.digest) == (80, other.digest)


def test_at_chooses_one_simulation(doks):
    with pytest.raises(SimError, match="several simulations have what at= asks for") as error:
        doks.simulation()
    assert "router.policy=kv" in str(error.value)
    with pytest.raises(SimError, match="no simulation has"):
        doks.simulation({"router.policy": "kw"})
    for wrong in (-1, float("nan"), 1e12):
        with pytest.raises(SimError, match="must be seconds"):
            doks.simulation(CHOICE).step(wrong)


def requests(count, blocks=()):
    return (Request(0.1 * at, 1000, 20, blocks=blocks, conversation=at % 3) for at in range(count))


def test_a_workload_is_an_iterator_of_requests(exp):
    ends = []
    simulation = exp.simulation(workload=requests(50))
    simulation.observe(lambda it: ends.append(it) if it["kind"] == "end" else None)
    simulation.run()
    assert [end["end"] for end in ends] == ["finished"] * 50
    assert {end["output_tokens"] for end in ends} == {20}


def test_requests_that_share_blocks_share_the_cache(exp):
    def cached(blocks):
        found = []
        simulation = exp.simulation(workload=requests(40, blocks))

        def hear(it):
            if it["kind"] == "worker" and it["event"].kind == "scheduled":
                found.append(it["event"].cached_tokens)

        simulation.observe(hear)
        simulation.run()
        return sum(found)

    assert cached(()) == 0
    assert cached(range(30)) > 30 * 900


def test_an_endless_workload_is_read_as_it_is_needed(exp):
    read = []

    def endless():
        for at in itertools.count():
            read.append(at)
            yield Request(0.5 * at, 100, 5)

    simulation = exp.simulation(workload=endless())
    simulation.step_until(10)
    assert 15 < len(read) < 25


@pytest.mark.parametrize(
    ("workload", "error", "message"),
    [
        ([Request(1, 10, 10), Request(0.5, 10, 10)], SimError, "request 1 of the workload"),
        ([3], SimError, "gave a int"),
        ((1 / 0 for _ in range(1)), ZeroDivisionError, "division"),
    ],
)
def test_workloads_that_make_no_sense_are_refused(exp, workload, error, message):
    with pytest.raises(error, match=message):
        exp.simulation(workload=workload).run()


@pytest.mark.parametrize("advance", [lambda it: it.step(100), lambda it: it.run()])
def test_a_workload_that_fails_on_the_way_is_heard_of(exp, advance):
    def failing():
        yield from requests(50)
        raise KeyError("the file ends here")

    simulation = exp.simulation(workload=failing())
    with pytest.raises(KeyError, match="the file ends here"):
        advance(simulation)
    # Its end would be another simulation's.
    for again in (simulation.run, lambda: simulation.step(1)):
        with pytest.raises(SimError, match="failed before, at request 50: KeyError"):
            again()


DEFECT = """
from kv_router_sim import Experiment, _native
exp = Experiment.load("doks-3xh200").set({"measure.window": "100s", "measure.seeds": 1})
simulation = exp.simulation({"router.policy": "kv", "workload.concurrency": 60})
for broken in (None, simulation):
    try:
        _native._defect(broken)
    except BaseException as error:
        print(type(error).__name__, error)
try:
    simulation.step(1)
except Exception as error:
    print(type(error).__name__, error)
print(len(exp.set({"router.policy": "kv", "workload.concurrency": 60}).run().digests))
"""


def test_a_defect_of_the_simulator_is_an_exception():
    command = [sys.executable, "-c", DEFECT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "PanicException a defect on purpose",
        "PanicException a defect on purpose",
        "SimError this simulation has been finished",
        "1",
    ], done.stderr
    assert "this is a defect of the simulator" in done.stderr


def test_requests_that_make_no_sense_are_refused():
    for arguments, message in [
        ((-1, 10, 10), "at = -1"),
        ((1e12, 10, 10), "at = 1000000000000: must be seconds, from 0 to 8640000"),
        ((0, 0, 10), "prompt_tokens = 0"),
        ((0, 10, 0), "output_tokens = 0"),
    ]:
        with pytest.raises(SimError, match=message):
            Request(*arguments)
    with pytest.raises(SimError, match="max_tokens = 5"):
        Request(0, 10, 10, max_tokens=5)
    with pytest.raises(SimError, match="2\\^63"):
        Request(0, 10, 10, blocks=[1 << 63])
    with pytest.raises(TypeError):
        Experiment.load("doks-3xh200").simulation(CHOICE, workload=3)
