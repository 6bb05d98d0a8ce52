"""Each document's example request, as printed there, on the null backend: the documented reply."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import intarsia
from tests.command_line import run_intarsia
from tests.documents import ENDPOINTS, HOSTED, document, example, serving_images

jsonschema = pytest.importorskip("jsonschema", reason="needs jsonschema: pip install -e '.[dev]'")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving_images() as found:
        yield found


@pytest.fixture(autouse=True)
def _fresh_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No registry but the packaged one."""
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# What the documents' examples ask for or leave to the endpoint.
EXPECTED = {
    "000": {"steps": 21, "scheduler": "UniPCMultistepScheduler", "enhance_prompt": "yes", "tomesd": "no"},
    "001": {"steps": 30, "scheduler": "PNDMScheduler", "enhance_prompt": "yes", "tomesd": "yes"},
    "002": {"steps": 21, "algorithm_type": "sde-dpmsolver++", "enhance_prompt": "no", "tomesd": "no"},
    "003": {"steps": 21, "algorithm_type": "sde-dpmsolver++", "enhance_prompt": "no", "tomesd": "no"},
    "004": {
        "model_id": "intarsia-tiny-lcm",
        "steps": 4,
        "negative_prompt": "bad quality",
        "enhance_prompt": "no",
        "tomesd": "no",
    },
}


@pytest.mark.parametrize("number", list(ENDPOINTS))
def test_the_example_gives_the_documented_reply(number, address, tmp_path):
    payload = example(number, address)
    with intarsia.Engine("null", allow_private_urls=True) as engine:
        reply = json.loads(json.dumps(engine.reply(payload, ENDPOINTS[number], out=tmp_path)))
    assert reply["status"] == "success", reply
    with Image.open(reply["output"][0]) as made:
        assert made.size == (512, 512)
    shared = {"prompt": "a cat sitting on a bench", "W": 512, "H": 512, "strength": 0.7, "model_id": "intarsia-tiny"}
    for name, value in (shared | EXPECTED[number] | {"safety_checker": "no"}).items():
        assert reply["meta"][name] == value, name
    assert payload["key"] not in json.dumps(reply)
    if number != "004":  # realtime names no model
        assert f"the registry has no model {payload['model_id']}: intarsia-tiny stood in for it" in reply["tip"]
    response = document(number).response
    if response is not None:
        jsonschema.Draft202012Validator(response).validate(reply)


def test_the_page_without_openapi_has_the_same_reply(address, tmp_path):
    """002 prints its reply as an example: every key of it is there, with a value of the same type."""
    text = document("002").text
    start = text.index('{\n  "generationTime"')
    printed, _ = json.JSONDecoder().raw_decode(text[start:])
    with intarsia.Engine("null", allow_private_urls=True) as engine:
        reply = engine.reply(example("002", address), "pony", out=tmp_path)
    for name, value in printed.items():
        found = reply[name]
        assert isinstance(found, type(value) if name != "generationTime" else float), name


@pytest.mark.parametrize("number", ["000", "003", "004"])
def test_the_documents_schema_refuses_what_is_no_reply(number):
    """The oracle can fail."""
    validator = jsonschema.Draft202012Validator(document(number).response)
    for wrong in ({"status": "done"}, {"status": "success", "id": "7"}, {"status": "success", "output": "a.png"}):
        assert not validator.is_valid(wrong)


def test_error_replies_are_the_documents_too():
    with intarsia.Engine("null") as engine:
        for number in ("000", "003", "004"):
            validator = jsonschema.Draft202012Validator(document(number).response)
            reply = engine.reply(example(number, "http://127.0.0.1:9"), ENDPOINTS[number])
            assert reply["message"].startswith("init_image: Unable to fetch image from provided URL")
            validator.validate(reply)


def test_the_command_line_runs_the_file_as_it_is(address, tmp_path):
    (tmp_path / "request.json").write_text(document("000").example.replace(HOSTED, address))
    done = run(
        tmp_path, "request", "request.json", "-e", "community", "-o", ".", "--backend", "null", "--allow-private-urls"
    )
    assert (done.returncode, done.stderr) == (0, "")
    reply = json.loads(done.stdout)
    assert (tmp_path / reply["output"][0]).is_file()
    assert not Path(reply["output"][0]).is_absolute(), "the folder is shown as it was given"
    done = run(tmp_path, "request", "request.json", "-e", "community", "-o", ".", "--backend", "null")
    assert done.returncode == 2
    assert json.loads(done.stdout)["status"] == "error"
    assert "its host is not public" in done.stderr


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_intarsia(arguments, cwd=folder, environment=os.environ)
