"""Bodies of requests: read whole before the application runs, within limits of size, time and memory."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from starlette.types import Message, Receive

from intarsia.server.http.refusals import Refusal

__all__ = ["Body", "BodyLimits", "Memory", "drain", "read_body"]

# After a refusal, the rest of a body is read on for as long at most.
_DRAIN_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class BodyLimits:
    """What a body may be.

    Attributes:
        most: bytes of one body.
        seconds: in which it must have arrived.
        stall_seconds: in which at least one byte of it must arrive.
        together: bytes of all bodies that are held at the same time.
    """

    most: int = 32 << 20
    seconds: float = 60.0
    stall_seconds: float = 15.0
    together: int = 512 << 20

    @property
    def too_large(self) -> Refusal:
        return Refusal(status=413, reason="body_size", message=f"The request body must be at most {self.most} bytes")


class Memory:
    """Bytes that all bodies together hold now, of those that they may hold."""

    def __init__(self, most: int) -> None:
        self._most, self.used = most, 0

    def take(self, amount: int) -> bool:
        """Whether as many bytes were left; they are taken then."""
        if self.used + amount > self._most:
            return False
        self.used += amount
        return True

    def give_back(self, amount: int) -> None:
        """Free bytes that were taken."""
        self.used -= amount


class Body:
    """A body that has arrived, for the application to receive. :meth:`release` gives its memory back."""

    def __init__(self, receive: Receive, memory: Memory) -> None:
        self._receive, self._memory = receive, memory
        # One buffer: a list of chunks of a byte each would need forty times their memory.
        self._content: bytearray | None = bytearray()
        self._taken = 0

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self._taken

    def append(self, chunk: bytes) -> bool:
        """Add bytes; False where there is no memory left for them."""
        if self._content is None or not self._memory.take(len(chunk)):
            return False
        self._taken += len(chunk)
        self._content += chunk
        return True

    async def receive(self) -> Message:
        """All of the body in one message, then whatever the client does next."""
        if self._content is None:
            return await self._receive()
        content, self._content = bytes(self._content), None
        return {"type": "http.request", "body": content, "more_body": False}

    def release(self) -> None:
        """Give the memory back; the body must not be used after that."""
        self._memory.give_back(self._taken)
        self._content, self._taken = None, 0


async def read_body(receive: Receive, limits: BodyLimits, memory: Memory) -> Body | Refusal | None:
    """A request's body, or why it is refused; None where the client has gone."""
    body = Body(receive, memory)
    ended: Refusal | None = None
    try:
        async with asyncio.timeout(limits.seconds):
            while True:
                async with asyncio.timeout(limits.stall_seconds):
                    message = await receive()
                if message["type"] == "http.disconnect":
                    break

                chunk = message.get("body", b"")
                ended = _refusal(body, chunk, limits)
                if ended is not None:
                    break
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        seconds = f"{limits.seconds:g} s, and without a pause of {limits.stall_seconds:g} s"
        ended = Refusal(status=408, reason="body_time", message=f"The request body must arrive within {seconds}")
    except BaseException:  # cancelled
        body.release()
        raise

    body.release()
    return ended


def _refusal(body: Body, chunk: bytes, limits: BodyLimits) -> Refusal | None:
    """Add a chunk; why it cannot be."""
    if body.size + len(chunk) > limits.most:
        return limits.too_large
    if not body.append(chunk):
        message = "The server holds as many request bodies as it has memory for; try again"
        return Refusal(status=503, reason="memory", message=message, retry_after=1)
    return None


async def drain(receive: Receive, most: int) -> None:
    """Read and forget the rest of a body, up to ``most`` bytes and for a second.

    A connection that is closed while bytes of it are unread is reset, and the reply on its way is lost with it.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while most > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                most -= len(message.get("body", b""))
