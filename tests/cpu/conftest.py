"""Without a GPU the kernels run in Triton's interpreter. Triton reads its switch as it is imported, so it is
set before any test of this folder is; where there is a GPU, kernels are compiled and tests/gpu runs them."""

from __future__ import annotations

import os

try:
    import torch
except ModuleNotFoundError:  # every test here is skipped, with its reason
    pass
else:
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
