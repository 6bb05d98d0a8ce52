"""A request made again from the file of its result: :func:`request_from`, and what such a file says, in steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

from intarsia.engine.foreign_parameters import fields_of_parameters, usable
from intarsia.engine.origin import IMAGES
from intarsia.engine.request import InpaintRequest
from intarsia.engine.request_fields import RequestFields
from intarsia.errors import IntarsiaError, RequestError, named, shown
from intarsia.images.containers import Container
from intarsia.images.decode import opened
from intarsia.images.metadata import read_metadata, read_parameters_text, unread_metadata
from intarsia.images.sources import open_image, read_source

__all__ = ["PastRequest", "read_past_request", "request_from"]

log = logging.getLogger("intarsia")

# What says something of another scheduler than the one that it was given with.
_OF_SCHEDULER = (
    "karras_sigmas",
    "algorithm_type",
    "spacing",
    "eta",
    "solver_order",
    "solver_type",
    "final_sigmas_type",
    "table",
)
_IN_FLAT = {"vae": "model", "ip_adapter": "none"}
"""Keys of a result's meta that are fields of a request in another form, and what they say where there is none."""


@dataclass(frozen=True, kw_only=True)
class PastRequest:
    """What a file says of the request behind it.

    Attributes:
        path: of the file.
        fields: of the request, as JSON has them; its images are not among them.
        inputs: for each image, by field, ``sha256`` and ``path`` or ``url``, as far as they are known.
        meta: what ran; {} where another program made the file.
        warnings: what the file says and no request has.
    """

    path: str
    fields: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def varied(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a request with changes, and with the images that were not given and are still there.

        A scheduler that is given leaves out the settings of the recorded one.

        Raises:
            RequestError: an image that is neither given nor found, or is another by now.
        """
        kept = dict(self.fields)
        if "scheduler" in changes:
            kept = {name: value for name, value in kept.items() if name not in _OF_SCHEDULER}
        fields = kept | dict(changes)

        for name in ("init_image", "mask_image"):
            is_needed = name in self.inputs or name == "init_image" or fields.get("extend") is None
            if fields.get(name) is None and is_needed:
                fields[name] = self._found(name)
        adapter = fields.get("ip_adapter")
        if isinstance(adapter, Mapping) and adapter.get("image") is None and "ip_adapter" not in changes:
            fields["ip_adapter"] = {**adapter, "image": self._found("ip_adapter.image")}
        return fields

    def changed_files(self, meta: Mapping[str, Any]) -> tuple[str, ...]:
        """Ids of the model and the parts in a result's meta that were recorded with another content."""
        before, now = _contents(self.meta), _contents(meta)
        return tuple(name for name, digest in before.items() if now.get(name, digest) != digest)

    def _found(self, name: str) -> str:
        """The path of an image's file, once its pixels are those that were recorded."""
        source = self.inputs.get(name, {})
        path, digest = source.get("path"), source.get("sha256")
        if not path:
            origin = f": it came from {named(source['url'])}" if source.get("url") else ""
            raise self._missing(name, f"{named(self.path)} names no file for {name}{origin}")

        candidates = [path, str(Path(self.path).parent / path), str(Path(self.path).parent / Path(path).name)]
        there = [each for each in dict.fromkeys(candidates) if os.path.isfile(os.path.expanduser(each))]
        for each in there:
            if _hash_of(name, each) == digest:
                return each
        if there:
            raise self._missing(name, f"{named(there[0])} has other pixels than the {name} of {named(self.path)}")
        raise self._missing(name, f"{named(path)}, the {name} of {named(self.path)}, is not there")

    def _missing(self, name: str, problem: str) -> RequestError:
        return RequestError(name, message=f"{problem}; give it")


def request_from(path: str | os.PathLike[str], **changes: Unpack[RequestFields]) -> InpaintRequest:
    """The request that made an image, from the metadata in its file; running it makes the image again.

    >>> engine.run(intarsia.request_from("result.png"))  # doctest: +SKIP
    >>> engine.run(intarsia.request_from("result.png", init_image="other.png", seed=-1))  # doctest: +SKIP

    Files of AUTOMATIC1111's web UI, and of what writes as it does, are read as far as a request has what they say; the
    rest is named in the log. Images that are not given are taken from where the file says they were, if they are there
    and still the same.

    Args:
        path: a PNG, JPEG or WebP that intarsia wrote, or that has a ``parameters`` text.
        changes: fields of the request that are to be others.

    Raises:
        RequestError: the file cannot be read or says nothing of a request, or an image is not found.
    """
    found = read_past_request(path)
    for warning in found.warnings:
        log.warning(warning)
    return InpaintRequest.parse(found.varied(changes))


def read_past_request(path: str | os.PathLike[str]) -> PastRequest:
    """What a file says of the request behind it.

    Raises:
        RequestError: it cannot be read, is no image, or says nothing of a request.
    """
    name = os.fspath(path)
    metadata, parameters, unread = _texts(name)
    if metadata is not None:
        return _of_ours(name, metadata)
    if parameters is not None:
        fields, left_out = fields_of_parameters(parameters)
        if fields:
            return PastRequest(path=name, fields=fields, warnings=_about(name, left_out))
    if unread:
        sentence = f"{named(name)} says nothing of how it was made that is read here: it has {unread}"
        raise RequestError("from", message=sentence)
    raise RequestError("from", message=f"{named(name)} says nothing of how it was made: it has no metadata")


def _texts(path: str) -> tuple[dict[str, Any] | None, str | None, str | None]:
    """Our metadata and the ``parameters`` text of a file, and what it has of another kind, in words."""
    source = read_source("from", Path(path))
    data = source.content if isinstance(source.content, bytes) else b""
    try:
        with opened(Container(data=data)) as image:
            return read_metadata(image), read_parameters_text(image), unread_metadata(image)
    except IntarsiaError:
        raise
    except Exception as exc:  # a decoder fed with damaged data raises anything at all
        raise RequestError("from", message=f"{named(path)} is no image that can be read") from exc


def _of_ours(path: str, metadata: Mapping[str, Any]) -> PastRequest:
    """From our own metadata; those of earlier versions have what ran, but no request."""
    request = metadata.get("request")
    if isinstance(request, Mapping):
        fields, left_out = usable(_given(request))
        warnings = _about(path, left_out)
    else:
        fields, left_out = usable(_flat(metadata))
        earlier = f"{named(path)} is of an earlier version: what it does not say is as by default"
        warnings = (earlier, *_about(path, left_out))

    inputs = metadata.get("inputs")
    meta = {name: value for name, value in metadata.items() if name not in ("request", "inputs")}
    return PastRequest(path=path, fields=fields, inputs=_plain_inputs(inputs), meta=meta, warnings=warnings)


def _given(request: Mapping[str, Any]) -> dict[str, Any]:
    """What a request has to be given: no None that is a field's default.

    Beside a table of one's own no default is, as a table settles what it would say again.
    """
    fields = {str(name): value for name, value in request.items()}
    has_table = fields.get("table") is not None
    return {name: value for name, value in fields.items() if not _is_default(name, value, has_table)}


def _is_default(name: str, value: Any, has_table: bool) -> bool:
    field = InpaintRequest.model_fields.get(name)
    if field is None or (value is not None and not has_table):
        return False
    # a list of JSON is a tuple there
    return bool(value == (list(field.default) if isinstance(field.default, tuple) else field.default))


def _flat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request among what ran."""
    fields = {name: value for name, value in metadata.items() if name in InpaintRequest.model_fields}
    for name, nothing in _IN_FLAT.items():
        identity = str(fields.pop(name, nothing))
        if identity != nothing and name == "vae":
            fields[name] = identity.rpartition(":")[0] or identity
        elif identity != nothing:
            fields[name] = {"id": identity.rpartition(":")[0], "scale": metadata.get(f"{name}_scale", 1.0)}

    fields["loras"] = [
        {"id": lora.get("id"), "strength": lora.get("strength")}
        for lora in _listed(fields.get("loras"))
        if isinstance(lora, Mapping)
    ]
    fields["embeddings"] = [str(each).rpartition(":")[0] for each in _listed(fields.get("embeddings"))]
    return fields | {"samples": 1}


def _plain_inputs(inputs: Any) -> dict[str, dict[str, str]]:
    """What a file says of its inputs, where it is of that form."""
    if not isinstance(inputs, Mapping):
        return {}
    plain: dict[str, dict[str, str]] = {}
    for name in IMAGES:
        source = inputs.get(name)
        if isinstance(source, Mapping):
            plain[name] = {str(key): value for key, value in source.items() if isinstance(value, str)}
    return plain


def _contents(meta: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the model and its parts in a result's meta, or in what a file has as that, by id."""
    contents = {str(meta.get("model")): str(meta.get("model_hash"))}
    loras = [lora for lora in _listed(meta.get("loras")) if isinstance(lora, Mapping)]
    contents |= {str(lora.get("id")): str(lora.get("sha256")) for lora in loras}
    for identity in (meta.get("vae"), meta.get("ip_adapter"), *_listed(meta.get("embeddings"))):
        name, colon, digest = str(identity).rpartition(":")
        if colon:
            contents[name] = digest
    return contents


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _about(path: str, left_out: Mapping[str, Any]) -> tuple[str, ...]:
    """A warning of what was not read."""
    if not left_out:
        return ()
    pairs = ", ".join(f"{named(str(name))} {shown(value)}" for name, value in left_out.items())
    return (f"{named(path)}: not read: {pairs}",)


def _hash_of(name: str, path: str) -> str:
    """Of an image's pixels, as plans have it."""
    return open_image(name, Path(path)).sha256
