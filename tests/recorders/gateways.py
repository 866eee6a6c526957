#!/usr/bin/env python3
"""Records golden decisions of gateways that are installed as Python packages.

A gateway is started in front of workers that are this program: each holds a request
until it is told to answer it. Random histories of arrivals and ends are played one step
at a time, and which worker a request reaches is written down. README.md says how.
"""

import argparse
import http.client
import json
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Characters of a block of 16 tokens. The first of them names the block, so that two
# texts part at a block's first character.
BLOCK_CHARACTERS = 64
FIRST_NAME = 0x4E00
LARGEST_TEXT = 20


def tokens(prompt):
    """Sixteen of a block, which the block's name makes its own."""
    names = prompt[::BLOCK_CHARACTERS]
    return [ord(name) * 16 + place for name in names for place in range(16)]


class Worker:
    """A server that reports every request to `arrivals` and answers it when told."""

    def __init__(self, index, arrivals):
        self.held = {}
        # What it reports of its load, if it does, and how often it was asked.
        self.load, self.polls = None, 0
        worker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, body, status=200):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self):
                """A gateway that need not look at a request passes it on in chunks."""
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                data = b""
                while size := int(self.rfile.readline(), 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def do_GET(self):
                if self.path.startswith("/v1/models"):
                    self.answer({"object": "list", "data": [{"id": "m", "object": "model"}]})
                elif self.path.startswith("/loads") and worker.load is not None:
                    self.answer({"loads": [worker.load], "version": "1", "timestamp": "t", "dp_rank_count": 1})
                    worker.polls += 1
                elif "load" in self.path or "metrics" in self.path:
                    self.answer({"error": "no loads"}, 404)
                else:
                    self.answer({"status": "ok", "model_id": "m", "model_path": "m", "served_model_name": "m"})

            def do_POST(self):
                body = json.loads(self.body() or "{}")
                if "prompt" not in body:
                    self.answer({})
                    return
                if self.path == "/v1/completions/render":
                    # vllm-router asks servers to take prompts apart.
                    self.answer([{"token_ids": tokens(body["prompt"])}])
                    return
                name = body["user"]
                done = threading.Event()
                worker.held[name] = done
                arrivals.put((name, index))
                done.wait()
                self.answer({
                    "id": "c", "object": "text_completion", "created": 0, "model": "m",
                    "choices": [{"index": 0, "text": "x", "finish_reason": "stop", "logprobs": None}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                })

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Gateway:
    def __init__(self, command, workers, policy, options):
        self.port = free_port()
        urls = [worker.url for worker in workers]
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port), "--worker-urls", *urls,
             "--policy", policy, "--prometheus-port", str(free_port()), *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def ask(self, body, timeout=600):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def wait_ready(self, workers, arrivals):
        """Until every worker has answered a request of its own."""
        end = time.time() + 60
        while time.time() < end:
            try:
                if self.get("/workers")[0] == 200:
                    listed = json.loads(self.get("/workers")[1])
                    found = listed.get("workers", listed.get("urls", []))
                    if len(found) >= len(workers):
                        return
            except (OSError, ValueError):
                pass
            time.sleep(0.2)
        sys.exit("the gateway did not get ready")


# KV blocks of each worker, where workers report how many are in use.
BLOCKS = 1000
# Acts between two reports: few enough to be over before a gateway asks again.
ACTS_OF_A_REPORT = 20
# Seconds between two polls of a gateway.
POLL_SECONDS = 3


class History:
    """Texts that branch off each other, and what happens."""

    def __init__(self, draws, workers, sends, most_inflight, reports):
        self.texts = [None]
        for _ in range(draws.randint(3, 9)):
            fork = draws.random() < 0.7
            parent = draws.randrange(len(self.texts))
            self.texts.append([parent, draws.randint(1, 12)] if fork else None)
        self.workers, self.acts = workers, []
        inflight, sent = [], 0
        fill = True
        popular = draws.randrange(len(self.texts))
        while sent < sends:
            if reports and len(self.acts) % (ACTS_OF_A_REPORT + 1) == 0:
                self.acts.append(("report", [
                    [draws.randint(0, 20), draws.choice([0, 0, draws.randint(0, 30)]), draws.randint(0, BLOCKS)]
                    for _ in range(workers)
                ]))
            if draws.random() < 0.03:
                fill = not fill
                popular = draws.randrange(len(self.texts))
            arrives = draws.random() < (0.85 if fill else 0.35)
            if (arrives and len(inflight) < most_inflight) or not inflight:
                text = popular if draws.random() < 0.5 else draws.randrange(len(self.texts))
                self.acts.append(("send", sent, text, draws.randint(1, LARGEST_TEXT)))
                inflight.append(sent)
                sent += 1
            else:
                # The newest more often than the oldest, so that old load stays.
                at = max(draws.randrange(len(inflight)), draws.randrange(len(inflight)))
                self.acts.append(("end", inflight.pop(at)))

    def name(self, text, block):
        """The character that names a block: the same in all texts that share it."""
        fork = self.texts[text]
        if fork is not None and block < fork[1]:
            return self.name(fork[0], block)
        return chr(FIRST_NAME + text * LARGEST_TEXT + block)

    def prompt(self, text, blocks):
        return "".join(self.name(text, block) + "x" * (BLOCK_CHARACTERS - 1) for block in range(blocks))


def report(running, waiting, used):
    return {
        "dp_rank": 0, "num_running_reqs": running, "num_waiting_reqs": waiting,
        "num_used_tokens": used, "max_total_num_tokens": BLOCKS, "token_usage": used / BLOCKS,
    }


def play(command, policy, options, history, settle):
    arrivals = queue.Queue()
    workers = [Worker(index, arrivals) for index in range(history.workers)]
    if any(act[0] == "report" for act in history.acts):
        # From the start, or the gateway looks for loads elsewhere.
        for worker in workers:
            worker.load = report(0, 0, 0)
    gateway = Gateway(command, workers, policy, options)
    chosen, clients, where = [], {}, {}
    try:
        gateway.wait_ready(workers, arrivals)
        time.sleep(1)
        polls = None
        for act in history.acts:
            if act[0] == "report":
                if polls is not None and [worker.polls for worker in workers] != polls:
                    sys.exit("the gateway asked for loads in between: this machine is too slow now")
                for worker, (running, waiting, used) in zip(workers, act[1]):
                    worker.load = report(running, waiting, used)
                before = [worker.polls for worker in workers]
                # Twice, so that the first answer with these values is read.
                while any(worker.polls < seen + 2 for worker, seen in zip(workers, before)):
                    time.sleep(0.01)
                time.sleep(0.2)
                polls = [worker.polls for worker in workers]
            elif act[0] == "send":
                _, number, text, blocks = act
                body = {"model": "m", "prompt": history.prompt(text, blocks), "user": str(number), "max_tokens": 1}
                client = threading.Thread(target=gateway.ask, args=(body,), daemon=True)
                client.start()
                name, worker = arrivals.get(timeout=20)
                if name != str(number):
                    sys.exit(f"request {name} came in place of {number}: was it sent twice?")
                chosen.append(worker)
                clients[number], where[number] = client, worker
            else:
                number = act[1]
                workers[where[number]].held.pop(str(number)).set()
                clients.pop(number).join(timeout=20)
                time.sleep(settle)
    finally:
        for worker in workers:
            for done in worker.held.values():
                done.set()
        gateway.process.terminate()
        gateway.process.wait(timeout=30)
        for worker in workers:
            worker.server.shutdown()
    return chosen


def in_short(acts):
    """`TEXT:BLOCKS` for an arrival, in order; `-NUMBER` for the end of that arrival;
    `@RUNNING,WAITING,USED;...` for what workers report."""

    def text(act):
        if act[0] == "report":
            return "@" + ";".join(",".join(map(str, load)) for load in act[1])
        return f"{act[2]}:{act[3]}" if act[0] == "send" else f"-{act[1]}"

    return " ".join(map(text, acts))


COMMANDS = {
    "sglang": ["-m", "sglang_router.launch_router"],
    "vllm": ["-m", "vllm_router.launch_router"],
    "smg": ["-m", "smg", "launch"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=COMMANDS)
    parser.add_argument("python", help="the interpreter that has the package")
    parser.add_argument("original", help="name and version, as the file is to say")
    parser.add_argument("out")
    parser.add_argument("--histories", type=int, default=4)
    parser.add_argument("--sends", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", default="cache_aware")
    parser.add_argument("--workers", type=int, help="as many in every history (default: 2 to 5, drawn)")
    parser.add_argument("--reports", action="store_true", help="workers report their loads (smg)")
    parser.add_argument("--settle", type=float, default=0.01, help="seconds after an end")
    args = parser.parse_args()
    # Cache threshold, absolute and relative balance threshold; requests in flight at most.
    settings = [(0.3, 64, 1.5, 120), (0.5, 4, 1.1, 30), (0.1, 8, 1.5, 60)]
    recorded = []
    draws = random.Random(args.seed)
    for number in range(args.histories):
        cache, absolute, relative, most = settings[number % len(settings)]
        options = ["--cache-threshold", str(cache), "--balance-abs-threshold", str(absolute),
                   "--balance-rel-threshold", str(relative), "--eviction-interval-secs", "3600",
                   "--disable-retries", "--disable-circuit-breaker"]
        if args.reports:
            options += ["--load-monitor-interval", str(POLL_SECONDS)]
        history = History(draws, args.workers or draws.randint(2, 5), args.sends, most, args.reports)
        chosen = play([args.python, *COMMANDS[args.kind]], args.policy, options, history, args.settle)
        recorded.append({
            "cache_threshold": cache, "balance_abs_threshold": absolute, "balance_rel_threshold": relative,
            "workers": history.workers, "texts": history.texts, "acts": in_short(history.acts), "chosen": chosen,
        })
        print(f"{args.original}: history {number}, {len(chosen)} decisions", file=sys.stderr)
    with open(args.out, "w") as out:
        out.write(json.dumps({"original": args.original, "histories": recorded}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
