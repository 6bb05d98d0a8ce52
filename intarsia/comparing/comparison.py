"""``Comparison``: what a comparison came to, as a grid, a table, and a manifest that a batch runs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from intarsia.comparing.axes import Axis, label_of, plain
from intarsia.comparing.difference import Difference
from intarsia.comparing.grid import draw_grid
from intarsia.engine.representations import brief, images_as_html
from intarsia.engine.request import InpaintRequest
from intarsia.engine.result import Counters
from intarsia.errors import RequestError

__all__ = ["Cell", "Comparison"]

_IMAGES = ("init_image", "mask_image")
_LONGEST_PATH = 4096
_SIDE_IN_NOTEBOOK = 1600
_SECONDS = {"encode": "seconds_encode", "denoise": "seconds_denoise_shared", "decode": "seconds_decode"}
"""Stage of a result's timings → column. Evaluations are shared with other cells, and so is the time that they take."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One request of a comparison and what came of it.

    Attributes:
        id: ``cell-01`` and so on; the row's in the manifest.
        fields: of the request, as they were given, with its seed.
        error: why it failed; "" where it did not.
        thumbnails: its images at the grid's size.
        seeds: one for each image.
        evaluations: of the network, for one image; the figure by which the work of cells compares.
        timings: as of :class:`intarsia.Result`, in a batch that other cells shared.
        difference: of its first image to that of the first cell; None where there is nothing to compare.
        warnings: as of the result.
        meta: as of the result; empty where it failed.
        outputs: files of its images at full size, where they are kept.
    """

    id: str
    fields: Mapping[str, Any]
    error: str = ""
    thumbnails: tuple[Image.Image, ...] = ()
    seeds: tuple[int, ...] = ()
    evaluations: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    difference: Difference | None = None
    warnings: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()

    def to_dict(self, axes: tuple[Axis, ...]) -> dict[str, Any]:
        """Plain values; a PSNR of equal images, which is infinite, is None, as JSON has no such number."""
        found = self.difference
        psnr = found.psnr if found and math.isfinite(found.psnr) else None
        return {
            "id": self.id,
            "values": {axis.name: _shown(axis.name, self.fields[axis.name]) for axis in axes},
            "status": "failed" if self.error else "ok",
            "error": self.error or None,
            "seeds": list(self.seeds),
            "evaluations": self.evaluations,
            "timings": dict(self.timings),
            "psnr": psnr,
            "mean_absolute": found.mean_absolute if found else None,
            "warnings": list(self.warnings),
            "meta": dict(self.meta),
            "output": list(self.outputs),
        }


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """Every combination of some fields' values over one image, run as one mixed batch.

    Attributes:
        axes: the fields that were compared; the last goes across in the grid, the one before it down.
        cells: one for each combination, the last axis changing first.
        shared: the fields that all cells have.
        cell_size: pixels of a cell's longer side in the grid.
        counters: what the engine evaluated meanwhile, for other callers too: ``lane_rows`` images in ``evaluations``
            batches of up to ``slots``.
        seconds: from the first request to the last image.
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    shared: Mapping[str, Any]
    cell_size: int
    counters: Counters
    seconds: float

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The cells that have no image."""
        return tuple(cell for cell in self.cells if cell.error)

    def grid(self) -> Image.Image:
        """The images with their labels, RGB; a cell that failed says why."""
        tiles = [cell.error or cell.thumbnails for cell in self.cells]
        drawn = draw_grid(self.axes, tiles, caption=self._caption(), cell_size=self.cell_size)
        profiles = [image.info.get("icc_profile") for cell in self.cells for image in cell.thumbnails]
        if any(profiles):
            drawn.info["icc_profile"] = next(filter(None, profiles))
        return drawn

    def csv(self) -> str:
        """A line for each cell: the axes' values, the other fields that were given, what came of it, the differences.

        ``seconds_denoise_shared`` is the time between a cell's first and last evaluation, in which others were
        evaluated with it: it says nothing about a cell alone. ``evaluations`` does.
        """
        others = [name for name in self.shared if name not in _IMAGES]
        names = [*(axis.name for axis in self.axes), *others]
        columns = ["cell", *names, "status", "error", "seeds", "evaluations", *_SECONDS.values()]
        columns += ["psnr", "mean_absolute", "warnings", "output"]

        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        for cell in self.cells:
            writer.writerow([cell.id, *(_cell_text(name, cell.fields[name]) for name in names), *_outcome(cell)])
        return text.getvalue()

    def manifest(self) -> str:
        """The cells as rows that ``intarsia batch run`` takes: JSON Lines, each with its id and its seed.

        Raises:
            RequestError: an image was given as pixels or as bytes: a row takes its path, its URL or its base64.
        """
        return "".join(json.dumps(_row(cell), ensure_ascii=False) + "\n" for cell in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "axes": {axis.name: [_shown(axis.name, value) for value in axis.values] for axis in self.axes},
            "shared": {name: _shown(name, value) for name, value in self.shared.items()},
            "cells": [cell.to_dict(self.axes) for cell in self.cells],
            "evaluations": self.counters.evaluations,
            "lane_rows": self.counters.lane_rows,
            "slots": self.counters.slots,
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        sizes = " x ".join(f"{len(axis.values)} {axis.name}" for axis in self.axes)
        counts = f"cells={len(self.cells)}, failed={len(self.failed)}, evaluations={self.counters.evaluations}"
        return f"Comparison({sizes}, {counts}, seconds={self.seconds:.2f})"

    def _repr_html_(self) -> str:
        """In a notebook: the grid."""
        return images_as_html([self.grid()], [repr(self)], _SIDE_IN_NOTEBOOK)

    def _caption(self) -> str:
        """What is the same in all cells, in short."""
        shown = {name: value for name, value in self.shared.items() if name not in _IMAGES and value not in (None, "")}
        prompt = shown.pop("prompt", "")
        parts = [f"“{prompt}”"] if prompt else []
        return " · ".join([*parts, *(f"{name} {label_of(value)}" for name, value in shown.items())])


def _outcome(cell: Cell) -> list[Any]:
    """The columns behind the fields."""
    seconds = [f"{cell.timings[stage]:.4f}" if stage in cell.timings else "" for stage in _SECONDS]
    found = cell.difference
    distances = [f"{found.psnr:.3f}", f"{found.mean_absolute:.4f}"] if found else ["", ""]
    status = "failed" if cell.error else "ok"
    seeds = " ".join(map(str, cell.seeds))
    evaluations = "" if cell.error else cell.evaluations
    texts = ["; ".join(cell.warnings), " ".join(cell.outputs)]
    return [status, cell.error, seeds, evaluations, *seconds, *distances, *texts]


def _shown(name: str, value: Any) -> Any:
    """A value for JSON; of an image that is written out in text only the beginning."""
    value = plain(value)
    is_long = name in _IMAGES and isinstance(value, str) and len(value) > _LONGEST_PATH
    return brief(value) if is_long else value


def _cell_text(name: str, value: Any) -> Any:
    shown = _shown(name, value)
    return shown if isinstance(shown, str | int | float) and not isinstance(shown, bool) else json.dumps(shown)


def _row(cell: Cell) -> dict[str, Any]:
    """The cell's request as a row; what is at none is left out, as rows leave it out."""
    request = InpaintRequest(**cell.fields)
    row: dict[str, Any] = {"id": cell.id}
    for name in cell.fields:
        if name in _IMAGES:
            value: Any = _located(name, getattr(request, name))
        elif name == "ip_adapter" and request.ip_adapter is not None:
            adapter = request.ip_adapter
            image = _located("ip_adapter.image", adapter.image)
            value = {"id": adapter.id, "scale": adapter.scale, "image": image}
        else:
            value = request.model_dump(mode="json", include={name})[name]
        if value is not None:
            row[name] = value
    return row


def _located(name: str, value: Any) -> str | None:
    """An image as a row has it: the absolute path of a file, or the text that it was given as."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if text is None:
        return None
    if not isinstance(text, str):
        message = f"{name} was given as {brief(value)}: a manifest takes a path, a URL or base64"
        raise RequestError(name, message=message)
    is_file = len(text) <= _LONGEST_PATH and "\0" not in text and os.path.isfile(text)
    return os.path.abspath(text) if is_file else text
