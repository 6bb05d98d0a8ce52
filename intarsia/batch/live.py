"""Progress of a run or of a check: on a terminal a bar with counts, rate and stages, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from intarsia.batch.ledger.progress import Progress, RateMeter
from intarsia.batch.ledger.run_stats import RunStats, quantile
from intarsia.batch.ticker import Ticker
from intarsia.counted import counted

__all__ = ["CheckDisplay", "Display", "ProgressLines"]

_SECONDS_BETWEEN = 0.5
_LATEST_ROWS = 500


class ProgressLines:
    """A line of progress every so many seconds, also where nothing has happened in between.

    Args:
        say: takes a line.
        failures: see :meth:`intarsia.batch.ledger.progress.Progress.line`.
    """

    def __init__(self, say: Callable[[str], None], seconds: float, failures: str = "failed") -> None:
        self._say = say
        self._failures = failures
        self._meter = RateMeter()
        self._latest: tuple[Progress, int] | None = None
        self._ticker = Ticker(self._tick, seconds)

    def __enter__(self) -> Self:
        self._ticker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.__exit__(kind, error, trace)

    def show(self, progress: Progress, done: int) -> None:
        """What the next line says; ``done`` are the finished rows that count for the rate."""
        self._latest = progress, done

    def _tick(self) -> None:
        latest = self._latest
        if latest is None:
            return
        progress, done = latest
        self._say(replace(progress, rate=self._meter.add(done)).line(self._failures))


class Display:
    """Shows :class:`RunStats`: on standard error where that is a terminal, else as lines.

    Args:
        lines: for what is no terminal; None shows nothing there.
        is_shown: False shows nothing at all.
    """

    def __init__(self, *, lines: ProgressLines | None = None, is_shown: bool = True) -> None:
        console = Console(stderr=True)
        self._bar, self._task = _bar(console)
        self._live: Live | None = None
        self._lines: ProgressLines | None = None
        if is_shown and console.is_terminal:
            self._live = Live(console=console, transient=True, auto_refresh=False)
        elif is_shown:
            self._lines = lines
        self._shown_at = 0.0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(self._live or self._lines or nullcontext())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(self, stats: RunStats) -> None:
        """Show the numbers, at most twice a second."""
        if self._lines is not None:
            counts = Progress(rows=stats.rows, finished=stats.finished, failed=stats.failed)
            self._lines.show(counts, stats.done)

        now = time.monotonic()
        if self._live is None or now - self._shown_at < _SECONDS_BETWEEN:
            return

        self._shown_at = now
        self._bar.update(self._task, completed=stats.finished, total=stats.rows)
        self._live.update(Group(self._bar, numbers_of(stats)), refresh=True)


class CheckDisplay:
    """Shows how far a check of rows is, in the same two ways."""

    def __init__(self, *, lines: ProgressLines, is_shown: bool = True) -> None:
        console = Console(stderr=True)
        self._bar, self._task = _bar(console)
        self._lines = lines
        self._shown: AbstractContextManager[object] = nullcontext()
        if is_shown:
            self._shown = self._bar if console.is_terminal else lines

    def __enter__(self) -> Self:
        self._shown.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown.__exit__(kind, error, trace)

    def __call__(self, progress: Progress) -> None:
        """Show the numbers."""
        self._bar.update(self._task, completed=progress.finished, total=progress.rows)
        self._lines.show(progress, progress.finished)


def _bar(console: Console) -> tuple[Bar, TaskID]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=console, transient=True)
    return bar, bar.add_task("rows", total=None)


def numbers_of(stats: RunStats) -> Group:
    """The numbers below the bar, as many in a line as fit: none is cut at any usual width."""
    memory = max((state.memory for state in stats.states), default=0.0)
    counts = (
        f"{stats.failed:,} failed",
        f"{stats.rate:.2f} images/s",
        f"batches {stats.fill:.0%} full",
        counted(stats.again, "retry", "retries"),
        f"{memory:.0f} MiB",
        f"warm-up {stats.first or 0.0:.1f} s",
    )
    lines = [Columns(counts, padding=(0, 2))]
    stages = _stages(stats)
    if stages:
        lines.append(Columns(["seconds, median/95 %:", *stages], padding=(0, 2)))
    return Group(*lines)


def _stages(stats: RunStats) -> list[str]:
    """Median and 95th percentile of each stage's seconds, over the latest rows."""
    cells: list[str] = []
    for stage, times in stats.stages.items():
        if not times:
            continue
        latest = sorted(times[-_LATEST_ROWS:])
        median, high = quantile(latest, 0.5), quantile(latest, 0.95)
        cells.append(f"{stage} {median:.3f}/{high:.3f}")
    return cells
