"""Captured steps on a real GPU: the same images as without, nothing that waits for the host, bounded memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.gpu.needs import need_compiled_kernels

need_compiled_kernels()

import torch

import intarsia
from benchmarks.published import VAES
from intarsia.backends.protocol import ModelFiles, Step
from intarsia.backends.torch import session as sessions
from intarsia.backends.torch.backend import TorchBackend
from intarsia.backends.torch.capture import CudaGraphCapturer
from intarsia.backends.torch.vae import VaeRunner
from intarsia.canvas.paste import blend
from intarsia.engine.noise import NoiseStream
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import resolve
from intarsia.engine.sampling import table_of
from intarsia.execution import Execution
from intarsia.kernels.attention import KERNELS, _by
from intarsia.models.vae_kl import AutoencoderKL
from intarsia.schedulers import NAMES

SIZE = 256


def ask(size: int = SIZE, **fields: Any) -> intarsia.InpaintRequest:
    """A request to the packaged model."""
    ramp = np.linspace(40, 200, size)[:, None, None] * np.array([0.9, 0.6, 0.8]) * np.ones((1, size, 1))
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : 3 * size // 4, size // 5 : 4 * size // 5] = 255
    given = {"prompt": "a red circle", "seed": 4, "steps": 8, "strength": 1.0, "guidance_scale": 4.0}
    return intarsia.InpaintRequest(
        init_image=ramp.astype(np.uint8), mask_image=mask, width=size, height=size, **{**given, **fields}
    )


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0], np.float64)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was captured, in this order: a ``StaticBatch``, or a ``CapturedCall`` for images."""
    counted, original = [], CudaGraphCapturer.__call__

    def count(self: CudaGraphCapturer, work: Callable[[], None]) -> Any:
        counted.append(work.__qualname__.split(".")[0])
        return original(self, work)

    monkeypatch.setattr(CudaGraphCapturer, "__call__", count)
    return counted


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sessions that were opened."""
    found, original = [], TorchBackend.open

    def keep(self: TorchBackend, asked: ModelFiles) -> Any:
        found.append(original(self, asked))
        return found[-1]

    monkeypatch.setattr(TorchBackend, "open", keep)
    return found


def lanes_of(session: Any, requests: Sequence[intarsia.InpaintRequest]) -> list[tuple[Any, NoiseStream]]:
    """Lanes at their first row, with the noise that each has still to draw."""
    made = []
    for request in requests:
        resolved = resolve(request, intarsia.Registry())
        stream = NoiseStream(resolved.plan.seeds[0])
        conditioning, _ = session.encode(resolved.inputs)
        table = table_of(resolved.plan)
        made.append((session.start(conditioning, table, stream.draw(resolved.plan.latent_shape)), stream))
    return made


def advance(session: Any, lanes: Sequence[tuple[Any, NoiseStream]], row: int) -> None:
    """One row of every lane that still has it."""
    here = [(state, stream) for state, stream in lanes if row < len(state.table)]
    steps = [
        Step(state, row, stream.draw(tuple(state.noise.shape)) if state.table.uses_noise[row] else None)
        for state, stream in here
    ]
    session.advance(steps)


def open_session(**choices: Any) -> Any:
    resolved = resolve(ask(), intarsia.Registry())
    execution = Execution(deterministic=True, **choices)
    return TorchBackend("cuda", execution).open(model_files(resolved.entry, resolved.parts))


def test_graphs_own_their_workspaces():
    """What others free, cuBLAS's workspaces of the process among it, is nothing that a captured graph reads."""
    device = torch.device("cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn_half(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float16, generator=generator)

    # few rows and a long sum: products that are split over their length, whose parts meet in a workspace
    left, right = drawn_half(128, 5120), drawn_half(5120, 1280)
    outs = [torch.empty(128, 1280, device=device, dtype=torch.float16) for _ in range(2)]
    capturer = CudaGraphCapturer(device)
    with torch.inference_mode():
        replays = [capturer(lambda out=out: torch.matmul(left, right, out=out)) for out in outs]
        for replay in replays:
            replay()
        torch.cuda.synchronize()
        expected = [out.clone() for out in outs]

        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        poison = torch.full((2**28,), float("nan"), device=device)  # 1 GiB where the workspace may have been
        for replay, out in zip(replays, outs, strict=True):
            out.zero_()
            replay()
        torch.cuda.synchronize()
    for out, before in zip(outs, expected, strict=True):
        assert torch.equal(out, before)
    assert bool(poison.isnan().all()), "a graph wrote into memory that is not its own"


def test_a_graph_that_goes_takes_nothing_from_the_others():
    device = torch.device("cuda")
    left = torch.randn(128, 5120, device=device, dtype=torch.float16)
    right = torch.randn(5120, 1280, device=device, dtype=torch.float16)
    kept, gone = (torch.empty(128, 1280, device=device, dtype=torch.float16) for _ in range(2))
    capturer = CudaGraphCapturer(device)
    with torch.inference_mode():
        replay, other = (capturer(lambda out=out: torch.matmul(left, right, out=out)) for out in (kept, gone))
        replay()
        expected = kept.clone()
        del other
        gc.collect()
        torch.cuda.empty_cache()
        poison = torch.full((2**28,), float("nan"), device=device)
        kept.zero_()
        replay()
        torch.cuda.synchronize()
    assert torch.equal(kept, expected)
    del poison


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(4096, 4096, 40), (1024, 77, 64), (256, 256, 160), (1024, 1024, 512)]
)
def test_attention_operators_against_float64(name, queries, keys, width):
    """Each kernel by its own name, on heads that lie between each other in memory as the networks have them."""
    generator = torch.Generator("cuda").manual_seed(1)

    def heads(count: int) -> torch.Tensor:
        tokens = torch.randn(2, count, 8 * width, device="cuda", dtype=torch.float16, generator=generator)
        return tokens.unflatten(2, (8, width)).transpose(1, 2)

    query, key, value = heads(queries), heads(keys), heads(keys)
    try:
        found = _by(name, query, key, value, None)
    except RuntimeError as exc:
        pytest.skip(f"{name} cannot do this shape here: {str(exc).splitlines()[0]}")
    scores = query.double() @ key.double().transpose(2, 3) / width**0.5
    expected = torch.softmax(scores, dim=3) @ value.double()
    error = (found.double() - expected).norm() / expected.norm()
    assert error < 2e-3  # float16 has 11 bits: 5e-4 for each rounding of scores and weights


def test_captured_and_launched_one_by_one_are_the_same_bits(captured):
    """The same kernels on the same values. Deterministic, so that attention is chosen by order and not by time."""
    images = []
    for capture in ("on", "off"):
        with intarsia.Engine("torch", "cuda", deterministic=True, capture=capture) as engine:
            results = [engine.run(ask(scheduler=name)) for name in NAMES]
            assert {result.ran["capture"] for result in results} == {capture}
            merged = engine.run(ask(512, token_merging=0.5, scheduler="euler_a"))
            unguided = engine.run(ask(guidance_scale=1.0))
        images.append([drawn(result) for result in (*results, merged, unguided)])
    assert len(captured) > 0
    for name, one, other in zip([*NAMES, "merging", "unguided"], *images, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_half_precision_errs_no_more_with_our_kernels():
    """Against float32 on the CPU: fused and captured not worse than torch's own operations in float16."""
    requests = [
        ask(512, seed=seed, scheduler=name) for seed, name in enumerate(("euler", "DPMSolverMultistepScheduler"))
    ]

    def images(device: str, **choices: Any) -> np.ndarray:
        with intarsia.Engine("torch", device, **choices) as engine:
            return np.stack([drawn(engine.run(request)) for request in requests])

    exact = images("cpu")
    ways = {"captured": {}, "fused": {"capture": "off"}, "plain": {"kernels": "plain"}}
    errors = {name: np.sqrt(np.mean((images("cuda", **way) - exact) ** 2)) for name, way in ways.items()}
    # a quarter for chance, half a level for the rounding to 8 bits
    assert max(errors["captured"], errors["fused"]) <= 1.25 * errors["plain"] + 0.5, errors
    assert 0 < errors["plain"] < 12, errors


def test_nothing_in_a_step_waits_for_the_host():
    """Stochastic rows, norms, lanes that leave: after each batch was captured, torch refuses whatever would wait."""
    names = ("EulerAncestralDiscreteScheduler", "ScoreSdeVeScheduler", "UniPCMultistepScheduler", "DDIMScheduler")
    requests = [ask(scheduler=name, steps=4 + place) for place, name in enumerate(names)]
    resolved = resolve(ask(), intarsia.Registry())
    session = TorchBackend("cuda", Execution(deterministic=False)).open(model_files(resolved.entry, resolved.parts))
    for turn in range(2):
        lanes = lanes_of(session, requests)
        advance(session, lanes, 0)
        if turn:
            torch.cuda.set_sync_debug_mode("error")
        try:
            for row in range(1, max(len(state.table) for state, _ in lanes)):
                advance(session, lanes, row)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(image.std() > 1 for image in session.decode([state for state, _ in lanes]))
    session.close()


def test_a_batch_is_captured_once(captured):
    with intarsia.Engine("torch", "cuda") as engine:
        first = engine.run(ask(seed=1))
        assert captured == ["StaticBatch"]
        for name in ("euler", "heun", "UniPCMultistepScheduler"):
            engine.run(ask(seed=2, scheduler=name, steps=5))
        assert captured == ["StaticBatch", "CapturedCall", "CapturedCall"], (
            "pictures in and out, when the size came again"
        )
        again = engine.run(ask(seed=1))
    np.testing.assert_array_equal(drawn(first), drawn(again))


def test_graphs_are_bounded_and_those_that_went_come_back(captured, opened, monkeypatch):
    monkeypatch.setattr(sessions, "_BATCHES", 2)
    sizes = (256, 320, 384, 256)
    with intarsia.Engine("torch", "cuda", deterministic=True) as engine:
        images = [drawn(engine.run(ask(size))) for size in sizes]
        assert len(opened[0]._stepper) == 2
    assert captured.count("StaticBatch") == 4
    np.testing.assert_array_equal(images[0], images[3])


def test_memory_does_not_grow_from_request_to_request():
    with intarsia.Engine("torch", "cuda") as engine:
        held = []
        for seed in range(12):
            engine.run(ask(seed=seed, prompt=f"circle {seed % 2}"))
            torch.cuda.synchronize()
            held.append(torch.cuda.memory_allocated())
    assert max(held[4:]) <= held[3] + 2**20


def test_lanes_share_a_graph_and_come_and_go():
    """Mixed batches against each image alone: another batch shape in half precision, so not the same bits."""
    requests = [ask(scheduler=name, steps=4 + place % 5, seed=place) for place, name in enumerate(NAMES[:12])]
    with intarsia.Engine("torch", "cuda") as engine:
        alone = [drawn(engine.run(request)) for request in requests]
        together = [drawn(ticket.result()) for ticket in [engine.submit(request) for request in requests]]
    for request, one, other in zip(requests, alone, together, strict=True):
        psnr = 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))
        assert psnr > 25, f"{request.scheduler}: {psnr:.1f} dB"


def test_other_loras_need_no_new_capture(captured, opened, tmp_path):
    pytest.importorskip("diffusers", reason="reads LoRA files with diffusers: pip install 'intarsia[torch]'")
    from safetensors.torch import save_file

    session = open_session()
    shapes = {name: tensor.shape for name, tensor in session.parts.unet.state_dict().items()}
    session.close()
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith(("to_q.weight", "to_v.weight", "to_k.weight")):
            layer = f"unet.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator) / shape[1] ** 0.5
            tensors[f"{layer}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator) / 4
    save_file(tensors, tmp_path / "ink.safetensors")
    registry = tmp_path / "weights.toml"
    registry.write_text('schema = 1\n[loras.ink]\npath = "ink.safetensors"\n')
    plain, inked = ask(), ask(loras=(intarsia.Lora(id="ink"),))
    opened.clear()
    captured.clear()
    with intarsia.Engine("torch", "cuda", registry, deterministic=True) as engine:
        images = [drawn(engine.run(request)) for request in (plain, inked, plain)]
    assert (len(opened), captured.count("StaticBatch")) == (1, 1)
    with intarsia.Engine("torch", "cuda", registry, deterministic=True) as engine:
        fresh = drawn(engine.run(inked))
    np.testing.assert_array_equal(images[1], fresh)
    np.testing.assert_array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])


def made_vae_runner(capturer: CudaGraphCapturer | None) -> VaeRunner:
    """A full-size autoencoder at work; two of them have the same weights."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        vae = AutoencoderKL(VAES["sd15"])
    vae = vae.half().requires_grad_(False).eval().to(memory_format=torch.channels_last)
    return VaeRunner(vae, torch.device("cuda"), fused=True, capturer=capturer)


@torch.inference_mode()
def test_images_captured_and_launched_one_by_one_are_the_same_bits(captured):
    """In and out, two sizes in turns; a size is launched first, and nothing that was handed out changes later."""
    replayed, launched = made_vae_runner(CudaGraphCapturer(torch.device("cuda"))), made_vae_runner(None)
    rng, kept = np.random.default_rng(0), []
    for height, width in [(256, 384), (512, 512)] * 4:
        levels, mask = rng.integers(0, 256, (height, width, 3), np.uint8), rng.random((height, width)) > 0.5
        latents = torch.from_numpy(rng.normal(size=(1, 4, height // 8, width // 8)).astype(np.float32)).cuda()
        kept.append([each.encode(levels, mask) for each in (replayed, launched)])
        np.testing.assert_array_equal(*(each.decode(latents) for each in (replayed, launched)))
    for found, expected in kept:
        assert bool(found.isfinite().all())
        assert torch.equal(found, expected)
    assert captured == ["CapturedCall"] * 4


@torch.inference_mode()
def test_nothing_in_a_captured_autoencoder_waits_for_the_host():
    runner = made_vae_runner(CudaGraphCapturer(torch.device("cuda")))
    levels, mask = np.full((256, 256, 3), 77, np.uint8), np.eye(256, dtype=bool)
    latents = torch.zeros(1, 4, 32, 32, device="cuda")
    for _ in range(2):
        expected = runner.encode(levels, mask), runner.decode(latents)
    decode = runner._captured._calls.peek(("decoded", 256, 256))
    torch.cuda.set_sync_debug_mode("error")
    try:
        encoded = runner.encode(levels, mask)
        decoded, finite = decode(latents)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(encoded, expected[0])
    assert bool(finite)
    np.testing.assert_array_equal(decoded[0].cpu(), expected[1])


def test_a_request_that_is_admitted_does_not_make_the_host_wait():
    """Its prompt is known, its size has been there twice: what is under way goes on while it is prepared."""
    session = open_session()
    request = ask(512, token_merging=0.5, scheduler="euler_a")
    for _ in range(2):
        lanes_of(session, [request])
    resolved = resolve(request, intarsia.Registry())
    noise = NoiseStream(resolved.plan.seeds[0]).draw(resolved.plan.latent_shape)
    torch.cuda.set_sync_debug_mode("error")
    try:
        conditioning, _ = session.encode(resolved.inputs)
        state = session.start(conditioning, table_of(resolved.plan), noise)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert conditioning.regions
    assert bool(state.buffer.isfinite().all())
    session.close()


def test_another_size_compiles_nothing_new(monkeypatch):
    import triton

    compiled = []
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", lambda *, repr, **_: compiled.append(repr))
    with intarsia.Engine("torch", "cuda") as engine:
        engine.run(ask(256, steps=2))
        compiled.clear()
        for size in (320, 512, 200):
            engine.run(ask(size, steps=2))
        tickets = [engine.submit(ask(256, steps=2, seed=seed)) for seed in range(3)]
        assert all(ticket.result().images for ticket in tickets)
    assert not compiled


def test_attention_kernels_are_captured():
    with intarsia.Engine("torch", "cuda") as engine:
        chosen = engine.run(ask(steps=2)).ran["attention"]
    assert len(chosen) >= 2
    assert {kernel for _, kernel in chosen} <= set(KERNELS)


def test_pasting_on_the_device_is_the_engines_to_the_byte():
    rng = np.random.default_rng(0)
    base, over = rng.integers(0, 256, (2, 301, 256, 3), np.uint8)
    weights = np.repeat(np.arange(256, dtype=np.uint8)[None], 301, axis=0)
    session = open_session()
    for part in (slice(0, 301), slice(10, 10), slice(7, 201)):
        given = base[part, 3:], over[part, 3:], weights[part, 3:]
        np.testing.assert_array_equal(session.blend(*given), blend(*given))
    session.close()


def test_too_little_memory_says_what_would_fit_and_the_engine_goes_on():
    with intarsia.Engine("torch", "cuda") as engine:
        engine.run(ask(steps=2))
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 8 * 2**20) / total)
        try:
            with pytest.raises(intarsia.OutOfMemory, match=r"out of memory on cuda.*would fit"):
                engine.run(ask(2048, steps=2))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert engine.run(ask(steps=2)).images
