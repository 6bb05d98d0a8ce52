"""tests/kernels/networks.py under Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.cpu.interpreted import need_interpreter

need_interpreter()

from tests.kernels.networks import *  # noqa: F403 - the tests, with a device of their own


@pytest.fixture
def device():
    return "cpu"
