"""Without a GPU the kernels run in Triton's interpreter."""

from __future__ import annotations

from tests.kernels.interpreter import interpret_without_gpu

interpret_without_gpu()
