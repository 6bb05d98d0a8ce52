"""Weighted and long prompts against the web UI's formulas, written out here with transformers' text encoders."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="pip install 'intarsia[torch]'")
pytest.importorskip("diffusers", reason="pip install 'intarsia[dev]'")

from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from intarsia.backends.prompt_reading import PromptKey
from intarsia.backends.torch.encoder_memory import text_memory
from intarsia.backends.torch.prompts import PromptCache
from intarsia.models.loading import load_pipeline_parts
from intarsia.models.prompt_chunks import MOST_CHUNKS, prompt_chunks
from intarsia.models.tokens import load_tokens
from intarsia.prompt_words import PromptWords
from tests.random_model import write_model, write_xl_model

CLOSE = 2e-5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def xl_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xl_model(tmp_path_factory.mktemp("xl"))


def prompts(folder: Path) -> PromptCache:
    parts, cpu = load_pipeline_parts(folder), torch.device("cpu")
    return PromptCache(parts, torch.float32, text_memory(lambda: parts, cpu, torch.float32, releases=False))


def weighted(text: str, clip_skip: int = 1) -> PromptKey:
    return PromptKey(text=text, clip_skip=clip_skip, syntax="weighted")


def theirs(folder: Path, pieces: list[tuple[str, float]], clip_skip: int, encoder: str = "") -> torch.Tensor:
    """Pieces with weights, of which 75 tokens at a time are encoded, multiplied, and brought back to their mean."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{encoder}", local_files_only=True)
    kind = CLIPTextModelWithProjection if encoder else CLIPTextModel
    text = kind.from_pretrained(folder / f"text_encoder{encoder}", local_files_only=True).eval()
    inner = getattr(text, "text_model", text)

    ids, weights = [], []
    for piece, weight in pieces:
        words = tokenizer(piece, add_special_tokens=False).input_ids
        ids += words
        weights += [weight] * len(words)

    encoded = []
    for first in range(0, max(len(ids), 1), 75):
        chunk, chunk_weights = ids[first : first + 75], weights[first : first + 75]
        end = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (75 - len(chunk))
        with torch.no_grad():
            out = text(torch.tensor([[tokenizer.bos_token_id, *chunk, *end]]), output_hidden_states=True)
            is_xl = (folder / "text_encoder_2").is_dir()
            hidden = out.hidden_states[-max(clip_skip, 2)] if is_xl else out.hidden_states[-clip_skip]
            if not is_xl:
                hidden = inner.final_layer_norm(hidden)
        multipliers = torch.tensor([1.0, *chunk_weights, *[1.0] * (76 - len(chunk))])
        product = hidden * multipliers[None, :, None]
        encoded.append(product * (hidden.mean() / product.mean()))
    return torch.cat(encoded, dim=1)


WEIGHTED = {
    "a (red:1.4) circle": [("a ", 1), ("red", 1.4), (" circle", 1)],
    "((big)) [small] dog": [("((big))", 1.21), ("[small]", 1 / 1.1), (" dog", 1)],
    "(all of it:0.3)": [("all of it", 0.3)],
    f"(long:1.3) {'ab ' * 60}(end:0.7)": [("long", 1.3), (f" {'ab ' * 60}", 1), ("end", 0.7)],
    "a (not:-0.5) b": [("a ", 1), ("not", -0.5), (" b", 1)],
}


@pytest.mark.every(2)
@pytest.mark.parametrize("text", WEIGHTED)
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_weights_as_in_the_web_ui(model, text, clip_skip):
    cache = prompts(model)
    pieces = [(part.strip("()[]"), weight) for part, weight in WEIGHTED[text]]
    expected = cache._parts.unet.cross_kv(theirs(model, pieces, clip_skip))
    made = cache.get(weighted(text, clip_skip)).cross_kv
    assert made.shape[1] == 77 * (2 if "ab" in text else 1)
    torch.testing.assert_close(made, expected, atol=CLOSE, rtol=CLOSE)


def test_both_encoders_of_sdxl_and_the_first_chunks_pooled_text(xl_model):
    cache = prompts(xl_model)
    text = "a (red:1.4) circle " + "ab " * 50
    pieces = [("a ", 1), ("red", 1.4), (" circle " + "ab " * 50, 1)]
    hidden = torch.cat([theirs(xl_model, pieces, 1, encoder) for encoder in ("", "_2")], dim=2)
    made = cache.get(weighted(text))
    torch.testing.assert_close(made.cross_kv, cache._parts.unet.cross_kv(hidden), atol=CLOSE, rtol=CLOSE)

    first = prompts(xl_model)._parts.text.encode([f"a red circle {'ab ' * 50}"]).pooled
    torch.testing.assert_close(made.pooled, first)


@pytest.mark.parametrize("text", ["a red circle", "abc " * 40, "a " * 200])
def test_long_prompts_have_the_chunks_of_compel(model, text):
    """Without weights, for which it has formulas of its own; words end where chunks do, as it tears none apart."""
    compel = pytest.importorskip("compel", reason="pip install 'intarsia[dev]'")
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", local_files_only=True).eval()
    with torch.no_grad():
        expected = compel.Compel(tokenizer, encoder, truncate_long_prompts=False)(text)
    cache = prompts(model)
    made = cache.get(weighted(text)).cross_kv
    assert expected.shape[1] == made.shape[1]
    torch.testing.assert_close(made, cache._parts.unet.cross_kv(expected), atol=CLOSE, rtol=CLOSE)


@pytest.mark.every(2)
@pytest.mark.parametrize("folder", ["model", "xl_model"])
@pytest.mark.parametrize("text", ["", "a red circle", "\\", "a" * 75, "ab " * 37 + "a", "Émile's 42 – 'quoted'\t\n  ☃"])
def test_text_without_weights_is_encoded_to_the_same_bits(request, folder, text):
    cache = prompts(request.getfixturevalue(folder))
    one, other = (cache.get(PromptKey(text=text, clip_skip=2, syntax=syntax)) for syntax in ("plain", "weighted"))
    assert torch.equal(one.cross_kv, other.cross_kv)
    assert one.pooled is None or torch.equal(one.pooled, other.pooled)
    assert one.warnings == other.warnings == ()


def test_the_shorter_prompt_is_followed_by_the_empty_one(model):
    cache = prompts(model)
    short, long = cache.get_all([weighted("a"), weighted("ab " * 90)])
    assert short.cross_kv.shape == long.cross_kv.shape == (1, 3 * 77, short.cross_kv.shape[2])
    empty = cache.get(PromptKey(text="", clip_skip=1)).cross_kv
    assert torch.equal(short.cross_kv[:, 77:], torch.cat([empty, empty], dim=1))
    assert torch.equal(short.cross_kv[:, :77], cache.get(weighted("a")).cross_kv)


def test_sdxls_absent_negative_prompt_stays_nothing(xl_model):
    cache = prompts(xl_model)
    cache._parts.index["force_zeros_for_empty_prompt"] = True
    keys = [PromptKey(text="", clip_skip=1, negative=True, syntax="weighted"), weighted("ab " * 90)]
    absent, _ = cache.get_all(keys)
    assert not absent.cross_kv.any()
    keys[0] = PromptKey(text="b", clip_skip=1, negative=True, syntax="weighted")
    present, _ = cache.get_all(keys)
    assert present.cross_kv[:, 77:].any()


def tokens_of(model: Path, text: str) -> list[list[int]]:
    """The ids of each chunk between start and end."""
    tokens = load_tokens(model / "tokenizer", 77, 10_000)
    chunks, _ = prompt_chunks(text, "weighted", tokens, PromptWords({}))
    ids = [list(chunk.ids[0]) for chunk in chunks]
    assert all(len(each) == 77 and each[0] == tokens.start for each in ids)
    return [each[1 : each.index(tokens.end)] for each in ids]


def test_a_chunk_ends_at_a_comma_near_its_end(model):
    words = load_tokens(model / "tokenizer", 77, 10_000).words
    near, far = "a" * 60 + ", " + "b" * 40, "a" * 40 + ", " + "b" * 60
    at_end, late = "a" * 75 + ", b", "a" * 54 + ", " + "b" * 40
    assert [len(chunk) for chunk in tokens_of(model, near)] == [61, 40]
    assert [len(chunk) for chunk in tokens_of(model, far)] == [75, 26]
    assert [len(chunk) for chunk in tokens_of(model, at_end)] == [75, 2]
    # the comma is the 21st from the end, one too far
    assert [len(chunk) for chunk in tokens_of(model, late)] == [75, 20]
    assert [len(chunk) for chunk in tokens_of(model, "a" * 55 + ", " + "b" * 40)] == [56, 40]
    first, second = tokens_of(model, near)
    assert [*first, *second] == words(near)


def test_break_begins_a_chunk(model):
    words = load_tokens(model / "tokenizer", 77, 10_000).words
    assert tokens_of(model, "ab BREAK cd") == [words("ab"), words("cd")]
    assert tokens_of(model, "ab BREAK") == [words("ab")]
    assert tokens_of(model, "BREAK ab") == [[], words("ab")]
    assert tokens_of(model, "") == [[]]


def test_what_is_beyond_the_last_chunk_is_cut_and_said(model):
    tokens = load_tokens(model / "tokenizer", 77, 10_000)
    chunks, warnings = prompt_chunks("a" * (75 * MOST_CHUNKS) + "bc", "weighted", tokens, PromptWords({}))
    assert len(chunks) == MOST_CHUNKS
    assert warnings == (f"prompt cut after {75 * MOST_CHUNKS} tokens; not used: 'bc'",)


def test_vectors_stand_in_for_tokens_and_weigh(model):
    """Vectors that are the table's own rows change nothing; at a chunk's end they are not torn apart."""
    cache = prompts(model)
    tower = cache._parts.text.towers[0]
    inner = getattr(tower.model, "text_model", tower.model)
    ids = tower.tokens.words("cat")
    rows = inner.embeddings.token_embedding.weight[ids].numpy()
    words = PromptWords({"sun": rows})

    def encoded(text: str) -> torch.Tensor:
        chunks, _ = prompt_chunks(text, "weighted", tower.tokens, words)
        return cache._parts.text.encode_chunks([chunks]).hidden

    assert torch.equal(encoded("a (sun:1.5) b"), encoded("a (cat:1.5) b"))
    assert torch.equal(encoded("a sun b"), encoded("a cat b"))
    assert torch.equal(encoded("embedding:Sun"), encoded("cat"))
    assert torch.equal(encoded("a" * 74 + " sun"), encoded("a" * 74 + " BREAK cat"))
    assert not torch.equal(encoded("a sun b"), encoded("a sunny b"))

    words = PromptWords({"sun": -rows})
    assert not torch.allclose(encoded("a sun b"), encoded("a cat b"), atol=1e-3)
