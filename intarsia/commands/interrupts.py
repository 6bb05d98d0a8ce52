"""Interrupts of the command line: SIGTERM counts like SIGINT, and the message names the files that were written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from intarsia.errors import Cancelled

__all__ = ["held", "interruptible", "take_sigterm"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def take_sigterm() -> None:
    """Make SIGTERM an interrupt, where it has no other handler."""
    if _is_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)


@contextlib.contextmanager
def interruptible() -> Iterator[list[Path]]:
    """A block whose interrupt becomes Cancelled; it says which files were written by then: those put into the list."""
    written: list[Path] = []
    try:
        yield written
    except KeyboardInterrupt as exc:
        what = ", ".join(map(str, written)) or "nothing"
        raise Cancelled(f"interrupted; {what} {'were' if len(written) > 1 else 'was'} written") from exc


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A block that ends before an interrupt is raised, so that files and what is noted of them agree.

    A second interrupt is raised at once, as a disk may hang; further ones do not disturb what is then taken back.
    """
    if not _is_main_thread():  # which alone is interrupted
        yield
        return
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) == 2:
            raise KeyboardInterrupt

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    replaced = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in replaced:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
