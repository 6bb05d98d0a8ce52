"""Images of this server that a request names by their URL: taken from the file store, not fetched."""

from __future__ import annotations

from urllib.parse import urlsplit

from intarsia.server.store.files import FileStore, is_output_name

__all__ = ["own_image"]


def own_image(url: object, files: FileStore) -> bytes | None:
    """The bytes of the image that a URL of this server stands for; None where it is anything else.

    The name alone decides, under whatever host: a server is called by many of them, and has its own refused as any
    address of this machine is. Nobody can have guessed a name, and no part of the URL is ever a path.

    Raises:
        OutputError: the store cannot be read.
    """
    if not isinstance(url, str):
        return None
    name = _name(url.strip())
    return None if name is None else files.output(name)


def _name(url: str) -> str | None:
    """The name of an output, where the URL is of the form ``http://host/files/NAME`` or ``…/files/temp/NAME``."""
    if not url[:8].lower().startswith(("http://", "https://")):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.query or parts.fragment:
        return None

    folder, _, name = parts.path.rpartition("/")
    is_ours = folder.endswith(("/files", "/files/temp")) and is_output_name(name)
    return name if is_ours else None
