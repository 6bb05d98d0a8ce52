"""``Result`` → the documented ``success`` reply; a sentence → the documented ``error`` reply."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intarsia.endpoints.endpoint import Endpoint
from intarsia.endpoints.reading import Documented
from intarsia.engine.plan import ModelPlan, Plan
from intarsia.printable import printable
from intarsia.threads import lock_across_forks

__all__ = ["Delivery", "Outcome", "error_reply", "meta", "next_id", "processing_reply", "ran_on", "success_reply"]

# Library field → documented field, where the names differ and an error of the engine can begin with it.
_DOCUMENTED = {"loras": "lora_model", "ip_adapter.image": "ip_adapter_image"}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Which reply it is, and where its images are.

    Attributes:
        id: of the reply.
        output: file paths, URLs or base64, one for each sample; final URLs also where nothing is written yet.
        track_id: as the request had it; None is left out.
        webhook_status: what became of the webhook.
    """

    id: int
    output: tuple[str, ...]
    track_id: str | float | bool | None = None
    webhook_status: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a finished request has to say, besides its images.

    Attributes:
        seconds: from the beginning of its work to its end.
        meta: see :func:`meta`.
        unsafe: whether the safety checker flagged any image.
        warnings: in the engine's words.
    """

    seconds: float
    meta: Mapping[str, Any]
    unsafe: bool
    warnings: Sequence[str]


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


def success_reply(endpoint: Endpoint, outcome: Outcome, delivery: Delivery) -> dict[str, Any]:
    """The documented reply to a request whose images are there."""
    reply: dict[str, Any] = {
        "status": "success",
        "generationTime": round(float(outcome.seconds), 3),
        "id": delivery.id,
        "output": list(delivery.output),
        "proxy_links": list(delivery.output),
        "meta": dict(outcome.meta),
        "nsfw_content_detected": outcome.unsafe,
        "webhook_status": delivery.webhook_status,
        "tip": _tip(outcome.warnings),
    }
    return _for_endpoint(reply, endpoint, delivery)


def processing_reply(
    endpoint: Endpoint,
    delivery: Delivery,
    *,
    eta: float,
    fetch_url: str,
    meta: Mapping[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The documented reply to a request that is queued or running.

    Args:
        eta: seconds until it is expected to be done.
        fetch_url: where the finished reply will be.
    """
    reply: dict[str, Any] = {
        "status": "processing",
        "tip": _tip(warnings),
        "tip_1": "POST to fetch_result, or to the endpoint's fetch with request_id, for the finished reply",
        "eta": round(float(eta), 1),
        "message": "the request is being processed",
        "webhook_status": delivery.webhook_status,
        "fetch_result": fetch_url,
        "id": delivery.id,
        "output": [],
        "meta": dict(meta),
        "future_links": list(delivery.output),
    }
    return _for_endpoint(reply, endpoint, delivery)


def _tip(warnings: Sequence[str]) -> str:
    """All warnings on one line, each once, in documented names."""
    return printable("; ".join(map(in_documented_names, dict.fromkeys(warnings))))


def _for_endpoint(reply: dict[str, Any], endpoint: Endpoint, delivery: Delivery) -> dict[str, Any]:
    """The reply without what the endpoint's document does not have, and with what the request brought along."""
    if endpoint.realtime:
        reply = {name: value for name, value in reply.items() if name not in ("webhook_status", "tip_1")}
    if delivery.track_id is not None:
        reply["track_id"] = delivery.track_id
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


def meta(documented: Documented, plan: Plan, file_prefix: str) -> dict[str, Any]:
    """Effective parameters in documented names: numbers as numbers, flags as "yes" and "no".

    Backend and device are empty until :func:`ran_on` fills them in.
    """
    sampler, options = plan.sampler, documented.options
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
        "use_karras_sigmas": _flag(sampler.karras_applied),
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
        "backend": "",
        "device": "",
    }


def ran_on(meta: Mapping[str, Any], ran: Mapping[str, Any]) -> dict[str, Any]:
    """``meta`` with the backend and device that ran; both stay empty where nothing had to run."""
    return {**meta, "backend": ran["backend"], "device": ran["device"]}


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
