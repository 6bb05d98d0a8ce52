"""Errors show no key, nothing that a terminal acts upon, and no megabytes; wherever they are shown."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import intarsia
from intarsia.endpoints import ENDPOINTS
from intarsia.engine import resolve as resolving
from intarsia.errors import IntarsiaError, RequestError, named, shown
from intarsia.redact import hiding, redacted, without_query
from tests.command_line import run_intarsia
from tests.unit.endpoint_table import MINIMAL
from tests.unit.replies import checked

SMALL = {**MINIMAL, "width": 96, "height": 64, "steps": 2, "base64": True}
# Fields that quote what they refuse.
QUOTING = [
    "width", "steps", "strength", "scheduler", "algorithm_type", "safety_checker", "safety_checker_type", "seed", "vae",
    "lora_model", "lora_strength", "ip_adapter_scale", "model_id", "webhook", "init_image", "mask_image",
]  # fmt: skip


@pytest.fixture
def engine(empty_registry: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[intarsia.Engine]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with intarsia.Engine("null", weights=empty_registry) as opened:
        yield opened


@pytest.mark.parametrize("field", QUOTING)
@pytest.mark.parametrize("key", ["sk-0123456789", "k'e\"y 猫\n\x1b123", "x" * 119 + "tail-of-the-key", "k/e?y=1&z" * 9])
def test_no_error_shows_the_key(engine, key, field):
    for value in (key, f" {key} ", f"{'y' * 110}{key}", [key], {"a": key}):
        message = checked(engine.reply({**SMALL, "key": key, field: value}, "community")).get("message", "")
        assert message
        assert message.isprintable()
        # No part of it that could be used, nor where a value was cut in the middle of it.
        assert not any(
            key[place : place + 8] in message for place in range(0, len(key) - 8, 4) if set(key[place:]) != {"x"}
        )
        assert "x" * 20 not in message


@pytest.mark.parametrize("key", ["a", "no", 7, 123456789, 1.5, ["sk-in-a-list", "other-key"], {"a": "sk-in-a-dict"}])
def test_short_keys_and_keys_that_are_no_text_are_hidden_as_whole_values(engine, key):
    for value in key if isinstance(key, list) else [key["a"]] if isinstance(key, dict) else [key, str(key)]:
        message = checked(engine.reply({**SMALL, "key": key, "scheduler": value}, "community"))["message"]
        assert message.endswith(", not ***")
        assert message.startswith("scheduler must be one of DDPMScheduler, DDIMScheduler, "), "other words stay whole"
    if isinstance(key, str):
        message = checked(engine.reply({**SMALL, "key": key, "model_id": key}, "community"))["message"]
        assert message.startswith("Model not found: ***; the registry has: ")


@pytest.mark.parametrize("key", [True, None, "", " ", [], 10**5000, [[[]]] * 5000], ids=range(7))
def test_what_is_no_key_hides_nothing(engine, key):
    message = checked(engine.reply({**SMALL, "key": key, "width": True}, "community"))["message"]
    assert message == "width must be an integer between 64 and 1024, not True"


def test_a_key_is_hidden_in_its_own_request_only():
    with hiding("sk-0123456789"):
        assert shown("sk-0123456789") == "***"
        assert redacted("at sk-0123456789/") == "at ***/"
        assert str(RequestError("x", "sk-0123456789", "y")) == "x must be y, not ***"
    assert shown("sk-0123456789") == "'sk-0123456789'"


def test_a_key_is_hidden_as_others_quote_it():
    key = "k'e\"y\n/123"
    with hiding(key):
        for text in (key, repr(key)[1:-1], "k%27e%22y%0A/123"):
            assert redacted(f"at {text}!") == "at ***!"


def test_warnings_of_any_origin_are_printable_in_a_reply(engine, monkeypatch):
    run = engine.run

    def warned(*given: Any, **more: Any) -> intarsia.Result:
        return dataclasses.replace(run(*given, **more), warnings=(HOSTILE, "sk-0123456789"))

    monkeypatch.setattr(engine, "run", warned)
    tip = checked(engine.reply({**SMALL, "key": "sk-0123456789"}, "realtime"), "realtime")["tip"]
    assert tip == "x\\x1b[31m\\nn\\u202eame\\x9b\\u2028\\u200f\\x7f; ***"


def test_a_models_name_in_a_warning_is_printable(monkeypatch):
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    images = {name: MINIMAL[name] for name in ("init_image", "mask_image")}
    with intarsia.Engine("null") as engine:
        warnings = engine.run(intarsia.InpaintRequest(model="Pony_Realism\n", steps=2, **images)).warnings
    assert warnings == ("the registry has no model Pony_Realism\\n: intarsia-tiny stood in for it",)


def test_the_command_line_shows_the_key_on_no_stream(empty_registry, tmp_path):
    key = "sk-0123456789"
    (tmp_path / key).write_text("")
    for command in ("request", "plan"):
        for fields in ({"width": key}, {"model_id": key}, {"init_image": key}):
            body = json.dumps({**SMALL, "key": key, **fields})
            line = [command, "-", "-e", "community", "--weights", empty_registry]
            line += ["--backend", "null"] if command == "request" else []
            done = run_intarsia(line, cwd=tmp_path, environment=os.environ, stdin=body)
            assert done.returncode in (2, 3)
            assert key not in done.stdout + done.stderr
            assert "***" in done.stderr


def test_the_log_of_a_failure_has_no_key_and_nothing_that_a_terminal_acts_upon(engine, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("'a' \x1b[31m \u202e")

    monkeypatch.setattr(resolving, "prepare", fail)
    with caplog.at_level(logging.ERROR, "intarsia"):
        engine.reply({**SMALL, "key": "a"}, "community")
    assert "'***' \\x1b[31m \\u202e" in caplog.text
    assert all(line.isprintable() for line in caplog.records[0].getMessage().split("\n"))


HOSTILE = "x\x1b[31m\nn\u202eame\x9b\u2028\u200f\x7f"


@pytest.mark.parametrize(
    "field", ["model_id", "lora_model", "vae", "scheduler", "ip_adapter_id", "algorithm_type", HOSTILE]
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_names_of_strangers_are_one_printable_line(engine, field, endpoint):
    body = {**SMALL, "ip_adapter_image": MINIMAL["init_image"], "ip_adapter_id": "look", field: HOSTILE}
    reply = checked(engine.reply({**body, "width": 512, "height": 512}, endpoint), endpoint)
    assert reply["status"] == "error"
    assert reply["message"].isprintable()
    body = {**SMALL, "width": 512, "height": 512, HOSTILE: 1, "negative_prompt": f"((a {HOSTILE}))"}
    tip = checked(engine.reply(body, endpoint), endpoint)["tip"]
    assert "n\\u202eame" in tip
    assert tip.isprintable()


def test_messages_are_printable_and_short_whatever_they_are_made_of():
    errors = [
        IntarsiaError(HOSTILE),
        intarsia.WeightsError(HOSTILE * 10**6),
        RequestError("f", "x" * 5_000_000, HOSTILE),
        intarsia.SourceError(HOSTILE, None, HOSTILE),
        RequestError("f", message="y" * 5_000_000),
    ]
    for error in errors:
        assert str(error).isprintable()
        assert len(str(error)) <= 2000
    assert len(shown(["x" * 5_000_000])) <= 120
    assert (len(named("x" * 5_000_000)), named("a\nb")) == (120, "a\\nb")


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("https://u:p@a.com:8/b/c?token=1#2", "https://a.com:8…", "https://a.com:8/b/c…"),
        ("a.com/b?token=1", "a.com…", "a.com/b…"),
        ("u:p@ss@a.com", "a.com…", "a.com…"),
        ("//a.com/b", "//a.com…", "//a.com/b"),
        ("photo.png", "photo.png", "photo.png"),
        ("folder/photo@2x.png", "folder…", "folder/photo@2x.png"),
        ("http:///b", "http://…", "http:///b"),
        ("y" * 70, "y" * 60 + "…", "y" * 60 + "…"),
    ],
)
def test_addresses_without_what_may_be_secret(text, host, path):
    assert (without_query(text), without_query(text, with_path=True)) == (host, path)


@pytest.mark.parametrize("field", ["init_image", "mask_image", "ip_adapter_image"])
@pytest.mark.parametrize("value", ["bucket.com/x.png?Signature=SECRET", "htps:/u:SECRET@a.com/x.png", "a.com/x#SECRET"])
def test_images_that_are_no_address_are_quoted_without_their_secrets(engine, field, value):
    message = checked(engine.reply({**SMALL, field: value}, "community"))["message"]
    assert message.startswith("ip_adapter_id is required" if field == "ip_adapter_image" else field)
    assert "SECRET" not in message


def test_the_fuzz_finds_nothing_and_would_notice():
    pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")
    from tools.fuzz_requests import attempts, problem_of

    outcomes = [attempt.call() for attempt, _ in zip(attempts(random.Random(3)), range(80), strict=False)]
    assert {"success", "error"} == set(outcomes)
    error = {"status": "error", "message": "width must be 5"}
    assert problem_of(error, "sk-1234567", "community") == ""
    for wrong in ({"message": "a\nb"}, {"message": "not 'sk-1234567'"}, {"message": "x" * 5000}, {"message": 5},
                  {"message": "the request failed inside intarsia"}):  # fmt: skip
        assert problem_of(error | wrong, "sk-1234567", "community")
