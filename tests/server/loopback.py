"""A real server on a free port of the loopback interface, and a client that writes whatever bytes it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn


@contextlib.contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serve an ASGI application in a thread; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, ws="none", proxy_headers=False,
            server_header=False, timeout_graceful_shutdown=1, **options,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


class Connection:
    """A TCP connection to a port of this machine."""

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Connection:
        self.socket.sendall(data)
        return self

    def rest(self) -> bytes:
        """Everything until the server closes the connection."""
        parts = []
        while part := self.socket.recv(65536):
            parts.append(part)
        return b"".join(parts)

    def reply(self) -> bytes:
        """One reply with a Content-Length, head and body."""
        data = b""
        while b"\r\n\r\n" not in data:
            part = self.socket.recv(65536)
            assert part, f"the connection was closed after {data!r}"
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        (length,) = (line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        while len(body) < int(length):
            part = self.socket.recv(65536)
            assert part, f"the connection was closed after {data!r}"
            body += part
        return head + b"\r\n\r\n" + body
