"""Results: images, seeds, effective parameters, timings, and what ran."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia import __version__
from intarsia.backends.protocol import Runtime
from intarsia.engine.origin import Origin
from intarsia.engine.plan import Plan
from intarsia.engine.preview import NOT_ASKED, StepPreviews
from intarsia.engine.representations import images_as_html, one_liner
from intarsia.execution import STANDARD
from intarsia.images.embedded import NOTHING
from intarsia.images.encode import SaveOptions
from intarsia.images.metadata import a1111_parameters
from intarsia.images.save import save

__all__ = ["Counters", "Progress", "Result", "shared_texts"]


@dataclass(frozen=True)
class Progress:
    """How far a request is: ``step`` of ``steps`` network evaluations are done for every image of it.

    Attributes:
        previews: what :meth:`preview` shows; not compared.
    """

    step: int
    steps: int
    previews: StepPreviews = field(default=NOT_ASKED, compare=False, repr=False)

    @property
    def has_preview(self) -> bool:
        """Whether :meth:`preview` gives an image rather than an error."""
        return bool(self.previews.samples)

    def preview(self, sample: int = 0) -> Image.Image:
        """An image of the request as it is expected to become: RGB, one pixel for each latent cell of the canvas.

        It shows the network's prediction of the finished image after this step, in colors that follow from the latents
        by a linear map, without the decoder; around the repainted area it shows the request's image. There is one every
        ``preview_every`` evaluations, and after the last.

        What is shown was copied in the engine's thread; the image is made here, in about a millisecond, from any thread
        and as long as this object is kept. In a callback in the engine's own thread it may wait for the device.

        Args:
            sample: which image of the request.

        Raises:
            BackendError: there is none: not asked for, not due at this step, the backend has no previews, or the
                request has a safety checker, which would not see them.
            RequestError: the request has no such image.
        """
        return self.previews.image(sample)


@dataclass(frozen=True)
class Counters:
    """What an engine has evaluated since it was opened.

    Attributes:
        evaluations: batches that went through a network.
        lane_rows: images in them, summed: rows of tables that were run.
        slots: images that a batch can hold.
    """

    evaluations: int
    lane_rows: int
    slots: int

    @property
    def fill(self) -> float:
        """Mean share of a batch's slots that were used, 0 … 1."""
        return self.lane_rows / (self.evaluations * self.slots) if self.evaluations else 0.0


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result:
    """The images of one request.

    Attributes:
        images: finished images, one for each sample; outside the feathered mask they are the input's
            bytes.
        drawn: uint8 ``[h, w, 3]`` of each image: what :attr:`generated` shows.
        seeds: one for each image.
        plan: what was done.
        origin: the request and its images, as :meth:`file_texts` has them.
        nsfw: one for each image: True where the safety checker flagged it, and ``safety_action`` was applied to
            it in both its forms; all False without a checker.
        timings: seconds by stage: ``resolve``, ``encode``, ``denoise`` (excludes time queued; includes the
            whole batch's time), ``decode``, ``paste``, ``safety`` (with a checker),
            ``total``.
        runtime: backend, device, dtype, package versions; None where nothing had to run.
        warnings: everything that the caller should know, each once.
    """

    images: list[Image.Image]
    drawn: Sequence[NDArray[np.uint8]]
    seeds: tuple[int, ...]
    plan: Plan
    origin: Origin = field(default_factory=Origin)
    timings: Mapping[str, float] = field(default_factory=dict)
    runtime: Runtime | None = None
    warnings: tuple[str, ...] = ()
    nsfw: tuple[bool, ...] = ()

    @cached_property
    def generated(self) -> list[Image.Image]:
        """What the network drew, before paste-back, at generation size; made on first use, as a batch needs none."""
        return [Image.fromarray(image) for image in self.drawn]

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images[0].size)) if self.images else "none"
        values = {"images": len(self.images), "size": size, "seeds": self.seeds, "prompt": self.plan.prompt.prompt}
        return one_liner("Result", values | {"seconds": round(self.timings.get("total", 0.0), 2)})

    def _repr_html_(self) -> str:
        """In a notebook: the images, with the seed of each."""
        return images_as_html(self.images, [f"seed {seed}" for seed in self.seeds])

    @property
    def ran(self) -> dict[str, Any]:
        """What ran, as plain values: backend, device, kernels, capture, attention …; empty where nothing had to."""
        return dataclasses.asdict(self.runtime) if self.runtime else {}

    @property
    def meta(self) -> dict[str, Any]:
        """Effective parameters, in the names of a request."""
        plan, sampler = self.plan, self.plan.sampler
        return {
            "prompt": plan.prompt.prompt,
            "negative_prompt": plan.prompt.negative_prompt,
            "model": plan.model.id,
            "model_hash": plan.model.sha256,
            "width": plan.canvas.geometry.width,
            "height": plan.canvas.geometry.height,
            "samples": len(plan.seeds),
            "seed": plan.seeds[0],
            "steps": sampler.steps,
            "evaluations": sampler.evaluations,
            "guidance_scale": plan.guidance_scale,
            "strength": sampler.strength,
            "scheduler": sampler.scheduler,
            "karras_sigmas": sampler.karras and sampler.karras_applied,
            "algorithm_type": sampler.algorithm_type,
            **dict(sampler.settings),
            **({"table": sampler.table_sha256} if sampler.table_sha256 else {}),
            "clip_skip": plan.prompt.clip_skip,
            "vae": plan.model.vae,
            "loras": [dataclasses.asdict(adapter) for adapter in plan.model.adapters],
            "ip_adapter": plan.model.ip_adapter,
            "ip_adapter_scale": plan.prompt.image_scale,
            **_canvas_fields(plan),
            "token_merging": plan.token_merging.ratio,
            **({} if plan.prompt.syntax == "plain" else {"prompt_syntax": plan.prompt.syntax}),
            **({"embeddings": list(plan.prompt.embeddings)} if plan.prompt.embeddings else {}),
            **({} if plan.model.precision == STANDARD else {"precision": plan.model.precision}),
            "safety_checker": plan.safety != "off",
            "safety_action": plan.safety_action,
            "backend": self.runtime.backend if self.runtime else "",
            "device": self.runtime.device if self.runtime else "",
            "version": f"intarsia {__version__}",
        }

    def file_texts(
        self, sample: int = 0, *, with_paths: bool = True, paths: Mapping[str, str] | None = None, strip: bool = False
    ) -> dict[str, Any]:
        """What an image's file says of it, as keyword arguments of :func:`intarsia.images.save.save`.

        ``metadata`` is :attr:`meta` of that image, with ``request`` (each field, as the image was made with it),
        ``inputs`` (its images, by hash) and the plan's hash: :func:`intarsia.request_from` makes a request of them.

        Args:
            with_paths: name the files and addresses of the inputs too.
            paths: in place of the paths that were read, by field.
            strip: leave out EXIF, XMP and density of ``init_image``.
        """
        seed = self.seeds[sample]
        made = self.meta | {"seed": seed}
        inputs = {name: dict(source) for name, source in self.origin.inputs.items()}
        if not with_paths:
            inputs = {name: {"sha256": source["sha256"]} for name, source in inputs.items()}
        for name, path in (paths or {}).items():
            if "path" in inputs.get(name, {}):
                inputs[name]["path"] = path

        metadata = made | {
            "request": {**self.origin.request, "seed": seed, "samples": 1},
            "inputs": inputs,
            "plan_sha256": dataclasses.replace(self.plan, seeds=(seed,)).sha256,
        }
        return {
            "metadata": metadata,
            "parameters": a1111_parameters(made),
            "embedded": NOTHING if strip else self.origin.embedded,
        }

    def save(
        self,
        path: str | os.PathLike[str],
        sample: int = 0,
        *,
        metadata: bool = True,
        strip: bool = False,
        options: SaveOptions | None = None,
    ) -> tuple[str, ...]:
        """Write an image as PNG, JPEG or WebP, with what it was made from; returns warnings.

        Args:
            metadata: write how it was made, so that it can be made again from the file.
            strip: leave out EXIF, XMP and density of ``init_image``.
            options: quality and compression, and whether a file that is there is replaced.

        Raises:
            OutputError: as of :func:`intarsia.images.save.save`.
        """
        texts = self.file_texts(sample, strip=strip)
        if not metadata:
            texts |= {"metadata": None, "parameters": None}
        return save(self.images[sample], path, options=options, **texts)


def shared_texts(result: Result, sample: int) -> dict[str, Any]:
    """What an image's file says about its making; it may leave the machine, and so has no path and no EXIF data."""
    return result.file_texts(sample, with_paths=False, strip=True)


def _canvas_fields(plan: Plan) -> dict[str, Any]:
    """What the plan says of mask and canvas, in a request's names; None generates the whole image."""
    canvas = plan.canvas
    values = dataclasses.asdict(canvas)
    for name in ("geometry", "image_sha256", "mask_sha256"):
        del values[name]
    return values | {"mask_padding": None if canvas.mask_padding == -1 else canvas.mask_padding}
