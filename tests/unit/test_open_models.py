"""Which sessions an engine keeps open."""

from __future__ import annotations

import numpy as np
import pytest

import intarsia
from intarsia.backends.null import NullSession

IMAGE = np.full((64, 64, 3), 128, np.uint8)
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255

# What a request changes of a model: each is a session of its own.
PARTS = {
    "LoRAs": {"loras": ["stripes:0.5"]},
    "their strength": {"loras": ["stripes:0.8"]},
    "the VAE": {"vae": "intarsia-tiny-vae"},
}


class Sessions:
    """Counts the null backend's open sessions, of a given weight."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, weight_bytes: int) -> None:
        self.open = self.most = 0
        begin = NullSession.__init__
        end = NullSession.close

        def opened(session: NullSession, *arguments: object, **options: object) -> None:
            begin(session, *arguments, **options)
            self.open += 1
            self.most = max(self.most, self.open)

        def closed(session: NullSession) -> None:
            end(session)
            self.open -= 1

        monkeypatch.setattr(NullSession, "__init__", opened)
        monkeypatch.setattr(NullSession, "close", closed)
        monkeypatch.setattr(NullSession, "weight_bytes", weight_bytes, raising=False)


def request(**fields: object) -> intarsia.InpaintRequest:
    return intarsia.InpaintRequest(init_image=IMAGE, mask_image=MASK, prompt="a red circle", steps=2, **fields)


@pytest.mark.parametrize(("weight_bytes", "most"), [(2**30, 2), (2**30 + 1, 1)])
@pytest.mark.parametrize("part", PARTS)
def test_a_large_model_is_open_once(monkeypatch, part, weight_bytes, most):
    sessions = Sessions(monkeypatch, weight_bytes)
    with intarsia.Engine(backend="null") as engine:
        engine.run(request())
        engine.run(request(**PARTS[part]))
        engine.run(request())
        assert sessions.open == most
    assert (sessions.most, sessions.open) == (most, 0)


def test_a_large_model_that_lanes_need_stays_open(monkeypatch):
    sessions = Sessions(monkeypatch, 2**31)
    with intarsia.Engine(backend="null") as engine:
        tickets = [engine.submit(request(**fields)) for fields in ({}, {"loras": ["stripes:0.5"]}, {})]
        for ticket in tickets:
            ticket.result(timeout=60)
    assert sessions.open == 0


def test_large_models_of_other_weights_stay_open(monkeypatch):
    sessions = Sessions(monkeypatch, 2**31)
    with intarsia.Engine(backend="null") as engine:
        engine.run(request())
        engine.run(request(model="intarsia-tiny-base"))
        assert sessions.open == 2
