"""From the stored parts of one layer's change to the additions to its weight and its bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from intarsia.models.lora import Addition
from intarsia.models.lora_arithmetic import Array
from intarsia.models.lora_forms import Difference, Form, HadamardProduct, KroneckerProduct, LowRank

__all__ = ["UnusableLayer", "layer_additions", "magnitude_fits"]

_WEIGHT, _BIAS = "weight", "bias"


class UnusableLayer(Exception):
    """A layer whose parts are no whole; the message is what to call them."""


def layer_additions(parts: Mapping[str, Array], stored_scale: Callable[[int], float]) -> dict[str, Addition]:
    """The additions, by ``weight`` and ``bias``.

    Args:
        parts: by the names of :mod:`.lora_kinds`.
        stored_scale: alpha / rank that is stored beside the tensors, by rank.

    Raises:
        UnusableLayer: parts are missing.
    """
    made: dict[str, Addition] = {}
    form = _form(parts)
    if form is not None:
        scale = _scale(parts, form.rank, stored_scale)
        made[_WEIGHT] = Addition(form=form, scale=scale, magnitude=_magnitude(parts))
        if "up_bias" in parts:
            made[_BIAS] = Addition(form=Difference(parts["up_bias"]), scale=scale)
    for part, kind in (("w_norm", _WEIGHT), ("diff_b", _BIAS), ("b_norm", _BIAS)):
        if part in parts and kind not in made:
            made[kind] = Addition(form=Difference(parts[part]))
    if not made:
        raise UnusableLayer("alphas without matrices" if set(parts) == {"alpha"} else "incomplete layers")
    return made


def magnitude_fits(magnitude: Array | None, shape: tuple[int, ...]) -> bool:
    """Whether there is a length for each row, or for each column, of a weight of that shape."""
    if magnitude is None:
        return True
    return len(shape) >= 2 and tuple(magnitude.shape) in ((shape[0], 1), (1, shape[1]))


def _form(parts: Mapping[str, Array]) -> Form | None:
    """The form of the weight's change; None where only norms and biases are stored."""
    if "diff" in parts:
        return Difference(parts["diff"])
    if "down" in parts or "up" in parts:
        down, up = _needed(parts, "down", "up")
        return LowRank(down, up, parts.get("mid"))
    if any(part.startswith("hada_") for part in parts):
        up1, down1, up2, down2 = _needed(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        return HadamardProduct(up1, down1, up2, down2, parts.get("hada_t1"), parts.get("hada_t2"))
    if any(part.startswith("lokr_") for part in parts):
        first, second = _whole_or_factors(parts, "lokr_w1"), _whole_or_factors(parts, "lokr_w2")
        return KroneckerProduct(first, second, parts.get("lokr_t2"))
    return None


def _needed(parts: Mapping[str, Array], *names: str) -> tuple[Array, ...]:
    if not all(name in parts for name in names):
        raise UnusableLayer("incomplete layers")
    return tuple(parts[name] for name in names)


def _whole_or_factors(parts: Mapping[str, Array], name: str) -> tuple[Array, ...]:
    return (parts[name],) if name in parts else _needed(parts, f"{name}_a", f"{name}_b")


def _scale(parts: Mapping[str, Array], rank: int, stored_scale: Callable[[int], float]) -> float:
    """alpha / rank: by the alpha beside the matrices, else by that of the file's settings."""
    if rank == 0:
        return 1.0
    if "alpha" not in parts:
        return stored_scale(rank)
    if math.prod(parts["alpha"].shape) != 1:
        raise UnusableLayer("alphas that are more than one number")
    return float(parts["alpha"].item()) / rank


def _magnitude(parts: Mapping[str, Array]) -> Array | None:
    """As a column of rows' lengths or a row of columns' lengths; PEFT stores rows' lengths in other shapes."""
    if "row_magnitude" in parts:
        return parts["row_magnitude"].reshape(-1, 1)
    magnitude = parts.get("magnitude")
    if magnitude is None:
        return None
    if magnitude.ndim < 2:
        return magnitude.reshape(-1, 1)
    return magnitude.reshape(len(magnitude), -1) if math.prod(magnitude.shape[2:]) == 1 else magnitude
