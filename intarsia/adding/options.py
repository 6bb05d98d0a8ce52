"""What the caller of ``models add`` says of a file, and whether the file agrees."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from intarsia.checkpoints.identified import Identified
from intarsia.errors import WeightsError, shown
from intarsia.registry.families import FAMILIES
from intarsia.registry.registry import Registry
from intarsia.registry.toml_file import PREDICTIONS
from intarsia.registry.usable import SECTIONS, version

__all__ = ["AddOptions", "check_options", "find_encoder", "model_family"]


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """What the caller says of a file beside its path.

    Attributes:
        id: None takes the file's name.
        copy: keep a copy in a folder of ours, so that the file may be moved or removed.
        families: in place of those that the file says or hints at.
        prediction: "" leaves it to the file.
        vae, text: ids of entries for what the file lacks.
        tokenizer: folder of a tokenizer in place of CLIP's.
        image_encoder: of an IP adapter: the folder of its image encoder, or the path or id of another adapter whose
            image encoder it has.
        default: the model becomes the one that runs where none is named.
        source: where it was downloaded from.
    """

    id: str | None = None
    copy: bool = False
    families: tuple[str, ...] = ()
    prediction: str = ""
    vae: str = ""
    text: str = ""
    tokenizer: Path | None = None
    image_encoder: str = ""
    default: bool = False
    source: str = ""


def check_options(registry: Registry, found: Identified, options: AddOptions) -> None:
    """Refuse options that contradict the file, and a file that lacks what no option names."""
    for family in options.families:
        if family not in FAMILIES:
            raise WeightsError(f"--family must be of {', '.join(FAMILIES)}, not {shown(family)}")
    if options.prediction not in ("", *PREDICTIONS):
        raise WeightsError(f"--prediction must be {' or '.join(PREDICTIONS)}, not {shown(options.prediction)}")
    if options.image_encoder and found.kind != "ip_adapter":
        raise WeightsError(f"{found.path}: is {found.what}; --image-encoder is for IP adapters")
    if SECTIONS[found.kind] != "models":
        _refuse_of_models(found, options)
        return

    family = model_family(found, options)
    if options.vae:
        registry.part("vaes", options.vae)
    if options.text and registry.find(options.text).family not in version(family):
        raise WeightsError(f"--text: {options.text} is of another family than {family}")

    lacks_text = {"text", "text_2"} & set(found.missing) and not options.text
    lacks_vae = "vae" in found.missing and not options.vae
    if lacks_text:
        raise WeightsError(f"{found.path}: has no text encoders: name a model that has them with --text ID")
    if lacks_vae:
        raise WeightsError(f"{found.path}: has no VAE: name one with --vae ID")


def find_encoder(registry: Registry, options: AddOptions) -> Path | None:
    """The place of the image encoder that the caller names; None where it names none.

    Raises:
        WeightsError: no IP adapter has that id, and nothing has that path.
    """
    named = options.image_encoder
    if not named:
        return None
    path = Path(os.path.abspath(Path(named).expanduser()))
    if path.exists():
        return path
    entry = registry.part("ip_adapters", named)
    return entry.image_encoder or entry.path


def _refuse_of_models(found: Identified, options: AddOptions) -> None:
    settings = {
        "--prediction": options.prediction,
        "--vae": options.vae,
        "--text": options.text,
        "--tokenizer": options.tokenizer,
        "--default": options.default,
    }
    given = [name for name, value in settings.items() if value]
    if given:
        raise WeightsError(f"{found.path}: is {found.what}; {given[0]} is for models")


def model_family(found: Identified, options: AddOptions) -> str:
    """The one family of a model; a folder may be said to be another of as many channels, a file says it itself."""
    if len(options.families) > 1:
        raise WeightsError(f"--family: a model is of one family, not of {', '.join(options.families)}")
    if not options.families:
        return found.family

    family = options.families[0]
    same_channels = FAMILIES[family].in_channels == FAMILIES[found.family].in_channels
    may_differ = found.kind == "folder" and same_channels
    if family != found.family and not may_differ:
        raise WeightsError(f"{found.path}: is {found.what}, of the family {found.family}, not {family}")
    return family
