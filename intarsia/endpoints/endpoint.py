"""A documented endpoint: the fields that all of them have, and the defaults and limits of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from intarsia.endpoints.field_type import FieldType
from intarsia.endpoints.number_fields import Flag, Number, Numbers, Seed, Whole
from intarsia.endpoints.text_fields import (
    LONGEST_TEXT,
    Address,
    Algorithm,
    Anything,
    Choice,
    ImageText,
    Names,
    Scalar,
    Solver,
    Text,
)
from intarsia.engine.noise import MAX_SEED
from intarsia.engine.plan import SafetyAction

__all__ = ["FIELDS", "IGNORED", "Endpoint", "Field"]


@dataclass(frozen=True)
class Field:
    """One documented field.

    Attributes:
        type: the forms that it takes.
        description: one sentence, for the schema and the documentation.
        blank: "" is the same as null: absent.
    """

    type: FieldType
    description: str
    blank: bool = False


# Every endpoint has all of them, in the order of the documents; what differs is in each one's file.
FIELDS: dict[str, Field] = {
    "key": Field(Anything(), "API key. Looked at by a server that has keys configured; never stored or shown."),
    "model_id": Field(Text(), "Id or alias of a model in the registry; case aside, _ is -.", blank=True),
    "prompt": Field(Text(LONGEST_TEXT), "What the masked area is to show."),
    "negative_prompt": Field(Text(LONGEST_TEXT), "What it is not to show."),
    "init_image": Field(ImageText(), "The image: URL, data URI or base64, whatever base64 says.", blank=True),
    "mask_image": Field(ImageText(), "The mask: white is repainted.", blank=True),
    "width": Field(Whole(64, 1024), "Width of the reply's images in pixels, exactly."),
    "height": Field(Whole(64, 1024), "Height of the reply's images in pixels, exactly."),
    "samples": Field(Whole(1, 4), "Number of images."),
    "steps": Field(Whole(1, 150), "Denoising steps of the schedule; int(steps · strength) are run. Not capped at 20."),
    "num_inference_steps": Field(Whole(1, 150), "The same as steps, which wins if both are given."),
    "guidance_scale": Field(Number(1, 20), "Classifier-free guidance; 1 is without."),
    "strength": Field(Number(0, 1), "How much of the masked area is replaced; 0 returns the input."),
    "scheduler": Field(Solver(), "Documented name, or another usual one (see intarsia schedulers)."),
    "use_karras_sigmas": Field(Flag(), "Karras et al.'s noise levels, where the scheduler has levels."),
    "algorithm_type": Field(Algorithm(), 'Form of the DPM solvers; "none" or "" is the scheduler\'s own.'),
    "clip_skip": Field(Whole(1, 8), "1 is the text encoder's last layer, 2 the one before it."),
    "safety_checker": Field(Flag(), "Look for unsafe images; an error where the model has no checker."),
    "safety_checker_type": Field(Choice(get_args(SafetyAction)), "What becomes of an unsafe image."),
    "enhance_prompt": Field(Flag(), "Put the prompt into the model's own template."),
    "tomesd": Field(Flag(), "Token merging, at the model's ratio."),
    "seed": Field(Seed(MAX_SEED), "Image i has seed + i; null or -1 draws one and reports it.", blank=True),
    "vae": Field(Text(), "Registry id of another autoencoder.", blank=True),
    "lora_model": Field(Names(), "Registry ids of LoRAs, comma-separated or a list.", blank=True),
    "lora_strength": Field(Numbers(0.1, 1), "One for all LoRAs, or one for each.", blank=True),
    "embeddings_model": Field(Names(), "Registry ids of embeddings, whose names in the prompts count.", blank=True),
    "ip_adapter_id": Field(Text(), "Registry id of an IP adapter.", blank=True),
    "ip_adapter_scale": Field(Number(0, 1), "Weight of the IP adapter's image.", blank=True),
    "ip_adapter_image": Field(ImageText(), "The image that the IP adapter shows.", blank=True),
    "base64": Field(Flag(), "Put the images into output as raw base64 (PNG, no prefix)."),
    "temp": Field(Flag(), "Write the images to a temporary place, removed after 24 hours."),
    "instant_response": Field(Flag(), "A server answers at once and works on; elsewhere it has no effect."),
    "webhook": Field(Address(), "URL that a server calls once when the images are done.", blank=True),
    "track_id": Field(Scalar(), "Comes back unchanged."),
}

# Sent by clients of the hosted services' older versions; nothing here does what they say.
IGNORED = ("multi_lingual", "self_attention", "upscale", "panorama", "full_url")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One documented endpoint.

    Attributes:
        name: as ``endpoint`` names it. path: of the hosted service's URL. title: one line.
        documents: numbers of the documents that describe it.
        required: fields that must be there and not blank.
        defaults: what absent fields mean, in documented form; a field without one is simply not asked for.
        limits: types that differ from :data:`FIELDS`.
        realtime: the registry's realtime model runs where none is named, and replies have no
            ``webhook_status``.
    """

    name: str
    path: str
    title: str
    documents: tuple[str, ...]
    required: tuple[str, ...]
    defaults: Mapping[str, Any]
    limits: Mapping[str, FieldType] = field(default_factory=dict)
    realtime: bool = False

    @property
    def fields(self) -> dict[str, Field]:
        """All fields with this endpoint's limits."""
        limited = {name: replace(FIELDS[name], type=limit) for name, limit in self.limits.items()}
        return FIELDS | limited
