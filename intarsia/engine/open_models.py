"""Sessions and safety checkers that are open on one backend, kept for the requests that come next."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace

from intarsia.backends.protocol import Adapts, Backend, Checker, ModelFiles, Prepares, Session, Weighs
from intarsia.engine.parts import model_files
from intarsia.engine.plan import ModelPlan
from intarsia.engine.resolve import Resolved
from intarsia.lru import Lru
from intarsia.registry.files import check

__all__ = ["OpenModels"]

# Sessions kept open, one for each model with its parts. More are closed, the least recently used first, as soon as no
# lane needs them.
_SESSIONS = 2
# Bytes of weights up to which one network is kept open twice, with other LoRAs or another VAE: what changes between two
# of them is quick then. Of larger ones the old session is closed before the new one is opened, which takes no more
# memory than the first did.
_TWICE = 2**30
# Checkers kept open; a request that needs another opens it again.
_CHECKERS = 2


class OpenModels:
    """Opens models and checkers, and closes the least recently used. For the engine's thread alone."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sessions: Lru[ModelPlan, Session] = Lru(None, on_evict=lambda session: session.close())
        self._checkers: Lru[str, Checker] = Lru(_CHECKERS, on_evict=lambda checker: checker.close())

    def prepare(self) -> None:
        """Get the backend ready to open models, where that takes work of its own."""
        if isinstance(self._backend, Prepares):
            with suppress(Exception):  # opening meets the same, and reports it through the request
                self._backend.prepare()

    def session(self, resolved: Resolved, in_use: Collection[ModelPlan]) -> Session:
        """The session of a request's model.

        Args:
            in_use: models that lanes need; their sessions are neither changed nor closed.

        Raises:
            WeightsError, BackendError: the model cannot be opened.
        """
        model = resolved.plan.model
        session = self._sessions.get(model)
        if session is not None:
            return session

        files = model_files(resolved.entry, resolved.parts, self.prepare)
        session = self._adapted(model, files, in_use)
        if session is None:
            self._make_room(model, in_use)
            session = self._backend.open(files)
        self._sessions.put(model, session)
        return session

    def checker(self, resolved: Resolved) -> Checker | None:
        """The request's safety checker; None only where the request asks for none.

        Raises:
            WeightsError, BackendError: it cannot be opened.
        """
        if resolved.checker is None:
            return None
        sha256 = resolved.plan.safety_sha256
        checker = self._checkers.get(sha256)
        if checker is None:
            folder = check(resolved.checker)
            self._checkers.make_room()
            checker = self._backend.open_checker(folder)
            self._checkers.put(sha256, checker)
        return checker

    def close(self) -> None:
        """Close every session and checker."""
        self._sessions.clear()
        self._checkers.clear()

    def _adapted(self, model: ModelPlan, files: ModelFiles, in_use: Collection[ModelPlan]) -> Session | None:
        """An idle session of the same model with other LoRAs, changed to these; None where there is none."""
        for key in self._idle(in_use):
            session = self._sessions.peek(key)
            is_same_model = replace(key, adapters=()) == replace(model, adapters=())
            if is_same_model and isinstance(session, Adapts) and session.adapt(files):
                return self._sessions.pop(key)
        return None

    def _make_room(self, model: ModelPlan, in_use: Collection[ModelPlan]) -> None:
        """Close what is not to be open beside one more session."""
        for key in self._idle(in_use):
            session = self._sessions.peek(key)
            is_large = isinstance(session, Weighs) and session.weight_bytes > _TWICE
            if is_large and key.sha256 == model.sha256:
                self._sessions.evict(key)

        surplus = len(self._sessions) - _SESSIONS + 1
        for key in self._idle(in_use)[: max(0, surplus)]:
            self._sessions.evict(key)

    def _idle(self, in_use: Collection[ModelPlan]) -> list[ModelPlan]:
        """Models that no lane needs, the least recently used first."""
        return [key for key in self._sessions if key not in in_use]
