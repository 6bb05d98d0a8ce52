"""``python -m benchmarks.serve_load``: many clients at once on a real server, over the null backend.

Each client sends a documented request that is answered at once, asks for its result until it is there, reads the
image, waits a little, and begins again; one that is refused waits for as long as ``Retry-After`` says. What is
measured: how long accepting a job takes, which statuses came, and how the server's memory, open files and connections
behave.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

# Seconds in which all clients arrive for the first time.
_FIRST = 3

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Measured:
    """What all clients have seen.

    Attributes:
        accepting: when a request was sent that was accepted, and the seconds that this took.
        late: seconds by which this process resumed a client later than it was to: part of what clients see is its own.
    """

    accepting: list[tuple[float, float]] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    failures: collections.Counter[str] = field(default_factory=collections.Counter)
    jobs: int = 0


def body(number: int, side: int) -> dict[str, Any]:
    """A documented request; few different images, as of clients that try prompts."""
    pixels = np.random.default_rng(number % 20).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    return {
        "model_id": "intarsia-tiny",
        "prompt": f"number {number}",
        "init_image": _base64(pixels),
        "mask_image": _base64(mask),
        "width": side,
        "height": side,
        "steps": 20,
        "safety_checker": "no",
        "instant_response": "yes",
    }


def _base64(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


async def client(url: str, until: float, pause: float, bodies: list[bytes], measured: Measured) -> None:
    """One client from its start to the end of the time."""
    chance = random.Random(id(asyncio.current_task()))
    async with aiohttp.ClientSession() as session:
        await asyncio.sleep(chance.uniform(0, pause))
        while time.monotonic() < until:
            later = 0.0
            try:
                later = await _one_job(session, url, chance, pause, bodies, measured)
            except (aiohttp.ClientError, TimeoutError) as exc:
                measured.failures[type(exc).__name__] += 1
            await asyncio.sleep(later + chance.uniform(0, 2 * pause))


async def _one_job(
    session: aiohttp.ClientSession,
    url: str,
    chance: random.Random,
    pause: float,
    bodies: list[bytes],
    measured: Measured,
) -> float:
    """Send a request and fetch its image; returns the seconds to wait before the next, where it was refused."""
    headers = {"Content-Type": "application/json"}
    began = time.perf_counter()
    async with session.post(f"{url}/api/v6/images/inpaint", data=chance.choice(bodies), headers=headers) as response:
        reply = await response.json()
    measured.statuses[response.status] += 1
    if response.status != 200:
        return float(response.headers.get("Retry-After", 0))
    measured.accepting.append((began, time.perf_counter() - began))

    while reply["status"] == "processing":
        await asyncio.sleep(chance.uniform(0, 2 * pause))
        async with session.post(reply["fetch_result"], json={}) as response:
            reply = await response.json()
        measured.statuses[response.status] += 1
    if reply["status"] != "success":
        measured.failures[reply["message"]] += 1
        return 0.0
    async with session.get(reply["output"][0]) as response:
        await response.read()
    measured.statuses[response.status] += 1
    measured.jobs += 1
    return 0.0


async def watch(process: int, until: float, seen: list[tuple[float, float, int]]) -> None:
    """The server's resident memory in MiB and its open files, each second."""
    began = time.monotonic()
    while time.monotonic() < until:
        seen.append((time.monotonic() - began, resident(process), open_files(process)))
        await asyncio.sleep(1)


async def watch_lateness(until: float, measured: Measured) -> None:
    """How late this process resumes what waits, as it looks every 20 ms."""
    while time.monotonic() < until:
        began = time.perf_counter()
        await asyncio.sleep(0.02)
        measured.late.append(time.perf_counter() - began - 0.02)


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest of some durations."""
    ordered = sorted(seconds)
    return {
        "median": round(statistics.median(ordered) * 1e3, 1),
        "p99": round(ordered[int(len(ordered) * 0.99)] * 1e3, 1),
        "max": round(ordered[-1] * 1e3, 1),
    }


def resident(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE / 2**20


def processor_seconds(process: int) -> float:
    """Seconds for which the server's process, without those of its engines, has used a processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


async def _measure(url: str, process: int, options: argparse.Namespace) -> dict[str, Any]:
    measured, seen = Measured(), []
    bodies = [json.dumps(body(number, options.side)).encode() for number in range(50)]
    files_before = open_files(process)
    until = time.monotonic() + options.seconds
    clients = [client(url, until, options.pause, bodies, measured) for _ in range(options.clients)]
    began = time.perf_counter()
    busy_before = processor_seconds(process)
    await asyncio.gather(*clients, watch(process, until, seen), watch_lateness(until, measured))
    busy = processor_seconds(process) - busy_before
    await asyncio.sleep(2)

    settled = [memory for second, memory, _ in seen if second >= 30] or [seen[-1][1]]
    return {
        "clients": options.clients,
        "seconds": options.seconds,
        "jobs": measured.jobs,
        "accepted": len(measured.accepting),
        "accepting_ms": milliseconds([took for _, took in measured.accepting]),
        f"accepting_ms_after_{_FIRST}_s": milliseconds(
            [took for sent, took in measured.accepting if sent > began + _FIRST]
        ),
        "generator_late_ms": milliseconds(measured.late),
        "server_processor_ms_per_job": round(busy / max(1, measured.jobs) * 1e3, 1),
        "statuses": dict(measured.statuses),
        "failures": dict(measured.failures),
        "resident_mib": {
            "at_30_s": round(settled[0], 1),
            "most_after": round(max(settled), 1),
            "end": round(resident(process), 1),
        },
        "open_files": {
            "before": files_before,
            "most": max(files for _, _, files in seen),
            "after": open_files(process),
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="mean seconds that a client waits between two requests"
    )
    parser.add_argument("--side", type=int, default=128, help="pixels of the images' sides")
    parser.add_argument("--queue", type=int, default=64)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "intarsia", "serve", "--null", "--port", "0", "--data", folder]
        server = subprocess.Popen([*command, "--queue", str(options.queue)], stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            url = next(line for line in server.stderr if "serves on" in line).split()[-1]
            threading.Thread(target=server.stderr.read, daemon=True).start()  # a pipe that nobody reads fills up
            print(json.dumps(asyncio.run(_measure(url, server.pid, options)), indent=2))
        finally:
            server.terminate()
            server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
