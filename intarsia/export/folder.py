"""A model's folder → a folder of graphs, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from intarsia.backends.onnx.graphs import FORMAT, MANIFEST, key_of, sources, store
from intarsia.checkpoints.files import read_json
from intarsia.checkpoints.layout import COMPONENTS, find_weights
from intarsia.checkpoints.vae_names import modern_name
from intarsia.errors import WeightsError
from intarsia.export.clip import ClipSafety, ClipText
from intarsia.export.networks import (
    Network,
    attending,
    decoder_graph,
    denoiser_graph,
    encoder_graph,
    safety_graph,
    text_graph,
    unet_graphs,
)
from intarsia.export.stored import Stored, places, read_stored
from intarsia.models.clip_config import is_projected, read_checker_shape, read_text_shape
from intarsia.models.clip_images import load_preprocessing
from intarsia.models.loading import build_unet, build_vae, read_index
from intarsia.models.safety import CONCEPTS, SPECIAL_CARE
from intarsia.models.weight_files import check_size, stored_names

__all__ = [
    "DTYPES",
    "MANIFEST",
    "Merges",
    "autoencoder",
    "cached",
    "checker_graphs",
    "export_checker",
    "export_model",
    "model_graphs",
]

DTYPES = {"float32": torch.float32, "float16": torch.float16}

_STEM = COMPONENTS["unet"]
_POSITIONS = "embeddings.position_ids"
Graphs = Iterator[tuple[str, bytes]]


@dataclass(frozen=True)
class Merges:
    """How a graph merges tokens (:class:`intarsia.token_merging.TokenMerging`); the ratio is left to the run."""

    levels: int = 1
    reuse: int = 1


def cached(folder: Path, dtype: str, root: Path | None = None) -> Path:
    """Where the graphs of a model (or checker) belong in the cache, or under another ``root``."""
    key = key_of(sources(folder), dtype)
    return (root or store()) / key


def export_model(folder: Path, out: Path, dtype: str = "float32", merges: Merges | None = None) -> None:
    """Write the graphs of a diffusers folder, replacing what is in ``out``.

    Args:
        dtype: what the networks compute in: one of :data:`DTYPES`; see :func:`autoencoder`.
        merges: of a second graph of the UNet; None makes none.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    facts: dict[str, Any] = {}
    _write(folder, out, dtype, facts, model_graphs(folder, dtype, merges, facts))


def export_checker(folder: Path, out: Path) -> None:
    """Likewise for a safety checker; always float32, the same decision on every device."""
    _write(folder, out, "float32", {}, checker_graphs(folder))


def _write(folder: Path, out: Path, dtype: str, facts: dict[str, Any], graphs: Graphs) -> None:
    """In a folder beside ``out`` first. ``graphs`` may add to ``facts`` until its end."""
    hashes_before = sources(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        complete = Path(temporary) / "made"
        complete.mkdir()
        graph_hashes = {}
        for name, content in graphs:
            (complete / f"{name}.onnx").write_bytes(content)
            graph_hashes[name] = hashlib.sha256(content).hexdigest()

        manifest = {
            "format": FORMAT,
            "dtype": dtype,
            "facts": facts,
            "sources": hashes_before,
            "graphs": graph_hashes,
        }
        (complete / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

        if out.is_dir():
            out.rename(Path(temporary) / "old")
        complete.rename(out)


def model_graphs(folder: Path, dtype: str, merges: Merges | None, facts: dict[str, Any]) -> Graphs:
    """Names and graphs, made one at a time; other properties that running needs go into ``facts``."""
    index = read_index(folder)
    towers: list[dict[str, Any]] = []
    yield from _text_graphs(folder, dtype, towers)

    unet = build_unet(folder / "unet")
    stored = _stored(folder, folder / "unet", _STEM)
    network = _network(folder, unet, stored, dtype)
    yield from unet_graphs(network)
    if merges is not None:
        yield "unet_merging", denoiser_graph(network, merges.levels, merges.reuse)

    vae = autoencoder(folder, dtype)
    yield "vae_encoder", encoder_graph(vae)
    yield "vae_decoder", decoder_graph(vae)

    facts |= {
        "in_channels": unet.config.in_channels,
        "latent_channels": cast(Any, vae.module).latent_channels,
        "factor": cast(Any, vae.module).factor,
        "added": bool(unet.config.added_inputs),
        "zero_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", False)),
        "towers": towers,
        "attention": attending(unet),
        "merging": None if merges is None else asdict(merges),
    }


def _text_graphs(folder: Path, dtype: str, towers: list[dict[str, Any]]) -> Graphs:
    """One or two text encoders; what running them needs is appended to ``towers``."""
    suffixes = [suffix for suffix in ("", "_2") if (folder / f"text_encoder{suffix}").is_dir()]
    if not suffixes:
        raise WeightsError(f"{folder / 'text_encoder'}: no such folder; a model needs its text encoder")

    penultimate = "_2" in suffixes
    for suffix in suffixes:
        name = f"text_encoder{suffix}"
        path = folder / name / "config.json"
        config = read_json(path)
        shape = read_text_shape(path, config)
        projected = is_projected(path, config)

        check_size(path, shape["num_hidden_layers"], len(stored_names(find_weights(folder / name, "model"))))
        with torch.device("meta"):
            text = ClipText(shape, penultimate=penultimate, projected=projected)
        network = _text_network(folder, name, text, dtype)
        yield name, text_graph(network, projected=projected)

        towers.append(
            {
                "graph": name,
                "tokenizer": f"tokenizer{suffix}",
                "layers": shape["num_hidden_layers"],
                "limit": shape["max_position_embeddings"],
            }
        )


def _text_network(folder: Path, name: str, text: ClipText, dtype: str) -> Network:
    stored = {}
    for key, tensor in _stored(folder, folder / name, "model").items():
        if not key.endswith(_POSITIONS):
            stored[key.removeprefix("text_model.")] = tensor
    return _network(folder, text, stored, dtype, name)


def checker_graphs(folder: Path) -> Graphs:
    """Likewise of a safety checker."""
    config = folder / "config.json"
    vision, width = read_checker_shape(config)
    check_size(config, vision["num_hidden_layers"], len(stored_names(find_weights(folder, "model"))))
    crop = load_preprocessing(folder / "preprocessor_config.json").crop
    with torch.device("meta"):
        checker = ClipSafety(vision, width, CONCEPTS, SPECIAL_CARE)

    stored = {}
    for key, tensor in _stored(folder, folder, "model").items():
        if not key.endswith(_POSITIONS):
            stored[key.replace("vision_model.vision_model.", "vision_model.", 1)] = tensor
    network = _network(folder, checker, stored, "float32", "")
    yield "safety", safety_graph(network, crop)


def _stored(folder: Path, component: Path, stem: str) -> dict[str, Stored]:
    return read_stored(folder, find_weights(component, stem))


def autoencoder(folder: Path, dtype: str) -> Network:
    """A model's autoencoder; one whose config says ``force_upcast`` computes in float32 in any case."""
    vae = build_vae(folder / "vae")
    config = read_json(folder / "vae" / "config.json")
    if config.get("force_upcast") is True:
        dtype = "float32"
    return _network(folder, vae, _modern(folder), dtype, "vae")


def _modern(folder: Path) -> dict[str, Stored]:
    """The autoencoder's tensors under today's names."""
    stored = _stored(folder, folder / "vae", _STEM)
    return {modern_name(name): tensor for name, tensor in stored.items()}


def _network(folder: Path, module: nn.Module, stored: dict[str, Stored], dtype: str, name: str = "unet") -> Network:
    """A network built on the meta device, with memory for weights that are never written."""
    by_parameter = places(module, stored, folder / name)
    allocated = module.to_empty(device="cpu").to(DTYPES[dtype])
    allocated.requires_grad_(False)
    return Network(allocated, by_parameter)
