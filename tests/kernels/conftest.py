"""The devices that tests of kernels run on, and guarded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.kernels.interpreter import interpret_without_gpu, why_not_compiled, why_not_interpreted

if TYPE_CHECKING:  # needs torch
    from tests.kernels.guarding import Guard

interpret_without_gpu()


@pytest.fixture(params=["interpreter", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Where tensors are: on the CPU in Triton's interpreter, or on the GPU that kernels are compiled for."""
    interpreted = request.param == "interpreter"
    reason = why_not_interpreted() if interpreted else why_not_compiled()
    if reason is not None:
        pytest.skip(reason)
    return "cpu" if interpreted else "cuda"


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guard]:
    """Memory whose canaries are checked in the end; kernels' wrappers allocate there as well."""
    from tests.kernels.guarding import Guard

    guard = Guard()
    with monkeypatch.context() as patched:
        guard.allocate_everything(patched)
        yield guard
    guard.check()
