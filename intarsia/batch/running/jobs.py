"""A job: one row to be run, and what earlier runs left of it. Plain JSON both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from intarsia.batch.manifest.rows import Row

__all__ = ["Job"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row to be run.

    Attributes:
        number: of the row's line in the manifest.
        attempt: 1 the first time; 0 where the row was not begun.
        known: the latest successful line's ``spec_hash``, where its outputs are all there; the input files have
            changed since, so only reading them can tell whether the row is done. "" where nothing is known.
        alone: nothing else may be in flight beside it.
        degraded: what was done otherwise than requested, for the row's line of results.
        own: outputs that earlier runs wrote, or set out to write, for this very row; they may be replaced.
        notes: warnings for the row's line of results.
        paths: of images, by field, for the files of results, in place of the absolute ones.
    """

    number: int
    id: str
    outputs: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    known: str = ""
    attempt: int = 1
    alone: bool = False
    degraded: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Row, known: str = "", own: tuple[str, ...] = ()) -> Self:
        """The first attempt at a row."""
        return cls(
            number=row.number,
            id=row.id,
            outputs=row.outputs,
            fields=row.fields,
            known=known,
            own=own,
            notes=row.notes,
            paths=row.paths,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The job that :meth:`to_json` gave, also after a way through JSON."""
        lists = {name: tuple(values[name]) for name in ("outputs", "degraded", "own", "notes")}
        return cls(**{**values, **lists})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        return dict(vars(self))

    def again(self, degraded: str = "") -> Self:
        """The next attempt, alone, so that whatever happens is caused by this row."""
        notes = (*self.degraded, degraded) if degraded else self.degraded
        return replace(self, attempt=self.attempt + 1, alone=True, degraded=notes)
