"""What messages show of the values that they quote."""

from __future__ import annotations

import pytest

from intarsia.errors import shown
from intarsia.redact import redacted

KEYS = [
    ("https://example.org/x.png?X-Amz-Signature=SECRET&b", "https://example.org/x.png?…"),
    ("https://example.org/x.png?SECRET", "https://example.org/x.png?…"),
    ("https://example.org/x.png?a b 'SECRET", "https://example.org/x.png?…"),
    ("HTTPS://example.org/#access_token=SECRET", "HTTPS://example.org/?…"),
    ("s3://bucket/x.png?SECRET", "s3://bucket/x.png?…"),
    ("http://user:SECRET@example.org/x.png", "http://…@example.org/x.png"),
    ("http://SECRET@example.org:8080/x.png?SECRET", "http://…@example.org:8080/x.png?…"),
    ("http://user:SE/SECRET@example.org/x", "http://…@example.org/x"),
    ("http://user:SE SECRET@example.org/x", "http://…@example.org/x"),
    ("//user:SECRET@example.org/x", "//…@example.org/x"),
    # what is no address, but was meant as one
    ("https:/example.org/x?SECRET", "https:/example.org/x?…"),
    ("https:/user:SECRET@example.org/x", "https:/…@example.org/x"),
    ("example.org/x.png?sig=SECRET", "example.org/x.png?…"),
    ("/data/example.org/x.png?SECRETSECRETSECRET", "/data/example.org/x.png?…"),
    ("user:SECRET@example.org/x.png", "…@example.org/x.png"),
    # inside a sentence
    ("see https://example.org/x?SECRET now", "see https://example.org/x?… now"),
    ("see https://u:SECRET@example.org/x, or not", "see https://…@example.org/x, or not"),
]
PLAIN = [
    "", "photos/cat.png", "what?.png", "photo #1.png", "a cat? a = b", "https://example.org:8080/icon@2x.png",
    "https://[2001:db8::1]:80/x.png", "12:30 @ noon", "C:/photos/cat#1.png", "bébé.png", "https://example.org/@user/x",
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), KEYS)
def test_keys_of_addresses_are_left_out(text, expected):
    assert redacted(text) == expected
    assert redacted(expected) == expected
    assert "SECRET" not in redacted(text, mark="")
    assert shown(text) == repr(expected)
    assert "SECRET" not in shown({"webhook": [text]})


@pytest.mark.parametrize("text", PLAIN)
def test_everything_else_is_shown_as_it_is(text):
    assert redacted(text) == redacted(text, mark="") == text
    assert shown(text) == repr(text)


def test_a_key_is_left_out_before_a_long_value_is_cut():
    """Cut first, a password has lost the sign that tells what it is."""
    assert shown("https://" + "SECRET" * 30 + "@example.org/x") == "'https://…@example.org/x'"
    assert len(shown("x" * 10_000_000)) <= 120
