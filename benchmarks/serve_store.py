"""What the job store costs: ``python -m benchmarks.serve_store [--database URL] [--jobs N] [--threads N]``.

Threads accept jobs, as many at a time as a server does, while another one claims and finishes them. Beside it, in the
same folder and the same minute, the time of one bare commit of SQLite: how much of an acceptance is the disk's.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from intarsia.server.store.jobs import Done, Job
from intarsia.server.store.store import Store

# As long as those of a usual request.
_REQUEST = {"prompt": "a wall of old bricks " * 10, "init_image": {"sha256": "0" * 64}}
_META = {f"field_{number}": "value " * 3 for number in range(35)}
_RESULT = {"seconds": 1.0, "seeds": [1], "nsfw": [False], "warnings": [], "meta": _META}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--database", help="SQLAlchemy URL of an empty database; else SQLite in --folder")
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; else the system's temporary one")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        commits = _bare_commits(Path(folder) / "bare.sqlite3", 200)
        store = Store(options.database or Path(folder) / "jobs.sqlite3")
        record = _measure(store, options.jobs, options.threads)
        store.close()
    record["bare_commit_ms"] = _percentiles(commits)
    record["accept_to_bare_commit"] = round(record["accept_ms"]["p50"] / record["bare_commit_ms"]["p50"], 2)
    print(json.dumps(record, indent=1))


def _measure(store: Store, jobs: int, threads: int) -> dict[str, object]:
    accepting: list[float] = []
    ending: list[float] = []

    def accept(number: int) -> None:
        began = time.perf_counter()
        store.accept(_job(number), most=10 * jobs, idempotency_key=f"key {number}")
        accepting.append(time.perf_counter() - began)

    def run_jobs() -> None:
        while len(ending) < jobs:
            for job in store.claim("here", 8):
                began = time.perf_counter()
                store.finish(job, Done(_RESULT))
                ending.append(time.perf_counter() - began)

    began = time.perf_counter()
    runner = threading.Thread(target=run_jobs)
    runner.start()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(accept, range(1, jobs + 1)))
    runner.join()
    seconds = time.perf_counter() - began
    assert store.counts() == {"done": jobs}, "the store lost a job"

    return {
        "jobs": jobs,
        "threads": threads,
        "jobs_per_second": round(jobs / seconds, 1),
        "accept_ms": _percentiles(accepting),
        "finish_ms": _percentiles(ending),
    }


def _job(number: int) -> Job:
    return Job(id=number, endpoint="community", request=_REQUEST, meta=_META, files=("a" * 28,), lane_rows=30)


def _bare_commits(path: Path, count: int) -> list[float]:
    """Seconds of commits of 2 KB each, as durable as the store's."""
    with sqlite3.connect(path) as connection:
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE texts (text TEXT)"):
            connection.execute(statement)
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            connection.execute("INSERT INTO texts VALUES (?)", ("x" * 2000,))
            connection.commit()
            seconds.append(time.perf_counter() - began)
    return seconds


def _percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"p50": round(1000 * cuts[49], 3), "p99": round(1000 * cuts[98], 3), "max": round(1000 * max(seconds), 3)}


if __name__ == "__main__":
    main()
