"""An image from a URL, under guard: which host is asked, for how long, and for how much.

A URL may come from a stranger: :mod:`intarsia.images.guarded_http` checks what it leads to. Redirects are followed by
hand and pass the same checks.
"""

from __future__ import annotations

import httpx2
from PIL import Image

from intarsia.errors import SourceUnreadable
from intarsia.images.access import Access
from intarsia.images.guarded_http import Budget, NoExchange, exchange
from intarsia.images.rgb_image import FORMATS
from intarsia.redact import redacted

__all__ = ["fetch"]

_SENTENCE = "Unable to fetch image from provided URL"
_HEADERS = ((b"User-Agent", b"intarsia"), (b"Accept", b"image/*"), (b"Accept-Encoding", b"identity"))
_SHOWN = 160
_HEAD = 16  # bytes that Pillow's formats are recognized by


def fetch(field: str, url: str, access: Access) -> tuple[bytes, str]:
    """The bytes of the image at ``url``, and what an error calls them.

    Args:
        field: the request's field, for errors.
        url: http or https, without user name and password.

    Raises:
        SourceUnreadable: not allowed, not there, too slow, too large, or not an image. The message shows scheme,
            host and path; never the query, which may hold a key, nor an address that a name resolved to.
    """
    scheme, _, _ = url[:_SHOWN].partition("://")
    first = current = f"{scheme}://…"
    budget = Budget(access)
    try:
        target = _parsed(url)
        first = current = _shown(target)
        for _ in range(access.max_redirects + 1):
            response = _get(target, access, budget)
            if isinstance(response, bytes):
                return response, first
            target, current = response, _shown(response)
        raise NoExchange(f"more than {access.max_redirects} redirects")
    except NoExchange as exc:
        address = first if current == first else f"{current}, redirected from {first}"
        raise SourceUnreadable(field, first, f"{_SENTENCE}: {exc} ({address})") from exc.__cause__


def _parsed(text: str, base: httpx2.URL | None = None) -> httpx2.URL:
    try:
        return base.join(text) if base else httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        # Its own sentence quotes a part of the URL, which may be a part of a password.
        raise NoExchange("redirected to an invalid URL" if base else "the URL is not valid") from None


def _shown(url: httpx2.URL) -> str:
    """Scheme, host and path, cut to a sensible length."""
    if not url.netloc:
        return f"{url.scheme}:…"  # what follows may be the data itself

    host = url.netloc.decode()
    path, _, _ = url.raw_path.partition(b"?")
    text = redacted(f"{url.scheme}://{host}{path.decode()}")
    if len(text) <= _SHOWN:
        return text
    return text[: _SHOWN - 1] + "…"


def _get(url: httpx2.URL, access: Access, budget: Budget) -> bytes | httpx2.URL:
    """One HTTP exchange: the image, or the URL that it redirects to."""
    with exchange("GET", url, access, budget, headers=_HEADERS) as response:
        if response.has_redirect_location:
            return _parsed(response.headers["Location"], url)
        if response.status_code != 200:
            raise NoExchange(f"status {response.status_code}")
        return _body(response, access, budget)


def _body(response: httpx2.Response, access: Access, budget: Budget) -> bytes:
    """The decoded content, if it is small enough and begins like an image, whatever it is declared as."""
    too_large = f"it has more than {access.max_bytes} bytes"
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > access.max_bytes:
        raise NoExchange(too_large)
    if len(response.headers.get_list("Content-Encoding", split_commas=True)) > 1:
        raise NoExchange("its content is encoded more than once")  # each layer multiplies what a byte becomes

    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > access.max_bytes:
            raise NoExchange(too_large)
        budget.seconds_left()

    if not body:
        raise NoExchange("the answer is empty")
    if not _is_image(bytes(body[:_HEAD])):
        raise NoExchange(f"not an image; {', '.join(FORMATS)} are read")
    return bytes(body)


def _is_image(head: bytes) -> bool:
    """Whether one of the decoders that are used recognizes the first bytes."""
    Image.init()
    for name in FORMATS:
        _, recognizes = Image.OPEN.get(name, (None, None))
        if recognizes is not None and recognizes(head):
            return True
    return False
