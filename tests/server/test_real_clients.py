"""Clients that were written for the hosted service, unmodified but for the address: the official SDK, and curl."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("requests", reason="the SDK needs it, and does not say so")
pytest.importorskip("modelslab_py", reason="needs modelslab-py: pip install -e '.[dev]'")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the SDK's models are declared as pydantic 1 had it
    from modelslab_py.core.apis.community import Community
    from modelslab_py.core.apis.realtime import Realtime
    from modelslab_py.core.client import Client
    from modelslab_py.schemas.community import Inpainting
    from modelslab_py.schemas.realtime import RealtimeInpaintingSchema
    from modelslab_py.utils.image_utils import base64_to_image, image_to_base64

from tests.documents import ENDPOINTS, HOSTED, document, serving_images
from tests.server.running import Running, running

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK's calls into pydantic

MASK = np.zeros((96, 128), np.uint8)
MASK[24:72, 32:96] = 255
PIXELS = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture
def fields() -> dict[str, object]:
    return {
        "prompt": "a cat sitting on a bench",
        "init_image": image_to_base64(Image.fromarray(PIXELS)),
        "mask_image": image_to_base64(Image.fromarray(MASK)),
        "width": 512,
        "height": 512,
        "safety_checker": "no",
        "seed": 7,
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server for all tests that need no other settings."""
    with running(tmp_path_factory.mktemp("server"), allow_private_urls=True) as opened:
        yield opened


def _client(server: Running, fetch_timeout: float = 0) -> Client:
    client = Client("any-key-will-do", fetch_retry=1000, fetch_timeout=fetch_timeout)
    client.base_url = f"{server.url}/api/"
    return client


def _image(server: Running, url: str) -> Image.Image:
    response = server.client.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


def test_the_sdk_gets_an_image_by_its_address(server, fields):
    reply = Community(_client(server)).inpainting(Inpainting(model_id="lazymixv4-inpaint", samples=2, **fields))
    images = [_image(server, url) for url in reply["output"]]
    assert reply["status"] == "success"
    assert [image.size for image in images] == [(512, 512)] * 2
    assert reply["meta"]["seed"] == 7
    assert reply["proxy_links"] == reply["output"]


def test_the_sdk_fetches_what_was_still_processing(tmp_path, fields, monkeypatch):
    monkeypatch.setenv("INTARSIA_NULL_STEP_SECONDS", "0.02")
    with running(tmp_path, wait=0.0) as server:
        community = Community(_client(server))
        begun = community.inpainting(Inpainting(model_id="lazymixv4-inpaint", track_id="mine", **fields))
        assert begun["status"] == "processing"
        assert begun["output"] == []
        assert server.client.get(begun["future_links"][0]).status_code == 404

        done = community.fetch(str(begun["id"]))
        assert done["output"] == begun["future_links"]
        assert done["track_id"] == "mine"
        assert _image(server, done["output"][0]).size == (512, 512)


def test_the_sdk_gets_realtime_images_as_base64(server, fields):
    reply = Realtime(_client(server)).inpainting(RealtimeInpaintingSchema(base64=True, **fields))
    assert base64_to_image(reply["output"][0]).size == (512, 512)
    assert "webhook_status" not in reply


@pytest.mark.parametrize("kind", [Community, Realtime])
def test_the_sdk_reaches_the_enterprise_addresses(server, fields, kind):
    schema = RealtimeInpaintingSchema if kind is Realtime else Inpainting
    enterprise = kind(_client(server), enterprise=True)
    assert enterprise.base_url.startswith(f"{server.url}/api/v1/enterprise/")
    assert enterprise.inpainting(schema(**fields, model_id="intarsia-tiny"))["status"] == "success"


def test_the_sdk_posts_to_enterprise_pony(server, fields):
    client = _client(server)
    reply = client.post(
        f"{client.base_url}v1/enterprise/pony/inpaint", {**fields, "model_id": "pony-realism", "samples": "1"}
    )
    assert reply["status"] == "success"
    assert reply["meta"]["tomesd"] == "yes"


def test_the_sdks_coroutines_work_as_its_functions_do(server, fields):
    pytest.importorskip("aiohttp", reason="the SDK's coroutines need it")

    async def both() -> list[dict[str, object]]:
        async with _client(server, fetch_timeout=30) as client:
            community = Community(client)
            schema = Inpainting(model_id="lazymixv4-inpaint", **fields)
            return list(await asyncio.gather(community.async_inpainting(schema), community.async_inpainting(schema)))

    replies = asyncio.run(both())
    assert [reply["status"] for reply in replies] == ["success", "success"]


def test_what_is_wrong_reaches_the_sdks_caller(server, fields):
    with pytest.raises(Exception, match=r"400.*guidance_scale must be") as caught:
        Community(_client(server)).inpainting(Inpainting(model_id="intarsia-tiny", **fields, guidance_scale=99.0))
    assert "any-key-will-do" not in str(caught.value)


def test_errors_have_status_200_where_that_is_asked_for(tmp_path, fields):
    with running(tmp_path, errors_as_200=True) as server:
        reply = Community(_client(server)).inpainting(
            Inpainting(model_id="intarsia-tiny", **fields, guidance_scale=99.0)
        )
    assert reply["status"] == "error"


@pytest.mark.parametrize("number", list(ENDPOINTS))
def test_curl_with_the_documents_example_as_printed(server, number):
    """Only the address of the service, and the host of the example's images, are others."""
    paths = {"enterprise-pony": "v1/enterprise/pony", "realtime": "v6/realtime"}
    path = paths.get(ENDPOINTS[number], "v6/images")
    with serving_images() as address:
        command = [
            "curl", "--silent", "--show-error", "--request", "POST",
            "--url", f"{server.url}/api/{path}/inpaint",
            "--header", "Content-Type: application/json",
            "--data", document(number).example.replace(HOSTED, address),
        ]  # fmt: skip
        reply = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
        assert reply["status"] == "success", reply
        assert _image(server, reply["output"][0]).size == (512, 512)


def test_the_data_folder_and_the_log_hold_no_key(tmp_path, fields, caplog):
    with running(tmp_path) as server:
        Community(_client(server)).inpainting(Inpainting(model_id="intarsia-tiny", **fields))
    for path in Path(tmp_path).rglob("*"):
        if path.is_file():
            assert b"any-key-will-do" not in path.read_bytes(), path
    assert "any-key-will-do" not in caplog.text
