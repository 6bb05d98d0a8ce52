"""What a kernel does, judged by its name, and how much time kernels of each kind take."""

from __future__ import annotations

import re
from collections.abc import Iterable

KINDS = (
    ("our step", r"^(step|langevin|pick)_kernel"),
    ("our norms", r"^(group|layer)_norm_kernel"),
    ("our token merging", r"^(nearest|rank|merge)_kernel"),
    ("our other layers", r"^(geglu|geglu_float8|residual)_kernel"),
    ("attention", r"flash|fmha|attention|sdpa|mha"),
    ("convolution", r"conv|fprop|dgrad|wgrad|winograd"),
    ("matrix product", r"gemm|cutlass|cublas|nvjet|splitk"),
    ("copies and layouts", r"copy|memcpy|memset|cat|transpose|nchwtonhwc|nhwctonchw|fill"),
)
"""Kinds of kernels by what their names contain; the first that fits."""

OTHER = "everything else"


def kind_of(name: str) -> str:
    """What a kernel does, judged by its name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name.lower())), OTHER)


def grouped(kernels: Iterable[tuple[str, float, int]], steps: int) -> dict[str, dict[str, float]]:
    """Kernels (name, microseconds, launches) over some steps → milliseconds and launches of one step, by kind."""
    found: dict[str, dict[str, float]] = {}
    for name, took, often in kernels:
        kind = found.setdefault(kind_of(name), {"ms": 0.0, "launches": 0.0})
        kind["ms"] += took / 1e3 / steps
        kind["launches"] += often / steps
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))
