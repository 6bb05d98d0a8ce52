"""``InpaintRequest``: what the caller asked for, in the field's standard names.

One canonical request. Documented payloads of hosted endpoints are turned into it by the endpoints; keyword
arguments and the command line make it directly. ``None`` means "the model's default"; the resolver
(:mod:`intarsia.engine.resolve`) replaces every ``None`` once.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, Unpack, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    StrictBool,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from intarsia.canvas.options import LARGEST_OVERLAP, LARGEST_SIDE, PER_CENT, MaskedContent, MaskSource
from intarsia.engine.field_limits import describe
from intarsia.engine.field_names import hint_for
from intarsia.engine.loose_values import loosened
from intarsia.engine.noise import MAX_SEED
from intarsia.engine.plan import SafetyAction
from intarsia.engine.representations import one_liner
from intarsia.engine.request_fields import RequestFields
from intarsia.errors import RequestError, named, shown
from intarsia.numbers import is_random_seed, number, whole
from intarsia.schedulers import Table, table_from_json, table_to_json
from intarsia.schedulers.table_json import checked_table
from intarsia.weighted_text import PromptSyntax

__all__ = ["InpaintRequest", "IpAdapter", "Lora"]


def _as_int(value: Any) -> Any:
    """numpy's integers are integers too; a boolean is not, nor is 2.0."""
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:  # no integer, or an array, of which only some have one
        return value


def _as_seed(value: Any) -> Any:
    """None where one is to be drawn. Other tools hold 64 bits in text or floats, as JavaScript must."""
    number = _as_int(value)
    if is_random_seed(number):
        return None
    seed = whole(number)
    return number if seed is None else seed


def _encodable(text: str) -> str:
    """A lone surrogate, half of a character, is in no file and in no tokenizer's vocabulary."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("unicode", "valid Unicode, without lone surrogates") from None
    return text


def _as_padding(value: Any) -> Any:
    """None is the whole image, as "whole" is."""
    return "whole" if value is None else _as_int(value)


def _as_text(value: Any) -> Any:
    """Names of models and parts may be paths of files, as text or as an object."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_table(value: Any) -> Table:
    """A table, also as its JSON; what is wrong with it is named by RequestErrors of its own."""
    return checked_table(value) if isinstance(value, Table) else table_from_json(value)


Text = Annotated[str, AfterValidator(_encodable)]
Name = Annotated[Text, BeforeValidator(_as_text)]
Whole = BeforeValidator(_as_int)
Number = Annotated[float, Strict()]
OwnTable = Annotated[
    Table,
    PlainValidator(_as_table),
    PlainSerializer(table_to_json),
    WithJsonSchema({"type": "object", "description": "A table of coefficients: see docs/schedulers.md."}),
]
Side = Annotated[int, Strict(), Field(ge=64, le=2048), Whole]


def _as_whole(value: Any) -> Any:
    """Numbers of an object or of a text may be text themselves."""
    number = whole(value)
    return value if number is None else number


NewSide = Annotated[int, Strict(), Field(ge=0, le=LARGEST_SIDE), BeforeValidator(_as_whole)]


class Lora(BaseModel):
    """One low-rank adapter of the registry and its strength; ``"ID"`` and ``"ID:STRENGTH"`` may stand for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    id: Name = Field(min_length=1)
    strength: Annotated[Number, Field(ge=-2, le=2)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """A path may have colons too: only a number behind the last one is a strength."""
        name = _as_text(value)
        if not isinstance(name, str):
            return value
        identifier, _, strength = name.rpartition(":")
        weight = number(strength)
        is_split = bool(identifier) and weight is not None
        return {"id": identifier, "strength": weight} if is_split else {"id": name}


class IpAdapter(BaseModel):
    """One IP adapter of the registry, the image it shows to the network, and how much that counts.

    Attributes:
        scale: 0 … 1, weight of the image's attention beside the prompt's.
        image: whatever ``init_image`` takes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    id: Name = Field(min_length=1)
    scale: Annotated[Number, Field(ge=0, le=1)] = 1.0
    image: Any = None


class Extend(BaseModel):
    """How an image is enlarged; ``"left=256,top=64"`` may stand for it.

    Attributes:
        left, top, right, bottom: 0 … 2048 new pixels on that side.
        overlap: 0 … 256 pixels of the image beside them, which are repainted with them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    left: NewSide = 0
    top: NewSide = 0
    right: NewSide = 0
    bottom: NewSide = 0
    overlap: Annotated[int, Strict(), Field(ge=0, le=LARGEST_OVERLAP), BeforeValidator(_as_whole)] = 16

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",")]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names) or not all(equals for _, equals, _ in pairs):
            raise PydanticCustomError("extend", "sides and pixels, for example left=256,top=64")
        return {name: number for name, (_, _, number) in zip(names, pairs, strict=True)}

    @model_validator(mode="after")
    def _has_side(self) -> Self:
        if not (self.left or self.top or self.right or self.bottom):
            raise PydanticCustomError("extend", "above 0 on at least one side: left, top, right or bottom")
        return self


class InpaintRequest(BaseModel):
    """One inpainting request: 1 to 4 images from one image, one mask and one prompt.

    Attributes:
        prompt, negative_prompt: text; the empty prompt asks to continue the background.
        prompt_syntax: ``weighted`` reads weights, ``BREAK`` and ``<lora:ID:STRENGTH>`` in both prompts, of any length
            (:mod:`intarsia.weighted_text`); ``plain`` takes each letter as it is, up to the text encoder's 77 tokens.
            None takes the model's, which is ``weighted`` unless its entry says otherwise.
        model: id or alias in the registry, or the path of a checkpoint or a folder; None takes the registry's default.
            LoRAs, VAE and IP adapter may be paths too. What comes over a network, documented requests and the server's
            own, may name no paths.
        init_image, mask_image: path, URL, data URI, raw base64, bytes, ``PIL.Image`` or numpy array. White
            (128 and above) in the mask is repainted.
        width, height: generation size in pixels, 64 … 2048; None follows the image.
        fit_output: True makes the output exactly ``width`` × ``height``, the image resized to it, as the
            hosted endpoints do; False keeps the input's size.
        samples: 1 … 4 images; image *i* has seed ``seed + i``.
        steps: 1 … 150 of the scheduler's own steps; ``int(steps · strength)`` of them are run.
        guidance_scale: 0 … 20, classifier-free guidance (Ho & Salimans 2022); 1 and less is without, as in diffusers.
        strength: 0 … 1, how much of the masked area's content is replaced; 0 returns the input.
        scheduler, algorithm_type: see :mod:`intarsia.schedulers`.
        spacing: of the noise levels: ``leading``, ``trailing``, ``linspace``, ``karras`` or ``exponential``, by any
            usual name. karras_sigmas: True is Karras's curve (between the ends of a ``spacing`` given beside it), None
            takes it where it means something and no spacing is given.
        eta, solver_order, solver_type, final_sigmas_type: settings of some schedulers; one that a scheduler does not
            take is refused.
        table: a :class:`intarsia.schedulers.Table` of one's own, also as its JSON, in place of everything that makes
            one: scheduler, steps, strength and the settings beside it.
        clip_skip: 1 … 8 in the hosted services' sense: 1 is the text encoder's last layer. None takes the model's, 1
            unless its entry says otherwise.
        seed: 0 … 2**64 - 1, also as text; None, -1 and "random" draw one, and it is reported.
        loras: low-rank adapters, their effects added up; each at most once.
        embeddings: textual-inversion embeddings whose words count in plain prompts too. With weights those of the
            registry count without being named.
        vae: registry id of an autoencoder that replaces the model's own.
        ip_adapter: shows the network an image beside the prompt.
        safety_checker: True checks the images with the model's checker and is an error where it has none;
            safety_action: what is put in the place of an image that it flags.
        token_merging: None or False off, True the model's ratio, or a ratio 0 … 0.75.
        mask_blur: feather of the paste-back, pixels of the output.
        mask_fill_holes: repaint what the mask surrounds, too. mask_min_area: areas of the mask that are smaller, in
            pixels or as "0.5%" of the image, are left out. mask_dilate: pixels by which the mask grows after both, or
            shrinks where negative.
        mask_padding: pixels around the mask: only the mask's surroundings are generated, at the model's size. ``auto``
            does so where the whole image would be scaled down, at the surroundings' own resolution as far as the model
            allows, and says so in a warning; ``whole`` (or None) always generates the whole image.
        mask_source: ``luma`` repaints what is white, seen on black, ``alpha`` what is transparent; ``auto`` chooses,
            and warns where they differ (see :mod:`intarsia.canvas.mask_source`). invert_mask repaints the rest.
        soft_mask: True repaints a pixel from that step on at which the mask's level exceeds a threshold that falls from
            white to black: what is gray is changed less (Levin & Fried 2023). False repaints from 128 on.
        masked_content: what is under the mask before denoising; a transparent hole is filled in any case.
        color_match: match the generated colors to the seam's surroundings.
        extend: enlarges the image by so many pixels on its sides, ``{"left": 256}`` or ``"left=256,top=64"``. What is
            new is repainted, with ``overlap`` pixels (16) beside it, and with the mask, which may be left out. The
            output has the enlarged size.
        negative numbers, infinities, NaN and unknown fields are refused.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True, validate_default=False
    )

    prompt: Text = ""
    negative_prompt: Text = ""
    prompt_syntax: PromptSyntax | None = None
    model: Name | None = None
    init_image: Any = None
    mask_image: Any = None
    width: Side | None = None
    height: Side | None = None
    fit_output: StrictBool = False
    samples: Annotated[int, Strict(), Field(ge=1, le=4), Whole] = 1
    steps: Annotated[int, Strict(), Field(ge=1, le=150), Whole] | None = None
    guidance_scale: Annotated[Number, Field(ge=0, le=20)] = 7.5
    strength: Annotated[Number, Field(ge=0, le=1)] = 0.7
    scheduler: Text | None = None
    karras_sigmas: StrictBool | None = None
    algorithm_type: Text | None = None
    spacing: Text | None = None
    eta: Annotated[Number, Field(ge=0, le=1)] | None = None
    solver_order: Annotated[int, Strict(), Field(ge=1, le=3), Whole] | None = None
    solver_type: Text | None = None
    final_sigmas_type: Text | None = None
    table: OwnTable | None = None
    clip_skip: Annotated[int, Strict(), Field(ge=1, le=8), Whole] | None = None
    seed: Annotated[
        Annotated[int, Strict(), Field(ge=0, le=MAX_SEED)] | None,
        BeforeValidator(_as_seed),
        Field(description=f"an integer between 0 and {MAX_SEED}, or -1 for a random one, or null"),
    ] = None
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[Annotated[Name, Field(min_length=1)], ...] = ()
    vae: Name | None = None
    ip_adapter: IpAdapter | None = None
    token_merging: StrictBool | Annotated[Number, Field(ge=0, le=0.75)] | None = None
    safety_checker: StrictBool = False
    safety_action: SafetyAction = "sensitive_content_text"
    enhance_prompt: StrictBool = False
    mask_blur: Annotated[Number, Field(ge=0, le=64)] = 4.0
    mask_fill_holes: StrictBool = False
    mask_min_area: Annotated[
        Annotated[int, Strict(), Field(ge=0, le=2**28)]
        | Annotated[str, Field(pattern=PER_CENT, description="per cent of the image, for example 0.5%")],
        Whole,
    ] = 0
    mask_dilate: Annotated[int, Strict(), Field(ge=-256, le=256), Whole] = 0
    mask_padding: Annotated[
        Literal["auto", "whole"] | Annotated[int, Strict(), Field(ge=0, le=1024)], BeforeValidator(_as_padding)
    ] = "auto"
    mask_source: MaskSource = "auto"
    invert_mask: StrictBool = False
    soft_mask: StrictBool = False
    masked_content: MaskedContent = "original"
    color_match: StrictBool = False
    extend: Extend | None = None

    def __init__(self, **fields: Unpack[RequestFields]) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as exc:
            raise _translated(exc) from exc

    def __repr__(self) -> str:
        """The fields that differ from their defaults, in short."""
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in fields}
        return one_liner("InpaintRequest", {name: value for name, value in values.items() if _differs(name, value)})

    @property
    def required_images(self) -> tuple[str, ...]:
        """The fields of the images that this request needs: an image that is extended needs no mask."""
        return ("init_image", "mask_image") if self.extend is None else ("init_image",)

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """A request from a JSON object; raises :class:`RequestError` naming the first field that is wrong.

        Unlike the constructor it reads numbers and flags that are text, as documented requests and tables have them:
        "20", 20.0, "yes", 1.
        """
        if not isinstance(fields, Mapping):
            raise RequestError("request", type(fields).__name__, "a JSON object")
        return cls(**cast(RequestFields, loosened(cls, fields)))


# Fields with fields of their own, alone or in a list, and how each may be written as text.
_NESTED: dict[str, type[BaseModel] | None] = {
    "loras": Lora,
    "embeddings": None,
    "ip_adapter": IpAdapter,
    "extend": Extend,
}
_IN_TEXT = {
    "loras": "ID or ID:STRENGTH, for example ink:0.8",
    "ip_adapter": "the ID of an IP adapter",
    "extend": "sides and pixels, for example left=256,top=64",
}


def _differs(field: str, value: Any) -> bool:
    """Whether a field is not at its default; images, which may be arrays, are where there is one."""
    default = InpaintRequest.model_fields[field].default
    return value is not None if default is None else value != default


def _translated(exc: ValidationError) -> RequestError:
    """The first problem pydantic found, as one of ours: field, value, what is allowed."""
    problem = exc.errors(include_url=False)[0]
    path = [str(part) for part in problem["loc"]]
    field = path[0] if path else "request"
    if problem["type"] == "extra_forbidden" and len(path) == 1:
        known = sorted(InpaintRequest.model_fields)
        hint = hint_for(field, known) or f"known fields: {', '.join(known)}"
        return RequestError(field, message=f"{named(field)} is not a field of a request: {hint}")

    value, reason = problem.get("input"), problem["msg"].removeprefix("Input should be ")
    if field in _NESTED:
        return _translated_below(path, problem["type"], value, reason)
    if problem["type"] == "unicode":
        return RequestError(field, value, reason)
    # The sentence is read off the field's own declaration, so that it cannot go stale.
    return RequestError(field, value, describe(InpaintRequest, field))


def _translated_below(path: list[str], problem: str, value: Any, reason: str) -> RequestError:
    """A problem in a field that has fields of its own, or a list of such: ``path`` leads to it."""
    field, shape = path[0], _NESTED[path[0]]
    parent, name = ".".join(path[:-1]), path[-1]
    keys = ", ".join(shape.model_fields) if shape else ""
    if problem == "extra_forbidden":
        return RequestError(".".join(path), message=f"{named(name)} is no key of {parent}, which has {keys}")
    if problem == "missing":
        return RequestError(".".join(path), message=f"{parent} needs {named(name)}, which is not in {shown(value)}")
    if problem in ("model_type", "model_attributes_type", "dataclass_type"):
        return RequestError(".".join(path), value, f"{_IN_TEXT[field]}, or an object of {keys}")

    # Both limits, where there are any: pydantic's reason has the one that was passed.
    allowed = describe(shape, name) if shape else ""
    return RequestError(".".join(path), value, allowed if " between " in allowed else reason)
