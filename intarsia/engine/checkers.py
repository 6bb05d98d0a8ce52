"""A request's safety checker: found in the registry, opened before anything is computed, kept open."""

from __future__ import annotations

from intarsia.backends.protocol import Backend, Checker
from intarsia.engine.request import InpaintRequest
from intarsia.errors import WeightsError
from intarsia.registry.files import check, locate
from intarsia.registry.registry import ModelEntry, PartEntry, Registry

__all__ = ["Checkers", "find_checker"]

# More are closed, the longest unused first; what still needs one opens it again.
OPEN_CHECKERS = 2


def find_checker(request: InpaintRequest, model: ModelEntry, registry: Registry) -> PartEntry | None:
    """The model's checker if the request asks for one. A checker that is not there is an error, never "off".

    Raises:
        WeightsError: the model names no checker, the registry does not have it, it is for other families, or its
            folder is not there.
    """
    if not request.safety_checker:
        return None
    if not model.safety:
        raise WeightsError(
            f"safety_checker: no checker is installed for {model.id}; install one (a [safety.<id>] entry in "
            f'weights.toml, and safety = "<id>" in the entry of {model.id}), or turn safety_checker off'
        )
    entry = registry.part("safety", model.safety)
    if entry.families and model.family not in entry.families:
        fits = ", ".join(entry.families)
        raise WeightsError(f"safety checker {entry.id} fits the families {fits}, not {model.family} of {model.id}")
    locate(entry)
    return entry


class Checkers:
    """The checkers that are open on one backend, by the hash of their content. For the engine's thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._open: dict[str, Checker] = {}

    def get(self, entry: PartEntry, sha256: str) -> Checker:
        """The opened checker; WeightsError or BackendError where it cannot be opened."""
        checker = self._open.pop(sha256, None)
        if checker is None:
            folder = check(entry)
            while len(self._open) >= OPEN_CHECKERS:
                self._open.pop(next(iter(self._open))).close()
            checker = self._backend.open_checker(folder)
        self._open[sha256] = checker  # last is the most recently used
        return checker

    def close(self) -> None:
        """Close all of them."""
        for checker in self._open.values():
            checker.close()
        self._open.clear()
