"""Ids, outputs, keys and messages of strangers reach no terminal as they are; a line of theirs stays one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from intarsia import batch
from intarsia.batch.ledger.error_kinds import sentence
from intarsia.cli import app
from intarsia.errors import IntarsiaError, RequestError, SourceError, WeightsError
from tests.batch.conftest import Album, lines

EVIL = "a\x1b]0;owned\x07\x9b2J\u202eb\u2066\u2028c\nd\re"
SEEN = r"a\x1b]0;owned\x07\x9b2J\u202eb\u2066\u2028c\nd\re"


def is_harmless(text: str) -> bool:
    """Nothing in it but printable characters, and line breaks between lines."""
    return all(character == "\n" or character.isprintable() for character in text)


def evil_rows(album: Album) -> list[Any]:
    """A row for each place that a text of a manifest has in a message."""
    return [
        album.row(0, id=f"{EVIL} id", output="0.png"),
        album.row(1, id=f"{EVIL} failed", output="1.png", steps=0),
        album.row(2, init_image=f"{EVIL}.png"),
        album.row(3, output=f"../{EVIL}.png"),
        album.row(4, model=EVIL),
        album.row(5, scheduler=EVIL),
        album.row(6, vae=EVIL),
        album.row(7, loras=[{"id": EVIL}]),
        album.row(8, **{EVIL: 1}),
        album.row(9, id=f"{EVIL} twice"),
        album.row(10, id=f"{EVIL} twice"),
        album.row(11, output=f"{EVIL}.png"),
        album.row(12, output=f"{EVIL}.png/x.png"),
        '{"id": "\\ud83d", "width": "\\u001b[31m"}',
        '{"\\u202e": ',
    ]


def called(*arguments: object) -> tuple[Any, str]:
    done = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    if isinstance(done.exception, IntarsiaError):
        return done, str(done.exception)
    return done, ""


def test_what_rows_hold_acts_on_no_terminal(album, tmp_path):
    rows, out = evil_rows(album), tmp_path / "out"
    manifest = album.manifest(rows)
    given = ("--backend", "null", "--weights", album.weights, "--threads", 2)
    commands = [
        ("validate", manifest, "--weights", album.weights),
        ("validate", manifest, "--weights", album.weights, "--no-decode", "--json"),
        ("run", manifest, "--out", out, *given),
        ("run", manifest, "--out", out, *given, "--json"),
        ("report", out),
        ("report", out, "--json"),
        ("merge", out),
    ]
    said = {}
    for command in commands:
        done, error = called(*command)
        assert error == "", command
        assert is_harmless(done.stdout), command
        assert is_harmless(done.stderr), command
        said[command[0], "--json" in command] = done.stdout

    assert len(said["validate", False].splitlines()) == len(rows)  # all but the first, and the sum
    assert f"line 2: {SEEN} failed: param: steps" in said["validate", False]
    assert f"{SEEN} failed: param: steps" in said["report", False]
    assert {record["id"] for record in json.loads(said["report", True])["failed"]} == {
        record["id"] for record in lines(out) if record["status"] == "error"
    }
    assert f"{EVIL} failed" in {problem["id"] for problem in json.loads(said["validate", True])["problems"]}
    assert all(record["text"].isprintable() for record in lines(out) if "text" in record)
    assert all(problem.text.isprintable() for problem in batch.validate(manifest, album.options, decode=False).problems)


def test_names_of_files_act_on_no_terminal(album, tmp_path):
    """Images without masks among them, whose names are all that there is to say."""
    pair = batch.Pair(album.folder / "photos", album.folder / "masks")
    (pair.images / "0.png").rename(pair.images / f"{EVIL}.png")
    (album.folder / "quick.toml").write_text("width = 64\nheight = 64\nsteps = 2\n")
    options = album.with_options(defaults=album.folder / "quick.toml")
    [problem] = batch.validate(pair, options, decode=False).problems
    assert problem.text.isprintable()
    assert SEEN in problem.text
    assert batch.run(pair, tmp_path / "out", options).failed == 1
    [record] = batch.report(tmp_path / "out")["failed"]
    assert record["text"] == problem.text


def test_names_of_folders_act_on_no_terminal(tmp_path):
    out = tmp_path / EVIL
    out.mkdir()
    (out / "results.jsonl").write_text('garbage\n{"id": "a", "status": "ok"}\n')
    for command in (("report", out), ("merge", out)):
        done, error = called(*command)
        assert (error, done.exit_code) == ("", 0)
        assert is_harmless(done.stdout + done.stderr)
        assert "line 1 is damaged" in done.stderr


def test_what_files_of_a_run_hold_acts_on_no_terminal(tmp_path):
    """They may have come with a folder from elsewhere."""
    record = {"id": EVIL, "status": "error", "error": EVIL, "text": EVIL, "line": 1}
    (tmp_path / "results.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"id": EVIL, "status": EVIL}) + "\n")
    numbers = batch.RunStats(rows=1, stopped=EVIL, warnings=[EVIL]).to_dict()
    numbers |= {"images": 1, "errors": {EVIL: 1}, "stages": {EVIL: {"p50": 1, "p95": 1}}}
    (tmp_path / "report.json").write_text(json.dumps(numbers))
    done, _ = called("report", tmp_path)
    assert is_harmless(done.stdout + done.stderr)
    assert f"{SEEN}: {SEEN}: {SEEN}" in done.stdout.splitlines()
    assert f"stopped: {SEEN}" in done.stdout.splitlines()
    whole, _ = called("report", tmp_path, "--json")
    assert is_harmless(whole.stdout)
    assert json.loads(whole.stdout)["failed"] == [record]
    assert json.loads(whole.stdout)["runs"] == {"report": numbers}


@pytest.mark.parametrize(
    "error",
    [
        IntarsiaError(EVIL),
        RequestError("model", message=EVIL),
        RequestError("model", EVIL, EVIL),
        RequestError(EVIL, EVIL, "known"),
        SourceError("init_image", EVIL, EVIL),
        WeightsError(EVIL),
        ValueError(EVIL),
        ValueError("\n"),
        ValueError("x" * 10**7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_message_is_one_line_of_bounded_length(error):
    assert sentence(error).isprintable()
    assert 1 <= len(sentence(error)) <= 10_000
