"""How soon a server is ready: ``python -m benchmarks.serve_start [--starts N] [TREE ...]``.

Seconds from the start of ``intarsia serve --null``, in an empty folder, to the first 200 of ``/readyz``, and the
processor time of the server and of its engine's process until then. Trees are folders with an ``intarsia`` in them,
such as two worktrees; they take turns, so that what else the machine does meets all of them. Linux only.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

# Seconds between two looks. Each look writes to the database and the folder, on the server's own processor time.
_BETWEEN = 0.005

# They would have each start compile what it imports, or have it measure another policy of waiting threads.
_LEFT_OUT = ("PYTHONDONTWRITEBYTECODE", "OMP_WAIT_POLICY")

Start = dict[str, float]


def main() -> None:
    """Measure, and print one JSON object: the medians and all starts of each tree."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("trees", nargs="*", type=Path, default=[Path.cwd()], metavar="TREE")
    parser.add_argument("--starts", type=int, default=10)
    options = parser.parse_args()

    starts: dict[str, list[Start]] = {str(tree.resolve()): [] for tree in options.trees}
    for tree in starts:
        started(tree)  # compiles what has not been
    for number in range(options.starts):
        turns = list(starts) if number % 2 == 0 else list(starts)[::-1]
        for tree in turns:
            starts[tree].append(started(tree))

    medians = {tree: {name: median(each[name] for each in of) for name in of[0]} for tree, of in starts.items()}
    print(json.dumps({"medians": medians, "starts": starts, "load": os.getloadavg()}, indent=1))


def started(tree: str) -> Start:
    """One start."""
    environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
    port = _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "intarsia", "serve", "--null", "--port", str(port), "--data", folder]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment | {"PYTHONPATH": tree}, cwd=folder, stderr=subprocess.DEVNULL
        )
        try:
            while not _is_ready(port):
                if process.poll() is not None:
                    raise SystemExit(f"the server of {tree} has ended: start it by hand to see why")
                time.sleep(_BETWEEN)
            seconds = time.perf_counter() - began
            engines = sum(map(_processor_seconds, _children(process.pid)))
            return {"ready": round(seconds, 3), "server": _processor_seconds(process.pid), "engine": engines}
        finally:
            process.terminate()
            process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:  # nobody listens yet
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _processor_seconds(process_id: int) -> float:
    """User and system time of a process, those of its threads that have ended too: proc(5), fields 14 and 15."""
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(process_id: int) -> list[int]:
    """Processes that any thread of a process has started."""
    threads = Path(f"/proc/{process_id}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


if __name__ == "__main__":
    main()
