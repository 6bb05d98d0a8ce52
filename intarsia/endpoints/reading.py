"""A documented payload → :class:`Documented`: an ``InpaintRequest``, and how its reply is delivered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intarsia.endpoints.community import COMMUNITY
from intarsia.endpoints.endpoint import IGNORED, Endpoint, Field
from intarsia.endpoints.enterprise_pony import ENTERPRISE_PONY
from intarsia.endpoints.pony import PONY
from intarsia.endpoints.realtime import REALTIME
from intarsia.engine.request import InpaintRequest, IpAdapter, Lora
from intarsia.errors import RequestError, WeightsError, shown
from intarsia.registry.entries import ModelEntry, normalize
from intarsia.registry.registry import Registry
from intarsia.weighted_text import PromptSyntax

__all__ = ["ENDPOINTS", "Documented", "ReplyOptions", "read"]

ENDPOINTS: dict[str, Endpoint] = {each.name: each for each in (COMMUNITY, ENTERPRISE_PONY, PONY, REALTIME)}

# Names in one warning; a body may have a million keys.
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class ReplyOptions:
    """How the reply is delivered; ``webhook`` is called by a server, once, when the images are done."""

    base64: bool
    temp: bool
    instant_response: bool
    webhook: str | None
    track_id: str | float | bool | None


@dataclass(frozen=True, kw_only=True)
class Documented:
    """A documented request, read. The key is not in it."""

    endpoint: Endpoint
    request: InpaintRequest
    options: ReplyOptions
    warnings: tuple[str, ...]


def read(payload: object, name: str | None, registry: Registry) -> Documented:
    """Read the JSON body of a request to a documented endpoint.

    Args:
        name: a key of :data:`ENDPOINTS`; None lets the model decide between ``community`` and ``pony``,
            which share a URL: see :func:`is_pony`.

    Raises:
        RequestError: the body is not an object, or a field means nothing; the message names it.
        WeightsError: the model is not in the registry.
    """
    if not isinstance(payload, Mapping):
        raise RequestError("request", message=f"the request must be a JSON object, not {_kind(payload)}")
    body = {str(key): value for key, value in payload.items()}
    endpoint = _select(name, body, registry)

    fields = _present(body, endpoint)
    for required in endpoint.required:
        if not str(fields.get(required, "")).strip():
            raise RequestError(required, message=f"{required} is required")

    model = fields.get("model_id", registry.realtime or None)
    entry = registry.find(model)
    values = _model_defaults(endpoint, entry) | fields
    return Documented(
        endpoint=endpoint,
        request=_request(values | _sampler(values, fields), model, entry.prompt_syntax or "plain"),
        options=_options(values),
        warnings=(*_ignored(body, endpoint), *_without_effect(body, values)),
    )


def is_pony(name: str | None, registry: Registry) -> bool:
    """Whether a model is of the Pony family, by what its entry says of itself.

    It is where its id or one of its aliases has "pony" in it, or where it declares defaults for the endpoint
    ``pony``. Where a model only stands in for another one, the name that was asked for decides.
    """
    if name is not None and registry.is_stand_in(name):
        return "pony" in normalize(name)
    entry = registry.find(name)
    names = (entry.id, *entry.aliases)
    return "pony" in entry.defaults or any("pony" in normalize(each) for each in names)


def _select(name: str | None, body: Mapping[str, Any], registry: Registry) -> Endpoint:
    if name is None:
        model = _present({"model_id": body.get("model_id")}, COMMUNITY).get("model_id")
        return PONY if model is not None and is_pony(model, registry) else COMMUNITY
    if name not in ENDPOINTS:
        raise RequestError("endpoint", name, f"one of {', '.join(ENDPOINTS)}")
    return ENDPOINTS[name]


def _present(body: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """The values of the fields that are not absent, in their types."""
    values = {}
    for name, field in endpoint.fields.items():
        if not _is_absent(body.get(name), field):
            values[name] = field.type.read(name, body[name])

    if "num_inference_steps" in values:
        values.setdefault("steps", values.pop("num_inference_steps"))
    return values


def _is_absent(value: Any, field: Field) -> bool:
    return value is None or (field.blank and isinstance(value, str) and not value.strip())


def _model_defaults(endpoint: Endpoint, entry: ModelEntry) -> dict[str, Any]:
    """What absent fields mean: the model's defaults for this endpoint over the documented ones."""
    model_defaults = entry.defaults.get(endpoint.name, {})
    where = f"models.{entry.id}.defaults.{endpoint.name}"
    if not isinstance(model_defaults, Mapping):
        raise WeightsError(f"{where} must be a table, not {shown(model_defaults)}")

    unknown = sorted(set(model_defaults) - set(endpoint.fields))
    if unknown:
        raise WeightsError(f"{where}: {unknown[0]} is not a field of the endpoint {endpoint.name}")

    try:
        return _present(endpoint.defaults, endpoint) | _present(model_defaults, endpoint)
    except RequestError as exc:
        raise WeightsError(f"{where}: {exc}") from exc


def _request(values: Mapping[str, Any], model: str | None, syntax: PromptSyntax) -> InpaintRequest:
    return InpaintRequest(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"],
        prompt_syntax=syntax,
        model=model,
        init_image=values["init_image"],
        mask_image=values["mask_image"],
        width=values["width"],
        height=values["height"],
        fit_output=True,
        mask_padding="whole",  # as the hosted services do
        samples=values["samples"],
        steps=values.get("steps"),
        guidance_scale=values["guidance_scale"],
        strength=values["strength"],
        scheduler=values.get("scheduler"),
        karras_sigmas=values["use_karras_sigmas"],
        algorithm_type=values["algorithm_type"],
        spacing=values["spacing"],
        solver_type=values["solver_type"],
        clip_skip=values["clip_skip"],
        seed=values.get("seed"),
        loras=_loras(values.get("lora_model", ()), values.get("lora_strength", ())),
        embeddings=values.get("embeddings_model", ()),
        vae=values.get("vae"),
        ip_adapter=_ip_adapter(values),
        token_merging=values["tomesd"],
        safety_checker=values["safety_checker"],
        safety_action=values["safety_checker_type"],
        enhance_prompt=values["enhance_prompt"],
    )


def _sampler(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a scheduler's name settles: ``DPM++ 2M SDE Karras`` says more than the scheduler.

    What it says comes before documented defaults, and may not contradict what the body itself has.

    Args:
        values: of all fields.
        given: those of the body.
    """
    sampler = values.get("scheduler")
    karras, algorithm = values["use_karras_sigmas"], values["algorithm_type"]
    if sampler is None:
        return {"spacing": None, "solver_type": None}

    spacing = sampler.spacing
    if spacing is not None:
        asked = given.get("use_karras_sigmas")
        karras = spacing == "karras"
        if asked is not None and asked != karras:
            text = "yes" if asked else "no"
            message = f"use_karras_sigmas is {text}, and scheduler says {spacing}: leave one of them out"
            raise RequestError("use_karras_sigmas", message=message)

    if sampler.algorithm_type is not None:
        asked = given.get("algorithm_type")
        algorithm = sampler.algorithm_type
        if asked and asked != algorithm:
            message = f"algorithm_type is {asked}, and scheduler says {algorithm}: leave one of them out"
            raise RequestError("algorithm_type", message=message)

    return {
        "scheduler": sampler.scheduler,
        "use_karras_sigmas": karras,
        "algorithm_type": algorithm,
        "spacing": None if spacing == "karras" else spacing,
        "solver_type": sampler.solver_type,
    }


def _options(values: Mapping[str, Any]) -> ReplyOptions:
    return ReplyOptions(
        base64=values["base64"],
        temp=values["temp"],
        instant_response=values["instant_response"],
        webhook=values.get("webhook"),
        track_id=values.get("track_id"),
    )


def _loras(names: tuple[str, ...], strengths: tuple[float, ...]) -> tuple[Lora, ...]:
    """Names and strengths paired in order; one strength serves all, none is full strength."""
    if len(strengths) > 1 and len(strengths) != len(names):
        counts = f"lora_strength has {len(strengths)} values for {len(names)} names in lora_model"
        raise RequestError("lora_strength", message=f"{counts}; give one for all, or one for each")

    if len(strengths) < 2:
        strengths = (strengths or (1.0,)) * len(names)
    return tuple(Lora(id=name, strength=strength) for name, strength in zip(names, strengths, strict=True))


def _ip_adapter(values: Mapping[str, Any]) -> IpAdapter | None:
    name, image = values.get("ip_adapter_id"), values.get("ip_adapter_image")
    if name is None and image is None:
        return None
    if name is None:
        raise RequestError("ip_adapter_id", message="ip_adapter_id is required with ip_adapter_image")
    if image is None:
        raise RequestError("ip_adapter_image", message="ip_adapter_image is required with ip_adapter_id")

    if "ip_adapter_scale" in values:
        return IpAdapter(id=name, image=image, scale=values["ip_adapter_scale"])
    return IpAdapter(id=name, image=image)


def _ignored(body: Mapping[str, Any], endpoint: Endpoint) -> list[str]:
    """Warnings for keys of the body that have no effect."""
    unknown = [name for name in body if name not in endpoint.fields]
    legacy = [name for name in unknown if name in IGNORED]
    others = [name for name in unknown if name not in IGNORED]

    warnings = []
    if legacy:
        warnings.append(f"ignored, not supported here: {_listed(legacy)}")
    if others:
        warnings.append(f"ignored, not a field of the endpoint {endpoint.name}: {_listed(others)}")
    return warnings


def _without_effect(body: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Warnings for fields that mean something, but not in this request."""
    notes = []
    if body.get("steps") is not None and body.get("num_inference_steps") is not None:
        notes.append("num_inference_steps was not used: steps wins where both are given")
    if values.get("lora_strength") and not values.get("lora_model"):
        notes.append("lora_strength has no effect without lora_model")
    if "ip_adapter_scale" in values and "ip_adapter_id" not in values:
        notes.append("ip_adapter_scale has no effect without ip_adapter_id")
    return notes


def _listed(names: list[str]) -> str:
    """The first names on one line; those that are not plain are quoted."""
    text = ", ".join(_quoted(name) for name in names[:_LISTED])
    if len(names) <= _LISTED:
        return text
    return f"{text} and {len(names) - _LISTED} more"


def _quoted(name: str) -> str:
    is_plain = name.isidentifier() and len(name) < 60
    return name if is_plain else shown(name)


def _kind(value: object) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
