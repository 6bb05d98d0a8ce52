"""``intarsia request``, ``intarsia plan --endpoint`` and ``intarsia schema``, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import run_intarsia
from tests.unit.endpoint_table import MINIMAL
from tests.unit.replies import checked

PAYLOAD = {**MINIMAL, "width": "96", "height": 64, "seed": "7"}


@pytest.fixture
def intarsia(tmp_path: Path, empty_registry: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def run(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return run_intarsia(arguments, cwd=tmp_path, environment=environment, stdin=stdin)

    return run


def test_a_file_or_standard_input_gives_the_reply_and_the_image(intarsia, tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "request.json").write_text(json.dumps(PAYLOAD))
    for file, stdin in [("request.json", None), ("-", json.dumps(PAYLOAD))]:
        done = intarsia("request", file, "-e", "community", "-o", "made", "--backend", "null", stdin=stdin)
        assert (done.returncode, done.stderr) == (0, "")
        reply = checked(json.loads(done.stdout))
        assert reply["output"] == [f"made/{reply['id']}.png"]
        with Image.open(tmp_path / reply["output"][0]) as made:
            assert made.size == (96, 64)


BAD = [
    ({"width": 5}, 2, "width must be between 64 and 1024, not 5"),
    ({"model_id": "nope"}, 3, "Model not found: nope"),
    ({"safety_checker": "yes"}, 3, "safety_checker: no checker is installed for nothing"),
    ({"init_image": "photo.png"}, 2, "photo.png is a file; documented requests read no files: give a data URI or"),
    ({"init_image": "gone.png"}, 2, "paths are not read here"),
]


@pytest.mark.parametrize(("fields", "code", "sentence"), BAD, ids=[row[2] for row in BAD])
def test_errors_are_a_reply_on_stdout_one_line_on_stderr_and_a_code(intarsia, tmp_path, fields, code, sentence):
    Image.new("RGB", (96, 64)).save(tmp_path / "photo.png")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = intarsia("request", "-", "-e", "community", "--backend", "null", stdin=json.dumps({**PAYLOAD, **fields}))
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert checked(json.loads(done.stdout))["status"] == "error"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [("[1]", 2, "error"), ("null", 2, "error"), ("1e999", 2, "error"), ("not json", 2, None), ("9" * 5000, 2, None),
     ("[" * 100_000, 2, None), ('{"seed": NaN}', 2, "error")],
)  # fmt: skip
def test_files_that_are_no_request(intarsia, text, code, status):
    done = intarsia("request", "-", "--backend", "null", stdin=text)
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1
    assert checked(json.loads(done.stdout))["status"] == "error"
    if status is None:
        assert "is not JSON" in done.stderr


def test_other_errors_have_their_codes(intarsia, tmp_path):
    (tmp_path / "request.json").write_text(json.dumps(PAYLOAD))
    for arguments, code, sentence in [
        (["request", "gone.json"], 2, "gone.json cannot be read"),
        (["request", "request.json", "-e", "txt2img"], 2, "endpoint must be one of community, enterprise-pony"),
        (["request", "request.json", "-o", "request.json/gone"], 2, "request.json is no folder"),
        (["request", "request.json", "--backend", "tpu"], 4, "backend must be one of"),
        (["plan", "request.json", "-e", "txt2img"], 2, "endpoint must be one of community, enterprise-pony"),
        (["schema", "-e", "txt2img"], 2, "--endpoint must be one of community, enterprise-pony"),
        (["schema", "-e", "pony", "--openapi"], 2, "leave --endpoint out"),
    ]:
        null = ["--backend", "null"] if arguments[0] == "request" and "--backend" not in arguments else []
        done = intarsia(*arguments, *null)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (code, 1), done.stderr
        assert sentence in done.stderr


def test_plan_of_a_documented_request(intarsia):
    done = intarsia("plan", "-", "--endpoint", "enterprise-pony", stdin=json.dumps(PAYLOAD))
    plan = json.loads(done.stdout)
    assert (plan["sampler"]["steps"], plan["token_merging"]) == (30, 0.5)
    assert (plan["prompt"]["prompt"], plan["prompt"]["asked"]) == ("best, a cat", "a cat")
    assert plan["canvas"]["geometry"]["working"] == [96, 64]
    done = intarsia("plan", "-", "-e", "community", stdin=json.dumps({**PAYLOAD, "init_image": "photo.png"}))
    assert (done.returncode, done.stdout) == (2, "")

    done = intarsia("plan", "-", stdin=json.dumps(PAYLOAD))
    assert (done.returncode, done.stdout) == (2, "")
    assert "name the endpoint with --endpoint (community, enterprise-pony" in done.stderr


def test_schema_prints_one_endpoint_all_of_them_or_openapi(intarsia):
    one = json.loads(intarsia("schema", "--endpoint", "pony").stdout)
    assert one["request"]["properties"]["width"]["anyOf"][0] == {
        "type": "integer", "minimum": 512, "maximum": 1024, "multipleOf": 8,
    }  # fmt: skip
    assert set(one["replies"]) == {"success", "processing", "error"}
    every = json.loads(intarsia("schema").stdout)
    assert every["pony"] == one
    assert set(every) == {"community", "enterprise-pony", "pony", "realtime"}
    assert json.loads(intarsia("schema", "--openapi").stdout)["openapi"] == "3.1.0"
