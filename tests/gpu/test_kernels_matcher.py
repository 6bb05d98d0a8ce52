"""tests/kernels/matcher.py on a GPU."""

from __future__ import annotations

from tests.gpu.needs import need_compiled_kernels

need_compiled_kernels()

from tests.kernels.matcher import *  # noqa: F403 - the tests; their device is that of this folder
