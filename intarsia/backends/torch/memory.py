"""Out-of-memory errors: recognizing them, and naming a size that would have fitted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch

__all__ = ["Attempt", "Memory", "is_out_of_memory", "measured", "what_would_fit"]

_TRIED = re.compile(r"Tried to allocate ([\d.]+) ([KMG])iB")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
# In the error messages of a CPU's allocator.
_PHRASES = ("can't allocate memory", "not enough memory")
# Activations grow with the pixels, or a little faster; sizes go in these steps.
_MARGIN, _STEP = 0.9, 64


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The size of a computation.

    Attributes:
        width, height: generation size in pixels.
        lanes: images in the batch.
        rest: bytes that are on the device in any case: the weights.
    """

    width: int
    height: int
    lanes: int = 1
    rest: int = 0


@dataclass(frozen=True)
class Memory:
    """Bytes on a device when an allocation failed.

    Attributes:
        held: allocated by then.
        tried: the failed allocation.
        usable: free, or already reserved by this process.
    """

    held: int
    tried: int
    usable: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on the host; also if the error only follows from such an error."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if any(phrase in str(error) for phrase in _PHRASES):
        return True

    # a capture that fails for lack of memory ends with an error about the capture
    earlier = error.__cause__ or error.__context__
    return earlier is not None and is_out_of_memory(earlier)


def measured(error: BaseException, device: torch.device) -> Memory | None:
    """The device's memory while ``error`` is handled, so that the failed tensors are still held; None on a CPU."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_allocated(device)
    reserved = torch.cuda.memory_reserved(device)
    free, _ = torch.cuda.mem_get_info(device)

    tried = 0
    match = _TRIED.search(str(error))
    if match:
        number, unit = match.groups()
        tried = int(float(number) * _UNITS[unit])
    return Memory(held, tried, usable=free + reserved)


def what_would_fit(attempt: Attempt | None, memory: Memory | None) -> str:
    """One clause: the memory that was needed, the memory that there is, and a size that would have fitted.

    At least the sum of held and tried is needed; how much more is not known, so the size is a suggestion, no promise.
    """
    if attempt is None:
        return "a smaller model, or fewer open ones, would fit"

    size = f"{attempt.width}x{attempt.height}"
    if attempt.lanes > 1:
        size += f" in {attempt.lanes} slots"
    if memory is None:
        return f"{size} is too much; a smaller width and height{_or_slots(attempt)} would fit"

    needed = max(1, memory.held - attempt.rest + memory.tried)
    available = max(0, memory.usable - attempt.rest)
    share = min(_MARGIN, _MARGIN * available / needed)
    smaller = _smaller(attempt, share)
    return f"{size} needs {_mib(needed)} or more beside the weights, and {_mib(available)} are there; {smaller}"


def _smaller(attempt: Attempt, share: float) -> str:
    """Sizes with that share of the pixels: fewer slots, or sides in steps of 64."""
    sizes = []
    slots = math.floor(attempt.lanes * share)
    if attempt.lanes > 1 and slots >= 1:
        sizes.append(f"slots={slots}")

    width = _side(attempt.width, share)
    height = _side(attempt.height, share)
    if min(width, height) >= _STEP:
        sizes.append(f"{width}x{height}")

    if not sizes:
        return "no size of it would fit"
    return f"about {' or '.join(sizes)} would fit"


def _side(pixels: int, share: float) -> int:
    shrunk = int(pixels * math.sqrt(share))
    return shrunk // _STEP * _STEP


def _or_slots(attempt: Attempt) -> str:
    if attempt.lanes <= 1:
        return ""
    return f", or fewer than {attempt.lanes} slots,"


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
