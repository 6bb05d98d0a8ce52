"""A gate that holds the null session before each evaluation, until a test lets it through."""

from __future__ import annotations

import threading

import pytest

from intarsia.backends.null import NullSession

_SECONDS = 20


class StepGate:
    """Holds every evaluation of this process's null sessions. Closed at first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.changed = threading.Condition()
        self.allowed, self.arrived, self.is_open = 0, 0, False
        monkeypatch.setattr(NullSession, "advance", lambda session, steps: self._advance())

    def let(self, evaluations: int) -> None:
        """Let so many evaluations through, and return once the next one waits."""
        with self.changed:
            self.allowed += evaluations
            self.changed.notify_all()
        self.wait_for(self.allowed + 1)

    def open(self) -> None:
        """Hold nothing any more."""
        with self.changed:
            self.is_open = True
            self.changed.notify_all()

    def close(self) -> None:
        """Hold everything that arrives from now on."""
        with self.changed:
            self.is_open, self.allowed = False, self.arrived

    def wait_for(self, evaluations: int) -> None:
        """Return once that many evaluations have arrived here."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.arrived >= evaluations, _SECONDS)

    def _advance(self) -> None:
        with self.changed:
            self.arrived += 1
            number = self.arrived
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.is_open or number <= self.allowed, _SECONDS)
