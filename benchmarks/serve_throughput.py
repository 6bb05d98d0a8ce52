"""``python -m benchmarks.serve_throughput``: the packaged model over HTTP, beside the same requests on an engine.

Sixteen clients send requests of mixed schedulers and steps to a real server, and wait for each reply. The same requests
are then given to ``Engine.submit`` in this process, and so on in turns. What counts is the ratio of the times.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx2
import numpy as np
from PIL import Image

import intarsia

SCHEDULERS = ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")


def requests(count: int, side: int) -> list[dict[str, Any]]:
    """Documented requests over one image: other schedulers, steps and seeds."""
    image = _png(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8))
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    return [
        {
            "model_id": "intarsia-tiny",
            "prompt": "a red circle",
            "init_image": image,
            "mask_image": _png(mask),
            "width": side,
            "height": side,
            "steps": 10 + 3 * (number % 5),
            "scheduler": SCHEDULERS[number % len(SCHEDULERS)],
            "safety_checker": "no",
            "enhance_prompt": "no",
            "seed": number,
        }
        for number in range(count)
    ]


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def over_http(url: str, bodies: list[dict[str, Any]], clients: int) -> float:
    """Seconds until all are answered."""

    def ask(body: dict[str, Any]) -> None:
        reply = client.post(f"{url}/api/v6/images/inpaint", json=body).json()
        while reply["status"] == "processing":
            time.sleep(0.2)
            reply = client.post(reply["fetch_result"], json={}).json()
        assert reply["status"] == "success", reply

    began = time.perf_counter()
    with httpx2.Client(timeout=120, trust_env=False) as client, ThreadPoolExecutor(clients) as pool:
        list(pool.map(ask, bodies))
    return time.perf_counter() - began


def on_an_engine(engine: intarsia.Engine, bodies: list[dict[str, Any]], clients: int) -> float:
    """Seconds for the same requests, as many at a time; images are encoded as the server encodes them."""

    def run(body: dict[str, Any]) -> None:
        reply = engine.reply({**body, "base64": True}, "community")
        assert reply["status"] == "success", reply

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(run, bodies))
    return time.perf_counter() - began


def in_turns(number: int, http: Callable[[], float], direct: Callable[[], float]) -> tuple[float, float]:
    """Seconds of both; each comes first in every second round, as a machine becomes slower while it is warm."""
    if number % 2:
        direct_seconds = direct()
        return http(), direct_seconds
    return http(), direct()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    bodies = requests(options.requests, options.side)

    with tempfile.TemporaryDirectory() as folder, intarsia.Engine(options.backend) as engine:
        command = [sys.executable, "-m", "intarsia", "serve", "--port", "0", "--data", folder]
        server = subprocess.Popen([*command, "--backend", options.backend], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            url = next(line for line in server.stderr if "serves on" in line).split()[-1]
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a pipe that nobody reads fills up
            over_http(url, bodies[: options.clients], options.clients)
            on_an_engine(engine, bodies[: options.clients], options.clients)
            http = partial(over_http, url, bodies, options.clients)
            direct = partial(on_an_engine, engine, bodies, options.clients)
            times = [in_turns(number, http, direct) for number in range(options.rounds)]
        finally:
            server.terminate()
            server.wait()

    ratios = [engine_seconds / http_seconds for http_seconds, engine_seconds in times]
    record = {
        "requests": options.requests,
        "clients": options.clients,
        "seconds_http": [round(seconds, 2) for seconds, _ in times],
        "seconds_engine": [round(seconds, 2) for _, seconds in times],
        "throughput_ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
