"""What a file is that should be safetensors and is not: told by its first bytes."""

from __future__ import annotations

__all__ = ["LOOKED_AT", "other_format"]

LOOKED_AT = 512
"""Bytes from the beginning of a file that :func:`other_format` needs at most."""

_PICKLE = "a pickled checkpoint, which can run code when it is opened; only safetensors are (convert it first)"
_ARCHIVE = "{}; take the file out of it first"

# How files begin that are found under the name of a checkpoint.
_BINARY = {
    b"PK\x03\x04": "a zip archive: " + _PICKLE,  # torch.save's files are zip archives
    b"\x80\x02": _PICKLE,
    b"\x80\x03": _PICKLE,
    b"\x80\x04": _PICKLE,
    b"\x80\x05": _PICKLE,
    b"GGUF": "a GGUF file, which is for other programs; get the safetensors of that model",
    b"\x89HDF": "an HDF5 file; only safetensors are read",
    b"7z\xbc\xaf": _ARCHIVE.format("a 7-Zip archive"),
    b"Rar!": _ARCHIVE.format("a RAR archive"),
    b"\x1f\x8b": _ARCHIVE.format("compressed by gzip"),
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
}
_TEXT = {
    b"version https://git-lfs": "a Git LFS pointer in place of the file; fetch it with git lfs pull",
    b"<!doctype html": "a web page (a login or error page, saved in place of the file); download it again",
    b"<html": "a web page (a login or error page, saved in place of the file); download it again",
    b"<?xml": "an XML text (an error, saved in place of the file); download it again",
    b"{": "a JSON text (an error, saved in place of the file, or a config); download it again",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def other_format(start: bytes) -> str:
    """What the first bytes belong to, with what to do about it; "" where they are of no known format.

    Args:
        start: up to :data:`LOOKED_AT` bytes.
    """
    for signature, what in _BINARY.items():
        if start.startswith(signature):
            return what

    text = start.removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    for beginning, what in _TEXT.items():
        if text.startswith(beginning):
            return what
    return ""
