"""Running out of memory: telling it from other failures, and saying what would have fitted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import torch

__all__ = ["Attempt", "Memory", "is_out_of_memory", "measured", "what_would_fit"]

_TRIED = re.compile(r"Tried to allocate ([\d.]+) ([KMG])iB")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
# What a CPU's allocator says.
_WORDS = ("can't allocate memory", "not enough memory")
# Activations grow with the pixels, or a little faster; sizes go in these steps.
_MARGIN, _STEP = 0.9, 64


@dataclass(frozen=True)
class Attempt:
    """What was being computed.

    Attributes:
        width, height: generation size in pixels.
        lanes: images at once.
        rest: bytes that stay on the device whatever is computed: the weights.
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
        tried: what the failed allocation asked for.
        usable: everything that this process could have.
    """

    held: int
    tried: int
    usable: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch failed for want of memory, on a GPU or on the host, or because of such a failure before."""
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _WORDS):
        return True
    # a capture that memory broke off ends with an error about the capture
    before = error.__cause__ or error.__context__
    return before is not None and is_out_of_memory(before)


def measured(error: BaseException, device: torch.device) -> Memory | None:
    """The device's memory while ``error`` is being handled, so that what was computed is still held; None on a CPU."""
    if device.type != "cuda":
        return None
    held, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    free, _ = torch.cuda.mem_get_info(device)
    found = _TRIED.search(str(error))
    tried = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    return Memory(held, tried, free + reserved)


def what_would_fit(attempt: Attempt | None, memory: Memory | None) -> str:
    """One clause: what was needed, what there is, and what would have fitted.

    Needed is at least what was held and tried; how much more is not known, so a suggestion is a start, no promise.
    """
    if attempt is None:
        return "a smaller model, or fewer open ones, would fit"
    size = f"{attempt.width}x{attempt.height}"
    asked = size if attempt.lanes == 1 else f"{size} in {attempt.lanes} slots"
    if memory is None:
        return f"{asked} is too much; a smaller width and height{_or_slots(attempt)} would fit"
    needed = max(1, memory.held - attempt.rest + memory.tried)
    there = max(0, memory.usable - attempt.rest)
    smaller = _smaller(attempt, min(_MARGIN, _MARGIN * there / needed))
    return f"{asked} needs {_mib(needed)} or more beside the weights, and {_mib(there)} are there; {smaller}"


def _smaller(attempt: Attempt, share: float) -> str:
    """What a share of the pixels comes to: fewer slots, or sides in steps of 64."""
    found = []
    slots = math.floor(attempt.lanes * share)
    if attempt.lanes > 1 and slots >= 1:
        found.append(f"slots={slots}")
    side = replace(attempt, width=_side(attempt.width, share), height=_side(attempt.height, share))
    if min(side.width, side.height) >= _STEP:
        found.append(f"{side.width}x{side.height}")
    return f"about {' or '.join(found)} would fit" if found else "no size of it would fit"


def _side(pixels: int, share: float) -> int:
    return int(pixels * math.sqrt(share)) // _STEP * _STEP


def _or_slots(attempt: Attempt) -> str:
    return f", or fewer than {attempt.lanes} slots," if attempt.lanes > 1 else ""


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
