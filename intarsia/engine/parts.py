"""What a request adds to a model: VAE, LoRAs, IP adapter, safety checker; each of a family that fits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from intarsia.backends.protocol import ModelFiles
from intarsia.engine.plan import Adapter, ModelPlan
from intarsia.engine.request import InpaintRequest, Lora
from intarsia.errors import CheckerMissing, RequestError, WeightsError
from intarsia.registry.entries import PARTS, ModelEntry, PartEntry
from intarsia.registry.files import check, entry_hash, folder_hash, identified, locate
from intarsia.registry.hashing import nothing
from intarsia.registry.registry import Registry
from intarsia.registry.usable import check_content, check_file, is_stable_diffusion, missing_networks, version

__all__ = ["Parts", "find_checker", "find_parts", "fitting_part", "model_files", "model_plan"]


@dataclass(frozen=True)
class Parts:
    """Registry entries beside the model's own.

    Attributes:
        vae: replaces the model's; None keeps that.
        text: the model whose text encoders it has; None for its own.
        loras: with their strengths, in the order of the request.
    """

    vae: PartEntry | None = None
    text: ModelEntry | None = None
    loras: tuple[tuple[PartEntry, float], ...] = ()
    ip_adapter: PartEntry | None = None


def find_parts(
    request: InpaintRequest,
    model: ModelEntry,
    registry: Registry,
    *,
    more_loras: Sequence[Lora] = (),
    allow_paths: bool = False,
) -> Parts:
    """Look up what the request names, and what the model's entry names in place of what its file lacks.

    Args:
        more_loras: those that its prompt names.
        allow_paths: paths of files may stand for ids.

    Raises:
        WeightsError: an entry that the registry does not have, that is of another kind or does not fit the model's
            family; a network that the model's file lacks and nothing replaces.
        RequestError: a LoRA that is asked for twice, by whichever of its names.
    """
    find = partial(fitting_part, model=model, registry=registry, allow_paths=allow_paths)
    all_loras = (*request.loras, *more_loras)
    entries = [find("loras", lora.id) for lora in all_loras]
    strengths = [float(lora.strength) for lora in all_loras]
    loras = tuple(zip(entries, strengths, strict=True))

    names = [entry.id for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise RequestError("loras", message=f"loras must be different from one another; {name} is there twice")

    ip_adapter = None
    if request.ip_adapter:
        ip_adapter = find("ip_adapters", request.ip_adapter.id)
    vae = request.vae or model.vae
    parts = Parts(
        vae=find("vaes", vae) if vae else None,
        text=_text_encoders(model, registry) if model.text else None,
        loras=loras,
        ip_adapter=ip_adapter,
    )
    _check_whole(model, parts)
    return parts


def _text_encoders(model: ModelEntry, registry: Registry) -> ModelEntry:
    """The model whose text encoders another one has; of the same version, as others give what it does not take."""
    entry = registry.find(model.text)
    if entry.family not in version(model.family):
        raise WeightsError(
            f"{model.id}: the text encoders of {entry.id} are for {entry.family}, not for {model.family}"
        )
    if "text" not in identified(locate(entry)).components:
        raise WeightsError(f"{model.id}: {entry.id} has no text encoders")
    return entry


def _check_whole(model: ModelEntry, parts: Parts) -> None:
    """Refuse a checkpoint of another family than its entry's, or one that lacks a network that nothing replaces."""
    if model.format != "single":
        return
    locate(model)
    check_file(model)
    missing = [network for network in missing_networks(model) if not (network == "VAE" and parts.vae)]
    if missing:
        option = "--vae ID" if missing == ["VAE"] else "--text ID (of a model whose text encoders it has)"
        raise WeightsError(
            f"{model.id}: {model.path.name} has no {' and no '.join(missing)}; "
            f"add it with another's: intarsia models add {model.path.name} {option}"
        )


def find_checker(request: InpaintRequest, model: ModelEntry, registry: Registry) -> PartEntry | None:
    """The model's checker if the request asks for one. A checker that is not there is an error, never "off".

    Raises:
        CheckerMissing: the model names no checker, the registry does not have it, it is for other families, or its
            folder is not there.
    """
    if not request.safety_checker:
        return None
    if not model.safety:
        raise CheckerMissing(
            f"safety_checker: no checker is installed for {model.id}; install one (a [safety.<id>] entry in "
            f'weights.toml, and safety = "<id>" in the entry of {model.id}), or turn safety_checker off'
        )
    try:
        entry = fitting_part("safety", model.safety, model, registry)
        locate(entry)
    except WeightsError as exc:
        raise CheckerMissing(str(exc)) from exc
    return entry


def fitting_part(
    kind: str, name: str, model: ModelEntry, registry: Registry, *, allow_paths: bool = False
) -> PartEntry:
    """The part of that name, once it fits the model's family."""
    entry = registry.part(kind, name, allow_paths=allow_paths)
    # what a file itself says is a version of Stable Diffusion, and tells nothing about other families
    is_comparable = bool(entry.declared_in) or is_stable_diffusion(model.family)
    if is_comparable and entry.families and model.family not in entry.families:
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
        sha256=_model_hash(model, parts, meanwhile),
        in_channels=shape.in_channels,
        latent_channels=shape.latent_channels,
        factor=shape.factor,
        vae=_id_and_hash(parts.vae) if parts.vae else "model",
        adapters=tuple(Adapter(entry.id, entry_hash(entry), strength) for entry, strength in parts.loras),
        ip_adapter=_id_and_hash(parts.ip_adapter) if parts.ip_adapter else "none",
        precision=model.precision,
    )


def _model_hash(model: ModelEntry, parts: Parts, meanwhile: Callable[[], None]) -> str:
    """Of the model's files; where it has the text encoders or the tokenizer of others, of these as well."""
    own = entry_hash(model, meanwhile)
    others = []
    if parts.text:
        others.append(entry_hash(parts.text, meanwhile))
    if model.tokenizer:
        others.append(folder_hash(model.tokenizer))
    if not others:
        return own
    return hashlib.sha256("\n".join([own, *others]).encode()).hexdigest()


def _id_and_hash(entry: PartEntry) -> str:
    return f"{entry.id}:{entry_hash(entry)}"


def model_files(model: ModelEntry, parts: Parts, meanwhile: Callable[[], None] = nothing) -> ModelFiles:
    """The model's files, once all pinned ones have been found whole, and of the kinds and families of their entries.

    Raises:
        WeightsError: a file is missing, damaged or something else than its entry says.

    Args:
        meanwhile: called while much of the model is hashed.
    """
    entries = [model, parts.vae, parts.text, parts.ip_adapter, *(entry for entry, _ in parts.loras)]
    folder = check(model, meanwhile)
    for entry in entries:
        if entry is not None:
            check(entry)
            check_content(entry)

    shape = model.shape
    return ModelFiles(
        model=model.id,
        family=model.family,
        folder=folder,
        in_channels=shape.in_channels,
        latent_channels=shape.latent_channels,
        factor=shape.factor,
        vae_folder=locate(parts.vae) if parts.vae else None,
        text=locate(parts.text) if parts.text else None,
        tokenizer=model.tokenizer,
        loras=tuple((locate(entry), strength) for entry, strength in parts.loras),
        ip_adapter=locate(parts.ip_adapter) if parts.ip_adapter else None,
        image_encoder=parts.ip_adapter.image_encoder if parts.ip_adapter else None,
        precision=model.precision,  # which the registry has checked
    )
