"""``Result`` → the documented ``success`` reply; a sentence → the documented ``error`` reply."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from intarsia.endpoints.reading import Documented
from intarsia.engine.plan import ModelPlan
from intarsia.engine.result import Result
from intarsia.printable import printable
from intarsia.threads import lock_across_forks

__all__ = ["Delivery", "error_reply", "meta", "next_id", "success_reply"]

# Library field → documented field, where the names differ and an error of the engine can begin with it.
_DOCUMENTED = {"loras": "lora_model", "ip_adapter.image": "ip_adapter_image"}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Where the images of a reply went.

    Attributes:
        id: of the reply. file_prefix: stem of its files.
        output: file paths or base64, one for each sample.
        warnings: what came up on the way.
    """

    id: int
    file_prefix: str
    output: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class _Ids:
    """Growing, unique in this process and nearly always beyond it: microseconds, which fit 53 bits until 2255."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = lock_across_forks()

    def next(self) -> int:
        with self._lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last


next_id = _Ids().next


def success_reply(documented: Documented, result: Result, delivery: Delivery) -> dict[str, Any]:
    """The documented reply to a request whose images are there."""
    warnings = dict.fromkeys((*documented.warnings, *result.warnings, *delivery.warnings))
    reply: dict[str, Any] = {
        "status": "success",
        "generationTime": round(float(result.timings["total"]), 3),
        "id": delivery.id,
        "output": list(delivery.output),
        "proxy_links": list(delivery.output),
        "meta": meta(documented, result, delivery.file_prefix),
        "nsfw_content_detected": any(result.nsfw),
        "webhook_status": "",
        "tip": printable("; ".join(map(in_documented_names, warnings))),
    }

    if documented.endpoint.realtime:
        del reply["webhook_status"]
    if documented.options.track_id is not None:
        reply["track_id"] = documented.options.track_id
    return reply


def error_reply(message: str) -> dict[str, Any]:
    """The documented reply to a request that failed; ``message`` is one line."""
    return {"status": "error", "message": message}


def in_documented_names(sentence: str) -> str:
    """A sentence of the engine about a field, under the field's documented name."""
    for library_name, documented_name in _DOCUMENTED.items():
        if sentence.startswith((f"{library_name} ", f"{library_name}:")):
            return documented_name + sentence.removeprefix(library_name)
    return sentence


def meta(documented: Documented, result: Result, file_prefix: str) -> dict[str, Any]:
    """Effective parameters in documented names: numbers as numbers, flags as "yes" and "no"."""
    plan, sampler, options = result.plan, result.plan.sampler, documented.options
    width, height = plan.canvas.geometry.output

    return {
        "prompt": plan.prompt.prompt,
        "original_prompt": plan.prompt.asked,
        "negative_prompt": plan.prompt.negative_prompt,
        "model_id": plan.model.id,
        "W": width,
        "H": height,
        "steps": sampler.steps,
        "n_samples": len(plan.seeds),
        "seed": plan.seeds[0],
        "guidance_scale": plan.guidance_scale,
        "strength": sampler.strength,
        "scheduler": sampler.scheduler,
        "use_karras_sigmas": _flag(sampler.karras),
        "algorithm_type": sampler.algorithm_type or "none",
        "clip_skip": plan.prompt.clip_skip,
        "safety_checker": _flag(plan.safety != "off"),
        "safety_checker_type": plan.safety_action,
        "enhance_prompt": _flag(documented.request.enhance_prompt),
        **_parts(plan.model, plan.prompt.image_scale),
        "tomesd": _flag(plan.token_merging.ratio > 0),
        "base64": _flag(options.base64),
        "temp": _flag(options.temp),
        "instant_response": _flag(options.instant_response),
        "track_id": options.track_id,
        "file_prefix": file_prefix,
        "backend": result.meta["backend"],
        "device": result.meta["device"],
    }


def _parts(model: ModelPlan, image_scale: float) -> dict[str, Any]:
    """VAE, LoRAs and IP adapter by registry id; null where there is none."""
    has_ip_adapter = model.ip_adapter != "none"
    return {
        "vae": None if model.vae == "model" else _id(model.vae),
        "lora": ",".join(adapter.id for adapter in model.adapters) or None,
        "lora_strength": _strengths([adapter.strength for adapter in model.adapters]),
        "ip_adapter_id": _id(model.ip_adapter) if has_ip_adapter else None,
        "ip_adapter_scale": image_scale if has_ip_adapter else None,
    }


def _id(named: str) -> str:
    """``id:sha256`` → ``id``."""
    return named.rpartition(":")[0]


def _strengths(strengths: Sequence[float]) -> float | str | None:
    if len(strengths) < 2:
        return strengths[0] if strengths else None
    return ",".join(f"{strength:g}" for strength in strengths)


def _flag(value: bool) -> str:
    return "yes" if value else "no"
