"""The certificate of a server that serves https, looked at before anything is opened."""

from __future__ import annotations

import ssl
from pathlib import Path

from intarsia.errors import RequestError

__all__ = ["check_certificate"]

_LOCKED = (
    "its private key has a pass phrase, which nobody enters as a server starts: write one without, "
    "openssl pkey -in FILE -out FILE"
)
_MISMATCH = "its private key belongs to another certificate"
_NEITHER = "a PEM file with the certificate is needed, and the private key in it or in --certificate-key"


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse files that no server can be opened with.

    Args:
        certificate: PEM file of the certificate, perhaps with its private key; None serves http.
        key: PEM file of the private key.

    Raises:
        RequestError: names the file.
    """
    if certificate is None:
        if key is not None:
            raise RequestError("certificate", message="certificate is required with certificate-key")
        return

    for option, path in (("certificate", certificate), ("certificate-key", key)):
        if path is not None:
            _check_readable(option, path)
    problem = _problem(certificate, key)
    if problem:
        raise RequestError("certificate", message=f"certificate {certificate} cannot be used: {problem}")


def _check_readable(option: str, path: Path) -> None:
    """OpenSSL says of a file that is not there neither which one it is nor, always, what is wrong."""
    try:
        path.open("rb").close()
    except OSError as exc:
        raise RequestError(option, message=f"{option} {path} cannot be used: {exc.strerror}") from exc


def _problem(certificate: Path, key: Path | None) -> str:
    """Why the two cannot be used; empty where they can. OpenSSL's own words are those of its functions."""
    is_locked = False

    def no_pass_phrase() -> str:
        """Is asked in place of whoever sits at the terminal, for whom the start would wait."""
        nonlocal is_locked
        is_locked = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, no_pass_phrase)
    except ssl.SSLError as exc:
        if is_locked:
            return _LOCKED
        return _MISMATCH if exc.reason == "KEY_VALUES_MISMATCH" else _NEITHER
    return ""
