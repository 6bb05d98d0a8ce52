"""A model's folder, or its one file → a folder of graphs, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from intarsia.backends.onnx.graphs import FORMAT, MANIFEST, key_of, store
from intarsia.backends.onnx.sources import Source, ip_adapter_source, source_of, vae_source
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.ip_adapter_layout import image_encoder, weights_file
from intarsia.checkpoints.layout import find_weights
from intarsia.checkpoints.single_file import stored_file, stored_vae
from intarsia.checkpoints.stored import (
    TEXT_ENCODERS,
    StoredModel,
    StoredNetwork,
    stored_folder,
    stored_network,
    stored_vae_folder,
    stored_weights,
)
from intarsia.export.clip import ClipImage, ClipSafety, ClipText
from intarsia.export.image_prompts import image_context_graph, image_encoder_graph
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
from intarsia.export.stored import places, read_stored
from intarsia.models.clip_config import is_projected, read_checker_shape, read_text_shape, read_vision_shape
from intarsia.models.clip_images import load_preprocessing
from intarsia.models.ip_adapter import IPAdapter, Resampler
from intarsia.models.ip_adapter_files import check_encoder, projection_of
from intarsia.models.loading import build_unet, build_vae
from intarsia.models.safety import CONCEPTS, SPECIAL_CARE
from intarsia.models.unet import UNet
from intarsia.models.weight_files import check_size, stored_names

__all__ = [
    "DTYPES",
    "MANIFEST",
    "Merges",
    "autoencoder",
    "cached",
    "checker_graphs",
    "export_checker",
    "export_ip_adapter",
    "export_model",
    "export_vae",
    "ip_adapter_graphs",
    "model_graphs",
]

DTYPES = {"float32": torch.float32, "float16": torch.float16}

_POSITIONS = "embeddings.position_ids"
Graphs = Iterator[tuple[str, bytes]]
Watch = Callable[[str], object]


@dataclass(frozen=True)
class Merges:
    """How a graph merges tokens (:class:`intarsia.token_merging.TokenMerging`); the ratio is left to the run."""

    levels: int = 1
    reuse: int = 1


def cached(source: Path | Source, dtype: str, root: Path | None = None) -> Path:
    """Where the graphs of a model (or checker, or VAE) belong in the cache, or under another ``root``."""
    if isinstance(source, Path):
        source = source_of(source)
    return (root or store()) / key_of(source, dtype)


def export_model(
    path: Path, out: Path, dtype: str = "float32", merges: Merges | None = None, *, watch: Watch | None = None
) -> None:
    """Write the graphs of a diffusers folder, or of a checkpoint's file, replacing what is in ``out``.

    A network that a checkpoint lacks has no graphs.

    Args:
        dtype: what the networks compute in: one of :data:`DTYPES`; see :func:`autoencoder`.
        merges: of a second graph of the UNet; None makes none.
        watch: is called with the name of each graph that has been made.

    Raises:
        WeightsError: anything missing, unreadable, refused or not fitting; one line that names the file.
    """
    facts: dict[str, Any] = {}
    _write(source_of(path), out, dtype, facts, model_graphs(path, dtype, merges, facts), watch)


def export_vae(path: Path, out: Path, dtype: str = "float32", *, family: str = "", watch: Watch | None = None) -> None:
    """Likewise for an autoencoder alone, folder or file, for models of a family."""
    facts: dict[str, Any] = {}
    source = vae_source(path, family)
    graphs = _vae_graphs(source, stored_vae(path, family), dtype, facts)
    _write(source, out, dtype, facts, graphs, watch)


def export_ip_adapter(
    path: Path,
    model: Path,
    out: Path,
    dtype: str = "float32",
    encoder: Path | None = None,
    *,
    watch: Watch | None = None,
) -> None:
    """Likewise for an IP adapter, folder or file, with one model, whose UNet then takes an image as well.

    Args:
        encoder: what the adapter's entry names in place of its own image encoder.
    """
    facts: dict[str, Any] = {}
    graphs = ip_adapter_graphs(path, model, dtype, facts, encoder)
    _write(ip_adapter_source(path, source_of(model), encoder), out, dtype, facts, graphs, watch)


def export_checker(folder: Path, out: Path, *, watch: Watch | None = None) -> None:
    """Likewise for a safety checker; always float32, the same decision on every device."""
    _write(source_of(folder), out, "float32", {}, checker_graphs(folder), watch)


def _write(source: Source, out: Path, dtype: str, facts: dict[str, Any], graphs: Graphs, watch: Watch | None) -> None:
    """In a folder beside ``out`` first. ``graphs`` may add to ``facts`` until its end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as temporary:
        complete = Path(temporary) / "made"
        complete.mkdir()
        graph_hashes = {}
        for name, content in graphs:
            (complete / f"{name}.onnx").write_bytes(content)
            graph_hashes[name] = hashlib.sha256(content).hexdigest()
            if watch is not None:
                watch(name)

        manifest = {
            "format": FORMAT,
            "dtype": dtype,
            "facts": facts,
            "sources": dict(source.hashes),
            "graphs": graph_hashes,
        }
        (complete / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

        if out.is_dir():
            out.rename(Path(temporary) / "old")
        complete.rename(out)


def model_graphs(path: Path, dtype: str, merges: Merges | None, facts: dict[str, Any]) -> Graphs:
    """Names and graphs, made one at a time; other properties that running needs go into ``facts``."""
    source, model = source_of(path), _stored_model(path)
    towers: list[dict[str, Any]] = []
    yield from _text_graphs(source, model, dtype, towers)

    network = _unet(source, model, dtype)
    unet = cast(UNet, network.module)
    yield from unet_graphs(network)
    if merges is not None:
        yield "unet_merging", denoiser_graph(network, merges.levels, merges.reuse)

    facts["in_channels"] = unet.config.in_channels
    if "vae" in model.networks:
        yield from _vae_graphs(source, model.networks["vae"], dtype, facts)

    facts |= {
        "added": bool(unet.config.added_inputs),
        "zero_empty_prompt": bool(model.index.get("force_zeros_for_empty_prompt", False)),
        "towers": towers,
        "attention": attending(unet),
        "merging": None if merges is None else asdict(merges),
    }


def _stored_model(path: Path) -> StoredModel:
    """What is there of a model."""
    if path.is_file():
        return stored_file(path)
    has_text = any((path / name).is_dir() for name in TEXT_ENCODERS)
    return stored_folder(path, with_vae=(path / "vae").is_dir(), with_text=has_text)


def _unet(source: Source, model: StoredModel, dtype: str) -> Network:
    stored = model.networks["unet"]
    return _network(source, build_unet(stored), stored, dtype)


def _text_graphs(source: Source, model: StoredModel, dtype: str, towers: list[dict[str, Any]]) -> Graphs:
    """The text encoders; what running them needs is appended to ``towers``."""
    encoders = model.text_encoders
    penultimate = len(encoders) > 1
    for name, stored in encoders.items():
        shape = read_text_shape(stored.source, stored.config)
        projected = is_projected(stored.source, stored.config)

        check_size(stored.source, shape["num_hidden_layers"], len(stored.places))
        with torch.device("meta"):
            text = ClipText(shape, penultimate=penultimate, projected=projected)
        network = _network(source, text, stored, dtype)
        yield name, text_graph(network, projected=projected)

        towers.append(
            {
                "graph": name,
                "tokenizer": name.replace("text_encoder", "tokenizer"),
                "layers": shape["num_hidden_layers"],
                "limit": shape["max_position_embeddings"],
            }
        )


def _vae_graphs(source: Source, stored: StoredNetwork, dtype: str, facts: dict[str, Any]) -> Graphs:
    """An autoencoder's; its properties go into ``facts``."""
    vae = _autoencoder(source, stored, dtype)
    yield "vae_encoder", encoder_graph(vae)
    yield "vae_decoder", decoder_graph(vae)

    module = cast(Any, vae.module)
    facts |= {"latent_channels": module.latent_channels, "factor": module.factor}


def checker_graphs(folder: Path) -> Graphs:
    """Likewise of a safety checker."""
    config = folder / "config.json"
    vision, width = read_checker_shape(config)
    stored = stored_network(folder, "safety_checker")
    check_size(config, vision["num_hidden_layers"], len(stored.places))
    crop = load_preprocessing(folder / "preprocessor_config.json").crop
    with torch.device("meta"):
        checker = ClipSafety(vision, width, CONCEPTS, SPECIAL_CARE)
    network = _network(source_of(folder), checker, stored, "float32")
    yield "safety", safety_graph(network, crop)


def ip_adapter_graphs(
    path: Path, model: Path, dtype: str, facts: dict[str, Any], declared: Path | None = None
) -> Graphs:
    """Likewise of an IP adapter: a UNet that takes an image, the image encoder, and what the adapter makes of it."""
    own = source_of(model)
    source = ip_adapter_source(path, own, declared)
    folder = image_encoder(path, declared)
    network = _unet(own, _stored_model(model), dtype)
    unet = cast(UNet, network.module)
    # before attention gets its forms for export
    adapter, encoder, shape = _adapter(path, folder, unet)
    yield "unet_image", denoiser_graph(network, image=True)

    plus = isinstance(adapter.image_proj, Resampler)
    stored = stored_network(folder, "image_encoder")
    yield "image_encoder", image_encoder_graph(_network(source, encoder, stored, dtype), shape["image_size"])
    features = (1, encoder.patches, shape["hidden_size"]) if plus else (1, shape["projection_dim"])
    stored = stored_weights(weights_file(path), "ip_adapter")
    yield "image_context", image_context_graph(_network(source, adapter, stored, dtype), features)
    facts |= {"image_size": shape["image_size"], "resamples": plus}


def _adapter(path: Path, encoder_folder: Path, unet: UNet) -> tuple[IPAdapter, ClipImage, dict[str, Any]]:
    """An adapter's networks on the meta device, and the shape of its image encoder."""
    config = encoder_folder / "config.json"
    shape = read_vision_shape(config)
    weights = weights_file(path)
    shapes = {name: tensor.shape for name, tensor in read_header(weights).tensors.items()}
    stored = find_weights(config.parent, "model")
    check_size(config, shape["num_hidden_layers"], len(stored_names(stored)))
    with torch.device("meta"):
        adapter = IPAdapter(projection_of(weights, shapes, unet.config.cross_attention_dim[0]), unet)
        encoder = ClipImage(shape, penultimate=isinstance(adapter.image_proj, Resampler))
    check_encoder(weights, adapter, shape)
    return adapter, encoder, shape


def autoencoder(folder: Path, dtype: str) -> Network:
    """The autoencoder of a diffusers folder; one whose config says ``force_upcast`` computes in float32 in any case."""
    return _autoencoder(source_of(folder), stored_vae_folder(folder / "vae"), dtype)


def _autoencoder(source: Source, stored: StoredNetwork, dtype: str) -> Network:
    vae = build_vae(stored)
    if stored.config.get("force_upcast") is True:
        dtype = "float32"
    return _network(source, vae, stored, dtype)


def _network(source: Source, module: nn.Module, stored: StoredNetwork, dtype: str) -> Network:
    """A network built on the meta device, with memory for weights that are never written."""
    tensors = {}
    for name, tensor in read_stored(source, stored).items():
        if not name.endswith(_POSITIONS):
            tensors[_own_name(name)] = tensor
    by_parameter = places(module, tensors, stored.source.parent if stored.source.suffix == ".json" else stored.source)
    allocated = module.to_empty(device="cpu").to(DTYPES[dtype])
    allocated.requires_grad_(False)
    return Network(allocated, by_parameter)


def _own_name(name: str) -> str:
    """Names of transformers' CLIP → those of the towers for export; all others are the same."""
    return name.removeprefix("text_model.").replace("vision_model.vision_model.", "vision_model.", 1)
