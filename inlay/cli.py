"""The ``inlay`` command. Data goes to stdout, everything else to stderr.

Exit codes: 0 ok · 1 some rows failed · 2 bad usage or bad request · 3 model or weights · 4 device or
backend · 130 interrupted.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlay.errors import Cancelled, InlayError, RequestError, WeightsError

if TYPE_CHECKING:
    from inlay.engine.request import InpaintRequest
    from inlay.engine.result import Progress, Result

__all__ = ["app", "main"]

app = typer.Typer(
    help="Inpaint pictures locally.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
models = typer.Typer(help="The registry of models.", no_args_is_help=True)
app.add_typer(models, name="models")

# Typer carries its own copy of click, or uses the installed one, by version; either way this is what a
# wrong option, argument or command raises.
UsageError: Any = typer.BadParameter.__base__

Weights = Annotated[
    Path | None, typer.Option("--weights", help="A weights.toml that goes before all others.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


class Suffix(StrEnum):
    """Output formats."""

    png = "png"
    jpg = "jpg"
    webp = "webp"


@app.command()
def inpaint(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="The picture: a path, data URI or base64.")],
    mask: Annotated[str, typer.Argument(help="The mask: white is repainted.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A file, or a folder.")] = Path(),
    prompt: Annotated[str, typer.Option("--prompt", "-p")] = "",
    negative_prompt: Annotated[str, typer.Option("--negative-prompt", "-n")] = "",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Id or alias in the registry.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Generation size, WIDTHxHEIGHT.")] = None,
    samples: Annotated[int, typer.Option(help="1 to 4 pictures.")] = 1,
    steps: Annotated[int | None, typer.Option(help="1 to 150.")] = None,
    strength: Annotated[float, typer.Option(help="0 to 1.")] = 0.7,
    guidance: Annotated[float, typer.Option(help="1 to 20; 1 is without.")] = 7.5,
    scheduler: Annotated[str | None, typer.Option(help="Documented name or short alias.")] = None,
    karras: Annotated[bool, typer.Option("--karras/--no-karras")] = True,
    seed: Annotated[int | None, typer.Option(help="Drawn and reported where it is not given.")] = None,
    clip_skip: Annotated[int, typer.Option(help="1 is the last layer.")] = 2,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other field of a request: NAME=VALUE (JSON or text)."),
    ] = None,
    format: Annotated[Suffix, typer.Option(help="For a folder.")] = Suffix.png,
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write parameters into the file.")
    ] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace existing files.")] = False,
    backend: Annotated[str, typer.Option()] = "auto",
    device: Annotated[str, typer.Option()] = "auto",
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Inpaint one picture and print the paths of the results."""
    from inlay.engine.engine import Engine
    from inlay.engine.output import check_outputs

    fields = {
        "init_image": image, "mask_image": mask, "prompt": prompt, "negative_prompt": negative_prompt,
        "model": model, "samples": samples, "steps": steps, "strength": strength, "guidance_scale": guidance,
        "scheduler": scheduler, "karras_sigmas": karras, "seed": seed, "clip_skip": clip_skip,
        **_size(size), **_settings(set_ or []),
    }  # fmt: skip
    request = _request(fields)
    paths = _targets(out, image, request.samples, format.value)
    check_outputs(paths, overwrite=overwrite)  # before the work, not after it
    with Engine(backend, device, weights) as engine:
        result = _with_progress(engine.stream(request))
    warnings = _write(result, paths, metadata, overwrite)
    _report(result, paths, warnings, as_json)


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A request as JSON; - reads standard input.")],
    weights: Weights = None,
) -> None:
    """Print what a request would do, as JSON. Loads no model and no torch."""
    from inlay.api import plan as make_plan

    typer.echo(make_plan(_request(_read_json(file)), weights).to_json())


@models.command("list")
def list_models(weights: Weights = None, as_json: AsJson = False) -> None:
    """List the models of the registry and whether their files are there."""
    from inlay.engine.registry import Registry

    registry = Registry(weights)
    rows = [
        {
            "id": entry.id,
            "family": entry.family,
            "installed": entry.path.is_dir(),
            "default": entry.id == registry.find(None).id,
            "aliases": list(entry.aliases),
            "licence": entry.licence,
        }
        for entry in registry
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for row in rows:
        marks = ("installed" if row["installed"] else "missing") + (", default" if row["default"] else "")
        typer.echo(f"{row['id']}\t{row['family']}\t{marks}\t{row['licence']}")


@models.command("path")
def model_path(
    model: Annotated[str | None, typer.Argument(help="Id or alias; the default model without.")] = None,
    weights: Weights = None,
) -> None:
    """Print the folder of a model."""
    from inlay.engine.registry import Registry
    from inlay.engine.weights import locate

    typer.echo(str(locate(Registry(weights).find(model))))


@models.command("verify")
def verify_model(
    model: Annotated[str | None, typer.Argument(help="Id or alias; the default model without.")] = None,
    weights: Weights = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file of a model with its size and sha256; exit code 3 where one differs."""
    from inlay.engine.registry import Registry
    from inlay.engine.weights import verify

    entry = Registry(weights).find(model)
    states = verify(entry)
    if as_json:
        rows = [
            {"file": found.file.path, "bytes": found.file.bytes, "state": found.state} for found in states
        ]
        typer.echo(json.dumps({"model": entry.id, "files": rows}, indent=2))
    else:
        for found in states:
            typer.echo(f"{found.state}\t{found.file.bytes}\t{found.file.path}")
    broken = [found.file.path for found in states if found.state != "ok"]
    if broken:
        raise WeightsError(f"{entry.id}: {len(broken)} of {len(states)} files differ: {', '.join(broken)}")
    if not states:
        raise WeightsError(f"{entry.id}: the registry pins no files, so there is nothing to compare with")


def main() -> None:
    """Entry point: our errors become one line on stderr and an exit code."""
    # Spinning OpenMP threads starve everything else on a machine that is not ours alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Typer gives back the exit code that it would have ended with; None is a command that returned.
        code = app(standalone_mode=False) or 0
        if code == Cancelled.exit_code:
            raise KeyboardInterrupt
        sys.exit(code)
    except InlayError as exc:
        sys.exit(_complain(str(exc), exc.exit_code))
    except UsageError as exc:
        exc.show()
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_complain("interrupted; nothing was written", Cancelled.exit_code))


def _complain(sentence: str, code: int) -> int:
    typer.echo(f"inlay: {sentence}", err=True)
    return code


def _size(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", text)
    if match is None:
        raise RequestError("--size", text, "WIDTHxHEIGHT, for example 512x512")
    return {"width": int(match[1]), "height": int(match[2])}


def _settings(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``, the value as JSON where it is JSON, else as text."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RequestError("--set", pair, "NAME=VALUE")
        try:
            fields[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            fields[name.strip()] = value
    return fields


def _request(fields: dict[str, Any]) -> InpaintRequest:
    from inlay.engine.request import InpaintRequest

    return InpaintRequest.parse(fields)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, UnicodeDecodeError) as exc:
        raise RequestError("FILE", message=f"{file} cannot be read: {exc}") from exc
    except (json.JSONDecodeError, RecursionError) as exc:
        raise RequestError("FILE", message=f"{file} is not JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise RequestError("FILE", message=f"{file} must hold a JSON object, not a {type(found).__name__}")
    return found


def _targets(out: Path, image: str, samples: int, suffix: str) -> list[Path]:
    """A path with a suffix names the file; anything else is a folder for names made from the input's."""
    from inlay.engine.output import output_paths

    if out.suffix and not out.is_dir():
        return output_paths(out.stem, out.parent, samples, out.suffix)
    stem = Path(image).stem if len(image) < 1024 and Path(image).is_file() else "inlay"
    # The input's own name would collide with the input where both share a folder.
    return output_paths(f"{stem}-inlay", out, samples, suffix)


def _with_progress(events: Iterator[Progress | Result]) -> Result:
    """Drain the stream; a progress bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    from inlay.engine.result import Progress, Result

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
    from inlay.engine.output import SaveOptions, a1111_parameters, save

    warnings: list[str] = list(result.warnings)
    for sample, (picture, path) in enumerate(zip(result.images, paths, strict=True)):
        meta = result.meta | {"seed": result.seeds[sample]}
        warnings += save(
            picture,
            path,
            metadata=meta if metadata else None,
            parameters=a1111_parameters(meta) if metadata else None,
            options=SaveOptions(overwrite=overwrite),
        )
    return warnings


def _report(result: Result, paths: list[Path], warnings: list[str], as_json: bool) -> None:
    if as_json:
        report = {
            "output": [str(path) for path in paths],
            "seeds": list(result.seeds),
            "meta": result.meta,
            "timings": dict(result.timings),
            "warnings": warnings,
        }
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for warning in warnings:
        typer.echo(f"inlay: {warning}", err=True)
    for path in paths:
        typer.echo(str(path))
