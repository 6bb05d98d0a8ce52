"""A model as it is stored: for each network its configuration, and where each of its tensors is.

A network is built from this, and does not know whether its tensors come from a diffusers folder or from one file of
another layout: a checkpoint is a view, nothing is converted on the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.header import Header, read_header
from intarsia.checkpoints.layout import COMPONENTS, SCHEDULER, find_weights
from intarsia.checkpoints.vae_names import modern_name
from intarsia.errors import WeightsError

__all__ = [
    "TEXT_ENCODERS",
    "Padding",
    "Place",
    "StoredModel",
    "StoredNetwork",
    "stored_folder",
    "stored_network",
    "stored_text_folders",
    "stored_vae_folder",
    "stored_weights",
]

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""Names of the text encoders' folders, in their order."""

Padding = Literal["<|endoftext|>", "!"]
"""What CLIP's tokenizer fills prompts up with (:mod:`intarsia.models.clip_vocabulary`).

The first text encoders of SD1 and SDXL were trained with the end's token, SD2's and SDXL's second with number 0.
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tensor of a network is.

    Attributes:
        name: of the stored tensor that holds it.
        rows: which rows of that it is, where several are packed into one; None is all of them.
        transposed: a matrix whose dimensions are stored the other way around.
        flattened: a matrix that is stored as a 1x1 convolution.
    """

    file: Path
    name: str
    rows: tuple[int, int] | None = None
    transposed: bool = False
    flattened: bool = False


@dataclass(frozen=True, kw_only=True)
class StoredNetwork:
    """One network.

    Attributes:
        name: of its folder in diffusers' layout, for example ``unet``.
        source: what errors about its configuration name: ``config.json``, or the checkpoint.
        config: as in a diffusers folder's ``config.json``.
        headers: of its files.
        places: its tensors, by the names that diffusers has for them.
    """

    name: str
    source: Path
    config: Mapping[str, Any]
    headers: Mapping[Path, Header]
    places: Mapping[str, Place]

    @property
    def file(self) -> Path:
        """The first of its files, for errors about its tensors."""
        return next(iter(self.headers))


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """The networks of a model, and what else is stored with them.

    Attributes:
        networks: UNet and text encoders, and the VAE where the model has one, by the names of their folders.
        tokenizers: folder of a tokenizer, or the padding of CLIP's own, by the names of the text encoders' folders.
        scheduler: ``scheduler_config.json``; empty where there is none.
        index: ``model_index.json``, or what it would say.
    """

    path: Path
    networks: Mapping[str, StoredNetwork]
    tokenizers: Mapping[str, Path | Padding]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    index: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text_encoders(self) -> dict[str, StoredNetwork]:
        """In their order."""
        return {name: self.networks[name] for name in TEXT_ENCODERS if name in self.networks}


def stored_folder(folder: Path, *, with_vae: bool = True, with_text: bool = True) -> StoredModel:
    """A diffusers folder.

    Args:
        with_vae: False leaves its autoencoder out, which then need not be there.
        with_text: the same of its text encoders and tokenizers.

    Raises:
        WeightsError: a config, an index or a file of weights that is missing or unreadable; the message names it.
    """
    index = read_json(folder / "model_index.json")
    scheduler = read_json(folder / SCHEDULER)
    encoders: dict[str, StoredNetwork] = {}
    tokenizers: dict[str, Path | Padding] = {}
    if with_text:
        encoders, tokenizers = stored_text_folders(folder)
    networks = {**encoders, "unet": stored_network(folder / "unet", "unet")}
    if with_vae:
        networks["vae"] = stored_vae_folder(folder / "vae")
    return StoredModel(path=folder, networks=networks, tokenizers=tokenizers, scheduler=scheduler, index=index)


def stored_text_folders(folder: Path) -> tuple[dict[str, StoredNetwork], dict[str, Path | Padding]]:
    """The text encoders of a diffusers folder, and the folders of their tokenizers; WeightsError where none is."""
    names = [name for name in TEXT_ENCODERS if (folder / name).is_dir()]
    if not names:
        raise WeightsError(f"{folder / TEXT_ENCODERS[0]}: no such folder; a model needs its text encoder")
    encoders = {name: stored_network(folder / name, name) for name in names}
    return encoders, {name: folder / name.replace("text_encoder", "tokenizer") for name in names}


def stored_network(folder: Path, name: str) -> StoredNetwork:
    """One network's folder, with ``config.json`` and weights.

    Args:
        name: a key of :data:`~.layout.COMPONENTS`; weights of any other network are called ``model``.
    """
    source = folder / "config.json"
    config = read_json(source)
    headers = _headers(find_weights(folder, COMPONENTS.get(name, "model")))
    places = {tensor: Place(file=path, name=tensor) for path, header in headers.items() for tensor in header.tensors}
    return StoredNetwork(name=name, source=source, config=config, headers=headers, places=places)


def stored_weights(path: Path, name: str) -> StoredNetwork:
    """A network whose file has its own names and no configuration."""
    header = read_header(path)
    places = {tensor: Place(file=path, name=tensor) for tensor in header.tensors}
    return StoredNetwork(name=name, source=path, config={}, headers={path: header}, places=places)


def stored_vae_folder(folder: Path) -> StoredNetwork:
    """An autoencoder's folder; its tensors get the names that diffusers has had for them since 0.13."""
    stored = stored_network(folder, "vae")
    places = {}
    for name, place in stored.places.items():
        modern = modern_name(name)
        is_matrix = modern != name and name.endswith(".weight")
        places[modern] = Place(file=place.file, name=name, flattened=is_matrix)
    return StoredNetwork(name="vae", source=stored.source, config=stored.config, headers=stored.headers, places=places)


def _headers(files: Iterable[Path]) -> dict[Path, Header]:
    return {path: read_header(path) for path in files}
