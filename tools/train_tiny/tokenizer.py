"""The tokenizer: CLIP's byte-level pair encoding with a vocabulary of its own, so that our words are one token."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from tools.train_tiny.captions import KNOWN_WORDS

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
LENGTH = 77


def byte_alphabet() -> list[str]:
    """The 256 printable characters that stand for bytes in GPT-2's and CLIP's byte-level encoding."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def learn_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1), run until every word is one symbol.

    Ties go to the alphabetically first pair, so the result depends on the words alone.
    """
    spelled = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for word in spelled for pair in pairwise(word))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(word, best) for word in spelled]


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Token → id, in CLIP's order: bytes, bytes that end a word, merges, start, end."""
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet), *dict.fromkeys(a + b for a, b in merges), START, END]
    return {token: place for place, token in enumerate(dict.fromkeys(tokens))}


def build() -> CLIPTokenizer:
    """The tokenizer of intarsia-tiny; padding repeats the end token, as Stable Diffusion 1 has it."""
    merges = learn_merges(KNOWN_WORDS)
    return CLIPTokenizer(
        vocab=vocabulary(merges),
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )


def save(folder: Path) -> None:
    """Write tokenizer.json and its configuration, and vocab.json and merges.txt for readers of the older form."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(KNOWN_WORDS)
    build().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges), ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    marks = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks, indent=2) + "\n")
