"""Prompts to token ids: CLIP's byte-level pair encoding (Radford et al. 2021, section 2.4), by way of tokenizers.

The pipeline is the one of transformers' ``CLIPTokenizer``: built anew of the vocabulary and merges of the folder,
whatever else its ``tokenizer.json`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from inlay.errors import WeightsError, shown
from inlay.models.config_values import one_line, read_json

__all__ = ["ClipTokens", "load_tokens"]

_MARKS = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
_WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class ClipTokens:
    """One tokenizer.

    Attributes:
        limit: tokens of a prompt, start and end included; shorter ones are padded.
        end, pad: token ids.
    """

    tokenizer: Tokenizer
    limit: int
    end: int
    pad: int

    def encode(self, prompt: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """int64 ``[1, limit]``, and a sentence where the prompt was cut."""
        ids = list(self.tokenizer.encode(prompt).ids)
        cut: tuple[str, ...] = ()
        if len(ids) > self.limit:
            # the last place is the end token's
            rest = self.tokenizer.decode(ids[self.limit - 1 : -1], skip_special_tokens=False)
            unused = rest.replace(_WORD_END, " ").strip()
            cut = (f"prompt cut after {self.limit} tokens; not used: {shown(unused)}",)
            ids = [*ids[: self.limit - 1], self.end]
        ids += [self.pad] * (self.limit - len(ids))
        return np.array([ids], np.int64), cut


def load_tokens(folder: Path, positions: int) -> ClipTokens:
    """Read a folder of ``tokenizer_config.json`` and ``vocab.json`` with ``merges.txt``, or ``tokenizer.json``.

    Args:
        positions: most tokens that the text encoder takes.

    Raises:
        WeightsError: anything missing, unreadable or of another kind; one line that names the file.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    kind = config.get("tokenizer_class", "CLIPTokenizer")
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise WeightsError(f"{path}: tokenizer_class must be CLIPTokenizer, not {shown(kind)}")
    marks = {name: _text(config.get(f"{name}_token")) or default for name, default in _MARKS.items()}
    try:
        made = _pipeline(*_vocabulary(folder), marks)
        end, pad = _id(made, marks["eos"]), _id(made, marks["pad"])
    except WeightsError:
        raise
    # the tokenizers library raises bare Exception for damaged merges
    except Exception as exc:
        raise WeightsError(f"{folder}: not readable as a CLIP tokenizer: {one_line(exc)}") from exc
    most = config.get("model_max_length", positions)
    return ClipTokens(made, min(int(most), positions), end, pad)


def _pipeline(vocabulary: dict[str, int], merges: list[tuple[str, str]], marks: Mapping[str, str]) -> Tokenizer:
    made = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=_WORD_END,
            fuse_unk=False,
            unk_token=marks["unk"],
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    for mark in dict.fromkeys(marks.values()):
        _id(made, mark)  # one that is not there would be given a number that the text encoder does not have
        made.add_special_tokens([AddedToken(mark, special=True, normalized=False)])
    start, end = ((mark, _id(made, mark)) for mark in (marks["bos"], marks["eos"]))
    made.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return made


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the vocabulary lacks {shown(token)}")
    return found


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if (folder / "tokenizer.json").is_file():
        model = read_json(folder / "tokenizer.json").get("model", {})
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return dict(model["vocab"]), [(one, other) for one, other in pairs]
    if not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        raise WeightsError(f"{folder}: must hold tokenizer.json, or vocab.json and merges.txt")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    return read_json(folder / "vocab.json"), [(one, other) for one, other in pairs]


def _text(token: Any) -> str:
    """A token as written: a string, or an object that holds it."""
    return str(token["content"]) if isinstance(token, dict) else token or ""
