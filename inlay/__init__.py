"""inlay: a local inference engine for inpainting.

>>> import inlay
>>> with inlay.Engine() as engine:  # doctest: +SKIP
...     result = engine.run(inlay.InpaintRequest(prompt="a red circle", init_image=..., mask_image=...))

Names are loaded on first use, so importing the package imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay import batch, schedulers
    from inlay.api import plan
    from inlay.engine.engine import Engine
    from inlay.engine.noise import noise
    from inlay.engine.plan import Plan
    from inlay.engine.registry import Registry
    from inlay.engine.request import InpaintRequest, IpAdapter, Lora
    from inlay.engine.result import Progress, Result
    from inlay.engine.ticket import Ticket
    from inlay.errors import (
        BackendError,
        Cancelled,
        InlayError,
        NotFinite,
        OutOfMemory,
        OutputError,
        RequestError,
        SourceError,
        WeightsError,
    )

__version__ = "0.1.0"

_HOMES = {
    "BackendError": "inlay.errors",
    "Cancelled": "inlay.errors",
    "Engine": "inlay.engine.engine",
    "InlayError": "inlay.errors",
    "InpaintRequest": "inlay.engine.request",
    "IpAdapter": "inlay.engine.request",
    "Lora": "inlay.engine.request",
    "NotFinite": "inlay.errors",
    "OutOfMemory": "inlay.errors",
    "OutputError": "inlay.errors",
    "Plan": "inlay.engine.plan",
    "Progress": "inlay.engine.result",
    "Registry": "inlay.engine.registry",
    "RequestError": "inlay.errors",
    "Result": "inlay.engine.result",
    "SourceError": "inlay.errors",
    "Ticket": "inlay.engine.ticket",
    "WeightsError": "inlay.errors",
    "batch": "inlay.batch",
    "noise": "inlay.engine.noise",
    "plan": "inlay.api",
    "schedulers": "inlay.schedulers",
}

__all__ = [
    "BackendError",
    "Cancelled",
    "Engine",
    "InlayError",
    "InpaintRequest",
    "IpAdapter",
    "Lora",
    "NotFinite",
    "OutOfMemory",
    "OutputError",
    "Plan",
    "Progress",
    "Registry",
    "RequestError",
    "Result",
    "SourceError",
    "Ticket",
    "WeightsError",
    "batch",
    "noise",
    "plan",
    "schedulers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if name in ("batch", "schedulers") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
