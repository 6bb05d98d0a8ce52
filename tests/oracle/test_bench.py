"""The whole harness on shrunk networks: engine and peers on the same weights, checked, then timed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("diffusers", reason="the peers need diffusers: pip install 'inlay[oracle]'")
pytest.importorskip("tomesd", reason="one of the peers: pip install 'inlay[oracle]'")

import torch
from PIL import Image

from benchmarks import networks, pipelines
from benchmarks.run import Options, run
from inlay.errors import RequestError


def rehearsed(case, folder, **more):
    failed = run(Options(cases=(case,), out=folder, short=True, budget=3600, **more))
    (path,) = folder.glob("rehearsal_*.json")
    return failed, json.loads(path.read_text())


@pytest.mark.parametrize("case", ["S1", "S2", "S4"])
def test_engine_and_peers_agree_and_are_timed(case, tmp_path):
    failed, record = rehearsed(case, tmp_path)
    assert failed == 0, record["check"]
    # Float32 on both sides: what is left is the rounding to 8 bits and the autoencoder's
    assert record["check"]["errors"]["inlay"] < 0.5
    assert set(record["numbers"]["median"]) == {"inlay", "eager", "tomesd"}
    assert len(record["numbers"]["seconds"]["inlay"]) == 3
    assert record["rehearsal"]
    assert record["numbers"]["ratio"]["eager"] == pytest.approx(
        record["numbers"]["median"]["eager"] / record["numbers"]["median"]["inlay"]
    )


def test_wrong_pictures_have_no_times(tmp_path, monkeypatch):
    black = Image.new("RGB", (128, 128))
    monkeypatch.setattr(pipelines, "ours", lambda *_: lambda: [black])
    failed, record = rehearsed("S1", tmp_path)
    assert failed == 1
    assert record["numbers"] == {}
    assert record["check"]["errors"]["inlay"] > 20


@pytest.mark.parametrize("case", ["mixed", "resolution", "lora", "cold"])
def test_the_other_cases(case, tmp_path):
    failed, record = rehearsed(case, tmp_path)
    assert failed == 0, record["check"]
    assert record["numbers"]["median"]["inlay"] > 0


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
