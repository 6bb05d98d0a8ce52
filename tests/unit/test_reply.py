"""``Engine.reply`` on the null backend: whatever comes in, a documented reply comes out, and nothing else."""

from __future__ import annotations

import base64
import errno
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia.endpoints import ENDPOINTS
from intarsia.endpoints.answer import without_paths
from intarsia.endpoints.temporary_files import sweep, temporary_folder
from intarsia.engine import resolve as resolving
from tests.unit.endpoint_table import IMAGE, MASK, MINIMAL, encoded_image
from tests.unit.replies import checked

SMALL = {**MINIMAL, "width": 96, "height": 64}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def engine(empty_registry: Path) -> Iterator[intarsia.Engine]:
    with intarsia.Engine("null", weights=empty_registry) as opened:
        yield opened


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))


def test_files_lie_where_the_caller_said_and_metadata_says_how_they_were_made(engine, tmp_path):
    out = tmp_path / "pictures"
    out.mkdir()
    payload = {**SMALL, "samples": "2", "seed": "7", "prompt": "a cat"}
    reply = checked(engine.reply(payload, "community", out=out))
    prefix = str(reply["id"])
    assert reply["output"] == reply["proxy_links"] == [str(out / f"{prefix}-{number}.png") for number in (1, 2)]
    assert sorted(path.name for path in out.iterdir()) == [f"{prefix}-1.png", f"{prefix}-2.png"]
    for sample, path in enumerate(reply["output"]):
        with Image.open(path) as made:
            assert made.size == (96, 64)
            written = json.loads(made.text["intarsia"])
            assert (written["seed"], written["prompt"]) == (7 + sample, "best, a cat")
            assert MINIMAL["key"] not in json.dumps(made.text)
    assert reply["meta"] | {"backend": "", "device": ""} == {
        "prompt": "best, a cat", "original_prompt": "a cat", "negative_prompt": "", "model_id": "nothing",
        "W": 96, "H": 64, "steps": 31, "n_samples": 2, "seed": 7, "guidance_scale": 7.5, "strength": 0.7,
        "scheduler": "DPMSolverMultistepScheduler", "use_karras_sigmas": "yes", "algorithm_type": "none",
        "clip_skip": 2, "safety_checker": "no", "safety_checker_type": "sensitive_content_text",
        "enhance_prompt": "yes", "vae": None, "lora": None, "lora_strength": None, "ip_adapter_id": None,
        "ip_adapter_scale": None, "tomesd": "no", "base64": "no", "temp": "no", "instant_response": "no",
        "track_id": None, "file_prefix": prefix, "backend": "", "device": "",
    }  # fmt: skip
    assert (reply["nsfw_content_detected"], reply["webhook_status"], reply["tip"]) == (False, "", "")
    assert 0 < reply["generationTime"] < 60


def test_the_image_is_the_librarys(engine):
    reply = checked(engine.reply({**SMALL, "seed": 5, "base64": "yes"}, "community"))
    request = intarsia.InpaintRequest(
        prompt="a cat", init_image=IMAGE, mask_image=MASK, width=96, height=64, fit_output=True, steps=31, seed=5,
        enhance_prompt=True,
    )  # fmt: skip
    np.testing.assert_array_equal(decoded(reply["output"][0]), engine.run(request).images[0])


@pytest.mark.parametrize("size", [(500, 333), (64, 1024), (65, 71)])
def test_sizes_that_no_network_has_come_back_exactly(engine, size):
    reply = engine.reply({**MINIMAL, "width": str(size[0]), "height": size[1], "base64": 1}, "community")
    assert decoded(checked(reply)["output"][0]).size == size
    assert (reply["meta"]["W"], reply["meta"]["H"]) == size


def test_strength_zero_returns_the_input(engine):
    photo = encoded_image((96, 64))
    reply = checked(engine.reply({**SMALL, "init_image": photo, "strength": "0", "base64": "yes"}, "community"))
    np.testing.assert_array_equal(decoded(reply["output"][0]), decoded(photo))
    assert "strength 0" in reply["tip"]


@pytest.mark.parametrize("track_id", ["order-7", 7, 7.5, True, False, 0, ""])
def test_track_id_comes_back_unchanged(engine, track_id):
    reply = checked(engine.reply({**SMALL, "track_id": track_id, "base64": True}, "community"))
    assert (reply["track_id"], type(reply["track_id"])) == (track_id, type(track_id))


def test_realtime_has_no_webhook_status(engine):
    reply = checked(engine.reply({**SMALL, "base64": True}, "realtime"), "realtime")
    assert "webhook_status" not in reply
    assert "tip_1" not in reply


def test_what_only_a_server_can_do_is_in_the_tip(engine):
    extra = {"webhook": "https://example.com/done?token=hidden", "instant_response": True, "stepz": 3}
    reply = checked(engine.reply({**SMALL, **extra, "base64": True}, "community"))
    assert reply["tip"] == (
        "ignored, not a field of the endpoint community: stepz; webhook is called by a server only; it was not called; "
        "instant_response had no effect: the reply is complete"
    )
    assert "hidden" not in json.dumps(reply)


def test_the_packaged_model_stands_in_and_the_library_says_so_too(monkeypatch, tmp_path):
    monkeypatch.delenv("INTARSIA_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    sentence = "the registry has no model Pony_Realism: intarsia-tiny stood in for it"
    with intarsia.Engine("null") as engine:
        payload = {**SMALL, "model_id": "Pony_Realism", "width": 512, "height": 512, "base64": True}
        reply = checked(engine.reply(payload))
        assert reply["meta"]["model_id"] == "intarsia-tiny"
        assert reply["meta"]["algorithm_type"] == "sde-dpmsolver++", "the pony endpoint was chosen"
        assert sentence in reply["tip"]
        result = engine.run(intarsia.InpaintRequest(model="Pony_Realism", init_image=IMAGE, mask_image=MASK))
        assert sentence in result.warnings
        assert not any("stood in" in note for note in engine.run(
            intarsia.InpaintRequest(model="Intarsia_Tiny", init_image=IMAGE, mask_image=MASK)).warnings)  # fmt: skip


BODIES = [None, [], [1, 2], "text", "", 7, 0.5, True, float("nan"), float("inf"), {}, {"a": {"b": [None]}}]


@pytest.mark.parametrize("endpoint", [None, *ENDPOINTS])
@pytest.mark.parametrize("body", BODIES, ids=repr)
def test_bodies_that_are_no_requests(engine, body, endpoint):
    reply = checked(engine.reply(body, endpoint), endpoint or "community")
    expected = "is required" if isinstance(body, dict) else "the request must be a JSON object, not "
    assert reply["status"] == "error"
    assert expected in reply["message"]


def nested(depth: int) -> list[Any]:
    value = []
    for _ in range(depth):
        value = [value]
    return value


WRONG = [
    ("prompt", "x" * 10_000_000, "prompt must be at most 10000 characters, not 10000000"),
    ("width", "9" * 10_000_000, "width must be an integer between 64 and 1024"),
    (
        "seed",
        10**5000,
        "seed must be an integer between 0 and 18446744073709551615, or -1 for a random one, not a value too large",
    ),
    ("guidance_scale", -(10**5000), "guidance_scale must be a finite number between 1 and 20"),
    ("steps", nested(100_000), "steps must be an integer between 1 and 150, not a value too large to show (list)"),
    ("scheduler", "x" * 10_000_000, "scheduler must be one of"),
    ("lora_model", "ink,ink", "LoRA not found: ink"),
    ("lora_model", "," * 10_000_000, "lora_model must be comma-separated names"),
    ("init_image", "iVBORw0KGgo=", "init_image: "),
    ("init_image", "x" * 10_000_000, "init_image: "),
    ("init_image", base64.b64encode(b"GIF89a" + b"\0" * 50).decode(), "init_image: "),
    ("init_image", "/etc/passwd", "init_image: "),
    ("init_image", "file:///etc/passwd", "init_image: "),
    ("init_image", "half \ud83d", "init_image: "),
    ("mask_image", "data:image/png;base64,####", "mask_image: the data URI is not valid base64"),
    ("samples", 5, "samples must be between 1 and 4, not 5"),
    ("strength", 0.01, "strength 0.01 leaves no step of 31 to run"),
    ("endpoint", "nope", "endpoint must be one of community, enterprise-pony, pony, realtime, not 'nope'"),
]


@pytest.mark.parametrize(("field", "value", "sentence"), WRONG, ids=[f"{row[0]} {str(row[2])[:30]}" for row in WRONG])
def test_wrong_values_are_named_in_one_short_line(engine, field, value, sentence):
    endpoint = value if field == "endpoint" else "community"
    reply = checked(engine.reply({**SMALL, field: value}, endpoint))
    assert reply["status"] == "error"
    assert sentence in reply["message"]
    assert len(reply["message"]) < 600
    assert "\n" not in reply["message"]


def bomb() -> str:
    """An image of 40,000 × 40,000 pixels in a few kilobytes."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000, 9)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def test_a_decompression_bomb_is_refused(engine):
    reply = checked(engine.reply({**SMALL, "init_image": bomb()}, "community"))
    assert reply["message"].startswith("init_image: ")
    assert "pixels" in reply["message"]


def test_an_unexpected_error_is_logged_and_the_reply_says_no_more(engine, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError(f"at {Path.home()} with {MINIMAL['key']}")

    monkeypatch.setattr(resolving, "prepare", fail)
    with caplog.at_level(logging.ERROR, "intarsia"):
        reply = checked(engine.reply(SMALL, "community"))
    assert reply == {"status": "error", "message": "the request failed inside intarsia; its log has the details"}
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text
    assert MINIMAL["key"] not in caplog.text


def test_interrupts_are_not_answered(engine, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(resolving, "prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.reply(SMALL, "community")


@pytest.mark.parametrize("field", ["init_image", "mask_image"])
def test_no_file_of_this_machine_is_read(engine, tmp_path, field):
    path = tmp_path / "private.png"
    Image.new("RGB", (96, 64)).save(path)
    reply = checked(engine.reply({**SMALL, field: str(path)}, "community"))
    assert reply["message"].startswith(f"{field}: ")
    assert engine.counters.evaluations == 0


def test_a_closed_engine_answers_too(empty_registry):
    engine = intarsia.Engine("null", weights=empty_registry)
    engine.close()
    assert checked(engine.reply(SMALL, "community"))["message"] == "the engine is closed"


def test_errors_hold_no_path_and_no_key(tmp_path):
    folder = tmp_path / "with blank" / "models"
    folder.mkdir(parents=True)
    path = folder / "weights.toml"
    path.write_text('schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15"\npath = "gone away"\n')
    with intarsia.Engine("null", weights=path) as engine:
        reply = checked(engine.reply({**SMALL, "model_id": "m"}, "community"))
        assert reply["message"] == "m: its folder gone away does not exist (declared in weights.toml)"
        assert without_paths(f"{tmp_path}/a/b.bin and ~/c, https://a.b/c/d?e, and/or", engine.registry) == (
            "b.bin and c, https://a.b/c/d?e, and/or"
        )
        reply = engine.reply({**SMALL, "key": "secret-key", "model_id": "the secret-key"}, "community")
        known = "intarsia-tiny, intarsia-tiny-base, intarsia-tiny-lcm, m"
        assert reply["message"] == f"Model not found: the ***; the registry has: {known}"


def test_an_output_folder_is_made_and_one_that_cannot_be_is_refused_before_the_work(engine, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    before = engine.counters.evaluations
    reply = checked(engine.reply(SMALL, "community", out=tmp_path / "file" / "folder"))
    assert f"{tmp_path / 'file'} is no folder" in reply["message"]
    assert engine.counters.evaluations == before
    reply = checked(engine.reply(SMALL, "community", out=tmp_path / "new" / "folder"))
    assert reply["status"] == "success"
    assert [str(path) for path in (tmp_path / "new" / "folder").iterdir()] == reply["output"]


def test_all_files_or_none(engine, tmp_path, monkeypatch):
    publish = os.link

    def link(source: str, target: str) -> None:
        if str(target).endswith("-2.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(source, target)

    monkeypatch.setattr(os, "link", link)
    reply = checked(engine.reply({**SMALL, "samples": 3}, "community", out=tmp_path))
    assert "No space left on device" in reply["message"]
    assert [path.name for path in tmp_path.iterdir() if "intarsia" in path.name or path.suffix == ".png"] == []


@pytest.mark.parametrize(("payload", "out"), [({"temp": "yes"}, "here"), ({}, None)])
def test_temporary_images_are_removed_after_a_day(engine, tmp_path, payload, out):
    (tmp_path / "here").mkdir()
    reply = checked(engine.reply({**SMALL, **payload}, "community", out=out and tmp_path / out))
    [path] = map(Path, reply["output"])
    assert path.is_file()
    assert temporary_folder() == path.parent == tmp_path / "cache" / "intarsia" / "temporary"
    assert "removed after 24 hours" in reply["tip"]
    if os.name == "posix":
        assert path.parent.stat().st_mode & 0o077 == 0
    foreign = path.with_name("notes.txt")
    foreign.write_text("not ours")
    old = time.time() - 24 * 3600
    for each in (path, foreign):
        os.utime(each, (old + 60, old + 60))
    engine.reply({}, "community")
    assert path.exists(), "a minute too young"
    for each in (path, foreign):
        os.utime(each, (old - 60, old - 60))
    engine.reply({}, "community")
    assert not path.exists()
    assert foreign.exists()
    assert sweep() == []


def test_ids_are_unique_and_fit_a_double(engine):
    replies = [engine.reply({**SMALL, "base64": True}, "community") for _ in range(20)]
    ids = [reply["id"] for reply in replies]
    assert len(set(ids)) == 20
    assert ids == sorted(ids)
    assert all(0 < each < 2**53 for each in ids)
