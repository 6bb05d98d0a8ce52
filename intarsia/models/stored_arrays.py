"""Stored tensors as arrays of numpy, which has neither bfloat16 nor numbers of eight bits. Nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from intarsia.checkpoints.header import Header
from intarsia.checkpoints.stored import Place, StoredNetwork
from intarsia.errors import WeightsError, one_line

__all__ = ["as_numbers", "stored_arrays", "stored_shapes"]

# Number formats that numpy has.
_NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
}  # fmt: skip
# How those that it has not are read.
_OTHERS = {"BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1"}


def stored_arrays(places: Mapping[str, Place], headers: Mapping[Path, Header]) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors one after the other: of numbers with a fraction in float32, others as they are stored.

    Raises:
        WeightsError: a file that is missing or has changed, values of a type that is not known, or that are not finite.
    """
    for name, place in places.items():
        yield name, _read(headers[place.file], place)


def stored_shapes(network: StoredNetwork) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors by their names; nothing is read."""
    shapes = {}
    for name, place in network.places.items():
        shape = _shape(network.headers[place.file], place)
        shapes[name] = shape[::-1] if place.transposed else shape
    return shapes


def _shape(header: Header, place: Place) -> tuple[int, ...]:
    """As it is stored, but for the rows that are others'."""
    shape = header.tensors[place.name].shape
    if place.rows is None:
        return shape
    first, end = place.rows
    return (end - first, *shape[1:])


def _read(header: Header, place: Place) -> np.ndarray:
    stored = header.tensors[place.name]
    kind = _NUMPY.get(stored.dtype) or _OTHERS.get(stored.dtype)
    if kind is None:
        raise WeightsError(f"{header.path}: {place.name}: values of type {stored.dtype} are not supported")

    shape = _shape(header, place)
    start = stored.start
    if place.rows is not None:
        start += place.rows[0] * ((stored.end - stored.start) // stored.shape[0])
    values = as_numbers(_content(header, start, shape, kind), stored.dtype)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise WeightsError(f"{header.path}: {place.name} has values that are not finite")

    if place.flattened:
        values = values.reshape(len(values), -1)
    return values.T if place.transposed else values


def _content(header: Header, start: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Numbers of a file, which must be the one whose header was read."""
    count = int(np.prod(shape, dtype=np.int64))
    try:
        with header.path.open("rb") as file:
            found = os.fstat(file.fileno())
            values = np.fromfile(file, kind, count, offset=start)
    except OSError as exc:
        raise WeightsError(f"{header.path}: cannot be read: {one_line(exc)}") from exc
    if (found.st_size, found.st_mtime_ns) != (header.size, header.changed_ns) or values.size != count:
        raise WeightsError(f"{header.path}: changed while it was read")
    return values.reshape(shape)


def as_numbers(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values of a type that safetensors has, of which numpy may have the bits alone, as :func:`stored_arrays`."""
    if dtype == "BF16":
        # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    if dtype == "F8_E5M2":
        # the upper half of a float16
        return (values.astype("<u2") << 8).view("<f2").astype(np.float32)
    if dtype == "F8_E4M3":
        numbers: np.ndarray = _E4M3[values]
        return numbers
    return values.astype(np.float32, copy=False) if values.dtype.kind == "f" else values


def _e4m3() -> np.ndarray:
    """The number of each byte (Micikevicius et al. 2022, "FP8 formats for deep learning", section 3)."""
    codes = np.arange(256)
    exponents, fractions = codes >> 3 & 15, codes & 7
    normal = np.ldexp(1 + fractions / 8, exponents - 7)
    values = np.where(exponents == 0, np.ldexp(fractions / 8, -6), normal)
    values[codes & 127 == 127] = np.nan  # it has no infinities
    return np.where(codes & 128, -values, values).astype(np.float32)


_E4M3 = _e4m3()
