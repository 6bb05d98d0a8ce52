"""Progress of a run on a terminal: counts, rate, stages."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from intarsia.batch.ledger.run_stats import RunStats, quantile

__all__ = ["Display"]

_SECONDS_BETWEEN = 0.5
_LATEST_ROWS = 500


class Display:
    """Shows :class:`RunStats` on standard error, where that is a terminal; else, or unasked, nothing at all."""

    def __init__(self, *, is_shown: bool = True) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())

        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("rows", total=None)
        self._live: Live | None = None
        if console.is_terminal and is_shown:
            self._live = Live(console=console, transient=True, auto_refresh=False)
        self._shown_at = 0.0

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
        if self._live is None or now - self._shown_at < _SECONDS_BETWEEN:
            return

        self._shown_at = now
        self._bar.update(self._task, completed=stats.finished, total=stats.rows)
        self._live.update(Group(self._bar, numbers_of(stats)), refresh=True)


def numbers_of(stats: RunStats) -> Group:
    """The numbers below the bar, as many in a line as fit: none is cut at any usual width."""
    memory = max((state.memory for state in stats.states), default=0.0)
    counts = (
        f"{stats.failed} failed",
        f"{stats.rate:.2f} images/s",
        f"batches {stats.fill:.0%} full",
        f"{stats.again} retries",
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
