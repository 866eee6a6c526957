#!/usr/bin/env python3
"""How fast `sim ui` simulates with a page attached (Linux).

usage: benches/live_page.py SIM [SECONDS]

Runs `SIM ui doks-3xh200`, two arms, at 180 conversations and full speed, reads its updates as
a page does, and prints simulated seconds for each second of the processor that the session's
thread used.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request


def main(sim: str, seconds: float) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sim, "ui", "doks-3xh200", "--no-open", "--port", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(page)
        last = [0.0, 0]
        threading.Thread(target=read, args=(page, last), daemon=True).start()
        do(page, {"do": "control", "control": {"what": "load", "concurrency": 180}})
        do(page, {"do": "pace", "speed": None})
        time.sleep(3)
        before, begin = (last[0], last[1], session_s(server.pid)), time.monotonic()
        time.sleep(seconds)
        simulated, updates = last[0] - before[0], last[1] - before[1]
        used, passed = session_s(server.pid) - before[2], time.monotonic() - begin
        print(
            f"{simulated / used:.0f} simulated seconds a second of the processor, "
            f"{simulated / passed:.0f} by the clock, {updates / passed:.0f} updates a second"
        )
    finally:
        server.kill()


def wait_for(page: str) -> None:
    for _ in range(100):
        try:
            urllib.request.urlopen(page).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{page} does not answer")


def read(page: str, last: list) -> None:
    """Keeps the simulated time of the last update, and counts updates."""
    for line in urllib.request.urlopen(f"{page}/api/events"):
        if line.startswith(b"data:"):
            now = json.loads(line[5:]).get("now")
            if isinstance(now, dict) and now.get("t") is not None:
                last[0], last[1] = float(now["t"]), last[1] + 1


def do(page: str, what: dict) -> None:
    headers = {"Content-Type": "application/json", "Origin": page}
    body = json.dumps(what).encode()
    urllib.request.urlopen(urllib.request.Request(f"{page}/api/do", body, headers)).close()


def session_s(pid: int) -> float:
    """Seconds of the processor that the thread of the session has used."""
    for stat in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        if name == "sim-session":
            user, system = rest.split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return 0.0


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) == 3 else 20.0)
