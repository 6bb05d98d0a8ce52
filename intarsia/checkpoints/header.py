"""Headers of safetensors files: names, types, shapes and places of their tensors, none of which is read.

The format (huggingface/safetensors, README "Format"): a length as 8 bytes, little-endian; so many bytes of JSON; the
tensors' bytes, one behind the other without gaps up to the end of the file. Everything that a header says is checked
here, so that whoever reads a tensor by it stays within the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from intarsia.checkpoints.files import regular
from intarsia.checkpoints.first_bytes import LOOKED_AT, other_format
from intarsia.errors import WeightsError, one_line, shown

__all__ = ["MOST_HEADER", "Header", "StoredTensor", "read_header"]

MOST_HEADER = 16 * 2**20
"""Bytes of a header that are read at most; that of an SDXL checkpoint has 0.4 MB."""

_LENGTH = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}
_MOST_DIMENSIONS = 16

# Bits of one value, by the format's names of types.
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        dtype: the format's name of its type, for example ``F16``.
        start, end: its bytes, counted from the beginning of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        size, changed_ns: bytes of the file and its time as the header was read; others mean that it has changed.
        tensors: by name, in the header's order.
        metadata: texts by name, as the writer put them there.
    """

    path: Path
    size: int
    changed_ns: int
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of one safetensors file.

    Raises:
        WeightsError: the file is missing, not a regular one, truncated, of another format (the message says of
            which), or its header contradicts the format or the file.
    """
    stat = regular(path)
    try:
        with path.open("rb") as file:
            text = _header_text(path, file, stat.st_size)
    except OSError as exc:
        raise WeightsError(f"{path}: cannot be read: {one_line(exc)}") from exc

    fields = _parsed(path, text)
    metadata = _metadata(path, fields.pop(_METADATA, {}))
    begin = _LENGTH + len(text)
    tensors = {name: _tensor(path, name, value, begin) for name, value in fields.items()}
    _check_ranges(path, tensors, begin, stat.st_size)
    return Header(
        path=path,
        size=stat.st_size,
        changed_ns=stat.st_mtime_ns,
        tensors=tensors,
        metadata=metadata,
    )


def _header_text(path: Path, file: BinaryIO, size: int) -> bytes:
    """The JSON, once the length before it makes sense."""
    if size == 0:
        raise WeightsError(f"{path}: is empty; download it again")
    start = file.read(LOOKED_AT)
    length = int.from_bytes(start[:_LENGTH], "little")

    # The first bytes of a text or an archive, read as a length, are far above the limit.
    if length > MOST_HEADER or len(start) <= _LENGTH:
        what = other_format(start)
        if what:
            raise WeightsError(f"{path}: not a safetensors file but {what}")
    if len(start) <= _LENGTH:
        raise WeightsError(f"{path}: truncated: it has {size} bytes, and a safetensors file has more")
    if not start[_LENGTH:].startswith(b"{"):
        raise WeightsError(f"{path}: not a safetensors file: its header does not begin with a brace")
    if length > MOST_HEADER:
        raise WeightsError(f"{path}: not readable as safetensors: a header of {length} bytes; at most {MOST_HEADER}")
    if _LENGTH + length > size:
        raise WeightsError(f"{path}: truncated: it ends within its header of {length} bytes; download it again")

    file.seek(_LENGTH)
    text = file.read(length)
    if len(text) < length:
        raise WeightsError(f"{path}: changed while it was read")
    return text


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except RecursionError as exc:
        raise WeightsError(f"{path}: header not readable as JSON: nested too deeply") from exc
    except ValueError as exc:
        raise WeightsError(f"{path}: header not readable as JSON: {one_line(exc)}") from exc
    if not isinstance(fields, dict):
        _refuse(path, f"must be a JSON object, not {type(fields).__name__}")
    return fields


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are different; programs differ in which of two equal ones they take."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{shown(twice)} is there twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _metadata(path: Path, value: Any) -> dict[str, str]:
    texts = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if not texts:
        _refuse(path, f"{_METADATA} must hold texts, not {shown(value)}")
    return dict(value)


def _tensor(path: Path, name: str, value: Any, begin: int) -> StoredTensor:
    """One entry of the header, with its bytes counted from the beginning of the file."""
    if not name.isprintable():  # control characters, marks of direction, halves of surrogate pairs
        _refuse(path, f"the name {shown(name)} has characters that cannot be shown")
    if not isinstance(value, dict) or set(value) != _KEYS:
        _refuse(path, f"{shown(name)} must have dtype, shape and data_offsets, not {shown(value)}")

    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        _refuse(path, f"{shown(name)}: dtype {shown(dtype)} is not known")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        _refuse(path, f"{shown(name)}: shape must be a list of sizes, not {shown(shape)}")
    if not _are_counts(offsets) or len(offsets) != 2:
        _refuse(path, f"{shown(name)}: data_offsets must be two numbers, not {shown(offsets)}")

    start, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if (end - start) * 8 != bits:
        _refuse(path, f"{shown(name)}: {end - start} bytes for {dtype} {shape}, which has {bits / 8:g}")
    return StoredTensor(dtype=dtype, shape=tuple(shape), start=begin + start, end=begin + end)


def _are_counts(values: Any) -> bool:
    """Whether it is a list of whole numbers from 0 up to what 8 bytes hold; true and false are no numbers."""
    if not isinstance(values, list):
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_ranges(path: Path, tensors: Mapping[str, StoredTensor], begin: int, size: int) -> None:
    """Refuse tensors that overlap, leave gaps, or do not end where the file does."""
    position = begin
    ordered = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    for name, tensor in ordered:
        if tensor.start < position:
            _refuse(path, f"{shown(name)} overlaps the tensor before it")
        if tensor.start > position:
            _refuse(path, f"{tensor.start - position} bytes before {shown(name)} belong to no tensor")
        position = tensor.end

    if position > size:
        raise WeightsError(f"{path}: truncated: it has {size} bytes of {position}; download it again")
    if position < size:
        _refuse(path, f"the last {size - position} bytes of the file belong to no tensor")


def _refuse(path: Path, problem: str) -> NoReturn:
    raise WeightsError(f"{path}: not readable as safetensors: header: {problem}")
