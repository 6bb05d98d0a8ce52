"""Documented requests as rows: the same images, what has no effect is said, no key is written anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from intarsia import batch
from intarsia.batch.manifest.documented_lines import DocumentedLines
from intarsia.batch.manifest.line import Line
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Row
from intarsia.endpoints.reading import ENDPOINTS, read
from intarsia.engine.request import InpaintRequest
from intarsia.errors import RequestError
from intarsia.registry.registry import Registry
from tests.batch.conftest import Album, image_hashes, lines

KEY = "sk-4f9a/77+secret"


def body(number: int, **changes: Any) -> dict[str, Any]:
    """A documented request: numbers as text, flags as words, a key."""
    fields = {
        "key": KEY, "model_id": "nothing", "init_image": f"photos/{number}.png", "mask_image": f"masks/{number}.png",
        "prompt": f"thing {number}", "width": "64", "height": 64, "steps": "4", "samples": "2", "seed": None,
        "scheduler": "DDIMScheduler", "safety_checker": "no", "guidance_scale": 7.5, "strength": "1.0",
    }  # fmt: skip
    return fields | changes


def test_a_row_is_the_request_that_the_endpoint_reads(album: Album) -> None:
    """Field by field, for every endpoint, with every default that it has."""
    registry = Registry(album.weights)
    for name, endpoint in ENDPOINTS.items():
        own = {key: value for key, value in body(0, seed=7, width=512, height=512).items() if key in endpoint.fields}
        manifest = album.manifest([own])
        options = album.with_options(endpoint=name)
        (line,) = Manifest.of(manifest, options, None)
        row = Reader(album.folder, options, {}).row(line)
        assert isinstance(row, Row), row
        expected = read(own, name, registry).request
        located = {key: str(album.folder / str(own[key])) for key in ("init_image", "mask_image")}
        assert InpaintRequest.parse(row.fields) == expected.model_copy(update=located)
        assert row.id == "request-1"


def test_images_are_those_of_the_same_rows_in_the_librarys_fields(album: Album, tmp_path: Path) -> None:
    documented = album.manifest([body(0, id="a"), body(1, id="b", output="x/y.png", seed=5, samples=1)], "doc.jsonl")
    done = album.call("run", documented, "--endpoint", "community", "--out", tmp_path / "doc", "--backend", "null")
    assert (done.returncode, done.stderr) == (0, "")

    registry = Registry(album.weights)
    rows = []
    for number, extra in ((0, {"id": "a"}), (1, {"id": "b", "output": "x/y.png"})):
        own = body(number) if number == 0 else body(number, seed=5, samples=1)
        values = read(own, "community", registry).request.model_dump(mode="json")
        rows.append({key: value for key, value in values.items() if value not in (None, [])} | extra)
    batch.run(album.manifest(rows, "own.jsonl"), tmp_path / "own", album.options)
    assert list(image_hashes(tmp_path / "doc")) == ["a-1.png", "a-2.png", "x/y.png"]
    assert image_hashes(tmp_path / "doc") == image_hashes(tmp_path / "own")


def test_the_key_is_written_nowhere(album: Album, tmp_path: Path) -> None:
    """Not where it is refused for standing in the wrong place, nor in the names of fields and in what is quoted."""
    rows = [
        body(0), body(1, prompt=f"a tree {KEY}"), body(2, steps=KEY), body(3, **{f"x{KEY}": 1}),
        body(4, init_image=f"https://127.0.0.1/x.png?key={KEY}"), body(5, model_id=KEY), body(0, extra={"a": [KEY]}),
        body(0, key=12345678, id="number"),
    ]  # fmt: skip
    manifest, out = album.manifest(rows), tmp_path / "out"
    checked = album.call("validate", manifest, "--endpoint", "community", "--json")
    done = album.call("run", manifest, "--endpoint", "community", "--out", out, "--backend", "null")
    report = album.call("report", out, "--json")

    assert done.returncode == 1
    outcomes = {line["id"]: line.get("text", "") for line in lines(out)}
    assert {name for name, text in outcomes.items() if not text} == {"request-1", "number"}
    assert outcomes["request-2"] == "prompt has the API key in it; take it out"
    assert outcomes["request-3"] == "steps has the API key in it; take it out"
    assert sum("API key" in text for text in outcomes.values()) == 6
    said = [each.stdout + each.stderr for each in (checked, done, report)]
    written = [path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file()]
    assert not [text for text in said + written if "secret" in text or "12345678" in text]


def test_what_has_no_effect_is_in_the_results(album: Album, tmp_path: Path) -> None:
    manifest = album.manifest([body(0, webhook="https://example.org/x", base64="yes", multi_lingual="no", odd=1)])
    batch.run(manifest, tmp_path / "out", album.with_options(endpoint="community"))
    [line] = lines(tmp_path / "out")
    warnings = "; ".join(line["warnings"])
    for part in ("webhook is called by a server only", "base64 had no effect", "multi_lingual", "odd"):
        assert part in warnings
    assert "example.org" not in json.dumps(line)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"mask_image": None}, "mask", "mask_image is required"),
        ({"width": "wide"}, "size", "width must be"),
        ({"model_id": "other"}, "param", "Model not found: other"),
        ({"lora_model": "a,b", "lora_strength": "1,0.5,0.3"}, "param", "lora_strength has 3 values"),
    ],
)
def test_what_the_endpoint_refuses_is_this_rows_error(album: Album, changes: Any, error: str, text: str) -> None:
    translated = DocumentedLines("community", Registry(album.weights)).translated(Line(3, body(0, **changes)))
    assert (translated.error, translated.fields) == (error, {"id": "request-3"})
    assert text in translated.problem


def test_a_line_that_cannot_be_read_stays_one(album: Album) -> None:
    found = batch.validate(album.manifest([body(0), "{"]), album.with_options(endpoint="community"))
    assert [(problem.number, problem.id) for problem in found.problems] == [(2, "line 2")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["m.jsonl", "--endpoint", "comunity"], "endpoint must be one of community"),
        (["m.jsonl", "--endpoint", "community", "--steps", "4"], "documented requests have the defaults of community"),
        (["m.csv", "--endpoint", "community"], "documented requests are JSON lines"),
        (["--images", "photos", "--masks", "masks", "-e", "community"], "documented requests are JSON lines"),
    ],
)
def test_what_contradicts_itself_is_refused(
    album: Album, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    from typer.testing import CliRunner

    from intarsia.cli import app

    album.manifest([body(0)], "m.jsonl")
    monkeypatch.chdir(album.folder)
    done = CliRunner().invoke(app, ["batch", "validate", *arguments])
    assert isinstance(done.exception, RequestError)
    assert str(done.exception).startswith(sentence)
