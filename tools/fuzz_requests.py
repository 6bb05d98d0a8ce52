"""Bodies of documented requests made of hostile values, through ``Engine.reply`` on the null backend.

Whatever comes in: no exception, a reply of the documented shape, one printable line in an error, and never the key.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import jsonschema
from PIL import Image

import intarsia
from intarsia.endpoints import ENDPOINTS, reply_schemas
from intarsia.endpoints.endpoint import FIELDS, IGNORED
from intarsia.schedulers import NAMES
from tools.fuzz import Attempt

__all__ = ["MEBIBYTES", "SECONDS", "attempts", "problem_of"]

SECONDS = 5.0
MEBIBYTES = 2048

_LONGEST_MESSAGE = 2100
_KEYS = [
    "sk-0123456789abcdef",
    "geheim-ключ-猫",
    "k\n\x1b[31mey-123456",
    "a",
    "",
    1234567890,
    7,
    ["sk-in-a-list"],
    None,
]

_DEEP: list[Any] = []
for _ in range(3000):
    _DEEP = [_DEEP]

_HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 2**64 - 1, 2**64, -(10**400), 10**5000, 0.5, -0.0, 1e308, math.nan,
    math.inf, "", " ", "0.7\x1c", "\x1f7", "７", "٣", "1_000", "1e3", "0x10", "+5", "−5", "1,5", "∞", "nan", "1e999",
    "9" * 5000, "-1", "random", "yes", "None", "null", "true", "x" * 200_000, "\x1b[31mred", "two\nlines",
    "\u202eturned", "half \ud83d", "\0", "', \"", "{}", "%s%n", "../../etc/passwd", "/etc/passwd",
    "http://127.0.0.1:9/a.png?token=x", "user:pw@host/x?y=z",
    "htps://host/x?signature=1", [], {}, [1], ["a", None], {"a": {"b": []}}, [[[]]], _DEEP, "a,b", "0.5,0.5", "🐈" * 30,
    "<lora:ink:0.8> ((x)) [a:b:0.5] (red:1.3) BREAK {a|b} __c__", "((" * 5000, "nothing", "intarsia-tiny", "pony",
]  # fmt: skip


@cache
def _picture(mode: str, colour: int) -> str:
    buffer = io.BytesIO()
    Image.new(mode, (72, 64), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _likely() -> dict[str, list[Any]]:
    """Values that mean something, so that a good part of the requests gets as far as an image."""
    return {
        "model_id": ["intarsia-tiny", "INTARSIA_TINY", "your_model_id"],
        "prompt": ["a cat", "", "a (red:1.3) cat"],
        "init_image": [_picture("RGB", 77), f"data:image/png;base64, {_picture('RGB', 77)}"],
        "mask_image": [_picture("L", 255)],
        "width": [64, "64", 512],
        "height": [64, "72", 512],
        "samples": [1, "2"],
        "steps": [2, "3"],
        "guidance_scale": [7.5, "1"],
        "strength": [0.7, "1"],
        "scheduler": [*NAMES, "euler a"],
        "safety_checker": ["no", False],
        "seed": [7, "-1", None, 2**64 - 1],
        "base64": ["yes", True],
    }


def attempts(rng: random.Random) -> Iterator[Attempt]:
    """Endlessly: a body and an endpoint."""
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="intarsia-fuzz-")  # replies without base64 lie there
    engine = intarsia.Engine("null")
    names = [*FIELDS, *IGNORED, "stepz", "\x1b[2J", "x" * 300]
    while True:
        endpoint = rng.choice([*ENDPOINTS, None])
        body = {name: rng.choice(values) for name, values in _likely().items() if rng.random() < 0.95}
        body["key"] = key = rng.choice(_KEYS)
        for name in rng.choices(names, k=rng.choice([0, 0, 1, 1, 2, 5])):
            if name != "key":
                body[name] = key if rng.random() < 0.2 else rng.choice(_HOSTILE)
        call = partial(_outcome, engine, body, endpoint)
        yield Attempt(str(endpoint), call, repr(_short(body)).encode("utf-8", "backslashreplace"))


def _short(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body that can be written down; nested lists and digits without end cannot."""
    return {name: value for name, value in body.items() if value is not _DEEP and value not in (10**5000, -(10**400))}


def _outcome(engine: intarsia.Engine, body: dict[str, Any], endpoint: str | None) -> str:
    reply = engine.reply(body, endpoint)
    problem = problem_of(reply, body.get("key"), endpoint or "community")
    if problem:
        raise AssertionError(problem)
    return str(reply["status"])


def problem_of(reply: Mapping[str, Any], key: Any, endpoint: str) -> str:
    """What is wrong with a reply; "" where nothing is."""
    text = json.dumps(reply, allow_nan=False)
    if json.loads(text) != reply:
        return "the reply is no plain JSON"
    for error in _validator(endpoint, reply["status"]).iter_errors(reply):
        return f"the reply is not as documented: {error.message[:200]}"
    sentences = [reply.get("message", ""), reply.get("tip", "")]
    checks: dict[str, Callable[[str], bool]] = {
        "is longer than a line": lambda sentence: len(sentence) > _LONGEST_MESSAGE,
        "is not printable": lambda sentence: not sentence.isprintable(),
        "is an internal failure": lambda sentence: "failed inside" in sentence,
        "shows the key": lambda sentence: any(secret in sentence for secret in _secrets(key)),
    }
    return next((f"{what}: {each[:300]!r}" for what, is_so in checks.items() for each in sentences if is_so(each)), "")


@cache
def _validator(endpoint: str, status: str) -> Any:
    return jsonschema.Draft202012Validator(reply_schemas(ENDPOINTS[endpoint])[status])


def _secrets(key: Any) -> list[str]:
    """Forms of a key that no sentence may have; a key of a letter is in every sentence."""
    texts = [str(part) for part in (key if isinstance(key, list) else [key]) if part is not None]
    return [form for text in texts if len(text) >= 6 for form in (text, repr(text)[1:-1], text[:40])]
