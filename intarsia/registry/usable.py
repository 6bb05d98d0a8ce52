"""Whether an entry's files are what its section and its keys say: by headers and configs, before anything is read."""

from __future__ import annotations

import os
from pathlib import Path

from intarsia.checkpoints.files import is_there
from intarsia.checkpoints.folder_kinds import folder_version
from intarsia.checkpoints.identified import SD1, SD2, SDXL, TINY, Identified, Kind
from intarsia.checkpoints.ip_adapter_layout import image_encoder
from intarsia.checkpoints.layout import COMPONENTS, SCHEDULER, find_weights
from intarsia.errors import WeightsError
from intarsia.registry.entries import PARTS, Entry, ModelEntry, PartEntry
from intarsia.registry.files import identified, locate

__all__ = [
    "KINDS",
    "SECTIONS",
    "check_content",
    "check_file",
    "check_usable",
    "is_stable_diffusion",
    "missing_networks",
    "noun",
    "one",
    "section_of",
    "version",
]

KINDS: dict[str, tuple[Kind, ...]] = {
    "models": ("checkpoint", "unet", "folder"),
    "vaes": ("vae",),
    "loras": ("lora",),
    "ip_adapters": ("ip_adapter",),
    "embeddings": ("embedding",),
    "safety": ("safety",),
}
"""What the entries of each section may be."""

SECTIONS = {kind: section for section, kinds in KINDS.items() for kind in kinds}
"""The section that each kind belongs into; none for what cannot be used."""

# Folders with weights in an entry's folder, and how the names of their files begin.
_WEIGHTS = {
    "models": [(name, COMPONENTS[name]) for name in ("unet", "vae", "text_encoder")],
    "vaes": [("", COMPONENTS["vae"])],
    "ip_adapters": [("image_encoder", "model")],
    "safety": [("", "model")],
}
_NETWORKS = {"unet": "UNet", "text": "text encoder", "text_2": "second text encoder", "vae": "VAE"}


def noun(section: str) -> str:
    """What an error calls an entry of a section."""
    return PARTS.get(section, "model")


def one(section: str) -> str:
    """The same with its article."""
    article = "an" if noun(section)[0] in "aeioAEIO" else "a"
    return f"{article} {noun(section)}"


def version(family: str) -> tuple[str, ...]:
    """The families that share text encoders and autoencoders: those with 4 and with 9 channels."""
    return next((families for families in (SD1, SD2, SDXL, TINY) if family in families), (family,))


def is_stable_diffusion(family: str) -> bool:
    """Whether files themselves can tell that they are for the family."""
    return family in (*SD1, *SD2, *SDXL)


def section_of(found: Identified, encoder: Path | None = None) -> str:
    """The section of the registry that a file or a folder belongs into; WeightsError where it cannot be used.

    Args:
        encoder: what stands in place of an IP adapter's own image encoder.
    """
    if found.refused:
        raise WeightsError(f"{found.path}: {found.what} cannot be used: {found.refused}")
    section = SECTIONS.get(found.kind, "")
    if section not in ("models", *PARTS):
        raise WeightsError(f"{found.path}: is {found.what}, for which the registry has no section")
    if section == "ip_adapters":
        folder = image_encoder(found.path, encoder)
        if not is_there(folder / "config.json"):
            raise WeightsError(
                f"{found.path}: it has no image_encoder/ with config.json and weights; name another's with "
                "--image-encoder PATH or ID"
            )
    return section


def check_usable(entry: Entry) -> None:
    """Refuse an entry that could not be opened, as far as that shows without reading weights.

    Raises:
        WeightsError: files are missing, of another kind, or of a family that the entry does not have.
    """
    path = locate(entry)
    if os.path.isdir(path):
        section = entry.kind if isinstance(entry, PartEntry) else "models"
        replaced = _replaced(entry)
        for folder, stem in _WEIGHTS[section]:
            if folder not in replaced:
                find_weights(path / folder, stem)
        _check_encoder(entry)
        if section == "models" and not (path / SCHEDULER).is_file():
            raise WeightsError(f"{entry.id}: {path} has no {SCHEDULER}")
        return

    check_file(entry)
    _check_encoder(entry)
    if isinstance(entry, ModelEntry) and missing_networks(entry):
        raise WeightsError(f"{entry.id}: {path} has no {' and no '.join(missing_networks(entry))}")


def _check_encoder(entry: Entry) -> None:
    """Refuse an IP adapter whose entry names an image encoder that is not there, or is of another width."""
    if isinstance(entry, PartEntry) and entry.image_encoder is not None:
        find_weights(image_encoder(entry.path, entry.image_encoder), "model")


def check_file(entry: Entry) -> Identified:
    """What an entry's one file is, once it is of the entry's section, kind and family; else :class:`WeightsError`."""
    found = identified(entry.path)
    section = entry.kind if isinstance(entry, PartEntry) else "models"
    if SECTIONS.get(found.kind) != section:
        raise WeightsError(f"{entry.id}: {entry.path} is {found.what}, not {one(section)}")
    if found.refused:
        raise WeightsError(f"{entry.id}: {entry.path} is {found.what} that cannot be used: {found.refused}")

    if isinstance(entry, ModelEntry) and found.family and found.family != entry.family:
        raise WeightsError(
            f"{entry.id}: {entry.path} is {found.what}, of the family {found.family}, "
            f"and its entry says {entry.family} (declared in {entry.declared_in})"
        )
    return found


def check_content(entry: Entry) -> None:
    """Refuse files of another kind or family than their entry's, before they are opened; :class:`WeightsError`."""
    path = locate(entry)
    if os.path.isfile(path):
        check_file(entry)
        return

    if not isinstance(entry, ModelEntry) or not is_stable_diffusion(entry.family):
        return
    families = folder_version(path)
    if families and entry.family not in families:
        raise WeightsError(
            f"{entry.id}: the UNet in {path} is of {' or '.join(families)}, "
            f"and its entry says {entry.family} (declared in {entry.declared_in})"
        )


def _replaced(entry: Entry) -> tuple[str, ...]:
    """Networks of an entry's folder that need not be there, as it names others in their place."""
    if isinstance(entry, ModelEntry):
        return (*(["vae"] if entry.vae else []), *(["text_encoder"] if entry.text else []))
    return ("image_encoder",) if entry.image_encoder else ()


def missing_networks(entry: ModelEntry) -> tuple[str, ...]:
    """Networks that a checkpoint lacks, in words, unless its entry names others in their place."""
    if entry.format != "single":
        return ()
    missing = []
    for network in identified(entry.path).missing:
        replaced = entry.vae if network == "vae" else entry.text
        if not replaced:
            missing.append(_NETWORKS[network])
    return tuple(missing)
