"""The options of a request: one for each of its fields, under the field's name and those of other tools.

An option that is not given is None, and left to the request. Numbers and choices are text here: the request reads them,
and refuses in its own words what it cannot take.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer

from intarsia.commands.option_groups import Also
from intarsia.engine.field_names import SYNONYMS
from intarsia.errors import RequestError
from intarsia.numbers import number

__all__ = ["ModelOptions", "ImageOptions", "MaskOptions", "PromptOptions", "SamplingOptions", "SeedOptions"]


def _named(field: str, *, but: tuple[str, ...] = ()) -> Also:
    """The names that other tools have for a field, as options."""
    return Also(*(_option(name) for name in SYNONYMS[field] if name not in but))


def _switched(field: str) -> Also:
    """The same, of a field that is on or off."""
    return Also(*(f"{_option(name)}/{_option('no_' + name)}" for name in SYNONYMS[field]))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


Flag = bool | None


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Image and mask."""

    heading: ClassVar[str] = "Image and mask"

    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="Path, URL, data URI or base64.", show_default=False)
    ] = None
    mask: Annotated[str | None, typer.Argument(metavar="MASK", help="White is repainted.", show_default=False)] = None
    init_image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="The same as the first argument."),
        Also("--init-image"),
    ] = None
    mask_image: Annotated[
        str | None,
        typer.Option("--mask", metavar="MASK", help="The same as the second argument."),
        Also("--mask-image"),
    ] = None

    def fields(self, *, needs_images: bool = True, needs_mask: bool = True) -> dict[str, Any]:
        """The fields of a request.

        Args:
            needs_images: it is an error where the image, or a mask that is needed, is not given.
        """
        given = _given(self, without=("image", "mask"))
        for argument, field in (("image", "init_image"), ("mask", "mask_image")):
            value = getattr(self, argument)
            if value is None:
                continue
            if field in given:
                raise RequestError(f"--{argument}", message=f"--{argument} is given by the argument {value[:60]} too")
            given[field] = value
        needed = {"image": ("init_image", needs_images), "mask": ("mask_image", needs_images and needs_mask)}
        for argument, (field, is_needed) in needed.items():
            if is_needed and field not in given:
                raise RequestError(argument, message=f"{argument} is missing: intarsia inpaint IMAGE MASK")
        return given


@dataclass(frozen=True, kw_only=True)
class MaskOptions:
    """How the mask is read, and the size that is generated."""

    heading: ClassVar[str] = "Image and mask"

    mask_blur: Annotated[
        str | None,
        typer.Option(metavar="PIXELS", help="Feather of the paste-back, 0 to 64; default 4."),
        _named("mask_blur"),
    ] = None
    mask_dilate: Annotated[
        str | None,
        typer.Option(metavar="PIXELS", help="By how much the mask grows, or shrinks below 0: -256 to 256."),
        _named("mask_dilate"),
    ] = None
    mask_fill_holes: Annotated[
        Flag,
        typer.Option("--mask-fill-holes/--no-mask-fill-holes", help="Repaint what the mask surrounds, too."),
        _switched("mask_fill_holes"),
    ] = None
    mask_min_area: Annotated[
        str | None,
        typer.Option(metavar="AREA", help="Leave out specks of the mask below so many pixels, or 0.5% of the image."),
        _named("mask_min_area"),
    ] = None
    mask_padding: Annotated[
        str | None,
        typer.Option(
            metavar="PIXELS", help="Generate only the mask and so much around it; whole: all; default auto, by size."
        ),
        _named("mask_padding"),
    ] = None
    mask_source: Annotated[
        str | None, typer.Option(metavar="WHICH", help="luma: white is repainted; alpha: transparent is; auto.")
    ] = None
    invert_mask: Annotated[
        Flag, typer.Option("--invert-mask/--no-invert-mask", help="Repaint the rest."), _switched("invert_mask")
    ] = None
    soft_mask: Annotated[
        Flag,
        typer.Option("--soft-mask/--no-soft-mask", help="Repaint what is gray in the mask less."),
        _switched("soft_mask"),
    ] = None
    masked_content: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="Under the mask at first: original, fill, noise or blank."),
    ] = None
    color_match: Annotated[
        Flag, typer.Option("--color-match/--no-color-match", help="Match colors to the mask's surroundings.")
    ] = None
    extend: Annotated[
        str | None,
        typer.Option(metavar="SIDES", help="Enlarge the image, as in left=256,top=64, and paint what is new."),
    ] = None
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Generation size, for example 512x512.")] = None
    width: Annotated[str | None, typer.Option(metavar="PIXELS", help="Of the generation, 64 to 2048.")] = None
    height: Annotated[str | None, typer.Option(metavar="PIXELS", help="Of the generation, 64 to 2048.")] = None
    fit_output: Annotated[
        Flag, typer.Option("--fit-output/--no-fit-output", help="Make the output of that size too.")
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        given = _given(self, without=("size",))
        return given | self._size(given)

    def _size(self, given: dict[str, Any]) -> dict[str, int]:
        if self.size is None:
            return {}
        match = re.fullmatch(r"([0-9]{1,5})[xX×]([0-9]{1,5})", self.size)
        if match is None:
            raise RequestError("--size", self.size, "WIDTHxHEIGHT, for example 512x512")
        if "width" in given or "height" in given:
            raise RequestError("--size", message="--size says --width and --height: give one or the other")
        return {"width": int(match[1]), "height": int(match[2])}


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What the mask's content is to be."""

    heading: ClassVar[str] = "Prompt"

    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="What to paint; without it the background is continued."),
    ] = None
    negative_prompt: Annotated[
        str | None,
        typer.Option("--negative-prompt", "-n", metavar="TEXT", help="What to keep out."),
        _named("negative_prompt"),
    ] = None
    clip_skip: Annotated[
        str | None,
        typer.Option(metavar="N", help="1 to 8: 1 is the text encoder's last layer; default is the model's."),
    ] = None
    prompt_syntax: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="weighted: (word:1.2), BREAK, <lora:ID:0.8>, any length; or plain."),
    ] = None
    embeddings: Annotated[
        list[str] | None,
        typer.Option("--embedding", metavar="ID", help="Its word counts in plain prompts too; may be repeated."),
        Also("--embeddings"),
    ] = None
    enhance_prompt: Annotated[
        Flag, typer.Option("--enhance-prompt/--no-enhance-prompt", help="Put the model's own words around the prompt.")
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """The seed of one request; a batch has one of its own."""

    heading: ClassVar[str] = "Sampling"

    seed: Annotated[
        str | None, typer.Option(metavar="N", help="Drawn and reported where it is -1 or not given."), _named("seed")
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        return _given(self)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the image is generated."""

    heading: ClassVar[str] = "Sampling"

    samples: Annotated[str | None, typer.Option(metavar="N", help="1 to 4 images; default 1."), _named("samples")] = (
        None
    )
    steps: Annotated[
        str | None,
        typer.Option("--steps", "-s", metavar="N", help="1 to 150; default is the model's."),
        _named("steps"),
    ] = None
    guidance_scale: Annotated[
        str | None,
        typer.Option(metavar="X", help="How closely the prompt is followed, 0 to 20; up to 1 is without; default 7.5."),
        _named("guidance_scale"),
    ] = None
    strength: Annotated[
        str | None,
        typer.Option(metavar="X", help="How much is replaced: 0 keeps what is there, 1 nothing of it; default 0.7."),
        _named("strength"),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The sampler, by any usual name: see intarsia schedulers."),
        _named("scheduler"),
    ] = None
    karras_sigmas: Annotated[
        Flag,
        typer.Option("--karras-sigmas/--no-karras-sigmas", help="Karras's spacing of noise levels; on by default."),
        _switched("karras_sigmas"),
    ] = None
    spacing: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="leading, trailing, linspace, karras or exponential."),
        _named("spacing"),
    ] = None
    algorithm_type: Annotated[
        str | None, typer.Option(metavar="NAME", help="Form of the DPM solvers, for example sde-dpmsolver++.")
    ] = None
    solver_order: Annotated[
        str | None, typer.Option(metavar="N", help="1 to 3, of DPM++, UniPC and DEIS; default 2.")
    ] = None
    solver_type: Annotated[
        str | None, typer.Option(metavar="NAME", help="midpoint or heun of DPM++, bh1 or bh2 of UniPC.")
    ] = None
    final_sigmas_type: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the last step ends: zero or sigma_min.")
    ] = None
    eta: Annotated[
        str | None, typer.Option(metavar="X", help="Fresh noise in DDIM, 0 to 1; default 0."), _named("eta")
    ] = None
    table: Annotated[
        str | None, typer.Option(metavar="FILE", help="A scheduler of your own, as JSON: see docs/schedulers.md.")
    ] = None
    token_merging: Annotated[
        str | None,
        typer.Option(metavar="RATIO", help="0 to 0.75, or yes for the model's ratio: faster, coarser."),
        _named("token_merging"),
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        given = _given(self)
        if self.table is not None:
            from intarsia.schedulers.table_json import read_table

            given["table"] = read_table(self.table)
        return given


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model and what is used with it."""

    heading: ClassVar[str] = "Model"

    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="ID", help="Id or alias in the registry, or a path."),
        _named("model"),
    ] = None
    loras: Annotated[
        list[str] | None,
        typer.Option("--lora", metavar="ID[:X]", help="Id or path, with a strength; may be repeated."),
        _named("loras", but=("lora",)),
        Also("--loras"),
    ] = None
    vae: Annotated[
        str | None, typer.Option(metavar="ID", help="Id or path, in place of the model's own."), _named("vae")
    ] = None
    ip_adapter: Annotated[str | None, typer.Option(metavar="ID", help="Id or path.")] = None
    ip_adapter_image: Annotated[str | None, typer.Option(metavar="IMAGE", help="What it shows to the model.")] = None
    ip_adapter_scale: Annotated[str | None, typer.Option(metavar="X", help="Its weight, 0 to 1; default 1.")] = None
    safety_checker: Annotated[
        Flag, typer.Option("--safety-checker/--no-safety-checker", help="Check the images with the model's checker.")
    ] = None
    safety_action: Annotated[
        str | None,
        typer.Option(metavar="WHICH", help="For flagged images: sensitive_content_text, blur, pixelate or black."),
        _named("safety_action"),
    ] = None

    def fields(self) -> dict[str, Any]:
        """The fields of a request."""
        given = _given(self, without=("loras", "ip_adapter", "ip_adapter_image", "ip_adapter_scale"))
        if self.loras:
            given["loras"] = [_lora(text) for text in self.loras]
        adapter = self._ip_adapter()
        return given if adapter is None else given | {"ip_adapter": adapter}

    def _ip_adapter(self) -> dict[str, Any] | None:
        details = {"image": self.ip_adapter_image, "scale": self.ip_adapter_scale}
        given = {name: value for name, value in details.items() if value is not None}
        if self.ip_adapter is not None:
            return {"id": self.ip_adapter, **given}
        if given:
            raise RequestError("--ip-adapter", message=f"--ip-adapter-{next(iter(given))} needs --ip-adapter")
        return None


def _given(group: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The options of a group that were given, by name."""
    names = [field.name for field in dataclasses.fields(group) if field.name not in without]
    values = {name: getattr(group, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _lora(text: str) -> dict[str, Any]:
    """ID or path, and a strength behind the last colon; a path may have colons of its own."""
    name, colon, strength = text.rpartition(":")
    if not colon:
        return {"id": text}
    weight = number(strength)
    if weight is not None:
        return {"id": name, "strength": weight}
    if os.path.exists(os.path.expanduser(text)):  # also for what is too long to be a path
        return {"id": text}
    raise RequestError("--lora", text, "ID or ID:STRENGTH, for example ink:0.8")
