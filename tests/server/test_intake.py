"""Images that are slow to come hold up nobody who brings his own."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from tests.server.killed import documented_body
from tests.server.running import running

INPAINT = "/api/v6/images/inpaint"


class SilentHost:
    """A host that takes connections, and says nothing until it closes all of them."""

    def __init__(self) -> None:
        self._end = asyncio.Event()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._hold, "127.0.0.1", 0, backlog=200)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()

    def hang_up(self) -> None:
        self._server.close()
        self._end.set()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._end.wait()
        writer.close()


def test_requests_with_their_images_do_not_wait_for_images_from_elsewhere(tmp_path: Path):
    async def flood(url: str) -> tuple[int, set[int]]:
        """Statuses of a request that brings its image, and of a hundred before it whose image never comes."""
        host, limits = SilentHost(), httpx2.Limits(max_connections=200)
        async with host as elsewhere, httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
            bodies = [documented_body(number, init_image=f"{elsewhere}/{number}") for number in range(100)]
            slow = [asyncio.create_task(client.post(INPAINT, json=body)) for body in bodies]
            await asyncio.sleep(0.5)
            reply = await client.post(INPAINT, json=documented_body(1))
            assert not any(task.done() for task in slow)

            host.hang_up()
            return reply.status_code, {response.status_code for response in await asyncio.gather(*slow)}

    with running(tmp_path, allow_private_urls=True) as server:
        assert asyncio.run(flood(server.url)) == (200, {400})


def test_a_large_body_of_small_values_is_refused_before_it_is_parsed(tmp_path: Path):
    body = b'{"prompt": [' + b"{}," * 1_000_000 + b"0]}"
    with running(tmp_path) as server:
        reply = server.client.post(INPAINT, content=body, headers={"Content-Type": "application/json"})
        assert reply.status_code == 400
        assert reply.json()["message"] == "the request's body has more than 20,000 values"

        large = base64.b64encode(b"\x00" * 3_000_000).decode()  # no value more than any other request
        reply = server.client.post(INPAINT, json=documented_body(1, init_image=large))
        assert reply.json()["message"].startswith("init_image")
