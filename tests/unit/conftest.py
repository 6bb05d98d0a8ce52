"""An engine on the null backend, requests for it, and a gate that holds it between evaluations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import intarsia
from intarsia.backends.null import NullSession
from intarsia.backends.protocol import Step


@pytest.fixture
def image_and_mask() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    mask = np.zeros((96, 128), np.uint8)
    mask[30:60, 40:90] = 255
    return image, mask


@pytest.fixture
def request_of(image_and_mask: tuple[np.ndarray, np.ndarray]) -> Callable[..., intarsia.InpaintRequest]:
    def make(**fields: Any) -> intarsia.InpaintRequest:
        image, mask = image_and_mask
        return intarsia.InpaintRequest(**{"init_image": image, "mask_image": mask, "seed": 1, "steps": 6, **fields})

    return make


@pytest.fixture
def engine(empty_registry: Path) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("null", weights=empty_registry) as opened:
        yield opened


@dataclass
class Gate:
    """Lets a test stop the null session between evaluations."""

    reached: threading.Event = field(default_factory=threading.Event)
    passed: threading.Event = field(default_factory=threading.Event)
    permits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    evaluations: int = 0
    decoded: int = 0


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()

    def advance(self: NullSession, steps: Sequence[Step]) -> None:
        gate.evaluations += 1
        gate.reached.set()
        if not gate.permits.acquire(blocking=False):
            assert gate.passed.wait(10)

    original = NullSession.decode

    def decode(self: NullSession, states: Sequence[Any]) -> Any:
        gate.decoded += 1
        return original(self, states)

    monkeypatch.setattr(NullSession, "advance", advance)
    monkeypatch.setattr(NullSession, "decode", decode)
    return gate
