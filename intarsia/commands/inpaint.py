"""``intarsia inpaint``: one image."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.commands.interrupts import held, interruptible
from intarsia.commands.options import (
    NUMBER,
    WHOLE,
    AllowPrivateUrls,
    AsJson,
    Backend,
    Capture,
    Device,
    EngineOptions,
    Kernels,
    MaxPixels,
    Memory,
    Precision,
    Weights,
)
from intarsia.commands.streams import note, print_json
from intarsia.errors import Cancelled, OutputError, RequestError
from intarsia.numbers import number

if TYPE_CHECKING:
    from intarsia.engine.result import Progress, Result

__all__ = ["inpaint"]


class Suffix(StrEnum):
    """Output formats."""

    png = "png"
    jpg = "jpg"
    webp = "webp"


def inpaint(
    image: Annotated[str, typer.Argument(help="The image: a path, URL, data URI or base64.")],
    mask: Annotated[str, typer.Argument(help="The mask: white is repainted.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A file, or a folder.")] = Path(),
    prompt: Annotated[str, typer.Option("--prompt", "-p")] = "",
    negative_prompt: Annotated[str, typer.Option("--negative-prompt", "-n")] = "",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Id or alias in the registry, or a path.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Generation size, WIDTHxHEIGHT.")] = None,
    samples: Annotated[int, typer.Option(help="1 to 4 images.", **WHOLE)] = 1,
    steps: Annotated[int | None, typer.Option(help="1 to 150.", **WHOLE)] = None,
    strength: Annotated[float, typer.Option(help="0 to 1.", **NUMBER)] = 0.7,
    guidance: Annotated[float, typer.Option(help="0 to 20; up to 1 is without.", **NUMBER)] = 7.5,
    scheduler: Annotated[str | None, typer.Option(help="Documented name or short alias.")] = None,
    karras: Annotated[bool, typer.Option("--karras/--no-karras")] = True,
    seed: Annotated[int | None, typer.Option(help="Drawn and reported where it is -1 or not given.", **WHOLE)] = None,
    clip_skip: Annotated[
        int | None, typer.Option(help="1 is the text encoder's last layer; the model's default.", **WHOLE)
    ] = None,
    prompt_syntax: Annotated[
        str | None, typer.Option(help="weighted: (word:1.2), BREAK, <lora:ID:0.8>, any length; or plain.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option("--lora", help="ID or ID:STRENGTH, or PATH:STRENGTH; may be repeated.")
    ] = None,
    vae: Annotated[str | None, typer.Option(help="Id in the registry, or a path, in place of the model's own.")] = None,
    ip_adapter: Annotated[str | None, typer.Option(help="Id in the registry, or a path.")] = None,
    ip_adapter_image: Annotated[str | None, typer.Option(help="The image that it shows to the model.")] = None,
    ip_adapter_scale: Annotated[float, typer.Option(help="0 to 1.", **NUMBER)] = 1.0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of a request: NAME=VALUE (JSON or text)."),
    ] = None,
    format: Annotated[Suffix, typer.Option(help="For a folder.")] = Suffix.png,
    metadata: Annotated[bool, typer.Option("--metadata/--no-metadata", help="Write parameters into the file.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    backend: Backend = "auto",
    device: Device = "auto",
    kernels: Kernels = "auto",
    capture: Capture = "auto",
    precision: Precision = None,
    memory: Memory = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Inpaint one image and print the paths of the results."""
    from intarsia.engine.request import InpaintRequest
    from intarsia.images.save import check_outputs

    fields = {
        "init_image": image, "mask_image": mask, "prompt": prompt, "negative_prompt": negative_prompt,
        "model": model, "samples": samples, "steps": steps, "strength": strength, "guidance_scale": guidance,
        "scheduler": scheduler, "karras_sigmas": karras, "seed": seed, "clip_skip": clip_skip,
        "prompt_syntax": prompt_syntax,
        "loras": [_lora(text) for text in lora or []], "vae": vae,
        "ip_adapter": _ip_adapter(ip_adapter, ip_adapter_image, ip_adapter_scale),
        **_size(size), **_settings(set_ or []),
    }  # fmt: skip
    request = InpaintRequest.parse(fields)
    paths = _targets(out, image, request.samples, format.value)
    check_outputs(paths, overwrite=overwrite)  # before the work, not after it

    with interruptible() as written:
        with EngineOptions(
            backend=backend,
            device=device,
            weights=weights,
            allow_private_urls=allow_private_urls,
            max_pixels=max_pixels,
            kernels=kernels,
            capture=capture,
            precision=precision,
            memory=memory,
        ).open() as engine:
            result = _with_progress(engine.stream(request))
        with held():
            warnings = _write(result, paths, metadata, overwrite)
            written += paths
        _report(result, paths, warnings, as_json)


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    match = re.fullmatch(r"([0-9]{1,5})[xX×]([0-9]{1,5})", text)
    if match is None:
        raise RequestError("--size", text, "WIDTHxHEIGHT, for example 512x512")
    return {"width": int(match[1]), "height": int(match[2])}


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


def _ip_adapter(name: str | None, image: str | None, scale: float) -> dict[str, Any] | None:
    if name is None and image is not None:
        raise RequestError("--ip-adapter", message="--ip-adapter-image needs --ip-adapter")
    return None if name is None else {"id": name, "image": image, "scale": scale}


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``, the value as JSON where it is JSON, else as text."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RequestError("--set", pair, "NAME=VALUE")
        try:
            fields[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number with too many digits, or lists too deep
            fields[name.strip()] = value
    return fields


def _targets(out: Path, image: str, samples: int, suffix: str) -> list[Path]:
    """A path with a suffix names the file; anything else is a folder for names made from the input's."""
    from intarsia.images.output_names import output_paths

    if out.suffix and not out.is_dir():
        return output_paths(out.stem, out.parent, samples, out.suffix)
    stem = Path(image).stem if len(image) < 1024 and Path(image).is_file() else "intarsia"
    # The input's own name would collide with the input where both share a folder.
    return output_paths(f"{stem}-intarsia", out, samples, suffix)


def _with_progress(events: Iterator[Progress | Result]) -> Result:
    """Drain the stream; a progress bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from intarsia.engine.result import Progress, Result

    console = Console(stderr=True)
    with Bar(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        for event in events:
            if isinstance(event, Progress):
                bar.update(task, completed=event.step, total=event.steps)
            elif isinstance(event, Result):
                return event
    raise Cancelled("the request ended without a result")


def _write(result: Result, paths: list[Path], metadata: bool, overwrite: bool) -> list[str]:
    from intarsia.images.encode import SaveOptions
    from intarsia.images.metadata import a1111_parameters
    from intarsia.images.save import save_all

    texts: list[dict[str, Any]] = [{} for _ in paths]
    if metadata:
        metas = [result.meta | {"seed": seed} for seed in result.seeds]
        texts = [{"metadata": meta, "parameters": a1111_parameters(meta)} for meta in metas]
    images = list(zip(result.images, paths, strict=True))
    return [*result.warnings, *save_all(images, texts, SaveOptions(overwrite=overwrite))]


def _report(result: Result, paths: list[Path], warnings: list[str], as_json: bool) -> None:
    """What was made, on standard output; the images are there whatever becomes of that."""
    for warning in () if as_json else warnings:
        note(warning)
    try:
        _print(result, paths, warnings, as_json)
    except BrokenPipeError:
        raise
    except OSError as exc:
        names = ", ".join(map(str, paths))
        raise OutputError(f"{names}: written, but standard output cannot be: {exc.strerror or exc}") from exc


def _print(result: Result, paths: list[Path], warnings: list[str], as_json: bool) -> None:
    if as_json:
        report = {
            "output": [str(path) for path in paths],
            "seeds": list(result.seeds),
            "nsfw": list(result.nsfw),
            "meta": result.meta,
            "timings": dict(result.timings),
            "warnings": warnings,
        }
        print_json(report)
        return
    for path in paths:
        typer.echo(str(path))
