"""``intarsia inpaint``: one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.commands.interrupts import held, interruptible
from intarsia.commands.option_groups import grouped
from intarsia.commands.options import AsJson, EngineOptions, MessageOptions
from intarsia.commands.outputs import OutputOptions, Targets
from intarsia.commands.progress_bar import result_of
from intarsia.commands.request_options import (
    ImageOptions,
    MaskOptions,
    ModelOptions,
    PromptOptions,
    SamplingOptions,
    SeedOptions,
)
from intarsia.commands.set_option import Settings, with_settings
from intarsia.commands.streams import note, print_report, remark
from intarsia.errors import OutputError, named

if TYPE_CHECKING:
    from intarsia.engine.request import InpaintRequest
    from intarsia.engine.request_from import PastRequest
    from intarsia.engine.result import Result

__all__ = ["inpaint"]

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Repeat the image in a file, varied by other options.",
        rich_help_panel="Image and mask",
    ),
]


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The options of ``inpaint`` that make a request, put together."""

    images: ImageOptions
    masks: MaskOptions
    prompt: PromptOptions
    seed: SeedOptions
    sampling: SamplingOptions
    model: ModelOptions
    settings: list[str] | None

    def fields(self, *, needs_images: bool = True) -> dict[str, Any]:
        """The fields of the request; RequestError for one that is given twice, or an image that is not given."""
        fields = self.images.fields(needs_images=needs_images, needs_mask=self.masks.extend is None)
        for group in (self.masks, self.prompt, self.seed, self.sampling, self.model):
            fields |= group.fields()
        return with_settings(fields, self.settings)


@grouped
def inpaint(
    images: ImageOptions,
    masks: MaskOptions,
    prompt: PromptOptions,
    seed: SeedOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    output: OutputOptions,
    engine: EngineOptions,
    messages: MessageOptions,
    set_: Settings = None,
    from_: From = None,
    as_json: AsJson = False,
) -> None:
    """Inpaint one image and print the paths of the results.

    Options have the names of a request's fields; those of other tools (--cfg-scale, --num-inference-steps, --sampler,
    --denoising-strength) are understood too.
    """
    messages.apply()
    asked = RequestOptions(
        images=images, masks=masks, prompt=prompt, seed=seed, sampling=sampling, model=model, settings=set_
    )
    request, past = _request(asked, from_)
    targets = output.targets(request.init_image, request.samples)
    targets.check()  # before the work, not after it

    with interruptible() as written:
        with engine.open() as opened:
            result = result_of(opened.stream(request))
        with held():
            warnings = [*_write(result, targets, output), *_about_files(past, result)]
            written += targets.paths
        _report(result, targets.paths, warnings, as_json)


def _request(asked: RequestOptions, path: str | None) -> tuple[InpaintRequest, PastRequest | None]:
    """The request that is asked for, and the file that it repeats or varies."""
    from intarsia.engine.request import InpaintRequest
    from intarsia.engine.request_from import read_past_request

    if path is None:
        return InpaintRequest.parse(asked.fields()), None
    past = read_past_request(path)
    for warning in past.warnings:
        note(warning)
    return InpaintRequest.parse(past.varied(asked.fields(needs_images=False))), past


def _about_files(past: PastRequest | None, result: Result) -> tuple[str, ...]:
    """A warning where a model or a part has other content than when the file was made."""
    changed = past.changed_files(result.meta) if past else ()
    if not past or not changed:
        return ()
    return (f"{named(past.path)} was made with other files of {', '.join(map(named, changed))}",)


def _write(result: Result, targets: Targets, output: OutputOptions) -> list[str]:
    """Write the images where they were to go, or under the next names where those have been taken since."""
    texts = [result.file_texts(sample, strip=output.strip) for sample in range(len(result.images))]
    if not output.metadata:
        texts = [text | {"metadata": None, "parameters": None} for text in texts]
    return [*result.warnings, *targets.save(result.images, texts, output.quality)]


def _report(result: Result, paths: list[Path], warnings: list[str], as_json: bool) -> None:
    """What was made, on standard output; the images are there whatever becomes of that."""
    for warning in () if as_json else warnings:
        note(warning)
    remark(_what_ran(result))
    try:
        _print(result, paths, warnings, as_json)
    except BrokenPipeError:
        raise
    except OSError as exc:
        names = ", ".join(map(str, paths))
        raise OutputError(f"{names}: written, but standard output cannot be: {exc.strerror or exc}") from exc


def _what_ran(result: Result) -> str:
    """Backend, device and seconds by stage."""
    seconds = ", ".join(f"{stage} {taken:.2f} s" for stage, taken in result.timings.items())
    runtime = result.runtime
    return f"{runtime.backend} on {runtime.device}: {seconds}" if runtime else f"nothing had to run: {seconds}"


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
        print_report(report)
        return
    for path in paths:
        typer.echo(str(path))
