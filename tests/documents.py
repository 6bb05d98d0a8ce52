"""The five documents that the endpoints are specified from: their example requests and response schemas."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

SEEDS = Path(__file__).resolve().parents[2] / "shared" / "seeds"
IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "inpainting"
HOSTED = "https://raw.githubusercontent.com/CompVis/stable-diffusion/main/data/inpainting_examples"
ENDPOINTS = {"000": "community", "001": "enterprise-pony", "002": "pony", "003": "pony", "004": "realtime"}


@dataclass(frozen=True)
class Document:
    """One document. ``response`` is the JSON Schema of what it answers with 200; None where it has none."""

    number: str
    endpoint: str
    text: str

    @property
    def example(self) -> str:
        """The example request, byte for byte: the JSON object around the address of the image."""
        place = self.text.index(f'"init_image": "{HOSTED}')
        return self.text[self.text.rindex("{", 0, place) : self.text.index("}", place) + 1]

    @property
    def openapi(self) -> dict[str, Any] | None:
        if "````yaml" not in self.text:
            return None
        block = self.text.split("````yaml", 1)[1].split("\n", 1)[1].split("````", 1)[0]
        return yaml.safe_load(block)

    @property
    def response(self) -> dict[str, Any] | None:
        if self.openapi is None:
            return None
        [path] = self.openapi["paths"].values()
        schema = path["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        return {**schema, "components": self.openapi["components"]}


def document(number: str) -> Document:
    """One document by its number; skips, with the reason, where the documents are absent."""
    found = sorted(SEEDS.glob(f"{number}_*.txt"))
    if not found:
        pytest.skip(f"the documents are not there: {SEEDS}")
    return Document(number, ENDPOINTS[number], found[0].read_text(encoding="utf-8"))


def example(number: str, address: str) -> dict[str, Any]:
    """The example request with its images at ``address``, otherwise as printed."""
    return json.loads(document(number).example.replace(HOSTED, address))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A web server on this machine that serves ``folder``; its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def serving_images() -> Iterator[str]:
    """The documents' own images; skips, with the reason, where they are absent."""
    if not IMAGES.is_dir():
        pytest.skip(f"the documents' pictures are not there: {IMAGES}")
    with serving(IMAGES) as address:
        yield address
