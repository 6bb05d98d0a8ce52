"""Functions of the public API for a caller without an engine: ``plan``; ``inpaint`` and ``compare`` with a kept one."""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from intarsia.engine.engine import Engine
from intarsia.engine.plan import Plan
from intarsia.engine.request import InpaintRequest
from intarsia.engine.request_fields import RequestOptions
from intarsia.engine.resolve import resolve
from intarsia.engine.result import Result
from intarsia.errors import RequestError
from intarsia.images.access import Access
from intarsia.registry.registry import Registry
from intarsia.threads import lock_across_forks

if TYPE_CHECKING:
    from intarsia.comparing.comparison import Comparison

__all__ = ["compare", "inpaint", "plan"]


def plan(
    request: InpaintRequest,
    weights: str | os.PathLike[str] | None = None,
    *,
    allow_private_urls: bool = False,
    max_pixels: int | None = None,
    precision: str | None = None,
) -> Plan:
    """What running ``request`` would do, without torch and without reading weights.

    Args:
        weights: path of a ``weights.toml`` whose entries go before all others.
        allow_private_urls: True fetches images from hosts that are not public too.
        max_pixels: largest image that is decoded; as for :class:`intarsia.Engine`.
        precision: as for :class:`intarsia.Engine`.

    Raises:
        BackendError: there is no such precision.
        RequestError, WeightsError: what running it would raise before anything is computed.
    """
    access = Access(allow_private_urls=allow_private_urls, max_pixels=max_pixels)
    return resolve(request, Registry(weights, precision), access).plan


def inpaint(image: Any, mask: Any = None, prompt: str = "", **options: Unpack[RequestOptions]) -> Result:
    """Repaint an image where its mask is white, in one line.

    >>> intarsia.inpaint("photo.png", "mask.png", "a red circle").images[0].save("out.png")  # doctest: +SKIP

    The engine is opened by the first call, kept for those that follow, and closed at the process's exit; it is what
    ``intarsia.Engine()`` opens. Calls from several threads share its batches.

    Args:
        image, mask: path, URL, data URI, raw base64, bytes, ``PIL.Image`` or numpy array. With ``extend`` the mask
            may be left out.
        prompt: what to paint; the empty prompt continues the background.
        options: any other field of :class:`intarsia.InpaintRequest`.

    Raises:
        RequestError, WeightsError, BackendError: as of :meth:`intarsia.Engine.run`.
    """
    _check_arguments("inpaint", options)
    request = InpaintRequest(init_image=image, mask_image=mask, prompt=prompt, **options)
    return _kept.engine().run(request)


def compare(
    image: Any,
    mask: Any,
    prompt: Any = "",
    *,
    cell_size: int = 256,
    keep: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Comparison:
    """Every combination of some fields' values over one image, as one mixed batch and one labelled grid.

    >>> made = intarsia.compare(  # doctest: +SKIP
    ...     "photo.png", "mask.png", "a red circle", scheduler=["euler", "ddim"], steps=[10, 20, 30]
    ... )
    >>> made.grid().save("grid.png")  # doctest: +SKIP

    A field whose value is a list, a tuple or a range is an axis: each of its values is combined with each of the
    others'. The last axis goes across the grid, the one before it down. ``loras`` and ``embeddings`` are lists
    themselves: of them a list of lists is an axis. Without a seed one is drawn, and it is the same in all cells.

    The engine is that of :func:`inpaint`. All cells are submitted together and share its evaluations; each has the bits
    that it has alone. A cell that fails says so in the grid, and the others are there all the same.

    Args:
        image, mask, prompt: as of :func:`inpaint`, or several of them as an axis.
        cell_size: pixels of a cell's longer side in the grid, 64 … 1024.
        keep: folder for the images at full size, which are not kept otherwise; ``cell-01.png`` and so on.
        options: any other field of :class:`intarsia.InpaintRequest`, or a list of its values.

    Raises:
        RequestError: a value that no request takes, or more than 200 cells.
        OutputError: a file in ``keep`` that cannot be written, or is there already.
        IntarsiaError: every cell has failed; the first one's error.
    """
    from intarsia.comparing.axes import split
    from intarsia.comparing.running import Settings, run_comparison

    _check_arguments("compare", options)
    fields, axes = split({"init_image": image, "mask_image": mask, "prompt": prompt, **options})
    return run_comparison(_kept.engine(), fields, axes, Settings(cell_size=cell_size, keep=keep))


def _check_arguments(function: str, options: Mapping[str, Any]) -> None:
    """Refuse the fields of the images, which are arguments of their own, and the arguments of an engine."""
    for field, argument in (("init_image", "image"), ("mask_image", "mask")):
        if field in options:
            raise RequestError(field, message=f"{field} is given by the argument {argument} of {function}")

    of_engine = inspect.signature(Engine).parameters
    for name in options:
        if name in of_engine:
            message = f"{name} is an argument of intarsia.Engine, not of {function}: open one, and run a request on it"
            raise RequestError(name, message=message)


class _KeptEngine:
    """An engine that is opened when it is first asked for; another in a forked process, or once it has failed."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._process = 0
        self._lock = lock_across_forks()

    def engine(self) -> Engine:
        """The engine."""
        with self._lock:
            is_ours = self._process == os.getpid()
            if self._engine is None or not is_ours or not self._engine.is_open:
                self._engine, self._process = Engine(), os.getpid()
                atexit.register(self._engine.close, cancel=True)
            return self._engine


_kept = _KeptEngine()
