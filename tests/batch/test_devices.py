"""One worker for each GPU, or as many as asked for on a CPU."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from intarsia.batch import Options
from intarsia.batch.running import devices
from intarsia.errors import RequestError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that driver and torch agree upon."""
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    monkeypatch.setattr(devices, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 2)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["cuda:0", "cuda:1"]),
        ({"device": "cuda"}, ["cuda:0", "cuda:1"]),
        ({"workers": 1}, ["cuda:0"]),
        ({"device": "cuda:1"}, ["cuda:1"]),
        ({"device": "cpu", "workers": 3}, ["cpu"] * 3),
        ({"backend": "null", "workers": 2}, ["auto"] * 2),
        ({"backend": "onnx", "device": "cuda"}, ["cuda:0", "cuda:1"]),
    ],
)
def test_with_two_gpus(gpus, options, expected):
    assert devices.devices(Options(**options)) == expected


def test_more_workers_than_gpus_are_refused(gpus):
    with pytest.raises(RequestError, match="workers must be at most 2, one for each GPU"):
        devices.devices(Options(workers=3))


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    assert devices.devices(Options()) == ["auto"]
    assert devices.devices(Options(workers=4)) == ["auto"] * 4
