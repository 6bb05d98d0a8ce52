"""What a session does about the memory that there is: a budget, or else all that its device has."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from intarsia.backends.protocol import ModelFiles
from intarsia.checkpoints.header import read_header
from intarsia.checkpoints.layout import image_encoder_weights
from intarsia.checkpoints.stored import TEXT_ENCODERS, StoredModel, StoredNetwork
from intarsia.memory_size import gib

__all__ = ["MemoryPlan", "NetworkSizes", "plan_memory"]

log = logging.getLogger("intarsia")

# Bytes that a request of 512x512 takes beside the weights, and each further lane that is evaluated together with
# another: both of SD1.5 in float32, which is 4 bytes a value; half of that in half precision.
_WORKING, _LANE = 3 * 2**29, 2**29
# Values for each pixel that the decoder holds at its last, largest level: four maps of 256 channels.
_PIXEL = 4 * 256
# Packed matrices are there beside those they are made of, with what a run worked in. They are kept where there is
# twice the memory of the UNet's weights.
_PACKED = 2


@dataclass(frozen=True, kw_only=True)
class NetworkSizes:
    """Values in the weights of a model's networks.

    Attributes:
        text: of all text encoders.
        other: of the VAE and what else there is.
        image: of an IP adapter's image encoder.
    """

    unet: int
    text: int
    other: int
    image: int = 0

    @classmethod
    def of(cls, model: StoredModel, files: ModelFiles | None = None) -> NetworkSizes:
        """Counted in the headers of a model's files, and of those of its IP adapter's image encoder, if it has one."""
        counts = {name: _values(network) for name, network in model.networks.items()}
        unet = counts.pop("unet", 0)
        text = sum(counts.pop(name, 0) for name in TEXT_ENCODERS)
        image = 0
        if files is not None and files.ip_adapter is not None:
            for path in image_encoder_weights(files.ip_adapter, files.image_encoder):
                image += sum(math.prod(tensor.shape) for tensor in read_header(path).tensors.values())
        return cls(unet=unet, text=text, other=sum(counts.values()), image=image)

    @property
    def all(self) -> int:
        return self.unet + self.encoders + self.other

    @property
    def encoders(self) -> int:
        """Of what is used only before the first evaluation: encoders of text and of an IP adapter's image."""
        return self.text + self.image


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a session keeps to its memory.

    Attributes:
        available: bytes.
        weights: bytes of those that stay on the device.
        is_budget: the engine was given them; else they are the device's.
        releases_encoders: encoders of text, and of an IP adapter's image, leave the device once they have encoded.
        releases_vae: without them, weights and a request still do not fit; ONNX Runtime opens the VAE for each use.
        packs: ONNX Runtime may keep matrices a second time, packed, and the memory of a run for the next one.
        is_saving: a large model without a budget, whose encoders and VAE are released although there is room for them.
        whole_pixels: larger images are decoded and encoded in tiles; None leaves that to the device.
        slots: lanes that are evaluated together at most; None leaves that to the engine.
    """

    available: int
    weights: int
    is_budget: bool
    releases_encoders: bool
    releases_vae: bool
    packs: bool
    is_saving: bool = False
    whole_pixels: int | None = None
    slots: int | None = None

    def options(self, done: Mapping[str, bool]) -> tuple[tuple[str, str], ...]:
        """What was done, for results and the log; nothing where there was nothing to do.

        Args:
            done: sentences, and whether they are true of this session.
        """
        sentences = [sentence for sentence, is_true in done.items() if is_true]
        if not sentences and not self.is_budget:
            return ()
        what = f"a {'budget of' if self.is_budget else 'device with'} {gib(self.available)}"
        if self.is_saving:
            what = "a large model without a budget"
        text = f"{what}: {', '.join(sentences) or 'everything fits'}"
        log.info("memory: %s", text)
        return (("memory", text),)


def plan_memory(
    sizes: NetworkSizes,
    *,
    budget: int | None,
    device: int,
    value_bytes: int,
    most_slots: int | None = None,
    saves_above: int | None = None,
) -> MemoryPlan:
    """Decide for one model.

    Args:
        budget: bytes that the engine may take; None is all of the device's.
        device: bytes that the device has.
        value_bytes: of a value in what the networks compute in.
        most_slots: lanes that the session evaluates together; None where each is evaluated by itself.
        saves_above: without a budget, a model whose UNet takes more bytes than this is kept as small as it can be:
            opening its smaller networks again costs little beside one of its images. None does so with no model.
    """
    available = device if budget is None else min(budget, device)
    scale = value_bytes / 4
    weights = value_bytes * sizes.all
    is_saving = budget is None and saves_above is not None and value_bytes * sizes.unet > saves_above
    releases_encoders = is_saving or weights + scale * _WORKING > available

    resident = weights - value_bytes * sizes.encoders if releases_encoders else weights
    left = max(0, available - resident)
    slots = None
    if budget is not None and most_slots is not None:
        further = math.floor((left - scale * _WORKING) / (scale * _LANE))
        slots = max(1, min(most_slots, 1 + further))

    return MemoryPlan(
        available=available,
        weights=resident,
        is_budget=budget is not None,
        releases_encoders=releases_encoders,
        releases_vae=is_saving or resident + scale * _WORKING > available,
        packs=not is_saving and _PACKED * value_bytes * sizes.unet <= available,
        is_saving=is_saving,
        whole_pixels=None if budget is None else left // (value_bytes * _PIXEL),
        slots=slots,
    )


def _values(network: StoredNetwork) -> int:
    """Values in one network; several tensors may be rows of one that is stored."""
    stored = {(place.file, place.name) for place in network.places.values()}
    shapes = (network.headers[file].tensors[name].shape for file, name in stored)
    return sum(math.prod(shape) for shape in shapes)
