"""Who sends a request: the owner of its key, under the limits of its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from intarsia.server.http.keys import Keys, candidate_key
from intarsia.server.http.limits import KeyAttempts, RateLimit, client_network
from intarsia.server.http.refusals import Count, Refusal

__all__ = ["Authentication", "Sender"]


@dataclass(frozen=True)
class Sender:
    """Whose request it is: the name of the key's owner, "" on a server that needs no keys."""

    owner: str


@dataclass(frozen=True, kw_only=True)
class Authentication:
    """Checks keys and rates. It belongs to one thread, that of the event loop.

    Args:
        keys: None lets everybody in.
        owners, clients: limits of requests by owner, and by address on a server without keys; None is without.
        count: is called for each refusal.
    """

    keys: Keys | None
    count: Count
    attempts: KeyAttempts = field(default_factory=KeyAttempts)
    owners: RateLimit | None = None
    clients: RateLimit | None = None

    def check(self, body: Mapping[str, object] | None, headers: Mapping[str, str], address: str) -> Sender | Refusal:
        """Whose request it is, or why it is refused.

        Args:
            body: the request's JSON object, where it has one.
            headers: by lower-case names.
            address: the client's.
        """
        client = client_network(address)
        if self.keys is None:
            return self._within(self.clients, client, Sender(""))

        candidate = candidate_key(body, headers)
        if candidate is None:
            return self._refused(Refusal(status=401, reason="key", message="API key is required"))

        # A valid key passes whatever others at its address have tried: many clients share the address of a proxy. It
        # takes nothing to compare one, and nobody comes upon 256 random bits.
        owner = self.keys.owner(candidate)
        if owner is None:
            return self._refused(self._wrong_key(client))
        return self._within(self.owners, owner, Sender(owner))

    def _wrong_key(self, client: str) -> Refusal:
        """What a client gets for a key that is none; after many of them nothing but when to come again."""
        verdict = self.attempts.verdict(client)
        if not verdict.allowed:
            message = f"Too many invalid API keys; try again in {verdict.retry_after} s"
            return Refusal(status=429, reason="key_attempts", message=message, retry_after=verdict.retry_after)
        self.attempts.failed(client)
        return Refusal(status=401, reason="key", message="Invalid API key")

    def _within(self, limit: RateLimit | None, client: str, sender: Sender) -> Sender | Refusal:
        """The sender, where the limit has a token left."""
        verdict = limit.take(client) if limit is not None else None
        if verdict is None or verdict.allowed:
            return sender

        message = f"Too many requests; try again in {verdict.retry_after} s"
        return self._refused(Refusal(status=429, reason="rate", message=message, retry_after=verdict.retry_after))

    def _refused(self, refusal: Refusal) -> Refusal:
        self.count(refusal.reason)
        return refusal
