"""``intarsia batch``: offline batch inpainting."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

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
from intarsia.commands.streams import JSON_SCHEMA, is_quiet, note
from intarsia.errors import Cancelled, RequestError
from intarsia.printable import printable, printable_json

if TYPE_CHECKING:
    from intarsia.batch import Findings, Options, Pair, RunStats
    from intarsia.batch.manifest.rows import Refused
    from intarsia.batch.running.policy import Watch

    Runs = Callable[[Path | Pair, Path, Options, Watch], RunStats]

__all__ = ["batch"]

batch = group("Offline batches: validate, run, report, retry, merge.", no_args_is_help=True)

Manifest = Annotated[Path | None, typer.Argument(help="A .jsonl, .csv or .parquet file.")]
Images = Annotated[
    Path | None, typer.Option("--images", metavar="FOLDER", help="In place of a manifest: a folder of images …")
]
Masks = Annotated[
    Path | None, typer.Option("--masks", metavar="PATH", help="… and of masks with the same names, or one mask.")
]
Out = Annotated[Path, typer.Option("--out", "-o", "--output", metavar="FOLDER", help="For images and results.")]
Folder = Annotated[Path, typer.Argument(help="The output folder of a run.")]
Defaults = Annotated[
    Path | None, typer.Option("--defaults", metavar="FILE", help="A TOML file of request fields under the rows.")
]
Extra = Annotated[bool, typer.Option("--allow-extra", help="Ignore keys that no request has.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, metavar="N", help="Decoding and encoding, in each process.")
]
Classes = Annotated[
    str | None, typer.Option("--class", metavar="NAMES", help="Only errors of these classes, comma-separated.")
]


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Where the rows of a batch come from."""

    heading: ClassVar[str] = "Rows"

    manifest: Manifest = None
    images: Images = None
    masks: Masks = None
    defaults: Defaults = None
    allow_extra: Extra = False

    def place(self) -> Path | Pair:
        """The manifest, or folders of images and masks."""
        from intarsia.batch.settings import Pair

        if self.manifest is not None and self.images is None and self.masks is None:
            return self.manifest
        if self.manifest is None and self.images is not None and self.masks is not None:
            return Pair(self.images, self.masks)
        raise RequestError("manifest", message="give either a manifest, or both --images and --masks")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Which rows run, and how many at a time."""

    heading: ClassVar[str] = "Run"

    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of the run; rows without a seed get theirs from it.")
    ] = 0
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="The I-th of N parts of the rows.")] = "1/1"
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Processes; default one for each GPU.")
    ] = None
    threads: Threads = None
    slots: Annotated[int | None, typer.Option("--slots", min=1, metavar="N", help="Images evaluated together.")] = None
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--fast", help="Bits that do not depend on what else is in the batch.")
    ] = True
    max_errors: Annotated[
        str | None, typer.Option("--max-errors", metavar="N", help="Stop after more failures than N or P%.")
    ] = None
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False
    runner: Annotated[str, typer.Option("--runner", metavar="NAME", help="local or ray.")] = "local"

    def fields(self) -> dict[str, Any]:
        """Fields of :class:`intarsia.batch.Options`."""
        from intarsia.batch.settings import read_shard

        return asdict(self) | {"shard": read_shard(self.shard)}


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """How the images of a batch are written."""

    heading: ClassVar[str] = "Output"

    format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="png, jpg or webp, for outputs without an extension.")
    ] = "png"
    compression: Annotated[int, typer.Option("--compression", min=0, max=9, metavar="N", help="Of PNG.")] = 3
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, metavar="N", help="Of JPEG and WebP.")] = 95
    metadata: Annotated[
        bool, typer.Option("--metadata/--no-metadata", help="Write parameters into the files.", show_default=False)
    ] = True


@batch.command("validate", cls=Command)
@grouped
def validate_command(
    rows: RowOptions,
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
    as_json: AsJson = False,
) -> None:
    """Check every row before a run; exit code 2 where anything is wrong."""
    from intarsia.batch import Options, validate

    options = Options(
        weights=_text(weights),
        defaults=_text(rows.defaults),
        allow_extra=rows.allow_extra,
        threads=threads,
        allow_private_urls=allow_private_urls,
        max_pixels=max_pixels,
    )
    findings = validate(rows.place(), options, decode=decode, out=out)
    typer.echo(_as_report(_findings_as_dict(findings)) if as_json else _findings_as_text(findings))
    if findings.problems:
        raise typer.Exit(RequestError.exit_code)


class _EveryRow(Command):
    """``run``: every option of ``retry`` but the choice of failed rows."""

    def __init__(self, name: str | None, *, params: list[Any] | None = None, **settings: Any) -> None:
        shared = [parameter for parameter in params or [] if parameter.name != "classes"]
        super().__init__(name, params=shared, **settings)


RUN_HELP = "Run the rows that are not done yet; exit code 1 where any failed. May be killed and started again."
RETRY_HELP = "Run only the rows that failed or were cancelled, with the same options as the run."


# Decorators are applied upwards: run is registered, and listed, before retry.
@batch.command("retry", cls=Command, help=RETRY_HELP)
@batch.command("run", cls=_EveryRow, help=RUN_HELP)
@grouped
def run_or_retry_command(
    context: typer.Context,
    rows: RowOptions,
    running: RunOptions,
    files: FileOptions,
    engine: EngineOptions,
    messages: MessageOptions,
    out: Out,
    as_json: AsJson = False,
    classes: Classes = None,
) -> None:
    """Run the rows of a manifest, or again those that failed: two commands that differ by one option."""
    from intarsia.batch import Options, retry, run

    messages.apply()
    options = Options(
        defaults=_text(rows.defaults),
        allow_extra=rows.allow_extra,
        **running.fields(),
        **asdict(files),
        **asdict(engine) | {"weights": _text(engine.weights)},
    )
    command: Runs = run
    if context.info_name == "retry":
        command = functools.partial(retry, classes=_error_kinds(classes))
    _carry_out(command, rows.place(), options, out=out, as_json=as_json)


@batch.command("report")
def report_command(out: Folder, as_json: AsJson = False) -> None:
    """Print what became of the rows, the failed ones with their reasons."""
    from intarsia.batch.ledger.report import as_text, report

    summary = report(out)
    _warn(summary["warnings"])
    typer.echo(_as_report(summary) if as_json else as_text(summary))


@batch.command("merge")
def merge_command(
    out: Folder,
    others: Annotated[list[Path] | None, typer.Argument(help="Folders whose results are added.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put the results of shards (and of other folders) into one results.jsonl."""
    from intarsia.batch import merge

    try:
        rows = merge(out, others or [], lambda sentence: _warn([sentence]))
    except KeyboardInterrupt as exc:
        raise Cancelled(f"interrupted; the same command goes on ({out})") from exc
    results = out / "results.jsonl"
    if as_json:
        typer.echo(_as_report({"rows": rows, "results": str(results)}))
    else:
        typer.echo(printable(f"{rows} rows in {results}"))


def _as_report(values: Mapping[str, Any]) -> str:
    """What ``--json`` prints, with the version of its shape; ids and paths in it may be of any characters."""
    return printable_json({"schema": JSON_SCHEMA, **values})


def _carry_out(
    command: Runs,
    place: Path | Pair,
    options: Options,
    *,
    out: Path,
    as_json: bool,
) -> None:
    """Run or retry with a live display; the numbers on stdout at the end."""
    from intarsia.batch.ledger.report import run_as_text
    from intarsia.batch.live import Display

    before = signal.signal(signal.SIGTERM, _interrupt)  # what ends a job on a cluster is no reason to lose its rows
    try:
        with Display(is_shown=not is_quiet()) as display:
            stats = command(place, out, options, display)
    except KeyboardInterrupt as exc:
        raise Cancelled(f"interrupted; the same command goes on where it stopped ({out})") from exc
    finally:
        signal.signal(signal.SIGTERM, before)

    numbers = stats.to_dict()
    _warn(stats.warnings)
    typer.echo(_as_report(numbers) if as_json else run_as_text(numbers))
    if stats.failed:
        raise typer.Exit(1)


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
    summary = f"{findings.rows} rows, {bad_rows} with problems"
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
