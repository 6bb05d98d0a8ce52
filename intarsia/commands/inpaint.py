"""``intarsia inpaint``: one image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.commands.interrupts import held, interruptible
from intarsia.commands.option_groups import grouped
from intarsia.commands.options import AsJson, EngineOptions, MessageOptions
from intarsia.commands.outputs import OutputOptions, Targets
from intarsia.commands.request_options import ImageOptions, ModelOptions, PromptOptions, SamplingOptions
from intarsia.commands.streams import is_quiet, note, print_report, remark
from intarsia.errors import Cancelled, OutputError, RequestError

if TYPE_CHECKING:
    from intarsia.engine.result import Progress, Result

__all__ = ["inpaint"]

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A field by its name, as JSON or text; may be repeated."),
]


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The options of ``inpaint`` that make a request, put together."""

    images: ImageOptions
    prompt: PromptOptions
    sampling: SamplingOptions
    model: ModelOptions
    settings: list[str] | None

    def fields(self) -> dict[str, Any]:
        """The fields of the request; RequestError for one that is given twice."""
        groups = (self.images, self.prompt, self.sampling, self.model)
        fields: dict[str, Any] = {}
        for group in groups:
            fields |= group.fields()
        for name, value in _settings(self.settings or []).items():
            if name in fields:
                raise RequestError("--set", message=f"--set {name} is given by an option of its own too")
            fields[name] = value
        return fields


@grouped
def inpaint(
    images: ImageOptions,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    output: OutputOptions,
    engine: EngineOptions,
    messages: MessageOptions,
    set_: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Inpaint one image and print the paths of the results.

    Options have the names of a request's fields; those of other tools (--cfg-scale, --num-inference-steps, --sampler,
    --denoising-strength) are understood too.
    """
    from intarsia.engine.request import InpaintRequest

    messages.apply()
    asked = RequestOptions(images=images, prompt=prompt, sampling=sampling, model=model, settings=set_)
    request = InpaintRequest.parse(asked.fields())
    targets = output.targets(request.init_image, request.samples)
    targets.check()  # before the work, not after it

    with interruptible() as written:
        with engine.open() as opened:
            result = _with_progress(opened.stream(request))
        with held():
            warnings = _write(result, targets, output)
            written += targets.paths
        _report(result, targets.paths, warnings, as_json)


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


def _with_progress(events: Iterator[Progress | Result]) -> Result:
    """Drain the stream; a progress bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from intarsia.engine.result import Progress, Result

    console = Console(stderr=True)
    is_shown = console.is_terminal and not is_quiet()
    with Bar(console=console, disable=not is_shown, transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        for event in events:
            if isinstance(event, Progress):
                bar.update(task, completed=event.step, total=event.steps)
            elif isinstance(event, Result):
                return event
    raise Cancelled("the request ended without a result")


def _write(result: Result, targets: Targets, output: OutputOptions) -> list[str]:
    """Write the images where they were to go, or under the next names where those have been taken since."""
    from intarsia.images.metadata import a1111_parameters

    texts: list[dict[str, Any]] = [{} for _ in result.images]
    if output.metadata:
        metas = [result.meta | {"seed": seed} for seed in result.seeds]
        texts = [{"metadata": meta, "parameters": a1111_parameters(meta)} for meta in metas]
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
