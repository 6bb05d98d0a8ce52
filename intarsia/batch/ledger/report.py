"""What became of the rows: from the lines of results, and the numbers of the latest run."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from intarsia.batch.ledger.json_lines import LONGEST, Damage, read_json
from intarsia.batch.ledger.progress_file import read_progress
from intarsia.batch.ledger.records import Record, Status
from intarsia.batch.ledger.replacing import replacing
from intarsia.batch.ledger.results import read_history, result_files
from intarsia.batch.ledger.run_stats import problem_of, with_present_names
from intarsia.counted import counted
from intarsia.errors import OutputError
from intarsia.printable import printable

__all__ = ["as_text", "report", "run_as_text", "write_report"]

_SHOWN = 50
_KEPT = ("id", "status", "time", "run", "error", "text", "attempts", "line", "degraded")
_COUNTED: tuple[Status, ...] = ("ok", "error", "skipped", "cancelled")
_NAME = re.compile(r"report(-\d+-of-\d+)?\.json")


def _name(shard: tuple[int, int]) -> str:
    part, parts = shard
    return "report.json" if parts == 1 else f"report-{part}-of-{parts}.json"


def write_report(out: Path, shard: tuple[int, int], numbers: Mapping[str, Any]) -> None:
    """Keep the numbers of a run beside its results; the file of the run before is replaced whole."""
    with replacing(out / _name(shard)) as file:
        file.write(json.dumps(numbers, indent=2) + "\n")


def report(out: str | os.PathLike[str]) -> dict[str, Any]:
    """Rows by status, failed rows with their reasons, and the numbers of the latest run (of each shard).

    Runs that go on now are under ``running``: rows, finished, failed, rate, seconds left.

    What is damaged among the lines and numbers is left out, and named under ``warnings``.

    Raises:
        OutputError: there are no results in the folder.
    """
    folder = Path(out)
    files = result_files(folder)
    if not files:
        raise OutputError(f"{folder} holds no results of a batch run")

    history = read_history(files, _KEPT)
    records = history.last.values()
    status = Counter(_status(record, history.done) for record in records)
    failed = [record for record in records if record.status in ("error", "cancelled")]
    failed.sort(key=lambda record: record.line or 0)
    errors = Counter(record.error or "" for record in failed)

    runs = _runs(folder, history.damage)
    return {
        "running": [running.to_json() | {"line": running.line()} for running in read_progress(folder)],
        "rows": len(records),
        **{name: status[name] for name in _COUNTED},
        "errors": dict(sorted(errors.items())),
        "retried": sum((record.attempts or 0) > 1 for record in records),
        "degraded": sum(bool(record.degraded) for record in records),
        "failed": [record.to_json() for record in failed],
        "runs": runs,
        "warnings": history.damage.warnings,
    }


def _status(record: Record, done: Mapping[str, Record]) -> Status:
    """The status to count; a row that was found done counts as done."""
    if record.status == "skipped" and record.id in done:
        return "ok"
    return record.status


def _runs(folder: Path, damage: Damage) -> dict[str, Any]:
    """The numbers of the latest run, and of each shard's, by the names of their files."""
    runs: dict[str, Any] = {}
    files = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file())
    for path in files:
        try:
            with path.open("rb") as file:
                problem, numbers = read_json(file.read(LONGEST + 1))
        except OSError as exc:
            raise OutputError(f"{path} cannot be read: {exc.strerror or exc}") from exc

        numbers = with_present_names(numbers)
        problem = problem or problem_of(numbers)
        if problem:
            damage.add(path, "the file", problem)
        else:
            runs[path.stem] = numbers
    return runs


def as_text(summary: Mapping[str, Any]) -> str:
    """A report for people; its warnings are left to the caller."""
    counts = ", ".join(_counts(summary))
    lines = [running["line"] for running in summary["running"]]
    lines.append(f"{counted(summary['rows'], 'row')}: {counts or 'none'}")
    lines += [f"  {name}: {count:,}" for name, count in summary["errors"].items()]

    failed = summary["failed"]
    for record in failed[:_SHOWN]:
        lines.append(f"{record['id']}: {record.get('error', '')}: {record.get('text', '')}")
    if len(failed) > _SHOWN:
        lines.append(f"… and {len(failed) - _SHOWN:,} more (--json shows all)")

    for name, numbers in summary["runs"].items():
        lines += ["", f"latest run ({name}.json)", *_lines_of(numbers)]
    return "\n".join(map(printable, lines))


def run_as_text(numbers: Mapping[str, Any]) -> str:
    """The numbers of one run for people; its warnings are left to the caller."""
    return "\n".join(map(printable, _lines_of(numbers)))


def _counts(numbers: Mapping[str, Any]) -> list[str]:
    return [f"{numbers[name]:,} {name}" for name in _COUNTED if numbers[name]]


def _lines_of(numbers: Mapping[str, Any]) -> list[str]:
    counts = _counts(numbers)
    if numbers["before"]:
        counts.append(f"{numbers['before']:,} done before")

    lines = [f"{counted(numbers['rows'], 'row')}: {', '.join(counts) or 'none'}"]
    if numbers["stopped"]:
        lines.append(f"stopped: {numbers['stopped']}")
    lines += [f"  {name}: {count:,}" for name, count in numbers["errors"].items()]
    if numbers["images"]:
        lines += [_speed(numbers), _effort(numbers), _stages(numbers)]
    return lines


def _speed(numbers: Mapping[str, Any]) -> str:
    seconds = f"{numbers['seconds']:.1f} s ({numbers['warm_up_seconds']:.1f} s until the first)"
    rate = f"{numbers['images_per_second']:.2f} a second"
    steady = numbers.get("images_per_second_after_warm_up")
    if steady is not None:
        rate += f" ({steady:.2f} after the first)"
    images = counted(numbers["images"], "image")
    return f"{images} in {seconds}, {rate}; batches {numbers['batch_fill']:.0%} full"


def _effort(numbers: Mapping[str, Any]) -> str:
    memory = f"{numbers['peak_memory_mib']:.0f} MiB a process"
    if numbers["peak_device_memory_mib"]:
        memory += f", {numbers['peak_device_memory_mib']:.0f} MiB on the device"
    retries = counted(numbers["retries"], "retry", "retries")
    restarts = counted(numbers["restarts"], "restart")
    return f"{retries}, {restarts} of workers; peak memory {memory}"


def _stages(numbers: Mapping[str, Any]) -> str:
    spreads = [f"{name} {spread['p50']:.3f}/{spread['p95']:.3f}" for name, spread in numbers["stages"].items()]
    return f"seconds a row, p50/p95: {', '.join(spreads)}"
