"""One row of a manifest as it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from intarsia.batch.ledger.error_kinds import ErrorKind
from intarsia.engine.request import InpaintRequest

__all__ = ["KEYS", "Line"]

KEYS = frozenset({"id", "output", *InpaintRequest.model_fields})
"""What a row may hold."""


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        number: of the line in the file, from 1; of the row in a Parquet file.
        fields: what it holds; empty where ``problem`` says why it cannot be read.
        error: the class of the problem.
        notes: what is to be said about it in its results, where it is run.
    """

    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    error: ErrorKind = "param"
    notes: tuple[str, ...] = ()
