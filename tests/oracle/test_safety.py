"""The safety checker against diffusers' class, on random weights: same embeddings, same scores, same decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="the oracle is diffusers: pip install 'intarsia[oracle]'")

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from intarsia.errors import WeightsError
from intarsia.models.safety import load_safety_checker

SIDE, COUNT = 48, 64
TOWER = {
    "image_size": SIDE, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
PROCESSOR = {
    "crop_size": SIDE, "size": SIDE, "do_center_crop": True, "do_resize": True, "do_normalize": True, "resample": 3,
    "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
}  # fmt: skip


def images(seed: int = 0, size: tuple[int, int] = (80, 80)) -> list[np.ndarray]:
    """Half of them noise, half of them smooth, so that embeddings differ."""
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (1 + n % 7, 1 + n % 5, 3), dtype=np.uint8) for n in range(COUNT)]
    return [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BICUBIC)) for each in coarse]


def embeddings(theirs: StableDiffusionSafetyChecker, seen: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return theirs.visual_projection(theirs.vision_model(seen)[1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StableDiffusionSafetyChecker, CLIPImageProcessorPil]:
    """A folder with random weights, thresholds in the middle of what the images score, and diffusers' own class."""
    folder = tmp_path_factory.mktemp("checker")
    torch.manual_seed(1)
    theirs = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=24, vision_config=TOWER)).eval()
    processor = CLIPImageProcessorPil(**PROCESSOR)
    with torch.no_grad():
        for name, tensor in theirs.named_parameters():
            if name.endswith("weight") and tensor.ndim > 1 and "embed" not in name:
                tensor.normal_(0, 1.5 * tensor.shape[-1] ** -0.5)
        found = embeddings(theirs, processor(images(), return_tensors="pt").pixel_values)
        found = found - found.mean(0)
        for kind, share in (("concept", 0.97), ("special_care", 0.8)):
            concepts = getattr(theirs, f"{kind}_embeds")
            concepts.copy_(found[: len(concepts)] + 0.3 * torch.randn_like(concepts))
            scores = torch.nn.functional.normalize(
                embeddings(theirs, processor(images(), return_tensors="pt").pixel_values)
            )
            scores = scores @ torch.nn.functional.normalize(concepts).T
            getattr(theirs, f"{kind}_embeds_weights").copy_(scores.quantile(share, dim=0))
    theirs.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder, theirs, processor


def decisions(
    theirs: StableDiffusionSafetyChecker, processor: CLIPImageProcessorPil, asked: list[np.ndarray]
) -> list[bool]:
    seen = processor(asked, return_tensors="pt").pixel_values
    return theirs(clip_input=seen, images=[np.zeros(1) for _ in asked])[1]


def test_decisions_are_diffusers(made):
    folder, theirs, processor = made
    checker = load_safety_checker(folder)
    for seed in range(3):
        expected = decisions(theirs, processor, images(seed))
        assert checker.check(images(seed)) == expected
        assert 8 < sum(expected) < COUNT - 8, "both answers occur"


def test_special_care_decides_some_of_them(made):
    """Without its 0.01 the answers would differ, so the agreement above covers it."""
    folder, theirs, processor = made
    thresholds = theirs.special_care_embeds_weights.clone()
    checker = load_safety_checker(folder)
    with_care = [flag for seed in range(3) for flag in checker.check(images(seed))]
    checker.network.special_care_embeds_weights.fill_(2.0)
    without = [flag for seed in range(3) for flag in checker.check(images(seed))]
    assert with_care != without
    theirs.special_care_embeds_weights.fill_(2.0)
    try:
        assert without == [flag for seed in range(3) for flag in decisions(theirs, processor, images(seed))]
    finally:
        theirs.special_care_embeds_weights.copy_(thresholds)


def test_scores_are_rounded_before_they_are_compared(made):
    """A cosine above its threshold by less than half a thousandth is no finding."""
    folder, _, _ = made
    network = load_safety_checker(folder).network
    network.special_care_embeds_weights.fill_(2.0)
    network.concept_embeds_weights.fill_(2.0)
    along = torch.nn.functional.normalize(network.concept_embeds[:1])
    for above, flagged in ((-0.01, False), (0.0004, False), (0.0006, True)):
        network.concept_embeds_weights[0] = 1 - above
        assert network.decide(along) == [flagged], above


@pytest.mark.parametrize("size", [(80, 80), (100, 60), (61, 97), (48, 48), (33, 20)])
def test_the_central_window_is_clips_own_view(made, size):
    folder, _, processor = made
    checker = load_safety_checker(folder)
    image = images(4, size)[13]
    windows = checker.preprocessing.windows(image)
    ours = checker.preprocessing.normalize(windows)[len(windows) // 2]
    theirs = processor([image], return_tensors="pt").pixel_values[0]
    assert (len(windows) == 1) == (size[0] == size[1])
    torch.testing.assert_close(torch.from_numpy(ours), theirs, atol=1e-5, rtol=0)  # both float32, in another order


def test_published_names_and_constants_load(made, tmp_path):
    """Published files nest the tower twice, store its position ids, and their processors name the sides."""
    folder, _, _ = made
    state = load_file(folder / "model.safetensors")
    old = {name.replace("vision_model.", "vision_model.vision_model.", 1): tensor for name, tensor in state.items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    save_file(old, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    named = {**PROCESSOR, "size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(named))
    assert load_safety_checker(tmp_path).check(images()) == load_safety_checker(folder).check(images())


def test_the_published_size_is_built_from_its_config(tmp_path):
    """CLIP ViT-L/14, as the published checker's config.json has it; the weights are made up (zeros), the names not."""
    tower = {
        "hidden_size": 1024, "image_size": 224, "intermediate_size": 4096, "num_attention_heads": 16,
        "num_hidden_layers": 24, "patch_size": 14, "hidden_act": "quick_gelu", "model_type": "clip_vision_model",
    }  # fmt: skip
    with torch.device("meta"):
        theirs = StableDiffusionSafetyChecker(CLIPConfig(projection_dim=768, vision_config=tower))
    from intarsia.models.safety import SafetyNetwork

    with torch.device("meta"):
        ours = SafetyNetwork(tower, 768)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {name: tuple(tensor.shape) for name, tensor in ours.state_dict().items()} == shapes


def damaged(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_crop(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "crop_size": 40}))


DAMAGE = [
    (without("config.json"), "config.json: no such file"),
    (without("preprocessor_config.json"), "preprocessor_config.json: no such file"),
    (without("model.safetensors"), "model.safetensors: no such file"),
    (pickled, "pickled weights are refused"),
    (damaged("model.safetensors", "short"), "model.safetensors: truncated: it has 5 bytes"),
    (damaged("config.json", "{}"), "config.json: not a safety checker's config"),
    (damaged("preprocessor_config.json", "{}"), "not a CLIP image processor's config"),
    (damaged("preprocessor_config.json", json.dumps({**PROCESSOR, "do_resize": False})), "do_resize must be True"),
    (other_crop, "crops to 40 pixels, the tower of config.json takes 48"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE)
def test_damaged_folders_are_one_line_that_names_the_file(made, tmp_path, damage, sentence):
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(WeightsError, match=sentence) as caught:
        load_safety_checker(tmp_path)
    assert "\n" not in str(caught.value)
