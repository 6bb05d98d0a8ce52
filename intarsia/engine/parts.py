"""What a request adds to a model: VAE, LoRAs, IP adapter, safety checker; each of a family that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from intarsia.backends.protocol import ModelFiles
from intarsia.engine.plan import Adapter, ModelPlan
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError, WeightsError
from intarsia.execution import Precision
from intarsia.registry.files import check, entry_hash, locate
from intarsia.registry.hashing import nothing
from intarsia.registry.registry import PARTS, ModelEntry, PartEntry, Registry

__all__ = ["Parts", "find_checker", "find_parts", "model_files", "model_plan"]


@dataclass(frozen=True)
class Parts:
    """Registry entries beside the model's own.

    Attributes:
        vae: replaces the model's; None keeps that.
        loras: with their strengths, in the order of the request.
    """

    vae: PartEntry | None = None
    loras: tuple[tuple[PartEntry, float], ...] = ()
    ip_adapter: PartEntry | None = None


def find_parts(request: InpaintRequest, model: ModelEntry, registry: Registry) -> Parts:
    """Look up what the request names.

    Raises:
        WeightsError: an entry that the registry does not have, or that does not fit the model's family.
        RequestError: a LoRA that is asked for twice, by whichever of its names.
    """
    loras = tuple((_fitting("loras", lora.id, model, registry), float(lora.strength)) for lora in request.loras)
    names = [entry.id for entry, _ in loras]
    for name in names:
        if names.count(name) > 1:
            raise RequestError("loras", message=f"loras must be different from one another; {name} is there twice")
    return Parts(
        vae=_fitting("vaes", request.vae, model, registry) if request.vae else None,
        loras=loras,
        ip_adapter=_fitting("ip_adapters", request.ip_adapter.id, model, registry) if request.ip_adapter else None,
    )


def find_checker(request: InpaintRequest, model: ModelEntry, registry: Registry) -> PartEntry | None:
    """The model's checker if the request asks for one. A checker that is not there is an error, never "off".

    Raises:
        WeightsError: the model names no checker, the registry does not have it, it is for other families, or its
            folder is not there.
    """
    if not request.safety_checker:
        return None
    if not model.safety:
        raise WeightsError(
            f"safety_checker: no checker is installed for {model.id}; install one (a [safety.<id>] entry in "
            f'weights.toml, and safety = "<id>" in the entry of {model.id}), or turn safety_checker off'
        )
    entry = _fitting("safety", model.safety, model, registry)
    locate(entry)
    return entry


def _fitting(kind: str, name: str, model: ModelEntry, registry: Registry) -> PartEntry:
    entry = registry.part(kind, name)
    if entry.families and model.family not in entry.families:
        fits = ", ".join(entry.families)
        raise WeightsError(f"{PARTS[kind]} {entry.id} fits the families {fits}, not {model.family} of {model.id}")
    return entry


def model_plan(model: ModelEntry, parts: Parts, meanwhile: Callable[[], None] = nothing) -> ModelPlan:
    """Model and parts with the hashes of their content; files without pins are read for that, once a process.

    Args:
        meanwhile: called while much of the model is hashed.
    """
    shape = model.shape
    return ModelPlan(
        id=model.id,
        family=model.family,
        sha256=entry_hash(model, meanwhile),
        in_channels=shape.in_channels,
        latent_channels=shape.latent_channels,
        factor=shape.factor,
        vae=_named(parts.vae) if parts.vae else "model",
        adapters=tuple(Adapter(entry.id, entry_hash(entry), strength) for entry, strength in parts.loras),
        ip_adapter=_named(parts.ip_adapter) if parts.ip_adapter else "none",
        precision=model.precision,
    )


def _named(entry: PartEntry) -> str:
    return f"{entry.id}:{entry_hash(entry)}"


def model_files(model: ModelEntry, parts: Parts, meanwhile: Callable[[], None] = nothing) -> ModelFiles:
    """The model's files, once all pinned ones have been found whole; else :class:`WeightsError`.

    Args:
        meanwhile: called while much of the model is hashed.
    """
    shape = model.shape
    return ModelFiles(
        model=model.id,
        folder=check(model, meanwhile),
        in_channels=shape.in_channels,
        latent_channels=shape.latent_channels,
        factor=shape.factor,
        vae_folder=check(parts.vae) if parts.vae else None,
        loras=tuple((check(entry), strength) for entry, strength in parts.loras),
        ip_adapter=check(parts.ip_adapter) if parts.ip_adapter else None,
        precision=cast(Precision, model.precision),  # which the registry has checked
    )
