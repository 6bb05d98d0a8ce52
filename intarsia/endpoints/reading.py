"""A documented payload → :class:`Documented`: an ``InpaintRequest``, and how the reply is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from intarsia.endpoints.community import COMMUNITY
from intarsia.endpoints.dialect import IGNORED, Dialect, Field
from intarsia.endpoints.enterprise_pony import ENTERPRISE_PONY
from intarsia.endpoints.pony import PONY
from intarsia.endpoints.realtime import REALTIME
from intarsia.engine.request import InpaintRequest, IpAdapter, Lora
from intarsia.errors import RequestError, WeightsError, shown
from intarsia.registry.registry import ModelEntry, Registry, normalise

__all__ = ["ENDPOINTS", "Documented", "ReplyOptions", "read"]

ENDPOINTS: dict[str, Dialect] = {each.name: each for each in (COMMUNITY, ENTERPRISE_PONY, PONY, REALTIME)}

# Names in one warning; a body may have a million keys.
_LISTED = 10


@dataclass(frozen=True)
class ReplyOptions:
    """How the reply is wanted; ``webhook`` is called by a server, once, when the images are done."""

    base64: bool
    temp: bool
    instant_response: bool
    webhook: str | None
    track_id: str | float | bool | None


@dataclass(frozen=True)
class Documented:
    """A documented request, read. The key is not in it."""

    dialect: Dialect
    request: InpaintRequest
    options: ReplyOptions
    warnings: tuple[str, ...]


def read(payload: object, endpoint: str | None, registry: Registry) -> Documented:
    """Read the JSON body of a request to a documented endpoint.

    Args:
        endpoint: a key of :data:`ENDPOINTS`; None lets the model decide between ``community`` and ``pony``,
            which share a URL: see :func:`is_pony`.

    Raises:
        RequestError: the body is not an object, or a field means nothing; the message names it.
        WeightsError: the model is not in the registry.
    """
    if not isinstance(payload, Mapping):
        raise RequestError("request", message=f"the request must be a JSON object, not {_kind(payload)}")
    body = {str(name): value for name, value in payload.items()}
    dialect = _dialect(endpoint, body, registry)
    given = _given(body, dialect)
    for name in dialect.required:
        if not str(given.get(name, "")).strip():
            raise RequestError(name, message=f"{name} is required")
    model = given.get("model_id", registry.realtime or None)
    entry = registry.find(model)
    values = _model_defaults(dialect, entry) | given
    warnings = [*_ignored(body, dialect), *_without_effect(body, values)]
    return Documented(dialect, _request(values, model), _options(values), tuple(warnings))


def is_pony(name: str | None, registry: Registry) -> bool:
    """Whether a model is of the Pony family, by what its entry says of itself.

    It is where its id or one of its aliases has "pony" in it, or where it declares defaults for the endpoint
    ``pony``. Where a model only stands in for another one, the name that was asked for decides.
    """
    if name is not None and registry.is_stand_in(name):
        return "pony" in normalise(name)
    entry = registry.find(name)
    return "pony" in entry.defaults or any("pony" in normalise(own) for own in (entry.id, *entry.aliases))


def _dialect(endpoint: str | None, body: Mapping[str, Any], registry: Registry) -> Dialect:
    if endpoint is None:
        name = _given({"model_id": body.get("model_id")}, COMMUNITY).get("model_id")
        return PONY if name is not None and is_pony(name, registry) else COMMUNITY
    if endpoint not in ENDPOINTS:
        raise RequestError("endpoint", endpoint, f"one of {', '.join(ENDPOINTS)}")
    return ENDPOINTS[endpoint]


def _given(body: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """The fields that are there, by what they mean."""
    found = {name: field for name, field in dialect.fields.items() if not _is_absent(body.get(name), field)}
    values = {name: field.type.read(name, body[name]) for name, field in found.items()}
    if "num_inference_steps" in values:
        values.setdefault("steps", values.pop("num_inference_steps"))
    return values


def _is_absent(value: Any, field: Field) -> bool:
    return value is None or (field.blank and isinstance(value, str) and not value.strip())


def _model_defaults(dialect: Dialect, entry: ModelEntry) -> dict[str, Any]:
    """What absent fields mean: the model's defaults for this endpoint over the documented ones."""
    own = entry.defaults.get(dialect.name, {})
    where = f"models.{entry.id}.defaults.{dialect.name}"
    if not isinstance(own, Mapping):
        raise WeightsError(f"{where} must be a table, not {shown(own)}")
    unknown = sorted(set(own) - set(dialect.fields))
    if unknown:
        raise WeightsError(f"{where}: {unknown[0]} is not a field of the endpoint {dialect.name}")
    try:
        return _given(dialect.defaults, dialect) | _given(own, dialect)
    except RequestError as exc:
        raise WeightsError(f"{where}: {exc}") from exc


def _request(values: Mapping[str, Any], model: str | None) -> InpaintRequest:
    return InpaintRequest(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"],
        model=model,
        init_image=values["init_image"],
        mask_image=values["mask_image"],
        width=values["width"],
        height=values["height"],
        fit_output=True,
        samples=values["samples"],
        steps=values.get("steps"),
        guidance_scale=values["guidance_scale"],
        strength=values["strength"],
        scheduler=values.get("scheduler"),
        karras_sigmas=values["use_karras_sigmas"],
        algorithm_type=values["algorithm_type"],
        clip_skip=values["clip_skip"],
        seed=values.get("seed"),
        loras=_loras(values.get("lora_model", ()), values.get("lora_strength", ())),
        vae=values.get("vae"),
        ip_adapter=_ip_adapter(values),
        token_merging=values["tomesd"],
        safety_checker=values["safety_checker"],
        safety_action=values["safety_checker_type"],
        enhance_prompt=values["enhance_prompt"],
    )


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
    if (name is None) != (image is None):
        missing, given = ("ip_adapter_id", "ip_adapter_image")[:: 1 if name is None else -1]
        raise RequestError(missing, message=f"{missing} is required with {given}")
    if name is None:
        return None
    scale = {"scale": values["ip_adapter_scale"]} if "ip_adapter_scale" in values else {}
    return IpAdapter(id=name, image=image, **scale)


def _ignored(body: Mapping[str, Any], dialect: Dialect) -> list[str]:
    """Warnings for the keys that nothing was done with."""
    unknown = [name for name in body if name not in dialect.fields]
    legacy = [name for name in unknown if name in IGNORED]
    others = [name for name in unknown if name not in IGNORED]
    groups = {"not supported here": legacy, f"not a field of the endpoint {dialect.name}": others}
    return [f"ignored, {why}: {_listed(names)}" for why, names in groups.items() if names]


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
    text = ", ".join(name if name.isidentifier() and len(name) < 60 else shown(name) for name in names[:_LISTED])
    return text if len(names) <= _LISTED else f"{text} and {len(names) - _LISTED} more"


def _kind(value: object) -> str:
    names = {list: "a list", str: "text", bool: "a boolean", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
