"""Routers in Python for `sim`: the production question, asked in simulated time.

A router is a class with one method:

    from sim_router import Router, run

    class LeastLoaded(Router):
        def route(self, now_ns, request, view):
            return min(view.available(), key=lambda worker: view.inflight[worker])

    run(LeastLoaded)

`router.policy = "external"` and `router.command = ["python3", "least_loaded.py"]` in an
experiment make `sim` run it, one process for each simulation. The clock is the
simulation's: the process is asked when a request comes, with all that was heard since the
last one, and may take as long as it likes (`router.timeout`).

This file needs the standard library only: copy it beside your router. It speaks protocol 2
(docs/router-protocol.md). The same lines and the same seed must give the same answers: take
random numbers from `facts.rng()`, and do not iterate over sets of strings.

What a router prints goes to stderr, because stdout carries the answers; `sim` shows the
last lines if something goes wrong.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Callable, Iterator, Mapping, Optional, Sequence, Union

__all__ = [
    "Choice", "Cost", "Facts", "HOLD", "PROTOCOL", "REJECT", "Release", "Report", "Request",
    "Rng", "Router", "View", "Worker", "run", "serve",
]

PROTOCOL = 2


@dataclass(frozen=True)
class Worker:
    """What a worker can do, as it tells its router when it joins."""

    blocks: int
    """KV blocks."""
    max_num_seqs: int
    """Sequences that run at once."""
    max_num_batched_tokens: int
    """Tokens computed in one step."""
    engine: Optional[int] = None
    """Where engines have several ranks, and each is a worker here: the engine. The ranks of
    one come and go together."""
    rank: Optional[int] = None
    """And the number of the rank there."""


@dataclass(frozen=True)
class Facts:
    """What a router is configured with."""

    seed: int
    """All randomness that the router gets: 64 bits."""
    block_size: int
    """Tokens in a block."""
    role: str
    """What the workers do: "both", "prefill" or "decode"."""
    may_prefill: bool
    """Where they decode: whether short prompts are prefilled there, too."""
    workers: Sequence[Worker]
    """All that there can ever be; a worker is its place in this list."""
    kv_events: bool
    """Whether `on_stored` and `on_removed` are called."""
    output_blocks: bool
    """Whether `on_output_block` is called."""
    report_period_ns: Optional[int]
    """Time between two reports of the workers' gauges; None if there are none."""
    parameters: Mapping[str, Any]
    """What `router.parameters` says in the experiment."""

    def rng(self, *keys: int) -> Rng:
        """A stream of random numbers; other keys give other streams."""
        return Rng(self.seed, *keys)


@dataclass(frozen=True)
class Request:
    """What a router may see of a request. The output length is not there: no router has it."""

    id: int
    session: int
    """The session that the client names."""
    prompt_tokens: int
    blocks: Sequence[range]
    """The prompt's full blocks, as runs of consecutive numbers. A number stands for a block
    and all before it: two prompts that have a number in common are equal up to there."""
    prefilled: bool = False
    """Its prompt has been computed elsewhere; it goes to a worker that decodes."""

    @property
    def block_count(self) -> int:
        """How many full blocks the prompt has."""
        return sum(map(len, self.blocks))

    def block_ids(self) -> Iterator[int]:
        """The prompt's full blocks, one by one, in order."""
        for run in self.blocks:
            yield from run


@dataclass(frozen=True)
class Report:
    """Gauges as a worker reported them."""

    at_ns: int
    running: int
    waiting: int
    used_blocks: int


@dataclass(frozen=True)
class View:
    """What stands now."""

    inflight: Sequence[int]
    """Requests in flight on each worker: those that this router sent there. Exact."""
    absent: frozenset[int]
    """Workers that take no requests."""
    reports: Sequence[Optional[Report]]
    """What each worker reported last."""

    def available(self) -> list[int]:
        """Workers that can be chosen, in order. At least one, when a request comes."""
        return [worker for worker in range(len(self.inflight)) if worker not in self.absent]


@dataclass(frozen=True)
class Cost:
    """What a worker costs, for `sim explain`."""

    worker: int
    cost: Optional[float]
    """Lower wins; None where the request cannot go."""
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """An answer with more than a worker. One of `worker`, `hold` and `reject`."""

    worker: Optional[int] = None
    hold: bool = False
    """The router keeps the request until `release` gives it back."""
    reject: bool = False
    """The request is turned away."""
    wake_ns: Optional[int] = None
    """With `hold`: when to call `release` even if nothing is heard. Each such time holds; where
    it is None, `Router.wake_ns` is asked."""
    costs: Sequence[Cost] = ()
    """For `sim explain`."""
    overlap_blocks: Optional[Sequence[int]] = None
    """Leading blocks of the prompt that the router believes each worker to hold; for
    `sim explain` and `measure.why`."""


HOLD = Choice(hold=True)
"""The router keeps the request until `release` gives it back."""

REJECT = Choice(reject=True)
"""The request is turned away."""


@dataclass(frozen=True)
class Release:
    """A held request that goes to `worker`, or is turned away if that is None."""

    request: int
    worker: Optional[int]


class Router:
    """Override `route`, and what else you need. Events come in the order in which they are
    heard, before the request or the release that they may decide."""

    facts: Facts
    now_ns: int = 0
    """The time of the question at hand."""

    def start(self) -> None:
        """Called once, when `facts` are known."""

    def route(self, now_ns: int, request: Request, view: View) -> Union[int, Choice]:
        """Where `request` goes: a worker, HOLD, REJECT or a `Choice`."""
        raise NotImplementedError("a router has a method `route`")

    def release(self, now_ns: int, view: View) -> Sequence[Release]:
        """Held requests that go now. Called while some are held, when something was heard."""
        return ()

    def wake_ns(self) -> Optional[int]:
        """When to call `release` again even if nothing is heard. Asked after every `release`: of
        times to come the earliest that it gave holds, and None takes none back."""
        return None

    # The life of requests that this router sent.

    def on_scheduled(self, at_ns: int, worker: int, request: int, cached_tokens: int) -> None:
        """It entered a batch for the first time; so many tokens need no computing."""

    def on_first_token(self, at_ns: int, worker: int, request: int) -> None:
        """Its first output token left the worker: the prompt is computed."""

    def on_output_block(self, at_ns: int, worker: int, request: int, output_tokens: int) -> None:
        """A later output token is the first of a block."""

    def on_end(self, at_ns: int, worker: int, request: int, how: str) -> None:
        """It is at the worker no more: "finished", "prefilled", "rejected", "aborted" or
        "failed"."""

    # Caches, as late as the feed delivers: `at_ns` is when the worker published it.

    def on_stored(self, at_ns: int, worker: int, parent: Optional[int], blocks: range) -> None:
        """`worker` has `blocks`, which come after `parent` (None: they begin a prompt)."""

    def on_removed(self, at_ns: int, worker: int, blocks: range) -> None:
        """`worker` lost `blocks`, the last of them first."""

    def on_stored_below(self, at_ns: int, worker: int, medium: str, blocks: range) -> None:
        """`worker` has `blocks` in a tier below GPU memory: "host", "disk" or "remote"."""

    def on_removed_below(self, at_ns: int, worker: int, medium: str, blocks: range) -> None:
        """`worker` lost `blocks` from that tier."""

    # Membership, and other front ends.

    def on_left(self, worker: int) -> None:
        """`worker` is gone or on its way out: forget what it held and ran."""

    def on_joined(self, worker: int) -> None:
        """`worker` takes requests, with an empty cache."""

    def on_peer_sent(self, worker: int, overlap_blocks: int, request: Request) -> None:
        """Another front end sent `request` to `worker`."""

    def on_other(self, event: Mapping[str, Any]) -> None:
        """Any other event, as it came: layers kept apart, loads from lower tiers, KV that has
        come from a worker that prefills, preemptions."""


class Rng:
    """Xoshiro256++ (Blackman, Vigna), seeded as `sim` seeds its own streams: every platform
    and version of Python gives the same numbers."""

    def __init__(self, seed: int, *keys: int) -> None:
        state = seed
        for key in keys:
            state = _mix(state ^ _mix((key + _GOLDEN) & _MASK))
        self._state = [_mix((state + place * _GOLDEN) & _MASK) for place in range(4)]

    def next_u64(self) -> int:
        """64 random bits."""
        a, b, c, d = self._state
        total = (a + d) & _MASK
        result = (((total << 23) | (total >> 41)) + a) & _MASK
        c ^= a
        d ^= b
        b_next, a_next = b ^ c, a ^ d
        c ^= (b << 17) & _MASK
        d = ((d << 45) | (d >> 19)) & _MASK
        self._state = [a_next, b_next, c, d]
        return result

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, n below 2^32 (Canon's method)."""
        product = (self.next_u64() >> 32) * n
        result, low = product >> 32, product & 0xFFFF_FFFF
        if low > (1 << 32) - n:
            again = ((self.next_u64() >> 32) * n) >> 32
            result += (low + again) >> 32
        return result

    def random(self) -> float:
        """A number from 0 to 1, 1 left out."""
        return (self.next_u64() >> 11) * 2.0**-53


_MASK = (1 << 64) - 1
_GOLDEN = 0x9E37_79B9_7F4A_7C15


def _mix(z: int) -> int:
    """SplitMix64's next number from the state `z`."""
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return z ^ (z >> 31)


_ENDS = frozenset(["finished", "prefilled", "rejected", "aborted", "failed"])


def _run(pair: Sequence[Any]) -> range:
    first = int(pair[0])
    return range(first, first + pair[1])


def _request(asked: Mapping[str, Any]) -> Request:
    blocks = [_run(pair) for pair in asked["blocks"]]
    prefilled = asked.get("prefilled", False)
    return Request(asked["id"], asked["session"], asked["prompt_tokens"], blocks, prefilled)


class _Conversation:
    """One router and the lines about it."""

    def __init__(self, make: Callable[[], Router]) -> None:
        self._make = make
        self._router: Optional[Router] = None
        self._reports: list[Optional[Report]] = []

    def answer(self, line: bytes) -> bytes:
        """The answer to one line, as a line."""
        question = json.loads(line)
        op = question["op"]
        if op == "hello":
            answer = self._hello(question)
        elif self._router is None:
            raise ValueError("the first line must be a hello")
        elif op == "route":
            answer = self._route(self._router, question)
        elif op == "release":
            answer = self._release(self._router, question)
        else:
            raise ValueError(f"unknown op {op!r}: this is protocol {PROTOCOL}")
        return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode() + b"\n"

    def _hello(self, hello: Mapping[str, Any]) -> Mapping[str, Any]:
        if hello["protocol"] != PROTOCOL:
            raise ValueError(f"protocol {hello['protocol']}: this is protocol {PROTOCOL}")
        knowledge = hello["knowledge"]
        self._router = router = self._make()
        router.facts = Facts(
            seed=int(hello["seed"]),
            block_size=hello["block_size"],
            role=hello["role"],
            may_prefill=hello["may_prefill"],
            workers=[Worker(**worker) for worker in hello["workers"]],
            kv_events=knowledge["kv_events"],
            output_blocks=knowledge["output_blocks"],
            report_period_ns=knowledge.get("report_period_ns"),
            parameters=hello["parameters"],
        )
        self._reports = [None] * len(hello["workers"])
        router.start()
        return {"protocol": PROTOCOL, "name": type(router).__name__}

    def _hear(self, router: Router, question: Mapping[str, Any]) -> View:
        router.now_ns = question["now_ns"]
        for event in question["events"]:
            name = event["event"]
            if name == "stored":
                parent = event["parent"]
                router.on_stored(
                    event["at_ns"], event["worker"],
                    None if parent is None else int(parent), _run(event["blocks"]),
                )
            elif name == "removed":
                router.on_removed(event["at_ns"], event["worker"], _run(event["blocks"]))
            elif name == "first_token":
                router.on_first_token(event["at_ns"], event["worker"], event["request"])
            elif name in _ENDS:
                router.on_end(event["at_ns"], event["worker"], event["request"], name)
            elif name == "scheduled":
                router.on_scheduled(
                    event["at_ns"], event["worker"], event["request"], event["cached_tokens"]
                )
            elif name == "stored_below":
                router.on_stored_below(
                    event["at_ns"], event["worker"], event["medium"], _run(event["blocks"])
                )
            elif name == "removed_below":
                router.on_removed_below(
                    event["at_ns"], event["worker"], event["medium"], _run(event["blocks"])
                )
            elif name == "output_block":
                router.on_output_block(
                    event["at_ns"], event["worker"], event["request"], event["output_tokens"]
                )
            elif name == "left":
                router.on_left(event["worker"])
            elif name == "joined":
                router.on_joined(event["worker"])
            elif name == "peer_sent":
                request = _request(event["request"])
                router.on_peer_sent(event["worker"], event["overlap_blocks"], request)
            else:
                router.on_other(event)
        reports = question.get("reports")
        if reports is not None:
            self._reports = [report and Report(**report) for report in reports]
        return View(question["inflight"], frozenset(question.get("absent", ())), self._reports)

    def _route(self, router: Router, question: Mapping[str, Any]) -> Mapping[str, Any]:
        view = self._hear(router, question)
        choice = router.route(question["now_ns"], _request(question["request"]), view)
        if not isinstance(choice, Choice):
            return {"worker": choice}
        answer: dict[str, Any] = {}
        if choice.worker is not None:
            answer["worker"] = choice.worker
        if choice.hold:
            answer["hold"] = True
        if choice.reject:
            answer["reject"] = True
        wake_ns = choice.wake_ns if choice.wake_ns is not None or not choice.hold else router.wake_ns()
        if wake_ns is not None:
            answer["wake_ns"] = wake_ns
        if choice.costs:
            answer["costs"] = [
                {"worker": cost.worker, "cost": cost.cost, "parts": dict(cost.parts)}
                for cost in choice.costs
            ]
        if choice.overlap_blocks is not None:
            answer["overlap_blocks"] = list(choice.overlap_blocks)
        return answer

    def _release(self, router: Router, question: Mapping[str, Any]) -> Mapping[str, Any]:
        view = self._hear(router, question)
        released = [
            {"request": release.request, "reject": True}
            if release.worker is None
            else {"request": release.request, "worker": release.worker}
            for release in router.release(question["now_ns"], view)
        ]
        answer: dict[str, Any] = {"released": released}
        wake_ns = router.wake_ns()
        if wake_ns is not None:
            answer["wake_ns"] = wake_ns
        return answer


def _talk(make: Callable[[], Router], read: BinaryIO, write: BinaryIO) -> None:
    conversation = _Conversation(make)
    for line in read:
        write.write(conversation.answer(line))
        write.flush()


def run(make: Callable[[], Router]) -> None:
    """Answers on stdin and stdout until stdin ends. `make` gives a router: its class will do."""
    read, write = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # A stray print must not end up among the answers.
    sys.stdout = sys.stderr
    try:
        _talk(make, read, write)
    except (BrokenPipeError, KeyboardInterrupt):
        pass


def serve(make: Callable[[], Router], path: str) -> None:
    """Answers on the Unix socket `path` (`router.socket`), a router for every connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        try:
            while True:
                connection, _ = listener.accept()
                thread = threading.Thread(target=_serve_one, args=(make, connection), daemon=True)
                thread.start()
        finally:
            os.unlink(path)


def _serve_one(make: Callable[[], Router], connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as read, connection.makefile("wb") as write:
        _talk(make, read, write)
