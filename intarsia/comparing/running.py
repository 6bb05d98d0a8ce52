"""Running a comparison on an engine: one request for each cell, submitted together, so that they share evaluations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from intarsia.comparing.axes import Axis, combined, with_seeds
from intarsia.comparing.comparison import Cell, Comparison
from intarsia.comparing.difference import Painted, difference
from intarsia.comparing.flight import Flight
from intarsia.comparing.grid import check_size, thumbnail
from intarsia.engine.engine import Engine
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Counters, Result
from intarsia.engine.ticket import Ticket
from intarsia.errors import IntarsiaError, one_line
from intarsia.images.encode import SaveOptions
from intarsia.images.output_names import output_paths
from intarsia.images.save import check_outputs, save_all
from intarsia.images.sources import is_address, open_image, read_source

__all__ = ["MOST_PIXELS", "Settings", "run_comparison"]

MOST_PIXELS = 192 * 1024 * 1024
"""Pixels of input images in flight together: about 2 GB with their masks and results."""

_IMAGES = ("init_image", "mask_image")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a comparison is run, beside its requests.

    Attributes:
        cell_size: pixels of a cell's longer side in the grid, 64 … 1024.
        keep: folder for the images at full size, ``cell-01.png`` and so on; None keeps thumbnails alone.
        overwrite: replace files in that folder.
        watch: as of :class:`Flight`.
        note_kept: called with the paths of a cell's images once they are written.
    """

    cell_size: int = 256
    keep: str | os.PathLike[str] | None = None
    overwrite: bool = False
    watch: Callable[[float, int], None] | None = None
    note_kept: Callable[[Sequence[Path]], object] | None = None


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A cell before it is run."""

    id: str
    fields: Mapping[str, Any]
    request: InpaintRequest
    outputs: Sequence[Path]


def run_comparison(
    engine: Engine, fields: Mapping[str, Any], axes: Sequence[Axis], settings: Settings = Settings()
) -> Comparison:
    """Run every combination of the axes' values and put the comparison together.

    A cell that fails says so in the comparison, and the others are there all the same.

    Args:
        fields: of the request, those that all cells have.

    Raises:
        RequestError: a value that no request takes, too many cells, or a cell size that is out of bounds.
        OutputError: a file that cannot be written, or is there already.
        IntarsiaError: every cell has failed; the first one's error.
    """
    shared, settled = with_seeds(fields, axes)
    planned = _planned(combined(shared, settled), settings)
    requests = _fetched([each.request for each in planned], engine)
    most = _most_in_flight(requests, engine)

    before, began = engine.counters, time.perf_counter()
    flight = Flight(engine, requests, most, settings.watch)
    try:
        cells = _collected(flight, planned, settings)
    finally:
        flight.cancel()

    return Comparison(
        axes=settled,
        cells=tuple(cells),
        shared=shared,
        cell_size=settings.cell_size,
        counters=_since(before, engine.counters),
        seconds=time.perf_counter() - began,
    )


def _planned(cells: Sequence[Mapping[str, Any]], settings: Settings) -> list[_Planned]:
    """The cells with their requests; refuses what can be refused before anything is computed."""
    check_size(len(cells), settings.cell_size)
    digits = max(2, len(str(len(cells))))
    planned = []
    for number, fields in enumerate(cells, 1):
        identifier, request = f"cell-{number:0{digits}d}", InpaintRequest(**fields)
        outputs: Sequence[Path] = ()
        if settings.keep is not None:
            outputs = output_paths(identifier, settings.keep, request.samples)
        planned.append(_Planned(id=identifier, fields=fields, request=request, outputs=outputs))

    check_outputs((path for each in planned for path in each.outputs), overwrite=settings.overwrite)
    return planned


def _fetched(requests: Sequence[InpaintRequest], engine: Engine) -> list[InpaintRequest]:
    """The same requests, with each image at an address fetched once for all of them."""
    fetched: dict[str, Any] = {}
    changed = []
    for request in requests:
        contents = {}
        for name in _IMAGES:
            value = getattr(request, name)
            if is_address(value):
                if value not in fetched:
                    fetched[value] = read_source(name, value, engine.access).content
                contents[name] = fetched[value]
        changed.append(request.model_copy(update=contents))
    return changed


def _most_in_flight(requests: Sequence[InpaintRequest], engine: Engine) -> int:
    """How many requests are in flight together: all of them, or fewer where the image is large."""
    first = next((request.init_image for request in requests if request.init_image is not None), None)
    if first is None:
        return len(requests)  # each is refused, in the words of a request
    width, height = open_image("init_image", first, engine.access).size
    return max(2, MOST_PIXELS // (width * height))


def _collected(flight: Flight, planned: Sequence[_Planned], settings: Settings) -> list[Cell]:
    """The cells in their order, each as soon as it is done; raises the first one's error where all have failed."""
    cells: list[Cell] = []
    errors: list[BaseException] = []
    first: Painted | None = None

    for plan in planned:
        outcome = flight.next()
        error = outcome.exception() if isinstance(outcome, Ticket) else outcome
        if error is not None:
            errors.append(error)
            cells.append(Cell(id=plan.id, fields=plan.fields, error=_sentence(error)))
            continue

        assert isinstance(outcome, Ticket)
        painted = _painted(outcome)
        if plan is planned[0]:
            first = painted
        cells.append(_cell(plan, outcome.result(), painted, first, settings))

    if len(errors) == len(cells):
        raise errors[0]
    return cells


def _cell(plan: _Planned, result: Result, painted: Painted, first: Painted | None, settings: Settings) -> Cell:
    warnings = _keep(result, plan.outputs, settings)
    return Cell(
        id=plan.id,
        fields=plan.fields,
        thumbnails=tuple(thumbnail(image, settings.cell_size) for image in result.images),
        seeds=result.seeds,
        evaluations=result.plan.sampler.evaluations,
        timings=result.timings,
        difference=difference(first, painted) if first else None,
        warnings=(*result.warnings, *warnings),
        meta=result.meta,
        outputs=tuple(map(str, plan.outputs)),
    )


def _painted(ticket: Ticket) -> Painted:
    rgb = np.asarray(ticket.result().images[0].convert("RGB"))
    return Painted(rgb, ticket.resolved.canvas.touched())


def _keep(result: Result, paths: Sequence[Path], settings: Settings) -> tuple[str, ...]:
    """Write the images at full size, with what they were made by; returns warnings."""
    if not paths:
        return ()
    texts = [result.file_texts(sample) for sample in range(len(paths))]
    options = SaveOptions(overwrite=settings.overwrite)
    warnings = save_all(list(zip(result.images, paths, strict=True)), texts, options)
    if settings.note_kept is not None:
        settings.note_kept(paths)
    return warnings


def _sentence(error: BaseException) -> str:
    """One line; a foreign error with its type."""
    if isinstance(error, IntarsiaError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}"


def _since(before: Counters, after: Counters) -> Counters:
    """What was evaluated in between."""
    return Counters(after.evaluations - before.evaluations, after.lane_rows - before.lane_rows, after.slots)
