"""Fixtures of the server's tests."""

from __future__ import annotations

import pytest

from intarsia.server.store import Store
from tests.server.postgres import database, postgres

__all__ = ["database", "open_store", "postgres"]


@pytest.fixture
def open_store(database):
    """Opens stores over one database, as several servers would; closed at the end."""
    opened = []

    def open_another(**options):
        store = Store(database, **options)
        opened.append(store)
        return store

    yield open_another
    for store in opened:
        store.close()
