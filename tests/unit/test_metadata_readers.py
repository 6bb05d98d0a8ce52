"""The ``parameters`` text as other programs read it: sd-parsers, sd-geninfo, and this package's own reader."""

from __future__ import annotations

import io
import random

import pytest
from PIL import Image

from intarsia import schedulers
from intarsia.images.a1111_text import is_parameters, read_parameters
from intarsia.images.encode import encode
from intarsia.images.metadata import a1111_parameters, read_parameters_text

PIECES = (
    "a cat",
    "red, blue",
    "(x:1.2)",
    "[sky]",
    'say "hi"',
    "café 円 🐶",
    "50%",
    "a\nb",
    "back\\slash",
    "x=1",
    "BREAK",
)
PLAIN = ("a cat", "red hat", "(x)", "blue sky", "50 percent", "one of two")  # what YAML does not read as its own
LORA = {"id": "ink", "strength": 0.5, "sha256": "ab" * 32}
FORMATS = ("PNG", "JPEG", "WEBP")
KEPT: list[Image.Image] = []  # sd-parsers remembers the last image by its address, which the next one may have


def random_meta(number: int, pieces: tuple[str, ...]) -> dict[str, object]:
    rng = random.Random(number)
    words = [" ".join(rng.choices(pieces, k=rng.randint(1, 5))) for _ in range(2)]
    return {
        "prompt": words[0], "negative_prompt": words[1], "steps": rng.randint(1, 150), "seed": rng.randrange(2**64),
        "scheduler": rng.choice(schedulers.NAMES), "karras_sigmas": rng.random() < 0.5, "guidance_scale": 7.5,
        "width": 512, "height": 768, "model": "some-model", "model_hash": "12" * 32, "vae": "soft:" + "cd" * 32,
        "strength": rng.random(), "clip_skip": 2, "mask_blur": 4.0, "mask_padding": rng.choice((None, 0, 32)),
        "masked_content": rng.choice(("original", "fill", "noise", "blank")), "invert_mask": rng.random() < 0.5,
        "token_merging": rng.choice((0, 0.5)), "loras": [], "embeddings": ["sun:" + "ef" * 32], "version": "v",
    }  # fmt: skip


def image_of(meta: dict[str, object], format: str) -> Image.Image:
    data, _ = encode(Image.new("RGB", (16, 16)), format, metadata=meta, parameters=a1111_parameters(meta))
    KEPT.append(Image.open(io.BytesIO(data)))
    return KEPT[-1]


@pytest.mark.parametrize("number", range(30))
def test_sd_parsers_reads_random_prompts(number):
    sd_parsers = pytest.importorskip("sd_parsers", reason="needs sd-parsers: pip install -e '.[dev]'")
    meta = random_meta(number, PIECES)
    found = sd_parsers.ParserManager().parse(image_of(meta, FORMATS[number % 3]))
    assert found.generator.value == "AUTOMATIC1111"
    assert [prompt.value for prompt in found.prompts] == [meta["prompt"]]
    assert [prompt.value for prompt in found.negative_prompts] == [meta["negative_prompt"]]
    [sampler] = found.samplers
    assert sampler.parameters["steps"] == str(meta["steps"])
    assert sampler.parameters["seed"] == str(meta["seed"])
    assert sampler.parameters.get("scheduler") == ("Karras" if meta["karras_sigmas"] else None)
    assert found.metadata["VAE"] == "soft"


@pytest.mark.parametrize("number", range(30))
def test_sd_geninfo_reads_random_prompts(number):
    """Prompts without what its YAML makes of a colon or a quote."""
    geninfo = pytest.importorskip("sd_geninfo.sd_geninfo", reason="needs sd-geninfo: pip install -e '.[dev]'")
    yaml = pytest.importorskip("yaml", reason="needs pyyaml: pip install -e '.[dev]'")
    meta = random_meta(number, PLAIN)
    text, _ = geninfo.read_geninfo(image_of(meta, FORMATS[number % 3]))
    found = yaml.safe_load(geninfo.parse_geninfo(text))
    assert (found["Positive prompt"], found["Negative prompt"]) == (meta["prompt"], meta["negative_prompt"])
    expected = {"Steps": meta["steps"], "Seed": meta["seed"], "CFG scale": 7.5, "VAE": "soft", "Clip skip": 2}
    assert expected.items() <= found.items()
    assert found.get("Schedule type") == ("Karras" if meta["karras_sigmas"] else None)


@pytest.mark.parametrize("number", range(30))
def test_our_own_reader(number):
    meta = random_meta(number, PIECES)
    found = read_parameters(read_parameters_text(image_of(meta, FORMATS[number % 3])) or "")
    assert (found.prompt, found.negative_prompt) == (meta["prompt"], meta["negative_prompt"])
    padding, content = meta["mask_padding"], str(meta["masked_content"])
    contents = {"original": "original", "fill": "fill", "noise": "latent noise", "blank": "latent nothing"}
    expected = {
        "Steps": str(meta["steps"]), "Seed": str(meta["seed"]), "Size": "512x768", "VAE hash": "cdcdcdcdcd",
        "Inpaint area": "Whole picture" if padding is None else "Only masked",
        "Masked area padding": None if padding is None else str(padding), "Masked content": contents[content],
        "Mask mode": "Inpaint not masked" if meta["invert_mask"] else None, "TI hashes": "sun: efefefefef",
        "Token merging ratio": "0.5" if meta["token_merging"] else None,
    }  # fmt: skip
    assert {key: found.pairs.get(key) for key in expected} == expected


@pytest.mark.parametrize("algorithm", ["", "sde-dpmsolver++"])
@pytest.mark.parametrize("scheduler", schedulers.NAMES)
def test_every_scheduler_has_a_name_that_means_it(scheduler, algorithm):
    text = a1111_parameters({"prompt": "x", "steps": 1, "seed": 1, "scheduler": scheduler, "algorithm_type": algorithm})
    sampler = schedulers.resolve_sampler(read_parameters(text).pairs["Sampler"])
    assert sampler.scheduler == scheduler
    is_dpm = scheduler in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler")
    assert (sampler.algorithm_type or "") == (algorithm if is_dpm else "")
    assert "Scheduler" not in text


def test_loras_are_named_where_the_web_ui_names_them():
    text = a1111_parameters({"prompt": "a cat", "steps": 1, "seed": 2, "loras": [LORA, {**LORA, "id": "wash"}]})
    assert text.splitlines()[0] == "a cat <lora:ink:0.5> <lora:wash:0.5>"
    assert read_parameters(text).pairs["Lora hashes"] == "ink: ababababab, wash: ababababab"


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Steps: 1, Seed: 2, Size: 3x4", {"Steps": "1", "Seed": "2", "Size": "3x4"}),
        ('Steps: 1, A: "b, c: d", E: f', {"Steps": "1", "A": "b, c: d", "E": "f"}),
        ('Steps: 1, A: "b, C: d, E: f', {"Steps": "1", "A": '"b', "C": "d", "E": "f"}),
        ('Steps: 1, A: "\\q", B: c', {"Steps": "1", "A": "\\q", "B": "c"}),
        ("Steps: 1, x, Seed: 2, Size: 3", {"Steps": "1", "Seed": "2", "Size": "3"}),
        ("Steps: 1, Seed: 2", {}),
        ("a photograph, taken: in spring", {}),
        ("", {}),
    ],
)
def test_pairs_of_a_line(text, pairs):
    assert read_parameters(text).pairs == pairs
    assert is_parameters(text) == bool(pairs)


@pytest.mark.parametrize(
    "text", ["x" * 2_000_000, "a:" * 500_000, '"\\' * 500_000, "a: " + '"' * 1_000_000, "a b" * 600_000]
)
def test_long_texts_are_read_in_bounded_work(text):
    read_parameters(text)
