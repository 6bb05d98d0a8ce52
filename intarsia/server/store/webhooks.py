"""Calls webhooks: once each, when its job has ended, as far as that can be known.

A call that was answered, but not noted as delivered because the process died in between, is made again after the
restart, with the same ``X-Intarsia-Delivery``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intarsia.errors import IntarsiaError
from intarsia.images.access import Access
from intarsia.server.store.jobs import Job
from intarsia.server.store.store import Store
from intarsia.server.store.webhook_store import WebhookCall
from intarsia.threads import start_thread

if TYPE_CHECKING:
    import httpx2

__all__ = ["WebhookSender", "WebhookTimes", "signature"]

log = logging.getLogger("intarsia")

Body = Callable[[Job, str], Mapping[str, Any]]
"""Gives a job's reply for a webhook, with addresses that begin with the second argument."""

_WORKERS = 4
# Calls to one host at the same time: a receiver that is slow leaves workers to the others.
_PER_HOST = 2


@dataclass(frozen=True, kw_only=True)
class WebhookTimes:
    """How long calls take and wait, in seconds.

    Attributes:
        call: within which a receiver has to answer, from the look-up of its name on.
        connect: within which it has to take the connection.
        waits: before the second and each later try.
        look: between looks for calls that another process has left.
        close: that calls under way are given when the server ends.
    """

    call: float = 30.0
    connect: float = 10.0
    waits: tuple[float, ...] = (10.0, 60.0, 300.0, 1800.0)
    look: float = 5.0
    close: float = 3.0

    @property
    def lease(self) -> float:
        """After which a call that nobody has noted the end of is made again."""
        return self.call + 30.0


class WebhookSender:
    """Makes the calls that are due, on a few threads, until it is closed.

    Args:
        secret: signs bodies; empty signs none.
        allow_private_urls: receivers may be at addresses that are not public.
        count: is called with what came of each try: ``delivered``, ``tried`` where another one follows, ``failed``.
    """

    def __init__(
        self,
        store: Store,
        *,
        secret: str = "",
        allow_private_urls: bool = False,
        times: WebhookTimes | None = None,
        count: Callable[[str], None] = lambda result: None,
    ) -> None:
        self._store, self._secret, self._count = store, secret, count
        self._times = times or WebhookTimes()
        self._access = Access(
            allow_paths=False,
            allow_private_urls=allow_private_urls,
            seconds=self._times.call,
            connect_seconds=self._times.connect,
        )
        # Every write of the sender to the store; nothing is written once it is closed.
        self._storing = threading.Lock()
        self._changed = threading.Condition()
        self._calls: Counter[str] = Counter()  # under way, by host
        self._wakes = 0
        self._closing = self._closed = False
        self._threads: list[threading.Thread] = []

    def start(self, body: Body) -> None:
        """Begin with whatever is due."""
        self._threads = [start_thread(self._run, "intarsia-webhooks", body) for _ in range(_WORKERS)]

    def wake(self) -> None:
        """Look for calls that are due now: a job has ended."""
        with self._changed:
            self._wakes += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no more calls; those that take longer than a moment are given up, and made again later."""
        with self._storing, self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + self._times.close
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._storing:
            self._closed = True

    def _run(self, body: Body) -> None:
        while True:
            with self._changed:
                if self._closing:
                    return
                wakes = self._wakes
            try:
                call = self._begin()
                if call is None:
                    self._wait(wakes)
                else:
                    self._make(call, body)
            except IntarsiaError as exc:  # of the store
                log.error("the job store fails, and webhooks are tried again: %s", exc)
                self._pause()
            except Exception:  # a fault of ours must not end the thread
                log.exception("a webhook failed unexpectedly, and is tried again")
                self._pause()

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, self._times.look)

    def _begin(self) -> WebhookCall | None:
        """A call that is due and whose host is not busy; it counts as under way from here on."""
        with self._storing:  # one at a time: what a host has under way must not change in between
            if self._closing:
                return None
            call = self._store.webhooks.claim(self._times.lease, self._busy())
            if call is not None:
                with self._changed:
                    self._calls[call.host] += 1
            return call

    def _busy(self) -> list[str]:
        with self._changed:
            return [host for host, count in self._calls.items() if count >= _PER_HOST]

    def _wait(self, wakes: int) -> None:
        """Wait until a call is due by the database, or this process says that one is (``wake``)."""
        seconds = self._store.webhooks.seconds_to_next(self._busy())
        if seconds is not None:
            seconds = min(seconds, self._times.look)
        elif self._store.is_shared:
            seconds = self._times.look
        # Else nothing becomes due without a wake: whatever ends a job here says so.
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._wakes != wakes, seconds)

    def _make(self, call: WebhookCall, body: Body) -> None:
        try:
            problem = self._problem(call, body)
            self._note(call, problem)
        finally:
            with self._changed:
                self._calls[call.host] -= 1
                self._calls += Counter()  # forgets hosts without calls
                self._wakes += 1  # the host may have more
                self._changed.notify_all()

    def _note(self, call: WebhookCall, problem: str | None) -> None:
        waits = self._times.waits
        is_last = call.attempt > len(waits)
        with self._storing:
            if self._closed:
                return  # the folder may be another server's by now
            if problem is None:
                self._store.webhooks.delivered(call)
            else:
                self._store.webhooks.failed(call, problem, None if is_last else waits[call.attempt - 1])
        if problem is None:
            self._count("delivered")
        else:
            self._count("failed" if is_last else "tried")
            tries = f"try {call.attempt} of {len(waits) + 1}"
            log.warning("the webhook of job %d failed, %s: %s", call.job_id, tries, problem)

    def _problem(self, call: WebhookCall, body: Body) -> str | None:
        """Make a call; None where the receiver took it, else why not, in words without secrets."""
        import httpx2  # a tenth of a server's start, and few servers have a webhook to call

        from intarsia.images.guarded_http import Budget, NoExchange, exchange

        job = self._store.get(call.job_id)
        if job is None:
            return "its job is kept no longer"
        try:
            content = json.dumps(body(job, call.base_url), ensure_ascii=True, allow_nan=False).encode()
        except Exception:  # a fault of ours must not end the thread
            log.exception("the body of a webhook cannot be made")
            return "its body cannot be made"

        try:
            with exchange(
                "POST",
                httpx2.URL(call.url),
                self._access,
                Budget(self._access),
                headers=self._headers(call, content),
                content=content,
            ) as response:
                return _refusal(response)
        except httpx2.InvalidURL:
            return "the URL is not valid"
        except NoExchange as exc:
            return str(exc)

    def _headers(self, call: WebhookCall, content: bytes) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"User-Agent", b"intarsia"),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"*/*"),
            (b"X-Intarsia-Delivery", call.call_id.encode()),
        ]
        if self._secret:
            headers.append((b"X-Intarsia-Signature", signature(content, self._secret).encode()))
        return headers


def _refusal(response: httpx2.Response) -> str | None:
    if response.is_success:
        return None
    note = " (redirects are not followed)" if response.is_redirect else ""
    return f"status {response.status_code}{note}"


def signature(content: bytes, secret: str) -> str:
    """``sha256=`` and the HMAC-SHA256 of a body in hexadecimal digits, RFC 2104; the secret as UTF-8."""
    return "sha256=" + hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
