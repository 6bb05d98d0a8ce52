"""intarsia: a local inference engine for inpainting.

>>> import intarsia
>>> intarsia.inpaint("photo.png", "mask.png", "a red circle").images[0].save("out.png")  # doctest: +SKIP
>>> with intarsia.Engine() as engine:  # doctest: +SKIP
...     result = engine.run(intarsia.InpaintRequest(prompt="a red circle", init_image=..., mask_image=...))

Names are loaded on first use, so importing the package imports neither torch nor numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from intarsia import batch, schedulers
    from intarsia.api import compare, inpaint, plan
    from intarsia.comparing.comparison import Comparison
    from intarsia.engine.engine import Engine
    from intarsia.engine.noise import noise
    from intarsia.engine.plan import Plan
    from intarsia.engine.request import Extend, InpaintRequest, IpAdapter, Lora
    from intarsia.engine.request_from import request_from
    from intarsia.engine.result import Progress, Result
    from intarsia.engine.ticket import Ticket
    from intarsia.errors import (
        BackendError,
        Cancelled,
        IntarsiaError,
        NotFinite,
        OutOfMemory,
        OutputError,
        RequestError,
        SourceError,
        WeightsError,
    )
    from intarsia.registry.registry import Registry

__version__ = "0.1.0"

_HOMES = {
    "BackendError": "intarsia.errors",
    "Cancelled": "intarsia.errors",
    "Comparison": "intarsia.comparing.comparison",
    "Engine": "intarsia.engine.engine",
    "Extend": "intarsia.engine.request",
    "InpaintRequest": "intarsia.engine.request",
    "IntarsiaError": "intarsia.errors",
    "IpAdapter": "intarsia.engine.request",
    "Lora": "intarsia.engine.request",
    "NotFinite": "intarsia.errors",
    "OutOfMemory": "intarsia.errors",
    "OutputError": "intarsia.errors",
    "Plan": "intarsia.engine.plan",
    "Progress": "intarsia.engine.result",
    "Registry": "intarsia.registry.registry",
    "RequestError": "intarsia.errors",
    "Result": "intarsia.engine.result",
    "SourceError": "intarsia.errors",
    "Ticket": "intarsia.engine.ticket",
    "WeightsError": "intarsia.errors",
    "batch": "intarsia.batch",
    "compare": "intarsia.api",
    "inpaint": "intarsia.api",
    "noise": "intarsia.engine.noise",
    "plan": "intarsia.api",
    "request_from": "intarsia.engine.request_from",
    "schedulers": "intarsia.schedulers",
}

__all__ = [
    "BackendError",
    "Cancelled",
    "Comparison",
    "Engine",
    "Extend",
    "InpaintRequest",
    "IntarsiaError",
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
    "compare",
    "inpaint",
    "noise",
    "plan",
    "request_from",
    "schedulers",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intarsia' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if name in ("batch", "schedulers") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
