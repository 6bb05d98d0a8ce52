"""Images of this server that a request names by their URL: taken from the file store, not fetched."""

from __future__ import annotations

from urllib.parse import urlsplit

from intarsia.endpoints.temporary_files import KEPT_HOURS
from intarsia.errors import SourceUnreadable
from intarsia.server.settings import HOUR, shown_seconds
from intarsia.server.store.files import FileStore, is_output_name

__all__ = ["missing_own_image", "own_image"]


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


def missing_own_image(field: str, url: object, keep: float) -> SourceUnreadable | None:
    """The error about a URL of the form of this server's images that led to none; None for any other.

    Args:
        keep: seconds for which the server keeps images.
    """
    if not isinstance(url, str) or _name(url.strip()) is None:
        return None
    temporary = min(keep, KEPT_HOURS * HOUR)
    problem = (
        f"there is no image of this server under that address, and none could be fetched from it: images are kept for "
        f"{shown_seconds(keep)}, temporary and uploaded ones for {shown_seconds(temporary)}; send the image itself, or "
        "upload it again"
    )
    return SourceUnreadable(field, None, problem)


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
