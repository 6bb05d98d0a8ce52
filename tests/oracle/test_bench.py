"""The whole harness on shrunk networks: engine and peers on the same weights, checked, then timed."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the peers need diffusers: pip install 'intarsia[oracle]'")
pytest.importorskip("tomesd", reason="one of the peers: pip install 'intarsia[oracle]'")

import torch
from PIL import Image

from benchmarks import jobs, networks, peers, pipelines, situations
from benchmarks import place as places
from benchmarks.cases import Case, chosen, shortened
from benchmarks.environment import environment
from benchmarks.run import Options, run
from intarsia.backends.torch import session as sessions
from intarsia.errors import RequestError
from intarsia.models.unet import UNet


@pytest.fixture(autouse=True)
def _as_small_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rehearsals of several images at once, and of large ones, smaller still: the comparison is the same."""

    def smaller(case: Case) -> Case:
        short = shortened(case)
        if case.batch > 1:
            return replace(short, size=64, batch=2)
        return replace(short, size=min(short.size, 128))

    monkeypatch.setattr("benchmarks.run.shortened", smaller)


def rehearsed(case: str, folder: Path, **more: Any) -> tuple[Any, dict[str, Any]]:
    failed = run(Options(cases=(case,), out=folder, short=True, budget=3600, **more))
    (path,) = folder.glob("rehearsal_*.json")
    return failed, json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("case", ["S2", "S4"])
def test_engine_and_peers_agree_and_are_timed(case, tmp_path):
    failed, record = rehearsed(case, tmp_path)
    assert failed == 0, record["check"]
    # Float32 on both sides: what is left is the rounding to 8 bits and the autoencoder's
    assert record["check"]["errors"]["intarsia"] < 0.5
    assert set(record["numbers"]["median"]) == {"intarsia", "eager", "tomesd"}
    assert len(record["numbers"]["seconds"]["intarsia"]) == 3
    assert record["rehearsal"]
    assert record["numbers"]["ratio"]["eager"] == pytest.approx(
        record["numbers"]["median"]["eager"] / record["numbers"]["median"]["intarsia"]
    )


def test_peers_encode_the_prompt_once_as_our_engine_does(monkeypatch):
    """Otherwise their times have text encoders in them, and ours have not; the image is the same."""
    case = replace(shortened(chosen(("S2",), "cuda")[0]), size=64, steps=2)
    weights = networks.Weights(case.family, shrunk=True)
    made = peers.pipeline(weights, networks.parts(weights, "cpu", torch.float32), torch.device("cpu"), torch.float32)
    call = peers.call(made, case)
    encoders = [made.text_encoder, made.text_encoder_2]
    for encoder in encoders:
        encoder.forward = None  # not called any more
    (image,) = call()
    for encoder in encoders:
        del encoder.forward
    monkeypatch.setattr(peers, "_encoded", lambda *_: {"prompt": jobs.PROMPT, "negative_prompt": None})
    (expected,) = peers.call(made, case)()
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.slow
def test_a_peer_without_memory_is_named_and_the_compiled_one_joins_the_record(tmp_path, monkeypatch):
    """Both turns on real networks; what tracing them takes is no matter of this test."""

    def full(_made: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setitem(peers.MAKERS, "tomesd", full)
    monkeypatch.setitem(peers.MAKERS, "compile", peers.eager)
    failed, record = rehearsed("S1", tmp_path, peers=("eager", "tomesd", "compile"))
    assert failed == 0, record["check"]
    assert record["absent"] == {"tomesd": "failed: not enough memory for it beside ours"}
    numbers = record["numbers"]
    assert set(numbers["median"]) == {"intarsia", "eager", "compile"}
    assert set(numbers["turns"]) == {"compile"}
    ours = sorted(numbers["turns"]["compile"])[1]
    assert numbers["ratio"]["compile"] == pytest.approx(numbers["median"]["compile"] / ours)
    assert numbers["first_call"]["compile"] > 0
    assert numbers["ran"]["backend"] == "torch"
    assert record["check"]["samples"]["intarsia"] < 1e-4, "float32 on both sides"
    assert record["settings"]["prompts"] == "encoded by each before it is timed"


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "passed"), [(1.01, False), (1.0, True)])
def test_the_check_in_half_precision_finds_what_is_wrong_by_a_hundredth(tmp_path, monkeypatch, scale, passed):
    """Half precision on a CPU, small networks, 8 steps: the images alone would let the scaled output pass."""
    for module in (places, networks, sessions):
        monkeypatch.setattr(module, "pick_dtype", lambda device: torch.float16)
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, *given, **more: scale * forward(self, *given, **more))
    monkeypatch.setattr(pipelines, "_timed", lambda *_: {"median": {}})
    case = replace(shortened(chosen(("S1",), "cuda")[0]), size=64, steps=8, peers=("eager",))
    place = places.Place(torch.device("cpu"), tmp_path, environment(), shrunk=True)
    record = pipelines.measure(case, place, 3600)
    assert record.check.passed is passed, record.check
    assert bool(record.numbers) is passed
    errors = record.check.errors
    assert errors["intarsia"] < 1.25 * errors["eager"] + 0.5


def test_capture_that_cannot_be_is_the_reason_of_its_case(tmp_path):
    failed = run(Options(cases=("S1",), out=tmp_path, short=True, capture="on", peers=("eager",)))
    assert failed == 1
    reason = json.loads((tmp_path / "rehearsal_S1.json").read_text())["check"]["reason"]
    assert "captured steps need fused kernels on a CUDA device" in reason


def test_wrong_images_have_no_times(tmp_path, monkeypatch):
    black = Image.new("RGB", (128, 128))
    monkeypatch.setattr(pipelines, "ours", lambda *_: lambda: [black])
    failed, record = rehearsed("S1", tmp_path)
    assert failed == 1
    assert record["numbers"] == {}
    assert record["check"]["errors"]["intarsia"] > 20


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) for case in ("mixed-256", "resolution", "lora", "cold")]
)
def test_the_other_cases(case, tmp_path):
    failed, record = rehearsed(case, tmp_path)
    assert failed == 0, record["check"]
    assert record["numbers"]["median"]["intarsia"] > 0
    if case == "cold":
        assert "Triton's kernels compiled before" in record["numbers"]["caches"]
        assert len(record["numbers"]["seconds"]["intarsia"]) == 1
        assert record["numbers"]["seconds_with_empty_triton_cache"] > 0


def test_a_cold_start_that_hangs_is_ended(tmp_path, monkeypatch):
    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("cold", timeout)

    monkeypatch.setattr(situations.subprocess, "run", hang)
    with pytest.raises(situations._NoPicture, match="no picture after 60 s"):
        situations._cold_process({}, None, 5.0)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(RequestError, match="case must be one of S1"):
        run(Options(cases=("S9",), out=tmp_path, short=True))
    with pytest.raises(RequestError, match="peers must be of eager"):
        run(Options(cases=("S1",), out=tmp_path, short=True, peers=("lazy",)))


def test_random_weights_are_those_of_their_seed():
    weights = networks.Weights("sd15-inpaint", shrunk=True)
    one, same, other = (
        networks.parts(each, "cpu", torch.float32).unet.state_dict()
        for each in (weights, weights, networks.Weights("sd15-inpaint", True, seed=1))
    )
    name = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
