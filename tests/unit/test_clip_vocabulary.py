"""CLIP's packaged vocabulary: the published numbers, and the tokens of transformers' tokenizer made of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from intarsia.checkpoints.stored import Padding
from intarsia.errors import WeightsError
from intarsia.models import clip_vocabulary as module
from intarsia.models.clip_vocabulary import MERGES, MERGES_FILE, clip_tokens, clip_vocabulary
from intarsia.models.tokens import load_tokens

START, END = 49406, 49407
PROMPTS = [
    "a photo of an astronaut riding a horse on mars",
    "Ein Bild, 8k!! don't (masterpiece:1.2)",
    "naïve café — 東京の夜 🌃 x\u00a0y\t12345",
    "",
]


def words(prompt: str, padding: Padding = "<|endoftext|>") -> list[int]:
    ids: list[int] = clip_tokens(padding).encode(prompt)[0][0].tolist()
    return ids[1 : ids.index(END)]


def test_numbers_are_those_that_were_published():
    # the examples in openai/CLIP's README and notebook
    assert words("a diagram") == [320, 22697]
    assert words("a dog") == [320, 1929]
    assert words("a cat") == [320, 2368]
    assert words(PROMPTS[0]) == [320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496]


def test_the_vocabulary_follows_from_the_merges():
    vocabulary, merges = clip_vocabulary()
    assert len(merges) == MERGES
    assert sorted(vocabulary.values()) == list(range(END + 1))
    assert vocabulary["!"] == 0
    assert vocabulary["<|startoftext|>"] == START
    assert vocabulary["<|endoftext|>"] == END
    assert MERGES_FILE.stat().st_size <= 210_000


def test_each_encoder_pads_with_its_own_token():
    for padding, number in (("<|endoftext|>", END), ("!", 0)):
        ids = clip_tokens(padding).encode("a cat")[0]
        assert ids.shape == (1, 77)
        assert ids[0, :4].tolist() == [START, 320, 2368, END]
        assert set(ids[0, 4:].tolist()) == {number}


@pytest.mark.every(2)
@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_are_those_of_a_folder_with_the_same_vocabulary(tmp_path, padding, prompt):
    write_folder(tmp_path, padding)
    ours = clip_tokens(padding).encode(prompt)[0]
    assert (ours == load_tokens(tmp_path, 77, END + 1).encode(prompt)[0]).all()


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
def test_tokens_are_those_of_transformers(tmp_path, padding):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'intarsia[torch]'")
    write_folder(tmp_path, padding)
    oracle = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    for prompt in PROMPTS:
        expected = oracle(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert clip_tokens(padding).encode(prompt)[0][0].tolist() == expected


def write_folder(folder: Path, padding: str) -> None:
    vocabulary, merges = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(f"{one} {other}" for one, other in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": padding,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


SHORT = gzip.compress(b"i n\n", mtime=0)


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", SHORT, SHORT[:-4]], ids=["empty", "no gzip", "too few merges", "cut off"]
)
def test_a_damaged_package_is_named(tmp_path, monkeypatch, content):
    path = tmp_path / "merges.txt.gz"
    path.write_bytes(content)
    monkeypatch.setattr(module, "MERGES_FILE", path)
    with pytest.raises(WeightsError, match="part of the package"):
        clip_vocabulary()
