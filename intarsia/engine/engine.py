"""``Engine``: owns a device, opens models, runs plans, streams progress, cancels.

One thread (:mod:`intarsia.engine.thread`) runs the lanes. ``run``, ``stream`` and ``submit`` may be called from
any thread; the images of all their requests share batches.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from intarsia.backends.choose import choose
from intarsia.engine.representations import one_liner
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import resolve
from intarsia.engine.result import Counters, Progress, Result
from intarsia.engine.thread import EngineThread
from intarsia.engine.ticket import Ticket
from intarsia.engine.worker import Worker
from intarsia.errors import IntarsiaError, RequestError, WeightsError, expect
from intarsia.execution import Execution
from intarsia.images.access import Access
from intarsia.registry.registry import Registry

__all__ = ["Engine"]


class Engine:
    """A local inpainting engine on one device.

    It is closed by ``with`` or :meth:`close`. One that is dropped without finishes what is in flight and releases
    the device then; at the process's exit what is in flight is dropped after the evaluation under way. In a forked
    process an engine that was used before is refused: open another there.

    Args:
        backend: ``auto``, or a name of :data:`intarsia.backends.choose.BACKENDS`. ``auto`` is CUDA with
            torch where there is a GPU; else ONNX Runtime on the CPU where it is installed, for the models that it
            can run, and torch for the others.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; with ONNX Runtime also ``tensorrt`` or ``tensorrt:N``.
        weights: path of a ``weights.toml`` whose entries go before all others.
        slots: images evaluated together; None takes what suits the device.
        deterministic: True makes an image's bits independent of the others in its batch; None is True on a CPU,
            where it costs about 2 % (decision 0004).
        allow_private_urls: True fetches images from hosts that are not public too, this machine included.
        max_pixels: largest image that is decoded, width times height; None is 64 Mi (67,108,864), or
            ``PIL.Image.MAX_IMAGE_PIXELS`` where the program has set that.
        kernels: ``fused`` or ``plain`` for the networks' layers; ``auto`` is ``fused`` on a GPU, where plain ones are
            slower but need no Triton. What was taken is in each result's ``runtime``.
        capture: ``on`` captures a step as a CUDA graph once for each shape and replays it, ``off`` launches its
            kernels one by one; ``auto`` is ``on`` on a GPU: with torch where kernels are fused, with ONNX Runtime
            where it can capture the model's graphs.
        precision: ``standard`` (half precision on a GPU, float32 on a CPU), or ``fp8``, a faster and lossier preset for
            torch on a GPU of compute capability 8.9 or higher (decision 0010); None takes that of each model's entry in
            the registry, which is ``standard`` unless it says another. It is in each result's ``plan`` and ``runtime``.
        memory: the device's memory that each open model may take: bytes, or a text such as ``8GiB``. By it text
            encoders leave the device between prompts, images are decoded in tiles, fewer of them are evaluated
            together, and ONNX Runtime takes the layout of weights that needs less. None is what the device has. What
            was done is in each result's ``runtime``, and in the log.

    Raises:
        BackendError: a backend, package or device that is not there, no such kernels or precision, or no amount of
            memory.
        WeightsError: a registry that cannot be read.
    """

    def __init__(
        self,
        backend: str = "auto",
        device: str = "auto",
        weights: str | os.PathLike[str] | None = None,
        *,
        slots: int | None = None,
        deterministic: bool | None = None,
        allow_private_urls: bool = False,
        max_pixels: int | None = None,
        kernels: str = "auto",
        capture: str = "auto",
        precision: str | None = None,
        memory: int | str | None = None,
    ) -> None:
        expect("slots", slots, int | None, "an integer between 1 and 64")
        if slots is not None and not 1 <= slots <= 64:
            raise RequestError("slots", slots, "an integer between 1 and 64")
        expect("deterministic", deterministic, bool | None, "True, False or None")
        execution = Execution.named(kernels, capture, deterministic=deterministic, memory=memory)

        self.registry = Registry(weights, precision)
        self._access = Access(allow_private_urls=allow_private_urls, max_pixels=max_pixels)
        chosen = choose(backend, device, execution)
        self._named = {"backend": backend, "device": str(chosen.device)}
        self._worker = Worker(chosen, slots)
        self._thread = EngineThread(self._worker)
        # An engine that is dropped without close(): what is in flight is finished, then the models are released.
        weakref.finalize(self, self._thread.end).atexit = False

    def run(self, request: InpaintRequest, *, allow_paths: bool = True) -> Result:
        """Run one request and wait for its images; arguments and errors are those of :meth:`submit`.

        In a callback of one of the engine's own requests it is refused with BackendError, as it would wait for itself.

        Raises:
            OutOfMemory: the device's memory does not hold it; the message says what would fit.
            NotFinite: the network gave numbers that are not finite.
            BackendError: the device failed in another way.
        """
        self._thread.check_run()
        ticket = self.submit(request, allow_paths=allow_paths)
        try:
            return ticket.result()
        except BaseException:
            ticket.cancel()  # an interrupted caller has no use for the rest
            raise

    def stream(
        self, request: InpaintRequest, *, allow_paths: bool = True, preview_every: int | None = None
    ) -> Iterator[Progress | Result]:
        """``Progress`` after each evaluation, then the ``Result``. Closing the iterator cancels.

        Arguments and errors are those of :meth:`submit`.
        """
        self._thread.check_run()
        ticket = self.submit(request, allow_paths=allow_paths, preview_every=preview_every)
        try:
            yield from ticket.progress()
            yield ticket.result()
        finally:
            ticket.cancel()

    def submit(self, request: InpaintRequest, *, allow_paths: bool = True, preview_every: int | None = None) -> Ticket:
        """Queue one request and return its future. Its images are read (and fetched) before this returns.

        Args:
            allow_paths: False refuses to read this machine's files: for a request that came over a network.
            preview_every: evaluations from one preview to the next, for :meth:`Progress.preview`; None makes none, at
                no cost. The finished images are the same. With a safety checker there are none: it would not see them.

        Returns:
            a :class:`concurrent.futures.Future` of the :class:`Result`; its ``cancel()`` also works while
            it runs, between two evaluations, and nothing is decoded after it.

        Raises:
            RequestError, WeightsError: what is wrong with the request itself, at once.
            BackendError: the engine is closed, or was used before this process was forked; its thread cannot start.
        """
        ticket = self._ticket(request, allow_paths, preview_every)
        self._thread.submit(ticket)
        return ticket

    def submit_together(self, requests: Iterable[InpaintRequest]) -> list[Ticket | IntarsiaError]:
        """Queue several requests at once: none is begun before all are read, so that they share every evaluation.

        Returns:
            for each request its ticket, or what is wrong with the request itself: the others are queued all the same.

        Raises:
            BackendError: as :meth:`submit`.
        """
        outcomes: list[Ticket | IntarsiaError] = []
        for request in requests:
            try:
                outcomes.append(self._ticket(request))
            except (RequestError, WeightsError) as exc:
                outcomes.append(exc)

        tickets = [outcome for outcome in outcomes if isinstance(outcome, Ticket)]
        if tickets:
            self._thread.submit(*tickets)
        return outcomes

    def _ticket(self, request: InpaintRequest, allow_paths: bool = True, preview_every: int | None = None) -> Ticket:
        """A request with its plan and its images, not queued yet; errors are those of :meth:`submit`."""
        self._thread.check_open()
        began = time.perf_counter()
        if not isinstance(request, InpaintRequest):
            raise RequestError(
                "request", type(request).__name__, "an InpaintRequest (InpaintRequest.parse makes one of a dict)"
            )
        _check_preview_every(preview_every)

        access = replace(self._access, allow_paths=allow_paths)
        # hashing a model's files takes seconds, in which the engine's thread imports what opens them
        resolved = resolve(request, self.registry, access, self._thread.start)
        return Ticket(resolved, began, self._thread.check_wait, preview_every=preview_every)

    def reply(
        self, payload: object, endpoint: str | None = None, *, out: str | os.PathLike[str] | None = None
    ) -> dict[str, Any]:
        """Run one documented request and wait for its documented reply; see ``docs/requests.md``.

        Args:
            payload: the JSON body, parsed.
            endpoint: ``community``, ``enterprise-pony``, ``pony`` or ``realtime``; None lets the model decide
                between ``community`` and ``pony``.
            out: folder for the images; without one they go to a temporary folder for 24 hours. With
                ``base64`` they are in the reply itself.

        Returns:
            a ``success`` or an ``error`` reply: plain JSON values, whatever ``payload`` is. Nothing but an
            interrupt is raised.
        """
        from intarsia.endpoints.answer import answer

        return answer(self, payload, endpoint, out).reply

    @property
    def access(self) -> Access:
        """What requests may make this machine read, and how large an image may be."""
        return self._access

    @property
    def counters(self) -> Counters:
        """How much has been evaluated so far, and how full the batches were."""
        return self._worker.counters

    @property
    def is_open(self) -> bool:
        """Whether it takes requests: it was not closed, and its thread has not failed."""
        return self._thread.is_open

    def close(self, cancel: bool = False) -> None:
        """Finish (or cancel) what is in flight, then release the device. May be called twice.

        Called by a ticket's own callback it cannot wait: the engine closes once the callback has returned. In a fork of
        the process that used the engine it does nothing.
        """
        self._thread.close(cancel)

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        values = self._named | {"slots": self.counters.slots}
        return f"<{one_liner('Engine', values)}, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(cancel=kind is not None)


def _check_preview_every(value: object) -> None:
    allowed = "a whole number between 1 and 1000, or None"
    expect("preview_every", value, int | None, allowed)
    if isinstance(value, int) and not 1 <= value <= 1000:
        raise RequestError("preview_every", value, allowed)
