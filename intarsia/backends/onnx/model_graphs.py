"""The graphs of one model: its own, and those of the parts that it has from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from intarsia.backends.onnx.changed_weights import ChangedWeights, read_changes
from intarsia.backends.onnx.graphs import GraphFolder, find_graphs
from intarsia.backends.onnx.sources import Source, ip_adapter_source, source_of, vae_source
from intarsia.backends.protocol import ModelFiles
from intarsia.checkpoints.single_file import stored_model
from intarsia.checkpoints.stored import StoredModel
from intarsia.models.clip_config import read_text_shape
from intarsia.models.clip_vocabulary import tokens_of
from intarsia.models.tokens import ClipTokens

__all__ = ["ModelGraphs", "find_model_graphs", "model_sources"]

_UNET, _TEXT, _VAE, _IMAGE = "unet", "text_encoder", "vae", "image"
_WITH_IMAGE = "unet_image"
_OF_VAE = ("latent_channels", "factor")


@dataclass(frozen=True, kw_only=True)
class ModelGraphs:
    """The graphs that a session runs.

    Attributes:
        folders: by how the names of their graphs begin: ``unet``, ``text_encoder`` and ``vae``, the model's own or
            those of another one; with an IP adapter ``image`` and ``unet_image``.
        stored: where the weights are.
        changes: of LoRAs.
    """

    folders: Mapping[str, GraphFolder]
    stored: StoredModel
    changes: ChangedWeights

    @property
    def unet(self) -> GraphFolder:
        """The model's own."""
        return self.folders[_UNET]

    @property
    def facts(self) -> dict[str, Any]:
        """Properties of all networks; a part from elsewhere has its own."""
        facts = {name: value for name, value in self.unet.facts.items() if name not in (*_OF_VAE, "towers")}
        for part, names in ((_VAE, _OF_VAE), (_TEXT, ("towers",))):
            found = self.folders[part].facts
            facts |= {name: found[name] for name in names if name in found}
        return facts

    def folder_of(self, name: str) -> GraphFolder:
        """The folder that a graph is in."""
        return self.folders[max((part for part in self.folders if name.startswith(part)), key=len)]

    @property
    def image_facts(self) -> Mapping[str, Any] | None:
        """Properties of an IP adapter's graphs; None without one."""
        return self.folders[_IMAGE].facts if _IMAGE in self.folders else None

    @property
    def denoiser(self) -> str:
        """The graph that a lane's rows evaluate, where it merges no tokens."""
        return _UNET if self.image_facts is None else _WITH_IMAGE

    def tokens(self, encoder: str) -> ClipTokens:
        """The tokenizer of a text encoder, by the name of its folder."""
        return tokens_of(self.stored.tokenizers[encoder], self._text_shape(encoder))

    def text_width(self, encoder: str) -> int:
        """Numbers that a text encoder has for each token."""
        return int(self._text_shape(encoder)["hidden_size"])

    def _text_shape(self, encoder: str) -> dict[str, Any]:
        network = self.stored.networks[encoder]
        return read_text_shape(network.source, network.config)


def model_sources(files: ModelFiles) -> dict[str, Source]:
    """What the graphs of a model's parts are made of; equal parts are one object."""
    own = source_of(files.folder)
    sources = {
        _UNET: own,
        _TEXT: own if files.text is None else source_of(files.text),
        _VAE: own if files.vae_folder is None else vae_source(files.vae_folder, files.family),
    }
    if files.ip_adapter is not None:
        sources[_IMAGE] = ip_adapter_source(files.ip_adapter, own, files.image_encoder)
    return sources


def find_model_graphs(files: ModelFiles, dtypes: Sequence[str]) -> ModelGraphs:
    """The graphs of a model with its parts, each in the first of ``dtypes`` that was exported.

    Raises:
        WeightsError: a part that has no graphs, a network that the model lacks, files that are not usable, or LoRAs
            that do not fit.
    """
    sources = model_sources(files)
    found = {id(source): find_graphs(source, dtypes) for source in sources.values()}
    stored = stored_model(
        files.folder, family=files.family, vae=files.vae_folder, text=files.text, tokenizer=files.tokenizer
    )
    folders = {part: found[id(source)] for part, source in sources.items()}
    if _IMAGE in folders:
        # made with the adapter, of the model's own weights
        own = folders[_UNET]
        folders[_WITH_IMAGE] = replace(folders[_IMAGE], root=own.root, places=own.places)
    return ModelGraphs(folders=folders, stored=stored, changes=read_changes(stored, files.loras))
