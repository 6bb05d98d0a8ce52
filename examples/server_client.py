"""Call a running ``intarsia serve`` with the standard library alone.

``python examples/server_client.py URL FOLDER IMAGE MASK``
"""

from __future__ import annotations

import base64
import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any


def post(url: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The reply to a JSON request. Errors of the server are replies too, and raised here as urllib does."""
    body = json.dumps(fields).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def as_base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def main(url: str, folder: Path, image: Path, mask: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    reply = post(
        f"{url}/api/v6/images/inpaint",
        {
            "key": "",
            "model_id": "intarsia-tiny",
            "prompt": "a yellow star",
            "init_image": as_base64(image),
            "mask_image": as_base64(mask),
            "width": "256",
            "height": "256",
            "safety_checker": "no",
        },
    )

    while reply["status"] == "processing":
        print(f"about {reply['eta']} s left")
        time.sleep(min(reply["eta"], 5) + 0.1)
        reply = post(reply["fetch_result"], {"key": ""})

    for number, address in enumerate(reply["output"]):
        with urllib.request.urlopen(address, timeout=60) as response:
            target = folder / f"{reply['id']}-{number}.png"
            target.write_bytes(response.read())
            print(target)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:5]))
