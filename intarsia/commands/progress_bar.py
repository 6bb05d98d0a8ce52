"""A progress bar on standard error, where that is a terminal and ``-q`` is not given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from intarsia.commands.streams import is_quiet
from intarsia.errors import Cancelled

if TYPE_CHECKING:
    from intarsia.engine.result import Progress, Result

__all__ = ["progress_bar", "result_of"]


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[..., None]]:
    """A bar that is gone at the end. It is moved by what it yields: ``completed``, ``total`` and ``description``."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    is_shown = console.is_terminal and not is_quiet()
    with Bar(console=console, disable=not is_shown, transient=True) as bar:
        task = bar.add_task(what, total=None)

        def move(completed: float, total: float | None = None, description: str | None = None) -> None:
            bar.update(task, completed=completed, total=total, description=description)

        yield move


def result_of(events: Iterator[Progress | Result]) -> Result:
    """The result at the end of a request's events, whose steps move a bar."""
    from intarsia.engine.result import Progress, Result

    with progress_bar("denoising") as move:
        for event in events:
            if isinstance(event, Progress):
                move(event.step, event.steps)
            elif isinstance(event, Result):
                return event
    raise Cancelled("the request ended without a result")
