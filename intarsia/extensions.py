"""Extensions from outside the package: registered by a call, or found as entry points of installed distributions.

An entry point is imported only when its name is asked for. The package's own names always win, and one that fails to
load, or claims a name that is taken, harms nothing else.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from intarsia.errors import IntarsiaError, shown

__all__ = ["Extensions", "folded"]

log = logging.getLogger("intarsia")

_LONGEST = 80
"""Characters of a name: lists of names stand in error messages."""


def folded(name: str) -> str:
    """A name as it is compared: lower case, single spaces."""
    return " ".join(name.split()).lower()


class Extensions:
    """The extensions of one kind, by name.

    Args:
        group: of entry points, for example ``intarsia.schedulers``.
        kind: the noun of messages, for example ``scheduler``.
        taken: names of the package itself, which no extension may claim.
        error: makes an exception of the value that is refused and a sentence.
    """

    def __init__(
        self, group: str, kind: str, *, taken: Callable[[], Iterable[str]], error: Callable[[str, str], IntarsiaError]
    ) -> None:
        self._group, self._kind = group, kind
        self._taken, self._error = taken, error
        self._registered: dict[str, object] = {}
        self._loaded: dict[EntryPoint, object] = {}
        self._ignored: set[EntryPoint] = set()

    def register(self, name: str, target: object) -> None:
        """Make ``target``, or what a ``module:attribute`` string names, known as ``name`` in this process.

        Raises:
            IntarsiaError: a name that cannot be one, or that is taken.
        """
        if not isinstance(name, str) or not _is_name(name):
            sentence = f"a {self._kind}'s name must be 1 to {_LONGEST} printable characters, not {shown(name)}"
            raise self._error(str(name), sentence)

        if self._registered.get(name, self) == target:
            return  # the same again, as when a module is run twice
        if folded(name) in {folded(other) for other in (*self._taken(), *self.names())}:
            raise self._error(name, f"{self._kind} {name} cannot be registered: there is one of that name")

        self._registered[name] = target

    def names(self) -> tuple[str, ...]:
        """Names that are registered, then those of entry points; nothing is imported."""
        return (*self._registered, *sorted(self._claims()))

    def load(self, name: str) -> object | None:
        """What is known as exactly ``name``; None where nothing is.

        Raises:
            IntarsiaError: it cannot be imported, or several distributions claim the name.
        """
        if name in self._registered:
            return self._imported(name, self._registered[name])

        claims = self._claims().get(name, [])
        if not claims:
            return None
        if len(claims) > 1:
            owners = " and ".join(sorted(map(_owner, claims)))
            raise self._error(name, f"{self._kind} {name} is claimed by {owners}: uninstall one of them")
        return self._load_entry_point(claims[0])

    def origin(self, name: str) -> str:
        """Where ``name`` comes from, for messages: ``" of distribution x"``, or nothing."""
        claims = [] if name in self._registered else self._claims().get(name, [])
        return f" of {_owner(claims[0])}" if claims else ""

    def _imported(self, name: str, target: object) -> object:
        """A registered target, imported where it is a ``module:attribute`` string."""
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as exc:  # a module may raise anything as it is imported
            raise self._error(name, f"{self._kind} {name} cannot be loaded: {_reason(exc)}") from exc

    def _load_entry_point(self, point: EntryPoint) -> object:
        if point not in self._loaded:
            try:
                self._loaded[point] = point.load()
            except (Exception, SystemExit) as exc:  # a module may raise anything as it is imported
                sentence = f"{self._kind} {point.name} of {_owner(point)} cannot be loaded: {_reason(exc)}"
                raise self._error(point.name, sentence) from exc
        return self._loaded[point]

    def _claims(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name, without those that claim a name that is taken: these are logged once."""
        taken = {folded(name) for name in (*self._taken(), *self._registered)}
        claims: dict[str, list[EntryPoint]] = {}

        for point in _entry_points(self._group, tuple(sys.path)):
            if folded(point.name) in taken or not _is_name(point.name):
                self._ignore(point)
            else:
                claims.setdefault(point.name, []).append(point)
        return claims

    def _ignore(self, point: EntryPoint) -> None:
        if point in self._ignored:
            return
        self._ignored.add(point)
        reason = "there is one of that name" if _is_name(point.name) else "that cannot be a name"
        log.warning("%s %s of %s is ignored: %s", self._kind, shown(point.name), _owner(point), reason)


@lru_cache(maxsize=8)
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Entry points of what is installed on ``path``, which is ``sys.path``: reading them takes milliseconds."""
    try:
        return tuple(entry_points(group=group))
    except Exception as exc:  # noqa: BLE001 - one damaged file of metadata is enough
        log.warning("entry points of %s cannot be read, and are ignored: %s", group, _reason(exc))
        return ()


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST and name.isprintable() and name == name.strip()


def _owner(point: EntryPoint) -> str:
    return f"distribution {point.dist.name}" if point.dist is not None else "a distribution without a name"


def _reason(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
