"""The engine on the null backend: results, progress, cancellation, threads, closing."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import intarsia
from intarsia.backends.choose import BACKENDS
from intarsia.backends.null import NullSession
from intarsia.engine.plan import Plan


def test_result_says_what_was_done(engine, request_of, image_and_mask):
    result = engine.run(request_of(samples=3, prompt="a cat", mask_blur=0))
    assert result.seeds == (1, 2, 3)
    assert len(result.images) == len(result.generated) == 3
    assert result.runtime.backend == "null"
    assert result.meta["evaluations"] == 4  # int(6 · 0.7)
    assert result.meta["scheduler"] == "DPMSolverMultistepScheduler"
    assert set(result.timings) == {"resolve", "encode", "denoise", "decode", "paste", "total"}
    image, mask = image_and_mask
    for finished in result.images:
        out = np.asarray(finished)
        np.testing.assert_array_equal(out[mask == 0], image[mask == 0])
        assert (out[mask > 0] != image[mask > 0]).any()
    colors = {np.asarray(each)[45, 60].tobytes() for each in result.images}
    assert len(colors) == 3, "three seeds, three images"


def test_what_was_drawn_is_an_image_when_it_is_asked_for_and_stays_the_same_one(engine, request_of):
    result = engine.run(request_of(samples=2, width=64, height=96))
    for each in (result, copy.copy(result), pickle.loads(pickle.dumps(result))):
        assert each.generated is each.generated
        assert [(image.mode, image.size) for image in each.generated] == [("RGB", (64, 96))] * 2
        for image, array in zip(each.generated, result.drawn, strict=True):
            np.testing.assert_array_equal(image, array)
    assert len({array.tobytes() for array in result.drawn}) == 2
    result.generated[0].putpixel((0, 0), (1, 2, 3))
    assert result.generated[0].getpixel((0, 0)) == (1, 2, 3)


def test_a_drawn_seed_is_reported_and_repeats_the_image(engine, request_of):
    first = engine.run(request_of(seed=None))
    again = engine.run(request_of(seed=first.seeds[0]))
    np.testing.assert_array_equal(first.images[0], again.images[0])


def test_strength_zero_returns_the_input(engine, request_of, image_and_mask):
    result = engine.run(request_of(strength=0.0))
    np.testing.assert_array_equal(result.images[0], image_and_mask[0])
    assert result.plan.sampler.evaluations == 0
    assert any("strength 0" in warning for warning in result.warnings)


def test_a_backend_that_cannot_merge_tokens_says_so(engine, request_of):
    result = engine.run(request_of(token_merging=0.25))
    assert (result.meta["token_merging"], result.runtime.token_merging) == (0.25, False)
    assert any("token merging is not available" in warning for warning in result.warnings)


def test_stream_counts_up_to_the_result(engine, request_of):
    *progress, result = engine.stream(request_of(samples=2))
    assert [event.step for event in progress] == [1, 2, 3, 4]
    assert {event.steps for event in progress} == {4}
    assert isinstance(result, intarsia.Result)


def test_requests_from_many_threads_give_what_they_give_alone(engine, request_of):
    requests = [request_of(seed=seed, steps=4 + seed % 5, prompt=str(seed)) for seed in range(24)]
    alone = [np.asarray(engine.run(each).images[0]) for each in requests]
    with ThreadPoolExecutor(8) as pool:
        together = [np.asarray(result.images[0]) for result in pool.map(engine.run, requests)]
    np.testing.assert_array_equal(alone, together)


def test_cancelling_stops_at_the_next_step_and_decodes_nothing(engine, request_of, gate):
    ticket = engine.submit(request_of(steps=50))
    assert gate.reached.wait(10)
    assert ticket.cancel()
    gate.passed.set()
    with pytest.raises(intarsia.Cancelled):
        ticket.result(timeout=10)
    assert gate.evaluations == 1
    assert gate.decoded == 0
    assert not ticket.cancel(), "it is over"
    assert engine.run(request_of()).images, "the engine goes on"


def test_closing_a_stream_cancels_it(engine, request_of, gate):
    gate.permits.release()
    events = engine.stream(request_of(steps=150, strength=1.0))
    next(events)
    events.close()
    gate.passed.set()
    engine.close()
    assert gate.decoded == 0
    assert gate.evaluations <= 2


def test_close_finishes_or_cancels(request_of, empty_registry, gate):
    finishing = intarsia.Engine("null", weights=empty_registry)
    ticket = finishing.submit(request_of())
    gate.passed.set()
    finishing.close()
    assert ticket.result(timeout=0).images
    with pytest.raises(intarsia.BackendError, match="closed"):
        finishing.submit(request_of())

    gate.passed.clear()
    gate.reached.clear()
    dropping = intarsia.Engine("null", weights=empty_registry)
    ticket = dropping.submit(request_of(steps=100))
    assert gate.reached.wait(10)
    closer = threading.Thread(target=dropping.close, kwargs={"cancel": True})
    closer.start()
    gate.passed.set()
    closer.join(10)
    with pytest.raises(intarsia.Cancelled):
        ticket.result(timeout=0)


def test_a_backend_that_fails_fails_its_request_only(engine, request_of, monkeypatch):
    def explode(self: NullSession, states: object) -> None:
        raise intarsia.BackendError("the decoder broke")

    with monkeypatch.context() as patch:
        patch.setattr(NullSession, "decode", explode)
        with pytest.raises(intarsia.BackendError, match="the decoder broke"):
            engine.run(request_of())
    assert engine.run(request_of()).images


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_ever_if_the_thread_dies(engine, request_of, monkeypatch):
    from intarsia.engine.worker import Worker

    def die(self: object) -> None:
        raise SystemError("impossible")

    monkeypatch.setattr(Worker, "turn", die)
    with pytest.raises(intarsia.BackendError, match="the engine stopped: SystemError: impossible"):
        engine.submit(request_of()).result(timeout=10)
    with pytest.raises(intarsia.BackendError, match="closed"):
        engine.submit(request_of())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"backend": "cuda"}, "backend must be one of auto, null, onnx, torch, not 'cuda'"),
        ({"backend": "null", "device": "cuda"}, "device must be auto or cpu for the null backend"),
        ({"backend": "torch", "device": "tensorrt"}, "device tensorrt is of backend onnx, not of torch"),
        (
            {"backend": "null", "device": "gpu"},
            "device must be auto, cpu, cuda, cuda:N, tensorrt or tensorrt:N, not 'gpu'",
        ),
    ],
)
def test_what_is_not_there_is_refused_by_name(arguments, sentence):
    with pytest.raises(intarsia.BackendError, match=sentence):
        intarsia.Engine(**arguments)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(BACKENDS, "torch", "intarsia_has_no_such_module:Backend")
    with pytest.raises(
        intarsia.BackendError, match=r"needs the package intarsia_has_no_such_module.*intarsia\[torch\]"
    ):
        intarsia.Engine("torch")


REFUSED = [
    ({"init_image": None}, intarsia.RequestError, "init_image is required"),
    ({"mask_image": None}, intarsia.RequestError, "mask_image is required"),
    ({"mask_image": np.zeros((96, 128), np.uint8)}, intarsia.RequestError, "mask_image"),
    ({"mask_image": np.zeros((50, 50), np.uint8)}, intarsia.RequestError, "mask_image"),
    ({"model": "nope"}, intarsia.WeightsError, "Model not found: nope"),
    ({"scheduler": "nope"}, intarsia.RequestError, "scheduler must be one of DDPMScheduler"),
    ({"steps": 1, "strength": 0.5}, intarsia.RequestError, "strength"),
    ({"vae": "nope"}, intarsia.WeightsError, "VAE not found: nope"),
    ({"loras": [{"id": "nope"}]}, intarsia.WeightsError, "LoRA not found: nope"),
    ({"ip_adapter": {"id": "nope"}}, intarsia.WeightsError, "IP adapter not found: nope"),
    ({"safety_checker": True}, intarsia.WeightsError, "no checker is installed"),
    ({"seed": 2**64 - 1, "samples": 2}, intarsia.RequestError, "seed"),
    ({"fit_output": True}, intarsia.RequestError, "fit_output needs both width and height"),
    ({"algorithm_type": "nope"}, intarsia.RequestError, "algorithm_type"),
]


@pytest.mark.parametrize(("fields", "kind", "sentence"), REFUSED, ids=[str(sorted(row[0])) for row in REFUSED])
def test_submit_refuses_at_once(engine, request_of, fields, kind, sentence):
    with pytest.raises(kind, match=sentence) as caught:
        engine.submit(request_of(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [None, {}, "x"])
def test_submit_takes_requests_only(engine, given):
    with pytest.raises(intarsia.RequestError, match="request must be an InpaintRequest"):
        engine.submit(given)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "model", "scheduler", "algorithm_type", "vae"])
def test_half_a_character_is_refused(name):
    with pytest.raises(intarsia.RequestError, match=f"^{name} must be valid Unicode"):
        intarsia.InpaintRequest(**{name: "a\ud800"})


def test_closing_from_a_callback_does_not_wait_for_itself(request_of, empty_registry):
    opened, raised = intarsia.Engine("null", weights=empty_registry), []

    def close(ticket: object) -> None:
        try:
            opened.close()
        except RuntimeError as exc:
            raised.append(exc)

    ticket = opened.submit(request_of())
    ticket.add_done_callback(close)
    assert ticket.result(timeout=60).images
    opened.close()
    assert not raised
    assert not opened._thread._thread.is_alive()


def test_a_plan_is_data_and_equal_for_equal_requests(request_of, empty_registry, image_and_mask):
    made = intarsia.plan(request_of(), weights=empty_registry)
    assert made == intarsia.plan(request_of(), weights=empty_registry)
    assert made.sha256 == intarsia.plan(request_of(), weights=empty_registry).sha256
    assert hash(made) == hash(intarsia.plan(request_of(), weights=empty_registry))
    other_mask = image_and_mask[1].copy()
    other_mask[0, 0] = 255
    changes = [{"seed": 2}, {"steps": 7}, {"prompt": "x"}, {"mask_image": other_mask}, {"mask_blur": 0.0}]
    changes += [{"guidance_scale": 2.0}, {"scheduler": "euler"}, {"samples": 2}, {"clip_skip": 2}]
    changes += [{"prompt_syntax": "plain"}]
    hashes = {intarsia.plan(request_of(**change), weights=empty_registry).sha256 for change in changes}
    assert len(hashes | {made.sha256}) == len(changes) + 1
    read = json.loads(made.to_json())
    assert read["seeds"] == [1]
    assert read["sampler"]["evaluations"] == 4
    assert isinstance(made, Plan)


def test_fit_output_decides_the_size_of_the_images(engine, request_of):
    fixed = engine.run(request_of(width=256, height=200, fit_output=True))
    assert fixed.images[0].size == (256, 200)
    assert fixed.generated[0].size == (256, 200)
    kept = engine.run(request_of(width=256, height=256))
    assert kept.images[0].size == (128, 96)
    assert kept.generated[0].size == (256, 256)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"weights": 5}, "weights must be the path of a weights.toml, not 5"),
        ({"device": None}, "device must be auto, cpu, .*, not None"),
        ({"deterministic": "no"}, "deterministic must be True, False or None, not 'no'"),
        ({"allow_private_urls": "no"}, "allow_private_urls must be True or False, not 'no'"),
        ({"slots": True}, "slots must be an integer between 1 and 64, not True"),
        ({"slots": 1.5}, "slots must be an integer between 1 and 64, not 1.5"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(given, sentence):
    with pytest.raises(intarsia.IntarsiaError, match=sentence):
        intarsia.Engine(**{"backend": "null", **given})


@pytest.mark.parametrize("shape", [-1, 5, (4, -8, 8), (4, 2.5, 8), "4, 8, 8", None])
def test_noise_of_no_shape(shape):
    with pytest.raises(intarsia.RequestError, match=r"shape must be integers of at least 0, as in \(4, 64, 64\), not "):
        intarsia.noise(1, shape)


@pytest.mark.parametrize("default", ["steps = [5]", "steps = 5.5", "steps = true", 'scheduler = ["DDIMScheduler"]'])
def test_a_registrys_defaults_of_the_wrong_kind_are_named(tmp_path, default):
    folder = intarsia.Registry().find("intarsia-tiny").path
    path = tmp_path / "weights.toml"
    path.write_text(
        f'schema = 1\n[models.m]\nfamily = "sd15-inpaint"\npath = "{folder}"\n[models.m.defaults]\n{default}\n'
    )
    image, mask = np.zeros((64, 64, 3), np.uint8), np.full((64, 64), 255, np.uint8)
    with pytest.raises(intarsia.RequestError, match=f"{default.partition(' ')[0]} must be"):
        intarsia.plan(intarsia.InpaintRequest(model="m", prompt="x", init_image=image, mask_image=mask), path)
