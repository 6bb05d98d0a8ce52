"""Training of what goes with the packaged model: its networks' changes, files and starting points, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="trains diffusers' networks: pip install 'intarsia[torch]'")
pytest.importorskip("scipy", reason="the training tools need scipy")

from diffusers import AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from tools.train_tiny.scenes import draw_scene
from tools.train_tiny_parts import adapters, embedding, loop
from tools.train_tiny_parts.examples import MODEL, encoded, pictures_of
from tools.train_tiny_parts.few_steps import sampled_timesteps
from tools.train_tiny_parts.packaged import packaged
from tools.train_tiny_parts.text_only import FourChannels, without_mask_inputs


def inputs(seed: int = 0, channels: int = 9, side: int = 16) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(1, channels, side, side, generator=generator)
    return sample, torch.tensor([500]), torch.randn(1, 77, 64, generator=generator)


@torch.no_grad()
def velocity(unet: Any, given: tuple[Any, Any, Any]) -> Any:
    return unet(*given, return_dict=False)[0]


def test_pooling_is_the_packaged_autoencoders_encoder() -> None:
    images = pictures_of(draw_scene("train", index, 256).picture for index in range(2))
    vae = AutoencoderTiny.from_pretrained(MODEL / "vae", torch_dtype=torch.float32)
    with torch.no_grad():
        theirs = (vae.encoder(images) * vae.config.scaling_factor).numpy()
    np.testing.assert_allclose(encoded(images), theirs, atol=4e-3)  # float16 of values up to 2.2, and its weights'


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_an_adapters_file_is_the_change_that_was_trained(kind: str, tmp_path: Path) -> None:
    trained, given = packaged().unet, inputs()
    before = velocity(trained, given)
    added = adapters.attach(trained, kind, rank=2, alpha=1.0)
    torch.testing.assert_close(velocity(trained, given), before)  # it starts as no change

    torch.manual_seed(1)
    for adapter in added.values():
        for parameter in adapter.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    tensors = adapters.file_tensors(trained, added)
    fresh = packaged().unet
    adapters.apply(fresh, tensors, 1.0)
    after = velocity(trained, given)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(velocity(fresh, given), after, atol=5e-3, rtol=5e-3)  # the file is float16


def test_a_lora_file_is_what_diffusers_makes_of_it(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="diffusers loads LoRAs with peft")
    trained, given = packaged().unet, inputs()
    added = adapters.attach(trained, "lora", rank=2, alpha=1.0)
    torch.manual_seed(1)
    for adapter in added.values():
        adapter.up.data += 0.1 * torch.randn_like(adapter.up)
    save_file(adapters.file_tensors(trained, added), tmp_path / "own.safetensors")
    theirs = UNet2DConditionModel.from_pretrained(MODEL / "unet", torch_dtype=torch.float32).eval()
    state, alphas = _pipeline_class().lora_state_dict(tmp_path / "own.safetensors", unet_config=theirs.config)
    _pipeline_class().load_lora_into_unet(state, alphas, theirs)
    torch.testing.assert_close(velocity(theirs, given), velocity(trained, given), atol=5e-3, rtol=5e-3)


def _pipeline_class() -> Any:
    from diffusers import StableDiffusionInpaintPipeline

    return StableDiffusionInpaintPipeline


def test_four_inputs_see_what_all_see_under_a_full_mask() -> None:
    """Away from the edges, where the nine-channel network's mask and gray end and the bias does not."""
    sample, time, states = inputs(channels=4, side=32)
    inpainting = packaged().unet
    full = torch.cat([sample, torch.ones(1, 1, 32, 32), torch.zeros(1, 4, 32, 32)], 1)
    text_only = without_mask_inputs(packaged().unet)
    with torch.no_grad():
        first, ours = inpainting.conv_in(full), text_only.conv_in(sample)
    torch.testing.assert_close(ours[..., 1:-1, 1:-1], first[..., 1:-1, 1:-1])
    assert text_only.config.in_channels == 4
    taken = velocity(FourChannels(text_only), (full, time, states))
    torch.testing.assert_close(taken, velocity(text_only, (sample, time, states)))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_trained_timesteps_are_those_that_lcm_samples_at(steps: int) -> None:
    scheduler = LCMScheduler.from_pretrained(MODEL / "scheduler")
    scheduler.set_timesteps(steps)
    assert sampled_timesteps(steps) == scheduler.timesteps.tolist()


def test_the_embeddings_vectors_stand_in_place_of_one_token() -> None:
    tokenizer = embedding.TOKENIZER
    ids = tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    start, article, _, circle, end = ids[0, :5].tolist()
    learned = list(range(len(tokenizer), len(tokenizer) + 3))
    placed = embedding.placed(ids, 3)
    assert placed.shape == ids.shape
    assert placed[0, :7].tolist() == [start, article, *learned, circle, end]


def test_only_the_embeddings_vectors_are_trained_and_all_other_words_stay() -> None:
    nets = packaged()
    ids = embedding.TOKENIZER(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        before = nets.text(input_ids=ids).last_hidden_state
        table = embedding.extend(nets.text, ["green", "ring"])
        torch.testing.assert_close(nets.text(input_ids=ids).last_hidden_state, before)
    assert [name for name, value in table.named_parameters() if value.requires_grad] == ["vectors"]
    nets.text(input_ids=embedding.placed(ids, 2)).last_hidden_state.sum().backward()
    assert table.vectors.grad is not None
    assert (table.vectors.grad.abs().sum(1) > 0).all()


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 3)

    def run(folder: Path, stop_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 1)
        seen = 0

        def loss(rng: np.random.Generator) -> torch.Tensor:
            nonlocal seen
            seen += 1
            if seen == stop_at:
                raise KeyboardInterrupt
            given = torch.from_numpy(rng.standard_normal((4, 3), dtype=np.float32))
            return ((layer(given) - given.sum(1, keepdim=True)) ** 2).mean()

        loop.train(loop.Run(name="line", seed=5, steps=10, rate=0.1, folder=folder, decay=0.5), layer, loss)
        return layer.weight.detach()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at=6)
    torch.testing.assert_close(run(tmp_path / "parts"), whole, rtol=0, atol=0)
