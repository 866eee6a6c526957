"""Writes what inference-lab 1.0.0 is given for the work of ../lab-*.toml.

usage: inference_lab.py one-worker|eight-workers|sessions FOLDER [REQUESTS]

Writes config.toml, workload.toml and, of sessions, sessions.jsonl into FOLDER. REQUESTS is
100,000 unless given.
"""

import json
import pathlib
import sys

FLEET = """\
model = "qwen3-14b-fp8"
[scheduler]
max_num_batched_tokens = 2048
max_num_seqs = 256
policy = "fcfs"
enable_chunked_prefill = true
block_size = 16
"""

WORKLOAD = """\
seed = 42
input_len_dist = {{ type = "fixed", value = {prompt} }}
output_len_dist = {{ type = "fixed", value = {output} }}
"""

TURNS, NEW, OUTPUT, PAUSE = 5, 400, 200, 5.0


def main() -> None:
    work, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    requests = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    workers = 1 if work == "one-worker" else 8
    router = '[router]\npolicy = "kv_aware"\n' if workers > 1 else ""
    config = f"{FLEET}{router}[hardware.h100]\ntp = 1\nreplicas = {workers}\n"
    (folder / "config.toml").write_text(config)
    if work == "sessions":
        # Lengths are those of the sessions.
        arrivals = (
            f'sessions_path = "{folder}/sessions.jsonl"\narrival_pattern = "closed_loop"\n'
            f"num_concurrent_users = 160\nclosed_loop_jitter_secs = {PAUSE}\n"
            f"num_sessions = {requests // TURNS}\n"
        )
        lengths = WORKLOAD.format(prompt=1, output=1)
        steps = [
            {
                "input": turn * (NEW + OUTPUT) + NEW,
                "new": NEW,
                "output": OUTPUT,
                "gap": PAUSE if turn else 0.0,
                "kind": "user",
            }
            for turn in range(TURNS)
        ]
        with (folder / "sessions.jsonl").open("w") as sessions:
            for session in range(requests // TURNS):
                sessions.write(json.dumps({"id": str(session), "steps": steps}) + "\n")
    else:
        rate = 5.0 * workers
        arrivals = (
            f'arrival_pattern = "poisson"\narrival_rate = {rate}\nnum_requests = {requests}\n'
        )
        lengths = WORKLOAD.format(prompt=512, output=512)
    (folder / "workload.toml").write_text(arrivals + lengths)


main()
