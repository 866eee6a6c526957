"""Policies in Python route as policies in Rust do."""

from __future__ import annotations

import random

import pytest

from kv_router_sim import REJECT, Experiment, SimError

SMALL = {"measure.window": "100s", "measure.seeds": 2, "workload.concurrency": 60}


class InTurn:
    """The available workers in turn."""

    def __init__(self):
        self.turns = 0

    def route(self, now, request, view):
        worker = view.available[self.turns % len(view.available)]
        self.turns += 1
        return worker


class LeastRequests:
    """The worker with the fewest requests in flight, the lowest number first."""

    def route(self, now, request, view):
        return view.least_loaded[0]


class Room:
    """The first worker that has room."""

    def __init__(self, room=20, share=1.0, strict=False, note="none"):
        self.room = room

    def route(self, now, request, view):
        for worker in view.available:
            if view.inflight(worker) < self.room:
                return worker
        return view.available[0]


def load(*policies, **changes):
    exp = Experiment.load("doks-3xh200", policies=policies).set(SMALL)
    return exp.set(changes) if changes else exp


def routed(policy, *more):
    """A run of one policy, by its class."""
    return load(policy, *more).set("router.policy", policy).run()


def test_round_robin_in_python_has_the_digest_of_round_robin():
    exp = load(InTurn).set("router.policy", ["round_robin", InTurn])
    digests = exp.run().digests
    assert digests[:2] == digests[2:] and digests[0] != digests[1]


CRASH = {"at": "30s", "what": "crash", "worker": 1, "restart_after": "20s"}


# Not with several routers: in Rust each further one begins at a worker that it draws.
@pytest.mark.parametrize(
    "fleet",
    [{"cluster.change": [CRASH]}, {"engine.rules": "vllm", "cluster.prefill.workers": 1}],
    ids=["crash", "prefill and decode apart"],
)
def test_round_robin_is_the_same_on_other_fleets(fleet):
    exp = load(InTurn).set(fleet).set("router.policy", ["round_robin", InTurn])
    digests = exp.run().digests
    assert digests[:2] == digests[2:]


def test_least_loaded_is_least_loaded():
    theirs = load().set({"router.policy": "least_loaded"}).run()
    ours = routed(LeastRequests)
    assert ours.value("inflight_skew_mean") == pytest.approx(
        theirs.value("inflight_skew_mean"), rel=0.1
    )


def test_parameters_are_swept_like_any_other():
    exp = load(Room).set("router.policy", "room").set("router.room", [5, 60])
    assert [point["router.room"] for point in exp.points] == [5, 60]
    table = exp.run().metrics
    assert table["inflight_skew_mean"][1] > table["inflight_skew_mean"][0]
    # A whole number is a number; the default holds where nothing is given.
    load(Room).set({"router.policy": "room", "router.share": 1})


@pytest.mark.parametrize(
    ("key", "value", "must_be"),
    [
        ("room", "x", "a whole number"),
        ("room", 1.5, "a whole number"),
        ("share", True, "a number"),
        ("strict", 1, "true or false"),
        ("note", 3, "text in quotes"),
        ("rooms", 3, "did you mean"),
    ],
)
def test_parameters_of_the_wrong_kind_are_refused(key, value, must_be):
    with pytest.raises(SimError, match=must_be) as error:
        load(Room).set({"router.policy": "room", f"router.{key}": value})
    assert error.value.key == f"router.{key}"


def test_the_constructor_gets_what_it_asks_for():
    seen = []

    class Asks:
        """Draws a worker."""

        def __init__(self, fleet, seed, bias=0.5):
            seen.append((fleet.workers, fleet.block_size, fleet.role, seed, bias))
            self.random = random.Random(seed)
            self.workers = fleet.workers

        def route(self, now, request, view):
            return self.random.randrange(self.workers)

    first, again = routed(Asks), routed(Asks)
    assert first.digest == again.digest
    runs = [entry for entry in seen if entry[0] == 3]
    assert {entry[1:3] for entry in runs} == {(32, "both")}
    assert len({entry[3] for entry in runs}) == 2 and {entry[4] for entry in runs} == {0.5}


def test_what_the_view_says_agrees_with_itself():
    numpy = pytest.importorskip("numpy")
    calls = []

    class Looks:
        def route(self, now, request, view):
            inflight = [view.inflight(worker) for worker in range(len(view))]
            assert view.array("inflight").tolist() == inflight
            assert view.array("available").tolist() == [True] * 3
            assert view.array("running").tolist() == [-1] * 3
            assert view.available == [0, 1, 2] and view.available_count == len(view) == 3
            assert view.total_inflight == sum(inflight)
            assert (view.least_inflight, view.most_inflight) == (min(inflight), max(inflight))
            least = [worker for worker in range(3) if inflight[worker] == min(inflight)]
            assert view.least_loaded == least
            assert request.num_blocks == len(request.blocks) == request.prompt_tokens // 32
            runs = [first + at for first, count in request.block_runs for at in range(count)]
            assert runs == request.blocks
            with pytest.raises(IndexError, match="less than 3"):
                view.inflight(3)
            with pytest.raises(ValueError, match="used_blocks"):
                view.array("colour")
            calls.append(now)
            return int(numpy.argmin(view.array("inflight")))

    routed(Looks)
    assert len(calls) > 100


def test_nothing_can_be_looked_at_after_its_call():
    kept = []

    class Keeps:
        def route(self, now, request, view):
            kept.append((request, view))
            return 0

    routed(Keeps)
    request, view = kept[0]
    assert request.prompt_tokens > 0 and request.id == 0
    for look in (lambda: view.available, lambda: view.inflight(0), lambda: request.blocks):
        with pytest.raises(RuntimeError, match="only during the call"):
            look()


def test_observe_hears_of_first_tokens_and_ends():
    kinds = {}

    class Hears(InTurn):
        def observe(self, now, event):
            kinds[event.kind] = kinds.get(event.kind, 0) + 1
            assert event.worker in (0, 1, 2)
            assert (event.output_tokens is not None) == (event.kind in ("finished", "output_block"))

    assert routed(Hears).digest == routed(InTurn).digest
    assert kinds["first_token"] > 100 and kinds["finished"] > 100


def test_observe_kv_hears_what_is_stored_where():
    class Follows:
        """The worker that holds most of the prompt, as far as events say."""

        def __init__(self, fleet):
            self.held = [set() for _ in range(fleet.workers)]

        def observe_kv(self, worker, event):
            if event.medium == "gpu":
                change = self.held[worker].update if event.kind == "stored" else (
                    self.held[worker].difference_update)
                change(event.blocks)

        def route(self, now, request, view):
            def cost(worker):
                held = 0
                for block in request.blocks:
                    if block not in self.held[worker]:
                        break
                    held += 1
                return (-held, view.inflight(worker))

            return min(view.available, key=cost)

    assert routed(Follows).value("hit_ratio") > routed(InTurn).value("hit_ratio") + 0.1


def test_reports_come_where_they_are_asked_for():
    class Reads:
        report_period = 0.5

        def route(self, now, request, view):
            gauges = [view.reported(worker) for worker in view.available]
            assert all(now - gauge.at <= 0.5 for gauge in gauges)
            return min(view.available, key=lambda worker: gauges[worker].running)

    assert routed(Reads).value("requests_per_s") > 0


@pytest.mark.parametrize("period", [1e-13, 0.0009, 0.0, -1.0, float("nan"), float("inf")])
def test_reports_that_come_too_often_are_refused(period):
    policy = type("Reads", (InTurn,), {"report_period": period})
    with pytest.raises(ValueError, match="report_period = .*: must be seconds, at least 0.001"):
        load(policy).set("router.policy", policy)


@pytest.mark.parametrize("at", [-0.5, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(at):
    class Wakes(InTurn):
        def release(self, now, view):
            return None

        def wake_at(self):
            return at

    with pytest.raises(ValueError, match="wake_at gave .*: must be seconds, at least 0"):
        routed(Wakes)


def test_a_policy_may_hold_and_turn_away():
    class Holds:
        """At most fifty requests at once; every hundredth is turned away."""

        def __init__(self):
            self.held = []

        def route(self, now, request, view):
            if request.id % 100 == 99:
                return REJECT
            if view.total_inflight < 50:
                return view.least_loaded[0]
            self.held.append(request.id)
            return None

        def release(self, now, view):
            if self.held and view.total_inflight < 50:
                return self.held.pop(0), view.least_loaded[0]
            return None

    results = routed(Holds)
    assert results.value("rejected") > 0
    most = results.value("inflight_mean") if "inflight_mean" in results.metrics.column_names else 0
    assert most <= 50


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (7, "worker 7: must be one that takes requests: 0, 1, 2"),
        (-1, "route gave -1: must be the number of a worker"),
        ("a", "route gave 'a': must be the number of a worker"),
        (None, "has a method `release`"),
    ],
)
def test_answers_that_are_none_are_refused(answer, message):
    class Wrong:
        def route(self, now, request, view):
            return answer

    with pytest.raises(SimError, match=message.replace("(", r"\(")):
        routed(Wrong)


def test_an_exception_comes_out_with_the_request_at_hand():
    class Fails:
        def route(self, now, request, view):
            if request.id == 40:
                raise ZeroDivisionError("no reason")
            return 0

    with pytest.raises(ZeroDivisionError, match="no reason") as error:
        routed(Fails)
    assert any("while routing request 40 at" in note for note in error.value.__notes__)
    assert any("in route" in str(entry) for entry in error.traceback)


@pytest.mark.parametrize("method", ["observe", "observe_kv"])
def test_exceptions_elsewhere_come_out_too(method):
    def fail(self, *arguments):
        raise KeyError("lost")

    policy = type("Fails", (InTurn,), {method: fail})
    with pytest.raises(KeyError, match="lost") as error:
        routed(policy)
    assert error.value.__notes__


def test_an_exception_of_a_constructor_comes_out_when_it_is_loaded():
    class Fails(InTurn):
        def __init__(self, room=3):
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        load(Fails).set("router.policy", Fails)


def test_a_run_after_one_that_failed_is_fine():
    class Once(InTurn):
        failed = False

        def route(self, now, request, view):
            if not Once.failed:
                Once.failed = True
                raise RuntimeError("once")
            return super().route(now, request, view)

    exp = load(Once).set("router.policy", Once)
    with pytest.raises(RuntimeError, match="once"):
        exp.run()
    assert exp.run().digest == routed(InTurn).digest


def test_classes_that_are_no_policies_are_refused():
    class NoDefault(InTurn):
        def __init__(self, room):
            pass

    for policy, message in [
        (InTurn(), "must be a class"),
        (int, "method route"),
        (NoDefault, "room has the default none"),
    ]:
        with pytest.raises(TypeError, match=message):
            load(policy)
    with pytest.raises(SimError, match="two were added"):
        load(InTurn, InTurn)


def test_names_and_rules_are_read_off_the_class():
    class KVFirstHTTP(InTurn):
        """Its rule. And more.

        And still more.
        """

    class Named(InTurn):
        name = "my-own"

    assert load(KVFirstHTTP).set("router.policy", "kv_first_http").points
    assert load(Named).set("router.policy", "my-own").points
