"""Options of a batch run, as frozen data that is also sent to worker processes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from intarsia.endpoints.reading import ENDPOINTS
from intarsia.engine.noise import MAX_SEED
from intarsia.errors import RequestError, expect
from intarsia.images.access import Access, pixel_limit
from intarsia.images.encode import SaveOptions
from intarsia.images.output_names import FORMATS
from intarsia.memory_size import read_memory

__all__ = ["Options", "Pair", "read_limit", "read_shard"]

RUNNERS = ("local", "ray")

_UNLIMITED = 1 << 62
_MOST = 256  # workers, and threads of each

_KINDS: dict[object, str] = {
    str: "a text",
    str | None: "a text or None",
    str | int | None: "a number of rows, or a share of them as in 5%",
    int: "an integer",
    int | None: "an integer or None",
    bool: "True or False",
    bool | None: "True, False or None",
}


@dataclass(frozen=True)
class Pair:
    """A folder of images with a folder of masks of the same stems, or one mask file for all of them.

    One folder may be both: there the masks are called ``NAME_mask.*``.
    """

    images: Path
    masks: Path


@dataclass(frozen=True)
class Options:
    """Everything about a run but its manifest and its output folder.

    Attributes:
        backend, device, weights, slots, kernels, capture, allow_private_urls: as for :class:`intarsia.Engine`. A device
            of ``auto`` or ``cuda`` means every GPU there is.
        deterministic: an image's bits do not depend on what it is batched with; False is faster on a GPU.
        workers: processes, each with its own engine; None is one for each GPU, or one on a CPU.
        threads: for decoding and encoding, in each process; None takes what suits the machine.
        seed: of the run: rows without a seed get theirs from it and their id.
        shard: (i, n): the i-th of n parts of the manifest, counted from 1, divided by hash of the id.
        defaults: a TOML file of request fields under the rows.
        request: more of them, as JSON has them; they go before those of the file, and a row's own before both.
        limit: only so many rows, the first ones; None is all.
        endpoint: rows are documented requests to it; None for rows with the fields of a request.
        allow_extra: keys that no request has are ignored rather than refused.
        max_errors: the run stops when more rows than this have failed: a number, or a share as in "5%".
        fail_fast: the run stops at the first failed row.
        format: extension of outputs that have none.
        compression: of PNG, 0 (fast) … 9 (small); quality: of JPEG and WebP, 1 … 100; lossless: WebP alone.
        metadata: parameters are written into the files.
        strip: EXIF, XMP and density of the images are left out of the files.
        thumbnails: those of a contact sheet are made with the rows, so that it decodes no results afterwards; None does
            so where the manifest has a thousand rows or more.
        runner: "local", or "ray" for Ray Data.
        max_pixels: as for :class:`intarsia.Engine`; the limit that holds here holds in the workers.
        precision, memory: as for :class:`intarsia.Engine`.

    Raises:
        RequestError: a value outside its limits, by name.
    """

    backend: str = "auto"
    device: str = "auto"
    weights: str | None = None
    slots: int | None = None
    kernels: str = "auto"
    capture: str = "auto"
    deterministic: bool = True
    allow_private_urls: bool = False
    workers: int | None = None
    threads: int | None = None
    seed: int = 0
    shard: tuple[int, int] = (1, 1)
    defaults: str | None = None
    allow_extra: bool = False
    max_errors: str | int | None = None
    fail_fast: bool = False
    format: str = "png"
    compression: int = 3
    quality: int = 95
    lossless: bool = False
    metadata: bool = True
    strip: bool = False
    runner: str = "local"
    max_pixels: int | None = None
    precision: str | None = None
    memory: str | int | None = None
    request: Mapping[str, Any] | None = None
    limit: int | None = None
    endpoint: str | None = None
    thumbnails: bool | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "defaults"):
            path = getattr(self, name)
            if isinstance(path, os.PathLike):
                object.__setattr__(self, name, os.fspath(path))

        for name, kind in _kinds().items():
            expect(name, getattr(self, name), kind, _KINDS[kind])
        self._check_shard()
        if self.request is not None and not isinstance(self.request, Mapping):
            raise RequestError("request", self.request, "a mapping of request fields, or None")
        if self.limit is not None and self.limit < 1:
            raise RequestError("limit", self.limit, "at least 1")

        if self.endpoint is not None:
            self._check_endpoint(self.endpoint)

        Access(max_pixels=self.max_pixels)  # its own limits
        read_memory(self.memory)
        _check_count("workers", self.workers)
        _check_count("threads", self.threads)
        if not 0 <= self.seed <= MAX_SEED:
            raise RequestError("seed", self.seed, f"between 0 and {MAX_SEED}")
        part, parts = self.shard
        if not 1 <= part <= parts:
            raise RequestError("shard", f"{part}/{parts}", "I/N with 1 <= I <= N")

        if f".{self.format}" not in FORMATS:
            raise RequestError("format", self.format, f"one of {', '.join(name[1:] for name in FORMATS)}")
        if self.runner not in RUNNERS:
            raise RequestError("runner", self.runner, f"one of {', '.join(RUNNERS)}")
        read_limit(self.max_errors, 0)
        _ = self.saving  # its own limits

    def _check_shard(self) -> None:
        is_pair = isinstance(self.shard, tuple) and [type(part) for part in self.shard] == [int, int]
        if not is_pair:
            raise RequestError("shard", self.shard, "two integers (I, N)")

    def _check_endpoint(self, name: str) -> None:
        if name not in ENDPOINTS:
            raise RequestError("endpoint", name, f"one of {', '.join(ENDPOINTS)}")
        if self.request or self.defaults is not None:
            message = f"documented requests have the defaults of {name}: leave out --defaults and options of a request"
            raise RequestError("endpoint", message=message)

    @property
    def saving(self) -> SaveOptions:
        """How images are encoded."""
        return SaveOptions(quality=self.quality, lossless=self.lossless, compression=self.compression)

    @property
    def thread_count(self) -> int:
        """Threads that decode and encode in each process: one for each of its cores, two at least, as disks wait."""
        if self.threads:
            return self.threads
        share = (os.cpu_count() or 1) // (self.workers or 1)
        return min(max(share, 2), 8)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able values; ``Options.of`` reads them."""
        return asdict(self)

    def for_workers(self) -> dict[str, Any]:
        """:meth:`to_dict` with the limit of pixels that holds in this process, Pillow's where the program set that.

        Fields of requests are left out: the rows that workers get have them.
        """
        limit = min(pixel_limit(self.max_pixels), _UNLIMITED)
        return self.to_dict() | {"max_pixels": int(limit), "request": None}

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Options:
        """The options that :meth:`to_dict` gave."""
        part, parts = fields["shard"]
        return cls(**{**fields, "shard": (part, parts)})


@cache
def _kinds() -> dict[str, Any]:
    """What each option but the shard and the request's fields has to be, as it is declared."""
    return {name: kind for name, kind in get_type_hints(Options).items() if name not in ("shard", "request")}


def _check_count(name: str, value: int | None) -> None:
    if value is not None and not 1 <= value <= _MOST:
        raise RequestError(name, value, f"between 1 and {_MOST}")


def read_shard(text: str) -> tuple[int, int]:
    """``"2/8"`` → (2, 8)."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise RequestError("shard", text, "I/N with 1 <= I <= N, for example 2/8")
    return int(match[1]), int(match[2])


def read_limit(text: str | int | None, rows: int) -> int | None:
    """How many of ``rows`` may fail: ``"20"``, or ``"5%"`` of them; None sets no limit."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12})|(\d{1,3}(?:\.\d{1,6})?)\s*%", str(text).strip())
    if match is None or (match[2] and float(match[2]) > 100):
        raise RequestError("max_errors", text, "a number of rows, or a share of them as in 5%")

    count, percent = match[1], match[2]
    if count:
        return int(count)
    return int(rows * float(percent) / 100)
