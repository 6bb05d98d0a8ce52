"""``python -m benchmarks.serve_ray DATABASE``: a mixed load on one and on two replicas of the null backend, in turns.

Each network evaluation takes ``--step`` seconds, as on a device. The database is a PostgreSQL URL as of
``intarsia serve --database``; Ray is started on this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.serve_load import body

PORT = 8972


def finished(client: httpx2.Client, bodies: list[dict[str, Any]]) -> float:
    """Seconds until all of them are done."""
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda fields: client.post("/api/v6/images/inpaint", json=fields).json(), bodies))
        refused = [reply for reply in replies if reply["status"] == "error"]
        assert not refused, refused[0]
        waiting = [reply["id"] for reply in replies]
        while waiting:
            time.sleep(0.1)
            fetched = pool.map(lambda job: client.post(f"/api/v6/images/fetch/{job}", json={}).json(), waiting)
            waiting = [job for job, reply in zip(waiting, fetched, strict=True) if reply["status"] == "processing"]
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database")
    parser.add_argument("--jobs", type=int, default=96)
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a network evaluation")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.environ["INTARSIA_NULL_STEP_SECONDS"] = str(options.step)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

    import ray
    from ray import serve

    from intarsia.server.ray_serve import RayOptions, deploy
    from intarsia.server.settings import EngineSettings, ServeSettings

    logging.disable(logging.WARNING)
    ray.init(num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    bodies = [{**body(number, 64), "steps": 10 + 5 * (number % 4)} for number in range(options.jobs)]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        settings = ServeSettings(
            data=Path(folder), database=options.database, engine=EngineSettings(backend="null"), port=PORT, queue=1000
        )
        try:
            for _ in range(options.rounds):
                for replicas in seconds:
                    deploy(settings, RayOptions(replicas=replicas, gpus=0, cpus=1))
                    with httpx2.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=120, trust_env=False) as client:
                        finished(client, bodies[:8])
                        seconds[replicas].append(round(finished(client, bodies), 2))
        finally:
            serve.shutdown()
            ray.shutdown()

    ratios = [round(one / two, 2) for one, two in zip(seconds[1], seconds[2], strict=True)]
    record = {"jobs": options.jobs, "seconds": seconds, "ratios": ratios, "ratio": statistics.median(ratios)}
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
