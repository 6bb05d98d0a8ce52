"""Sessions on a device whose ONNX Runtime only pretends: what is loaded before the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

from intarsia.backends.onnx import device as module
from intarsia.backends.onnx.device import PROVIDERS, Device


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ONNX Runtime is asked for, in this order."""
    calls: list[str] = []

    class Session:
        def __init__(self, graph: object, options: object, providers: Sequence[Any]) -> None:
            calls.append("session")
            first = providers[0]
            self.providers = [first[0] if isinstance(first, tuple) else first]

        def get_providers(self) -> list[str]:
            return self.providers

        def disable_fallback(self) -> None:
            pass

    def preload_dlls() -> None:
        print("Failed to load libcudart.so.13")
        calls.append("libraries")

    monkeypatch.setattr(module.ort, "InferenceSession", Session)
    monkeypatch.setattr(module.ort, "preload_dlls", preload_dlls)
    module._load_cuda.cache_clear()
    yield calls
    module._load_cuda.cache_clear()


def test_cuda_libraries_of_pip_are_loaded_before_the_first_session_on_a_gpu(log, capsys):
    for _ in range(2):
        Device("cuda").open(b"")
    assert log == ["libraries", "session", "session"]
    assert capsys.readouterr().out == "", "stdout is for data"


def test_a_cpu_needs_none(log):
    assert Device("cpu").open(b"").get_providers() == [PROVIDERS["cpu"]]
    assert log == ["session"]
