"""``intarsia batch``: offline batch inpainting."""

from __future__ import annotations

import functools
import shlex
import signal
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intarsia.commands.batch_options import FileOptions, RowFields, RowOptions, RunOptions, Threads
from intarsia.commands.command import Command, group
from intarsia.commands.option_groups import grouped
from intarsia.commands.options import (
    AllowPrivateUrls,
    AsJson,
    EngineOptions,
    MaxPixels,
    MessageOptions,
    Weights,
)
from intarsia.commands.request_options import MaskOptions, ModelOptions, PromptOptions, SamplingOptions
from intarsia.commands.set_option import Settings
from intarsia.commands.streams import JSON_SCHEMA, is_quiet, note
from intarsia.counted import counted
from intarsia.errors import Cancelled, RequestError
from intarsia.printable import printable, printable_json

if TYPE_CHECKING:
    from intarsia.batch import Findings, Options, Pair, RunStats
    from intarsia.batch.manifest.rows import Refused
    from intarsia.batch.running.policy import Watch

    Runs = Callable[[Path | Pair, Path, Options, Watch], RunStats]

__all__ = ["batch"]

batch = group("Offline batches: validate, run, report, sheet, retry, merge.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", "-o", "--output", metavar="FOLDER", help="For images and results.")]
Folder = Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of a run.")]
Every = Annotated[
    float,
    typer.Option(
        "--progress", min=0.1, metavar="SECONDS", help="Between lines of progress, where there is no terminal."
    ),
]
Classes = Annotated[
    str | None, typer.Option("--class", metavar="NAMES", help="Only errors of these classes, comma-separated.")
]


@batch.command("validate", cls=Command)
@grouped
def validate_command(
    rows: RowOptions,
    masks: MaskOptions,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    messages: MessageOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", "--output", metavar="FOLDER", help="Of the run to come: nothing in it may be replaced."
        ),
    ] = None,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Open the images too.")] = True,
    threads: Threads = None,
    weights: Weights = None,
    allow_private_urls: AllowPrivateUrls = False,
    max_pixels: MaxPixels = None,
    set_: Settings = None,
    every: Every = 30.0,
    as_json: AsJson = False,
) -> None:
    """Check every row before a run.

    Exit code 2 where anything is wrong.
    """
    from intarsia.batch import Options, validate
    from intarsia.batch.live import CheckDisplay, ProgressLines

    messages.apply()
    fields = RowFields(masks=masks, prompt=prompt, sampling=sampling, model=model, settings=set_)
    options = Options(
        weights=_text(weights),
        **rows.settings(),
        request=fields.fields() or None,
        threads=threads,
        allow_private_urls=allow_private_urls,
        max_pixels=max_pixels,
    )
    lines = ProgressLines(_say, every, "with problems")
    with CheckDisplay(lines=lines, is_shown=not is_quiet()) as display:
        findings = validate(rows.place(), options, decode=decode, out=out, watch=display)
    typer.echo(_as_report(_findings_as_dict(findings)) if as_json else _findings_as_text(findings))
    if findings.problems:
        raise typer.Exit(RequestError.exit_code)


class _EveryRow(Command):
    """``run``: every option of ``retry`` but the choice of failed rows."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        shared = [parameter for parameter in params or [] if parameter.name != "classes"]
        super().__init__(name, params=shared, **settings)


RUN_HELP = """Run the rows that are not done yet.

Exit code 1 where any failed. It may be killed and started again by the same command."""
RETRY_HELP = """Run only the rows that failed or were cancelled.

The options are those of the run."""


# Decorators are applied upwards: run is registered, and listed, before retry.
@batch.command("retry", cls=Command, help=RETRY_HELP)
@batch.command("run", cls=_EveryRow, help=RUN_HELP)
@grouped
def run_or_retry_command(
    context: typer.Context,
    rows: RowOptions,
    running: RunOptions,
    files: FileOptions,
    masks: MaskOptions,
    prompt: PromptOptions,
    sampling: SamplingOptions,
    model: ModelOptions,
    engine: EngineOptions,
    messages: MessageOptions,
    out: Out,
    set_: Settings = None,
    every: Every = 30.0,
    as_json: AsJson = False,
    classes: Classes = None,
) -> None:
    """Run the rows of a manifest, or again those that failed: two commands that differ by one option."""
    from intarsia.batch import Options, retry, run

    messages.apply()
    fields = RowFields(masks=masks, prompt=prompt, sampling=sampling, model=model, settings=set_)
    options = Options(
        **rows.settings(),
        request=fields.fields() or None,
        **running.fields(),
        **asdict(files),
        **asdict(engine) | {"weights": _text(engine.weights)},
    )
    command: Runs = run
    if context.info_name == "retry":
        command = functools.partial(retry, classes=_error_kinds(classes))
    _carry_out(command, rows.place(), options, out=out, every=every, as_json=as_json)


@batch.command("report")
def report_command(out: Folder, as_json: AsJson = False) -> None:
    """Print what became of the rows.

    Of those that failed the reasons too.
    """
    from intarsia.batch.ledger.report import as_text, report

    summary = report(out)
    _warn(summary["warnings"])
    typer.echo(_as_report(summary) if as_json else as_text(summary))


@batch.command("sheet")
def sheet_command(
    out: Folder,
    overview: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Also one image of the first rows: sheet.png, say.")
    ] = None,
    first: Annotated[int, typer.Option("--first", min=1, max=400, metavar="N", help="How many these are.")] = 40,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, metavar="N", help="Processes; default one for each core.")
    ] = None,
    every: Every = 30.0,
    as_json: AsJson = False,
) -> None:
    """Write a contact sheet, sheet.html.

    Before, mask and after of every row; those that failed come first.
    """
    from intarsia.batch import sheet
    from intarsia.batch.live import CheckDisplay, ProgressLines

    lines = ProgressLines(_say, every, "without images")
    try:
        with CheckDisplay(lines=lines, is_shown=not is_quiet()) as display:
            made = sheet(out, overview=overview, first=first, workers=workers, watch=display)
    except KeyboardInterrupt as exc:
        raise Cancelled(f"interrupted; the same command goes on where it stopped ({out})") from exc

    _warn(made.warnings)
    paths = [made.path, *filter(None, [overview])]
    if as_json:
        numbers = {"rows": made.rows, "pages": made.pages, "unreadable": made.unreadable}
        typer.echo(_as_report({"output": list(map(str, paths)), **numbers, "warnings": list(made.warnings)}))
        return
    for path in paths:
        typer.echo(printable(str(path)))


@batch.command("merge")
def merge_command(
    out: Folder,
    others: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders whose results are added.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put the results of shards into one results.jsonl.

    Those of other folders too, where they are named.
    """
    from intarsia.batch import merge

    try:
        rows = merge(out, others or [], lambda sentence: _warn([sentence]))
    except KeyboardInterrupt as exc:
        raise Cancelled(f"interrupted; the same command goes on ({out})") from exc
    results = out / "results.jsonl"
    if as_json:
        typer.echo(_as_report({"rows": rows, "results": str(results)}))
    else:
        typer.echo(printable(f"{counted(rows, 'row')} in {results}"))


def _as_report(values: Mapping[str, Any]) -> str:
    """What ``--json`` prints, with the version of its shape; ids and paths in it may be of any characters."""
    return printable_json({"schema": JSON_SCHEMA, **values})


def _carry_out(
    command: Runs,
    place: Path | Pair,
    options: Options,
    *,
    out: Path,
    every: float,
    as_json: bool,
) -> None:
    """Run or retry with its progress on standard error; the numbers on stdout at the end."""
    from intarsia.batch.ledger.report import run_as_text
    from intarsia.batch.live import Display, ProgressLines

    before = signal.signal(signal.SIGTERM, _interrupt)  # what ends a job on a cluster is no reason to lose its rows
    try:
        with Display(lines=ProgressLines(_say, every), is_shown=not is_quiet()) as display:
            stats = command(place, out, options, display)
    except KeyboardInterrupt as exc:
        raise Cancelled(f"interrupted; the same command goes on where it stopped ({out})") from exc
    finally:
        signal.signal(signal.SIGTERM, before)

    numbers = stats.to_dict()
    _warn(stats.warnings)
    typer.echo(_as_report(numbers) if as_json else run_as_text(numbers))
    if stats.failed:
        if not as_json:
            note(f"why rows failed: intarsia batch report {shlex.quote(str(out))}")
        raise typer.Exit(1)


def _say(line: str) -> None:
    """A line of progress; where it cannot be written, the work goes on."""
    with suppress(OSError, ValueError):
        typer.echo(line, err=True)


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        note(sentence)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _error_kinds(text: str | None) -> frozenset[str] | None:
    """The classes of errors in a comma-separated text; None for all."""
    from intarsia.batch.ledger.error_kinds import ERROR_KINDS

    if text is None:
        return None

    names = frozenset(name.strip() for name in text.split(","))
    for name in sorted(names):
        if name not in ERROR_KINDS:
            raise RequestError("--class", name, f"one of {', '.join(ERROR_KINDS)}")
    return names


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _findings_as_text(findings: Findings) -> str:
    lines = [_problem_line(problem) for problem in findings.problems]
    bad_rows = len({problem.number for problem in findings.problems})
    summary = f"{counted(findings.rows, 'row')}, {bad_rows:,} with problems"
    return "\n".join(map(printable, [*findings.notes, *lines, summary]))


def _problem_line(problem: Refused) -> str:
    line = f"line {problem.number}"
    name = line if problem.id == line else f"{line}: {problem.id}"
    return f"{name}: {problem.error}: {problem.text}"


def _findings_as_dict(findings: Findings) -> dict[str, Any]:
    problems = [
        {"line": problem.number, "id": problem.id, "class": problem.error, "text": problem.text}
        for problem in findings.problems
    ]
    return {"rows": findings.rows, "problems": problems, "notes": list(findings.notes)}
