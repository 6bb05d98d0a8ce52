"""Progress of a run on a terminal: counts, rate, stages."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from intarsia.batch.ledger.run_stats import RunStats, quantile

__all__ = ["Display"]

_SECONDS = 0.5
_LATEST = 500


class Display:
    """Shows a :class:`RunStats` on standard error, where that is a terminal; else nothing at all."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self._task = self._bar.add_task("rows", total=None)
        self._live = Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, stats: RunStats) -> None:
        """Show the numbers, at most twice a second."""
        now = time.monotonic()
        if self._live is None or now - self._shown < _SECONDS:
            return
        self._shown = now
        self._bar.update(self._task, completed=stats.finished, total=stats.rows)
        self._live.update(Group(self._bar, _grid(stats)), refresh=True)


def _grid(stats: RunStats) -> Table:
    memory = max((state.get("memory", 0.0) for state in stats.states), default=0.0)
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        f"{stats.failed} failed",
        f"{stats.rate:.2f} pictures/s",
        f"batches {stats.fill:.0%} full",
        f"{stats.again} retries",
        f"{memory:.0f} MiB",
        f"warm-up {stats.first or 0.0:.1f} s",
    )
    latest = {stage: sorted(times[-_LATEST:]) for stage, times in stats.stages.items() if times}
    spread = (f"{stage} {quantile(each, 0.5):.3f}/{quantile(each, 0.95):.3f}" for stage, each in latest.items())
    grid.add_row(*spread)
    return grid
