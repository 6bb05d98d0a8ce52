"""The numbers of a run, against what they are by hand."""

from __future__ import annotations

import io
import time
from array import array

import pytest
from rich.console import Console

from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.report import run_as_text
from intarsia.batch.ledger.run_stats import RunStats, WorkerState, problem_of, quantile
from intarsia.batch.live import numbers_of
from intarsia.batch.running.jobs import Job
from intarsia.batch.running.worker_pool import WorkerProcess


def ok(images: int, seconds: float, attempts: int = 1) -> Record:
    outputs = [f"{number}.png" for number in range(images)]
    return Record(id="a", status="ok", outputs=tuple(outputs), attempts=attempts, timings={"write": seconds})


def error(kind: str, attempts: int = 1) -> Record:
    return Record(id="a", status="error", error=kind, text="", attempts=attempts)


def test_numbers_of_a_run(monkeypatch):
    """Warm-up is up to the first image, and its images and seconds are in no rate."""
    clock = iter([110.0, 112.0, 114.0, 120.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    stats = RunStats(rows=9, before=2, began=100.0)
    assert stats.rate == 0
    stats.add(ok(2, 0.1))  # at 10 s
    assert (stats.rate, stats.first) == (0, 10)
    stats.add(error("io"))
    stats.add(ok(1, 0.3, attempts=3))  # at 12 s
    stats.add(error("memory", attempts=2))
    stats.add(Record(id="a", status="skipped", attempts=0))
    stats.add(Record(id="a", status="cancelled", error="cancelled"))
    assert stats.rate == 1 / 2
    stats.add(ok(3, 0.2))  # at 14 s
    stats.states = [
        WorkerState(evaluations=10, lane_rows=30, slots=4, memory=100.0),
        WorkerState(evaluations=5, lane_rows=12, slots=4, memory=300.5, device_memory=7.0),
    ]
    assert stats.to_dict() == {
        "rows": 9, "before": 2, "ok": 3, "error": 2, "skipped": 1, "cancelled": 1, "errors": {"io": 1, "memory": 1},
        "images": 6, "retries": 2 + 1 - 1, "restarts": 0, "stopped": "", "seconds": 20.0, "warm_up_seconds": 10.0,
        "images_per_second": 0.3, "batch_fill": 0.7, "peak_memory_mib": 300.5, "peak_device_memory_mib": 7.0,
        "stages": {"write": {"p50": 0.2, "p95": 0.3}}, "warnings": [],
    }  # fmt: skip
    assert (stats.failed, stats.finished, stats.done) == (2, 2 + 7, 7)


@pytest.mark.parametrize(
    ("images", "seconds", "steady"), [(4, 2.0, None), (400, 4.9, None), (31, 20, None), (400, 20, 20)]
)
def test_a_few_batches_have_no_rate_of_their_own(monkeypatch, images, seconds, steady):
    """Four images of one batch come together: their rate after the first would be that of writing files."""
    clock = iter([102.0, 102.0 + seconds, 102.0 + seconds])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    stats = RunStats(rows=2, began=100.0, states=[WorkerState(evaluations=1, lane_rows=4, slots=4, memory=1.0)] * 2)
    stats.add(ok(1, 0.1))
    stats.add(ok(images, 0.1))
    numbers = stats.to_dict()
    monkeypatch.undo()
    assert numbers["images_per_second"] == round((images + 1) / (2 + seconds), 3)
    assert numbers.get("images_per_second_after_warm_up") == steady
    assert problem_of(numbers) == ""
    assert "(20.00 after the first)" in run_as_text(numbers) or steady is None


def test_a_report_may_leave_the_rate_after_the_warm_up_out_but_not_make_it_up():
    numbers = RunStats().to_dict()
    assert problem_of(numbers) == ""
    assert problem_of(numbers | {"images_per_second_after_warm_up": 3.5}) == ""
    sentence = "images_per_second_after_warm_up cannot be 'fast'"
    assert problem_of(numbers | {"images_per_second_after_warm_up": "fast"}) == sentence


RANKS = [
    (1, 0.5, 1), (1, 0.95, 1), (2, 0.5, 1), (3, 0.5, 2), (20, 0.95, 19), (100, 0.95, 95), (7, 1.0, 7), (7, 0.0, 1),
]  # fmt: skip


@pytest.mark.parametrize(("count", "share", "rank"), RANKS)
def test_quantiles_are_by_nearest_rank(count, share, rank):
    assert quantile([float(number) for number in range(1, count + 1)], share) == rank


def test_a_second_attempt_is_made_alone():
    job = Job(number=3, id="a", outputs=("a.png",), fields={"seed": 1}, known="x", own=("a.png",))
    second = job.again("run alone")
    third = second.again()
    assert (second.attempt, second.alone, second.degraded) == (2, True, ("run alone",))
    assert (third.attempt, third.alone, third.degraded) == (3, True, ("run alone",))
    assert (third.number, third.id, third.outputs, third.fields, third.known, third.own) == (
        3, "a", ("a.png",), {"seed": 1}, "x", ("a.png",),
    )  # fmt: skip
    assert Job.from_json(third.to_json()) == third
    worker = WorkerProcess(index=0, device="cpu", process=None, capacity=8)
    worker.jobs[1] = job
    assert worker.room == 7
    worker.jobs = {1: second}
    assert worker.room == 0


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_number_is_cut_while_a_run_is_shown(width):
    stats = RunStats(rows=50_000)
    stats.states = [WorkerState(evaluations=3, lane_rows=20, slots=8, memory=12345.0)]
    stats.images, stats.first, stats.latest, stats.again = 1337, 2.0, 102.0, 12
    stats.status["error"] = 17
    for number, stage in enumerate(("resolve", "encode", "denoise", "decode", "paste", "safety", "write", "total")):
        stats.stages[stage] = array("d", [10.125 + number] * 20)

    shown = io.StringIO()
    Console(file=shown, width=width).print(numbers_of(stats))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    counts = ["17 failed", "13.37 images/s", "batches 83% full", "12 retries", "12345 MiB", "warm-up 2.0 s"]
    times = [f"{stage} {10.125 + number:.3f}/{10.125 + number:.3f}" for number, stage in enumerate(stats.stages)]
    for text in counts + times:
        assert sum(text in line for line in lines) == 1, text
    assert "…" not in shown.getvalue()
