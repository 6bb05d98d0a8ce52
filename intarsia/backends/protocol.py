"""The interface of a backend: it opens sessions, and a session has five methods.

No backend inherits from another. The denoising loop (:mod:`intarsia.engine.lanes`) calls sessions only, with numpy
arrays and opaque handles; tensors stay inside the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from intarsia.execution import STANDARD, Execution, Precision
from intarsia.schedulers import Table
from intarsia.token_merging import NO_MERGING, TokenMerging
from intarsia.weighted_text import PromptSyntax

__all__ = [
    "Adapts",
    "Autoencodes",
    "Backend",
    "Blends",
    "Checker",
    "Conditioning",
    "Inputs",
    "Limited",
    "ModelFiles",
    "Prepares",
    "Previews",
    "PromptEmbedding",
    "Runtime",
    "Session",
    "Shares",
    "Snapshot",
    "State",
    "Step",
    "Weighs",
]

# Opaque handles: only the session that made them reads them.
Conditioning = Any
State = Any

Snapshot = Callable[[], np.ndarray]
"""Gives a copy of a lane's latents, float32 ``[C, h, w]``: from any thread, also after the lane or the session is gone.

It waits for the device where the copy is not there yet.
"""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """A model's verified files, and what its registry entry says of them.

    Attributes:
        model: the registry id, for messages.
        family: of the registry's families.
        folder: diffusers folder, or one checkpoint's file, already verified; so are all other paths.
        in_channels, latent_channels, factor: those of the model's family; checked against the files.
        vae_folder: diffusers folder, or file, of an autoencoder in place of the model's own; None keeps that.
        text: folder or file of the model whose text encoders and tokenizers it has; None for its own.
        tokenizer: folder of a tokenizer that goes before the model's own, or CLIP's; None without one.
        loras: safetensors files and their strengths, folded into the weights.
        ip_adapter: folder of ``ip_adapter.safetensors`` and ``image_encoder``, or the file; None without one.
        image_encoder: what the adapter's entry names in place of its own image encoder.
        precision: a backend or device that cannot compute in it refuses ``fp8``.
        reason: why ``auto`` did not choose its first backend; a note in every result.
    """

    model: str
    folder: Path
    in_channels: int
    latent_channels: int
    factor: int
    family: str = ""
    vae_folder: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    loras: tuple[tuple[Path, float], ...] = ()
    ip_adapter: Path | None = None
    image_encoder: Path | None = None
    precision: Precision = STANDARD
    reason: str = ""


@dataclass(frozen=True)
class PromptEmbedding:
    """A textual-inversion embedding that prompts may use.

    Attributes:
        words: each stands for its vectors where it is written, also behind ``embedding:``.
        path: its file, already verified.
        sha256: of the file's content.
    """

    words: tuple[str, ...]
    path: Path
    sha256: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Inputs:
    """The inputs of one request, the same for all of its images, before any of them is encoded.

    Attributes:
        guidance_scale: 1 evaluates the conditional branch only.
        clip_skip: 1 is the text encoder's last layer.
        image: uint8 ``[h, w, 3]`` at generation size.
        mask: bool ``[h, w]``, True is repainted.
        latent_mask: float32 ``[h / factor, w / factor]`` of 0 and 1.
        soft_mask: float32 ``[h / factor, w / factor]``, levels 0 … 1 of a mask that repaints what is gray from a later
            step on; None of a hard mask.
        noise_fill: start the masked area from noise alone, whatever the strength.
        image_prompt: uint8 ``[H, W, 3]`` of any size, the IP adapter's image; None without one.
        image_scale: weight of its attention, 0 … 1.
        token_merging: the plan's.
        prompt_syntax: how both prompts are read; see :mod:`intarsia.weighted_text`.
        embeddings: what their words may stand for, beside the embeddings that LoRAs bring along.
    """

    prompt: str
    negative_prompt: str
    clip_skip: int
    guidance_scale: float
    image: np.ndarray
    mask: np.ndarray
    latent_mask: np.ndarray
    soft_mask: np.ndarray | None = None
    noise_fill: bool = False
    image_prompt: np.ndarray | None = None
    image_scale: float = 0.0
    token_merging: TokenMerging = NO_MERGING
    prompt_syntax: PromptSyntax = "plain"
    embeddings: tuple[PromptEmbedding, ...] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """One lane's share of one evaluation: its state, its table row and the row's fresh noise, if any."""

    state: State
    row: int
    noise: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Shares:
    """A combination of what a lane holds after a row.

    Attributes:
        sample: share of the new sample, state slot 0.
        output: share of the network's output in that row, after guidance.
        noise: share of the row's fresh noise; 0 in a row that has none.
    """

    sample: float = 0.0
    output: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Backend, device and settings that ran; a part of every result.

    Attributes:
        deterministic: each lane's bits do not depend on the lanes that it is batched with.
        token_merging: the backend can merge tokens; if it cannot, results say that it was not done.
        kernels: ``fused`` or ``plain``; empty where a backend has no such choice.
        capture: ``on`` where steps were captured and replayed, else ``off``.
        attention: (shape, kernel) pairs of the attention that has been computed so far.
        notes: sentences that every later result repeats as warnings.
        options: settings that only this backend has, (name, value) pairs.
        precision: one of :data:`intarsia.execution.PRECISIONS`; with ``fp8``, ``dtype`` is that of everything else.
    """

    backend: str
    device: str
    dtype: str
    deterministic: bool
    versions: tuple[tuple[str, str], ...] = ()
    token_merging: bool = False
    kernels: str = ""
    capture: str = "off"
    attention: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    precision: str = STANDARD


class Session(Protocol):
    """One opened model on one device. Used from one thread at a time."""

    @property
    def runtime(self) -> Runtime:
        """Backend, device and settings, as far as they are known by now."""
        ...

    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        """Encode prompts, image and mask once for all images of a request; the second value is warnings."""
        ...

    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        """A lane's state before its first row; ``noise`` is float32 unit variance, latent-shaped."""
        ...

    def advance(self, steps: Sequence[Step]) -> None:
        """One network evaluation for all of them, then each lane's own table row, in place."""
        ...

    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        """Images of finished lanes: uint8 ``[h, w, 3]`` each."""
        ...

    def close(self) -> None:
        """Release the device's memory."""
        ...


@runtime_checkable
class Limited(Protocol):
    """Optional: a session that may not evaluate as many lanes together as the engine has slots.

    Attributes:
        slots: at most; None has no limit of its own.
    """

    slots: int | None


@runtime_checkable
class Blends(Protocol):
    """Optional: a session that can paste on its device."""

    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """:func:`intarsia.canvas.paste.blend`, byte for byte.

        Args:
            base, over: uint8 ``[h, w]`` or ``[h, w, 3]``.
            weights: uint8 ``[h, w]``; 255 is all of ``over``.
        """
        ...


@runtime_checkable
class Adapts(Protocol):
    """Optional: a session that can change its LoRAs without being opened anew."""

    def adapt(self, files: ModelFiles) -> bool:
        """Become the session of ``files``; False, with no change, if more than the LoRAs differ.

        Raises:
            WeightsError: LoRAs that are unreadable or do not fit; the session is as it was.
        """
        ...


@runtime_checkable
class Weighs(Protocol):
    """Optional: a session that says what its weights take.

    Attributes:
        weight_bytes: of its device's memory, for as long as it is open.
    """

    weight_bytes: int


@runtime_checkable
class Previews(Protocol):
    """Optional: a session whose lanes can be looked at between two evaluations.

    What it gives are latents, if it also is :class:`Autoencodes`; else colors, RGB in 0 … 1.
    """

    def snapshot(self, state: State, shares: Shares) -> Snapshot:
        """Begin to copy a combination of a lane that has just moved by :meth:`Session.advance`, without waiting for it.

        Raises:
            BackendError: the device has no memory for it, or is lost.
        """
        ...


@runtime_checkable
class Autoencodes(Protocol):
    """Optional: a session that can show what its latents look like, for a map from latents to colors."""

    def autoencode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latents of an image, float32 ``[C, h / factor, w / factor]``, and what is decoded from them.

        Args:
            image: uint8 ``[h, w, 3]``, like the decoded one.

        Raises:
            BackendError: the device has no memory for it, or is lost.
        """
        ...


class Checker(Protocol):
    """One opened safety checker on one device. Used from one thread at a time."""

    def check(self, images: Sequence[np.ndarray]) -> list[bool]:
        """Whether each image, uint8 ``[h, w, 3]`` of any size, is unsafe."""
        ...

    def close(self) -> None:
        """Release the device's memory."""
        ...


class Backend(Protocol):
    """Opens models on one device.

    Attributes:
        slots: lanes of a batch, unless the engine is given another number.
    """

    device: str
    slots: int

    def __init__(self, device: str, execution: Execution) -> None: ...

    def open(self, files: ModelFiles) -> Session:
        """Load a model."""
        ...

    def open_checker(self, folder: Path) -> Checker:
        """Load a safety checker from its folder, already verified."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """Optional: a backend that can get ready to open models while their files are hashed."""

    def prepare(self) -> None:
        """Import the packages and create the device's context. Errors are ignored here: opening raises them again."""
        ...
