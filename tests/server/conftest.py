"""A running server, requests for it, and a gate that holds its engine between evaluations."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="needs the extra serve: pip install -e '.[serve]'")

from intarsia.server.store.store import Store
from tests.server.postgres import database, postgres
from tests.server.running import Running, running
from tests.server.step_gate import StepGate

__all__ = ["database", "postgres"]

MASK = np.zeros((96, 128), np.uint8)
MASK[24:72, 32:96] = 255
PIXELS = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path / "data") as opened:
        yield opened


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that a module's tests share, none of which leaves a job in it."""
    with running(tmp_path_factory.mktemp("idle") / "data") as opened:
        yield opened


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> StepGate:
    """Use it before ``server``: it is opened at the test's end, before the server waits for its engine."""
    return StepGate(monkeypatch)


@pytest.fixture
def held(gate: StepGate, tmp_path: Path) -> Iterator[Running]:
    """A server whose engine is held at the gate."""
    with running(tmp_path / "data") as opened:
        try:
            yield opened
        finally:
            gate.open()


@pytest.fixture
def image_file() -> bytes:
    return png(PIXELS)


@pytest.fixture
def mask_file() -> bytes:
    return png(MASK)


@pytest.fixture
def job_fields(image_file: bytes, mask_file: bytes) -> dict[str, Any]:
    """A small request of our own API: 6 steps of the schedule, 4 of which are run."""
    return {
        "prompt": "a cat",
        "init_image": base64.b64encode(image_file).decode(),
        "mask_image": base64.b64encode(mask_file).decode(),
        "width": 64,
        "height": 64,
        "steps": 6,
        "scheduler": "euler",
        "seed": 7,
    }


@pytest.fixture
def open_store(database: str) -> Iterator[Callable[..., Store]]:
    """Opens stores over one database, as several servers would; closed at the end."""
    opened = []

    def open_another(**options: Any) -> Store:
        store = Store(database, **options)
        opened.append(store)
        return store

    yield open_another
    for store in opened:
        store.close()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
