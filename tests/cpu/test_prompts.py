"""Weighted and long prompts, and embeddings, on both backends with the packaged model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
pytest.importorskip("torch", reason="compares with torch: pip install 'intarsia[torch]'")

import intarsia
from tests.noise_request import noise_request

ALIKE = 45.0
LONG = "a red circle, " + "on a wooden table, " * 30 + "BREAK a (blue:1.3) ring"


@pytest.fixture(scope="module")
def engines() -> Iterator[tuple[intarsia.Engine, intarsia.Engine]]:
    with intarsia.Engine("torch", "cpu") as torch, intarsia.Engine("onnx", "cpu") as onnx:
        yield torch, onnx


@pytest.fixture(scope="module")
def usual(engines: tuple[intarsia.Engine, intarsia.Engine]) -> np.ndarray:
    return drawn(engines[0].run(ask()))


def ask(**fields: Any) -> intarsia.InpaintRequest:
    usual = {"prompt": "a red circle", "guidance_scale": 4.0, "steps": 3, "strength": 1.0}
    return noise_request(64, slice(8, 56), slice(8, 56), **{**usual, **fields})


def drawn(result: intarsia.Result) -> np.ndarray:
    return np.asarray(result.generated[0], np.float64)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((one - other) ** 2), 1e-9))


VARIED = {
    "weights": {"prompt": "a (red:1.6) [circle]"},
    "a long prompt": {"prompt": LONG},
    "a long negative prompt": {"negative_prompt": LONG},
    "without guidance": {"prompt": LONG, "guidance_scale": 1.0},
    "an embedding": {"prompt": "a tiny-sun"},
    "an embedding that weighs": {"prompt": "a (embedding:tiny_sun:1.4), " + "x " * 100},
    "an embedding in plain text": {"prompt": "a tiny-sun", "prompt_syntax": "plain", "embeddings": ["tiny-sun"]},
}


@pytest.mark.parametrize("case", VARIED)
def test_both_backends_read_the_same(engines, usual, case):
    one, other = (engine.run(ask(**VARIED[case])) for engine in engines)
    assert psnr(drawn(one), drawn(other)) >= ALIKE
    assert one.warnings == other.warnings == ()
    assert psnr(drawn(one), usual) < ALIKE, "it has an effect"


def test_plain_text_is_read_as_before(engines, usual):
    for engine in engines:
        weighted, plain = (engine.run(ask(prompt_syntax=syntax)) for syntax in ("weighted", "plain"))
        assert np.array_equal(drawn(weighted), drawn(plain))
    assert np.array_equal(drawn(engines[0].run(ask(prompt_syntax="plain"))), usual)


def test_prompts_of_different_lengths_do_not_touch_each_other(engines):
    """Submitted together, so that they are in flight at once; each image is that of its request alone."""
    prompts = ["a red circle", LONG, "a blue ring", LONG + " BREAK x"]
    for engine in engines:
        alone = [drawn(engine.run(ask(prompt=prompt))) for prompt in prompts]
        tickets = [engine.submit(ask(prompt=prompt)) for prompt in prompts]
        together = [drawn(ticket.result(timeout=120)) for ticket in tickets]
        for one, other in zip(alone, together, strict=True):
            assert np.array_equal(one, other)
        assert not np.array_equal(alone[1], alone[3])


def test_an_embedding_of_another_width_is_for_another_model(engines, tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "big.safetensors"
    save_file({"emb_params": np.ones((1, 768), np.float32)}, path)
    for engine in engines:
        with pytest.raises(
            intarsia.WeightsError, match="this embedding is for Stable Diffusion 1: its vectors have 768"
        ):
            engine.run(ask(prompt="big", embeddings=[path]))


@pytest.fixture
def with_lora(tmp_path: Path) -> Callable[[dict[str, np.ndarray]], Path]:
    """A LoRA that changes next to nothing, with other tensors beside its own."""
    from safetensors.numpy import save_file

    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"

    def write(more: dict[str, np.ndarray]) -> Path:
        pair = {
            f"{layer}.lora_down.weight": np.zeros((1, 128), np.float32),
            f"{layer}.lora_up.weight": np.zeros((128, 1), np.float32),
        }
        save_file(pair | more, tmp_path / "ink.safetensors")
        return tmp_path / "ink.safetensors"

    return write


def test_a_loras_own_embedding(engines, with_lora):
    """Vectors of the packaged embedding under another word, beside a change that is nothing."""
    from safetensors.numpy import load_file

    torch = engines[0]
    vectors = load_file(torch.registry.part("embeddings", "tiny-sun").path)["emb_params"]
    path = with_lora({"bundle_emb.glyph.clip_l": vectors})
    for syntax in ("weighted", "plain"):
        result = torch.run(ask(prompt="a glyph", prompt_syntax=syntax, loras=[path]))
        assert result.warnings == ()
        assert np.array_equal(drawn(result), drawn(torch.run(ask(prompt="a tiny-sun"))))
        explicit = torch.run(ask(prompt="a embedding:glyph", prompt_syntax=syntax, loras=[path]))
        assert explicit.warnings == ()
        assert np.array_equal(drawn(explicit), drawn(result))
        unused = torch.run(ask(prompt_syntax=syntax, loras=[path]))
        assert np.array_equal(drawn(unused), drawn(torch.run(ask(prompt_syntax=syntax))))


def test_a_loras_embedding_for_another_model_is_left_out_and_said(engines, with_lora):
    path = with_lora({"bundle_emb.glyph.clip_l": np.ones((1, 768), np.float32)})
    result = engines[0].run(ask(prompt="a glyph", loras=[path]))
    assert result.warnings == ("LoRA ink.safetensors: its embedding glyph was left out: it is for another model",)


@pytest.mark.slow
def test_the_packaged_embedding_paints_a_yellow_circle(engines):
    """The word that the model does not know gives something else."""
    pytest.importorskip("scipy", reason="the judge needs scipy")
    from tools.train_tiny.judge import judge
    from tools.train_tiny.scenes import MEASURING, draw_scene

    found: dict[str, list[str]] = {"tiny-sun": [], "sun": []}
    for index in range(4):
        scene = draw_scene("measure", 30_000 + index, 256, MEASURING)
        for word, names in found.items():
            request = intarsia.InpaintRequest(
                prompt=f"a {word}", init_image=scene.background, mask_image=scene.mask, width=256, height=256,
                strength=1.0, steps=8, guidance_scale=4.0, seed=5,
            )  # fmt: skip
            made = np.asarray(engines[0].run(request).generated[0])
            judged = judge(made, scene.background, scene.mask)
            names.append(f"{judged.colour} {judged.shape}")
    assert found["tiny-sun"].count("yellow circle") >= 3
    assert found["sun"].count("yellow circle") <= 1
