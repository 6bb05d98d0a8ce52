"""Where the tests of this folder run."""

from __future__ import annotations

import pytest


@pytest.fixture
def device() -> str:
    return "cuda"
