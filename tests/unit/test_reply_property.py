"""Any JSON in, a documented reply out: bodies from plausible to absurd, on the null backend."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import intarsia
from intarsia.endpoints import ENDPOINTS
from intarsia.schedulers import NAMES
from tests.unit.endpoint_table import IMAGE, MASK
from tests.unit.replies import checked, validator

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
# Mostly what is right, so that a good part of the requests succeeds.
LIKELY = {
    "model_id": st.sampled_from(["nothing", "nothing", " NO_THING", "nothing", "nope"]),
    "prompt": st.just("a cat") | st.text(max_size=30),
    "negative_prompt": st.none() | st.text(max_size=30),
    "init_image": st.sampled_from([IMAGE, IMAGE, f"data:image/png;base64, {IMAGE}", IMAGE, "photo.png"]),
    "mask_image": st.sampled_from([MASK, MASK, MASK, MASK, "http://127.0.0.1:9/a.png"]),
    "width": st.sampled_from([64, "64", 72.0, 100, 512]),
    "height": st.sampled_from([64, "64", 72.0, 512]),
    "samples": st.sampled_from([1, "1", "2", 5]),
    "steps": st.sampled_from([3, "4", 21, None, "many"]),
    "num_inference_steps": st.sampled_from([None, 30, "20"]),
    "guidance_scale": st.sampled_from([7.5, "7.5", 1, 21]),
    "strength": st.sampled_from([0.7, "1", 0, 1.0, "nan"]),
    "scheduler": st.sampled_from([*NAMES, "euler", None]),
    "use_karras_sigmas": st.sampled_from([True, "no", "YES", 0]),
    "algorithm_type": st.sampled_from(["none", "dpmsolver+++", None, "dpmsolver"]),
    "clip_skip": st.sampled_from([1, "2", 4, 8]),
    "safety_checker": st.sampled_from(["no", False, 0, "yes"]),
    "safety_checker_type": st.sampled_from(["blur", "black", None]),
    "tomesd": st.sampled_from(["yes", "no", None]),
    "seed": st.none() | st.integers() | st.sampled_from(["", "7", "-0", 2**64 - 1, -1, "random"]),
    "lora_strength": st.sampled_from([None, 0.5, "0.5"]),
    "base64": st.sampled_from(["yes", True, True, True, "no"]),
    "webhook": st.sampled_from([None, "https://example.com", "example"]),
    "track_id": st.none() | st.text(max_size=9) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    "key": st.just("sk-0123456789"),
}
ALWAYS = ("model_id", "prompt", "init_image", "mask_image", "width", "height", "safety_checker", "base64", "key")
PLAUSIBLE = st.fixed_dictionaries(
    {name: LIKELY[name] for name in ALWAYS},
    optional={name: LIKELY[name] for name in LIKELY if name not in ALWAYS},
)
ODD = st.dictionaries(st.sampled_from(sorted(LIKELY)) | st.text(max_size=8), JSON, max_size=2)
PAYLOADS = st.one_of(
    PLAUSIBLE,
    st.builds(dict.__or__, PLAUSIBLE, ODD),
    st.dictionaries(st.sampled_from(sorted(LIKELY)) | st.text(max_size=8), JSON, max_size=6),
    JSON,
)


@pytest.mark.parametrize("examples", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_any_json_gives_a_documented_reply(examples, tmp_path, monkeypatch, empty_registry):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    counts = {"success": 0, "error": 0}
    out = tmp_path / "out"
    out.mkdir()
    with intarsia.Engine("null", weights=empty_registry) as engine:

        @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        @hypothesis.given(payload=PAYLOADS, endpoint=st.sampled_from(list(ENDPOINTS)))
        def holds(payload: Any, endpoint: str) -> None:
            reply = checked(engine.reply(payload, endpoint, out=out), endpoint)
            counts[reply["status"]] += 1
            text = json.dumps(reply)
            assert "sk-0123456789" not in text
            assert "Traceback" not in text
            assert str(tmp_path) not in text.replace(str(out), "")
            assert reply.get("message") != "the request failed inside intarsia; its log has the details"
            if reply["status"] == "success":
                validator(endpoint, "request").validate(payload)
                assert len(reply["output"]) == reply["meta"]["n_samples"]
                for made in out.iterdir():
                    assert str(made) in reply["output"]
                    made.unlink()

        holds()
    print(counts)
    assert sum(counts.values()) >= examples
    assert min(counts.values()) > examples / 20, counts
