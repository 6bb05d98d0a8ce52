"""One is singular, in every message that counts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from intarsia.batch import Findings, RunStats
from intarsia.batch.ledger.json_lines import Damage
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.report import as_text, run_as_text
from intarsia.batch.live import numbers_of
from intarsia.batch.running.policy import over_limit
from intarsia.commands.batch import _findings_as_text
from intarsia.commands.schedulers import _as_text
from intarsia.counted import counted
from intarsia.schedulers import table


def test_a_number_has_its_noun() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 12400)] == ["0 rows", "1 row", "2 rows", "12,400 rows"]
    assert [counted(number, "retry", "retries") for number in (1, 2)] == ["1 retry", "2 retries"]


def stats_of(count: int) -> RunStats:
    """A run of so many rows, each done at the second attempt, with so many restarts."""
    stats = RunStats(rows=count, restarts=count)
    for number in range(count):
        stats.add(Record(id=str(number), status="ok", outputs=("a.png",), attempts=2))
    return stats


@pytest.mark.parametrize(
    ("count", "rows", "images", "retries"),
    [
        (1, "1 row: 1 ok", "1 image in ", "1 retry, 1 restart of workers; "),
        (2, "2 rows: 2 ok", "2 images in ", "2 retries, 2 restarts of workers; "),
    ],
)
def test_the_numbers_of_a_run(count: int, rows: str, images: str, retries: str) -> None:
    stats = stats_of(count)
    lines = run_as_text(stats.to_dict()).splitlines()
    assert lines[0] == rows
    assert [line.startswith(start) for line, start in zip(lines[1:3], (images, retries), strict=True)] == [True, True]

    counts = {"rows": count, "ok": count, "error": 0, "skipped": 0, "cancelled": 0, "errors": {}}
    assert as_text(counts | {"running": [], "failed": [], "runs": {}}) == rows

    console = Console(file=io.StringIO(), record=True, width=100)
    console.print(numbers_of(stats))
    assert f"  {retries.partition(',')[0]}  " in console.export_text()


def test_large_numbers_have_commas() -> None:
    numbers = RunStats(rows=50_000, before=1_200).to_dict() | {"ok": 48_800}
    assert run_as_text(numbers) == "50,000 rows: 48,800 ok, 1,200 done before"


@pytest.mark.parametrize(("count", "sentence"), [(1, "1 row failed, more than 0"), (2, "2 rows failed, more than 0")])
def test_a_run_that_stops(count: int, sentence: str) -> None:
    stats = RunStats(rows=9)
    for number in range(count):
        stats.add(Record(id=str(number), status="error", error="io"))
    assert over_limit(stats, 0) == sentence


@pytest.mark.parametrize(("count", "summary"), [(1, "1 row, 0 with problems"), (2, "2 rows, 0 with problems")])
def test_a_check(count: int, summary: str) -> None:
    assert _findings_as_text(Findings(rows=count, problems=())) == summary


@pytest.mark.parametrize(("count", "end"), [(1, "1 more line is damaged"), (2, "2 more lines are damaged")])
def test_damaged_lines(count: int, end: str) -> None:
    damage = Damage()
    path = Path("results.jsonl")
    while not damage.warnings or "more" not in damage.warnings[-1]:
        damage.add(path, "a line", "no JSON")
    for _ in range(count - 1):
        damage.add(path, "a line", "no JSON")
    assert damage.warnings[-1] == f"results.jsonl: {end}"


@pytest.mark.parametrize(
    ("steps", "heading"),
    [
        (1, "EulerDiscreteScheduler, 1 step, 1 evaluation, 1 state slot"),
        (2, "EulerDiscreteScheduler, 2 steps, 2 evaluations, 1 state slot"),
    ],
)
def test_a_table(steps: int, heading: str) -> None:
    assert _as_text(table("EulerDiscreteScheduler", steps)).splitlines()[0] == heading
