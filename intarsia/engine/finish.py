"""The last stage of a request: generated images are pasted back and checked, and become a result."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from intarsia.backends.protocol import Blends, Checker
from intarsia.canvas.paste import blend
from intarsia.engine.job import Job
from intarsia.engine.result import Result
from intarsia.engine.safety import Screened, screen

__all__ = ["finish", "return_input"]


def finish(job: Job, checker: Checker | None) -> Result:
    """Paste the generated images into the source, check them, and put the result together.

    Args:
        job: every image of it is generated.
        checker: the request's safety checker; None only where the request asks for none.
    """
    began = time.perf_counter()
    paste = job.session.blend if isinstance(job.session, Blends) else blend
    drawn = [job.generated[sample] for sample in range(len(job.plan.seeds))]
    images = [job.resolved.canvas.paste(each, paste) for each in drawn]
    job.timings["paste"] = time.perf_counter() - began

    return _result(job, images, drawn, checker, ran=True)


def return_input(job: Job, checker: Checker | None) -> Result:
    """Strength 0 replaces nothing: every image is the source, at the size asked for."""
    canvas, seeds = job.resolved.canvas, job.plan.seeds
    job.warnings.append("strength 0: the input is returned unchanged")
    images = [canvas.untouched() for _ in seeds]
    return _result(job, images, [canvas.image for _ in seeds], checker, ran=False)


def _result(
    job: Job, images: list[Image.Image], drawn: Sequence[np.ndarray], checker: Checker | None, *, ran: bool
) -> Result:
    screened = _screened(job, images, drawn, checker)
    runtime = job.session.runtime if ran else None
    notes = runtime.notes if runtime else ()

    job.timings["total"] = time.perf_counter() - job.ticket.began
    return Result(
        images=screened.images,
        drawn=screened.drawn,
        seeds=job.plan.seeds,
        plan=job.plan,
        origin=job.resolved.origin,
        timings=job.timings,
        runtime=runtime,
        warnings=tuple(dict.fromkeys((*job.warnings, *notes, *screened.warnings))),
        nsfw=screened.nsfw,
    )


def _screened(job: Job, images: list[Image.Image], drawn: Sequence[np.ndarray], checker: Checker | None) -> Screened:
    """Both forms of every image, with what is flagged replaced."""
    if checker is None:
        return Screened(images=images, drawn=list(drawn), nsfw=(False,) * len(images))
    began = time.perf_counter()
    screened = screen(checker.check, job.plan.safety_action, images, list(drawn))
    job.timings["safety"] = time.perf_counter() - began
    return screened
