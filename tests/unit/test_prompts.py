"""What a request's prompts say beside what is encoded: syntax, LoRAs, embeddings, clip skip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import intarsia
from intarsia.endpoints.reading import read
from intarsia.engine.prompts import read_prompts
from intarsia.prompt_words import PromptWords, explicit_words
from tests.unit.endpoint_table import MINIMAL

Ask = Callable[..., intarsia.InpaintRequest]


@pytest.fixture
def registry(tmp_path: Path) -> Callable[[str], Path]:
    """A registry with LoRAs, embeddings, and a model whose entry has more keys."""
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "model_index.json").write_text("{}")
    row = np.ones((2, 768), np.float32)
    save_file({"emb_params": row}, tmp_path / "bad-hands.safetensors")
    save_file({"clip_l": row, "clip_g": np.ones((2, 1280), np.float32)}, tmp_path / "xl.safetensors")
    save_file({"lora_unet_conv_in.lora_down.weight": row}, tmp_path / "ink.safetensors")

    def write(more: str = "") -> Path:
        path = tmp_path / "weights.toml"
        path.write_text(
            'schema = 1\ndefault = "m"\n[models.m]\nfamily = "sd15"\npath = "nothing"\n' + more + "\n"
            '[loras.ink]\npath = "ink.safetensors"\n'
            '[embeddings.bad-hands]\npath = "bad-hands.safetensors"\naliases = ["hands"]\n'
            '[embeddings.big]\npath = "xl.safetensors"\nfamilies = ["sdxl", "sdxl-inpaint"]\n'
        )
        return path

    return write


def resolved(request: intarsia.InpaintRequest, weights: Path) -> Any:
    return intarsia.plan(request, weights)


def test_a_tag_is_a_lora_of_the_request(registry, request_of):
    plan = resolved(request_of(prompt="a cat <lora:ink:0.8>, big"), registry())
    assert plan.prompt.prompt == "a cat , big"
    assert plan.prompt.asked == "a cat <lora:ink:0.8>, big"
    assert [(adapter.id, adapter.strength) for adapter in plan.model.adapters] == [("ink", 0.8)]
    [full] = resolved(request_of(prompt="<LORA: ink >"), registry()).model.adapters
    assert full.strength == 1
    given = resolved(request_of(prompt="a cat , big", loras=["ink:0.8"]), registry())
    assert given.model == plan.model


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("<lora:nope:1>", "LoRA not found: nope; the registry has: ink"),
        ("<lora:ink><lora:ink:1>", "loras must be different from one another; ink is there twice"),
        ("<lora:ink:0.8:0.5>", "prompt: <lora:ink:0.8:0.5> has several strengths: one counts for all networks"),
        ("<lora:ink:3>", "prompt: <lora:ink:3> must have a strength between -2 and 2"),
        ("<lora:ink:nan>", "prompt: <lora:ink:nan> must have a strength between -2 and 2"),
        ("<lora:ink:strong>", "must have a strength between -2 and 2"),
        ("<lora::1>", "prompt: <lora::1> names no LoRA"),
        ("embedding:nope", "embedding not found: nope; the registry has: bad-hands, big, tiny-sun"),
        ("embedding:big", "embedding big fits the families sdxl, sdxl-inpaint, not sd15 of m"),
    ],
)
def test_what_a_prompt_names_and_the_registry_lacks(registry, request_of, prompt, message):
    with pytest.raises(intarsia.IntarsiaError) as caught:
        resolved(request_of(prompt=prompt), registry())
    assert message in str(caught.value)


def test_plain_prompts_name_nothing(registry, request_of):
    prompt = "<lora:nope:1> embedding:nope bad-hands"
    plan = resolved(request_of(prompt=prompt, prompt_syntax="plain"), registry())
    assert plan.prompt.prompt == prompt
    assert not plan.prompt.embeddings
    assert not plan.model.adapters


def test_request_before_entry_before_library(registry, request_of):
    plain_entry = 'prompt_syntax = "plain"'
    for more, fields, expected in (
        ("", {}, "weighted"),
        (plain_entry, {}, "plain"),
        (plain_entry, {"prompt_syntax": "weighted"}, "weighted"),
        ("", {"prompt_syntax": "plain"}, "plain"),
    ):
        plan = resolved(request_of(**fields), registry(more))
        assert plan.prompt.syntax == expected
        assert plan.to_dict()["prompt"].get("syntax", "plain") == expected
    assert resolved(request_of(), registry()).sha256 != resolved(request_of(), registry(plain_entry)).sha256


@pytest.mark.parametrize(("more", "expected"), [("", "plain"), ('prompt_syntax = "weighted"', "weighted")])
def test_documented_requests_are_plain_unless_the_entry_says_otherwise(registry, more, expected):
    found = read({**MINIMAL, "model_id": "m"}, "community", intarsia.Registry(registry(more)))
    assert found.request.prompt_syntax == expected
    assert found.request.clip_skip == 2


def test_an_unknown_syntax_is_refused(registry, request_of):
    with pytest.raises(intarsia.RequestError, match="prompt_syntax must be one of weighted, plain"):
        request_of(prompt_syntax="fancy")
    with pytest.raises(intarsia.WeightsError, match="prompt_syntax must be weighted or plain, not 'fancy'"):
        resolved(request_of(), registry('prompt_syntax = "fancy"'))


def test_clip_skip_is_the_models_or_the_last_layer(registry, request_of):
    entry = "defaults = {clip_skip = 3}"
    skips = [resolved(request_of(), registry(more)).prompt.clip_skip for more in ("", entry)]
    assert skips == [1, 3]
    assert resolved(request_of(clip_skip=4), registry(entry)).prompt.clip_skip == 4
    for wrong in ("0", "9", '"two"'):
        with pytest.raises(intarsia.IntarsiaError, match="clip_skip must be a whole number between 1 and 8"):
            resolved(request_of(), registry(f"defaults = {{clip_skip = {wrong}}}"))


def test_words_of_a_loras_own_embeddings(registry, request_of, tmp_path):
    """Behind ``embedding:`` too; it may be that of another family's embedding, and hides no other mistake."""
    path = registry()
    entries = intarsia.Registry(path)
    row = np.ones((1, 768), np.float32)
    save_file({"bundle_emb.glyph.clip_l": row, "bundle_emb.big.clip_l": row}, tmp_path / "ink.safetensors")
    for prompt in ("embedding:glyph", "(EMBEDDING:Glyph:1.2), a cat", "glyph", "embedding:big", "big"):
        for syntax in ("weighted", "plain"):
            asked = request_of(prompt=prompt, loras=["ink"], prompt_syntax=syntax)
            found = read_prompts(asked, entries.find("m"), entries)
            assert found.embeddings == ()
            assert not [note for note in found.warnings if "glyph" in note.lower() or "big" in note], (prompt, syntax)
    assert resolved(request_of(prompt="embedding:glyph <lora:ink>"), path).prompt.prompt == "embedding:glyph"

    for prompt in ("embedding:glyph", "<lora:ink> embedding:glyphs embedding:glyph"):
        with pytest.raises(intarsia.WeightsError, match="embedding not found: glyph"):
            resolved(request_of(prompt=prompt), path)
    both = resolved(request_of(prompt="embedding:glyph embedding:hands", loras=["ink"]), path)
    assert [name.partition(":")[0] for name in both.prompt.embeddings] == ["bad-hands"]


@pytest.mark.parametrize(
    "word", ["bad-hands", "Bad_Hands", "(bad-hands:1.2)", "embedding:hands.", "a cat, hands, big-eyed"]
)
def test_a_word_is_an_embedding_of_the_registry(registry, request_of, word):
    plan = resolved(request_of(negative_prompt=word, guidance_scale=5.0), registry())
    assert [name.partition(":")[0] for name in plan.prompt.embeddings] == ["bad-hands"]
    assert plan.sha256 != resolved(request_of(negative_prompt=word, prompt_syntax="plain"), registry()).sha256


def test_plain_prompts_have_the_embeddings_that_the_request_names(registry, request_of):
    fields = {"prompt": "my hands", "prompt_syntax": "plain"}
    plan = resolved(request_of(**fields, embeddings=["hands"]), registry())
    assert len(plan.prompt.embeddings) == 1
    body = {**MINIMAL, "model_id": "m", "prompt": "my hands", "embeddings_model": "bad_hands"}
    assert read(body, "community", intarsia.Registry(registry())).request.embeddings == ("bad_hands",)


def test_what_is_said_of_embeddings_and_tags_without_effect(registry, request_of):
    with intarsia.Engine("null", weights=registry()) as engine:
        unused = engine.run(request_of(prompt="a cat", embeddings=["hands"])).warnings
        other = engine.run(request_of(prompt="a big cat")).warnings
        misplaced = engine.run(request_of(negative_prompt="bad <lora:ink:1>")).warnings
        understood = engine.run(request_of(prompt="(a:1.2) BREAK [b] hands <lora:ink:1> {x|y} [a:b:0.5]")).warnings
    assert unused == ("embeddings: without effect, as their words are in neither prompt: bad-hands",)
    assert other == (
        "prompt: big was read as text: the embedding of that name is for sdxl, sdxl-inpaint, not for sd15",
    )
    assert misplaced == ("negative_prompt: its LoRAs were left out, as they are named in the prompt: ink",)
    assert understood == ("prompt: read as text, as there is no such syntax here: [a:b:0.5], {x|y}",)


def test_an_embedding_is_a_path_too_and_a_lora_is_none(registry, request_of, tmp_path):
    path = tmp_path / "xl.safetensors"
    registry()
    with pytest.raises(intarsia.WeightsError, match="is a LoRA, not an embedding"):
        resolved(request_of(embeddings=[tmp_path / "ink.safetensors"]), tmp_path / "weights.toml")
    with pytest.raises(intarsia.WeightsError, match="fits the families sdxl"):
        resolved(request_of(embeddings=[path]), tmp_path / "weights.toml")


def test_words_and_what_is_none():
    words = PromptWords({"a-b": 1, "a-b-c": 2, "<cat>": 3, "é": 4})
    assert list(words.split("x A_B, embedding:a-b-c;<Cat>é")) == ["x ", 1, ", ", 2, ";", 3, 4]
    assert list(words.split("xa-b a-bx a-b-d É")) == ["xa-b a-bx a-b-d É"]
    assert words.found("a-b-c a-b a-b") == [2, 1]
    assert list(PromptWords({}).split("a")) == ["a"]
    assert list(words.split("")) == []
    assert explicit_words("embedding:a, (EMBEDDING:b:1.2) embedding: c") == ["a", "b"]
