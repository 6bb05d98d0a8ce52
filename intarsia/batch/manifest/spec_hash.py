"""``spec_hash``: two rows of equal hash have equal outputs; and how to know it without decoding an image.

The hash is made of the request's outline (model and adapter hashes, resolved parameters, seeds), how the file is
encoded, the engine's version, and the content hashes of the images. A file whose path, size and time of change are
those of a line of results still has the content hash of that line, so a finished run is checked by looking at files'
dates alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from intarsia import __version__
from intarsia.batch.manifest.rows import is_path
from intarsia.batch.settings import Options
from intarsia.engine.plan import Plan
from intarsia.engine.prompts import read_prompts
from intarsia.engine.request import InpaintRequest
from intarsia.engine.resolve import outline
from intarsia.registry.registry import Registry

__all__ = ["Contents", "Specs", "contents_of", "identity"]

Contents = Mapping[str, str]
"""Field → sha256 of the normalized image in it."""

# What differs from row to row, but for what prompts name; the outline of all the rest is made once for all rows that
# share it.
_OWN = {"prompt", "negative_prompt", "seed", "init_image", "mask_image"}
_MOST_OUTLINES = 4096
_CANONICAL = json.JSONEncoder(sort_keys=True)


class Specs:
    """Makes spec hashes. Not for several threads at once.

    Raises:
        RequestError, WeightsError: from every method, what resolving the request would raise before it opens an image.
    """

    def __init__(self, registry: Registry, options: Options) -> None:
        self._registry = registry
        saving = options.saving
        self._written: list[Any] = [saving.quality, saving.lossless, saving.compression, options.metadata]
        if options.strip:  # hashes of runs without it stay as they were
            self._written.append("strip")
        self._outlines: dict[str, str] = {}

    def outline(self, request: InpaintRequest) -> str:
        """Hash of everything but the images and their encoding."""
        prompts = read_prompts(request, self._registry.find(request.model), self._registry)
        shared = request.model_dump_json(exclude=_OWN | {"ip_adapter"})
        adapter = request.ip_adapter
        key = f"{shared} {adapter.id} {adapter.scale}" if adapter else shared
        key = f"{key} {prompts.loras}" if prompts.loras else key

        digest = self._outlines.get(key)
        if digest is None:
            # This stand-in text shows what the model's template makes of any prompt.
            own = {"prompt": "{prompt}", "negative_prompt": "", "seed": 0, "loras": (*request.loras, *prompts.loras)}
            plain = request.model_copy(update=own)
            digest = _hash(outline(plain, self._registry))
            if len(self._outlines) < _MOST_OUTLINES:
                self._outlines[key] = digest
        embeddings = prompts.plan.embeddings
        named = [list(embeddings)] if embeddings else []
        return _hash([digest, request.prompt, request.negative_prompt, request.seed, *named])

    def spec(self, request: InpaintRequest, contents: Contents, outputs: tuple[str, ...]) -> str:
        """The row's ``spec_hash``."""
        formats = [os.path.splitext(name)[1].lower() for name in outputs]
        major = __version__.partition(".")[0]
        return _hash([major, self.outline(request), dict(contents), formats, self._written])


def _hash(value: Any) -> str:
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def contents_of(plan: Plan) -> dict[str, str]:
    """The content hashes in a plan, by field."""
    contents = {"init_image": plan.canvas.image_sha256}
    if plan.canvas.mask_sha256:
        contents["mask_image"] = plan.canvas.mask_sha256
    if plan.prompt.image_sha256:
        contents["ip_adapter.image"] = plan.prompt.image_sha256
    return contents


def identity(source: str) -> str:
    """Changes whenever what is behind ``source`` may have changed.

    For a file: its path, size and time of change. A URL, data URI or base64 is its own text: what a URL gives is
    taken to stay as it was. "" where the file cannot be looked at.
    """
    text = source
    try:
        if is_path(source):
            status = os.stat(source)
            text = f"{source}\0{status.st_size}\0{status.st_mtime_ns}"
    except (OSError, ValueError):
        return ""

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
