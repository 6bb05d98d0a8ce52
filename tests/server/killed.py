"""A server in a process of its own, that can be killed at any moment and started again on the same folder."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import httpx2
import numpy as np
from PIL import Image

from tests.server.running import Running

_ADDRESS = re.compile(r"serves on (http://\S+)")


class ServerProcess:
    """``intarsia serve`` with the given options, killed at the end of a ``with`` block where it still runs.

    Its output is read, so that it never waits for a reader.

    Args:
        data: its folder.
        options: further options of the command.
        environment: variables beside this process's.
    """

    def __init__(self, data: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self._command = [sys.executable, "-m", "intarsia", "serve", "--data", str(data), *options]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def start(self) -> str:
        """Start it, wait until it says where it listens, and return that."""
        port = self.url.rpartition(":")[2] or "0"
        process = subprocess.Popen(
            [*self._command, "--port", port],
            env=self._environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._process = process
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append(line)
            found = _ADDRESS.search(line)
            if found:
                self.url = found[1]
                self._reader = threading.Thread(target=self._read, args=(process,), daemon=True)
                self._reader.start()
                return self.url
        raise AssertionError("the server ended at its start:\n" + "".join(self.lines))

    def kill(self) -> None:
        """End it as power loss would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._ended(self._process)

    def stop(self) -> int:
        """End it as a service manager would; returns its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._ended(self._process)

    def _ended(self, process: subprocess.Popen[str]) -> int:
        code = process.wait(timeout=60)
        self._reader.join()
        return code

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr:
            self.lines += process.stderr


class PatientClient:
    """Sends each request until it has an answer, with one idempotency key, as a careful client does."""

    def __init__(self, server: ServerProcess | Running) -> None:
        self._server = server
        self._client = httpx2.Client(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """The reply's JSON, however often the server dies in between."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            try:
                response = self._client.post(self._server.url + path, json=body, headers=headers)
            except httpx2.TransportError:
                threading.Event().wait(0.05)  # it is being started again
                continue
            if response.status_code != 429:
                reply: dict[str, Any] = response.json()
                return reply
            threading.Event().wait(0.05)

    def get(self, path: str) -> httpx2.Response:
        """Whatever is at a path now."""
        return self._client.get(self._server.url + path)

    def image(self, url: str) -> bytes:
        """The bytes of a finished image."""
        while True:
            try:
                response = self._client.get(url)
            except httpx2.TransportError:
                threading.Event().wait(0.05)
                continue
            assert response.status_code == 200, (url, response.text)
            return response.content


def documented_body(number: int, **fields: Any) -> dict[str, Any]:
    """A small documented request; another one for each number."""
    image = np.random.default_rng(number % 5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    return {
        "model_id": "intarsia-tiny",
        "prompt": f"number {number}",
        "init_image": _base64(image),
        "mask_image": _base64(mask),
        "width": 64,
        "height": 64,
        "steps": 4 + number % 5,
        "scheduler": ("EulerDiscreteScheduler", "DDIMScheduler", "UniPCMultistepScheduler")[number % 3],
        "safety_checker": "no",
        "seed": number,
        **fields,
    }


def _base64(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
