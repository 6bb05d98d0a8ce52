"""Prompts to token ids: CLIP's byte-level pair encoding (Radford et al. 2021, section 2.4), by way of tokenizers.

All backends use it, so that the same folder gives the same tokens. The pipeline is that of transformers'
``CLIPTokenizer``, built from the vocabulary, merges and added tokens of the folder; its files' other settings are not
read. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from intarsia.checkpoints.files import is_there, read_bytes, read_json
from intarsia.errors import WeightsError, one_line, shown
from intarsia.models.clip_config import MOST_TOKENS

__all__ = ["ClipTokens", "load_tokens", "make_tokens"]

_MARKS = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
_WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_OPTIONS = ("lstrip", "rstrip", "single_word", "normalized", "special")
# A start, an end, and something between them.
_FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class ClipTokens:
    """One tokenizer.

    Attributes:
        limit: tokens of a prompt, start and end included; shorter ones are padded.
        start, end, pad: token ids.
    """

    tokenizer: Tokenizer
    limit: int
    start: int
    end: int
    pad: int

    @property
    def comma(self) -> int | None:
        """Token id of a comma that is a word; None where there is none."""
        number: int | None = self.tokenizer.token_to_id("," + _WORD_END)
        return number

    def words(self, text: str) -> list[int]:
        """Token ids of a text, without start and end."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode(self, prompt: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """int64 ``[1, limit]``, and a sentence where the prompt was cut."""
        ids = list(self.tokenizer.encode(prompt).ids)
        warnings: tuple[str, ...] = ()
        if len(ids) > self.limit:
            # the last position is the end token's
            last = self.limit - 1
            warnings = (self.cut(self.limit, ids[last:-1]),)
            ids = [*ids[:last], self.end]

        absent = self.limit - len(ids)
        ids += [self.pad] * absent
        return np.array([ids], np.int64), warnings

    def cut(self, count: int, rest: Sequence[int]) -> str:
        """The sentence about a prompt of which only ``count`` tokens are used; ``rest`` are the others."""
        text = self.tokenizer.decode(list(rest), skip_special_tokens=False)
        unused = text.replace(_WORD_END, " ").strip()
        return f"prompt cut after {count} tokens; not used: {shown(unused)}"


def load_tokens(folder: Path, positions: int, rows: int) -> ClipTokens:
    """Read a folder of ``tokenizer_config.json`` and ``vocab.json`` with ``merges.txt``, or ``tokenizer.json``.

    Args:
        positions: most tokens of the text encoder's input.
        rows: tokens of the text encoder's embedding table.

    Raises:
        WeightsError: anything missing, unreadable, of another kind, or not fitting the text encoder; one line that
            names the file.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path)
    kind = config.get("tokenizer_class", "CLIPTokenizer")
    if kind not in ("CLIPTokenizer", "CLIPTokenizerFast"):
        raise WeightsError(f"{path}: tokenizer_class must be CLIPTokenizer, not {shown(kind)}")
    limit = min(_limit(path, config), positions)

    try:
        vocabulary, merges, stored = _vocabulary(folder)
        added = _added(folder, config, stored)
        marks = _marks(folder, config)
        tokenizer = _pipeline(vocabulary, merges, marks, added)
        start = _id(tokenizer, marks["bos"])
        end = _id(tokenizer, marks["eos"])
        pad = _id(tokenizer, marks["pad"])
    except WeightsError:
        raise
    # the tokenizers library raises bare Exception for damaged merges
    except Exception as exc:
        raise WeightsError(f"{folder}: not readable as a CLIP tokenizer: {one_line(exc)}") from exc

    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= rows:
        raise WeightsError(f"{folder}: has a token {highest}, and the text encoder's vocab_size is {rows}")
    return ClipTokens(tokenizer=tokenizer, limit=limit, start=start, end=end, pad=pad)


def make_tokens(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]], *, pad: str, limit: int) -> ClipTokens:
    """A tokenizer from its vocabulary and merges, with CLIP's usual special tokens; ``pad`` is the one that pads."""
    tokenizer = _pipeline(vocabulary, merges, {**_MARKS, "pad": pad}, {})
    return ClipTokens(
        tokenizer=tokenizer,
        limit=limit,
        start=_id(tokenizer, _MARKS["bos"]),
        end=_id(tokenizer, _MARKS["eos"]),
        pad=_id(tokenizer, pad),
    )


def _limit(path: Path, config: Mapping[str, Any]) -> int:
    """``model_max_length``; absent, null, or a huge number (transformers writes 1e30) is without limit."""
    value = config.get("model_max_length")
    if value is None:
        return MOST_TOKENS
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= _FEWEST:
        raise WeightsError(f"{path}: model_max_length must be a whole number of at least {_FEWEST}, not {shown(value)}")
    return int(min(value, MOST_TOKENS))


def _pipeline(
    vocabulary: dict[str, int],
    merges: Sequence[tuple[str, str]],
    marks: Mapping[str, str],
    added: Mapping[int, AddedToken],
) -> Tokenizer:
    """The tokenizer of CLIP; ValueError where tokens and numbers do not agree."""
    model = BPE(
        vocab=vocabulary,
        merges=list(merges),
        continuing_subword_prefix="",
        end_of_word_suffix=_WORD_END,
        fuse_unk=False,
        unk_token=marks["unk"],
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    tokenizer.decoder = decoders.ByteLevel()

    _add_tokens(tokenizer, added, marks)
    start = (marks["bos"], _id(tokenizer, marks["bos"]))
    end = (marks["eos"], _id(tokenizer, marks["eos"]))
    tokenizer.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, added: Mapping[int, AddedToken], marks: Mapping[str, str]) -> None:
    for number, token in sorted(added.items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ValueError(f"the added token {shown(token.content)} cannot have the number {number}")

    contents = {token.content for token in added.values()}
    for mark in dict.fromkeys(marks.values()):
        _id(tokenizer, mark)  # an absent one would get a number that the text encoder does not have
        if mark not in contents:
            tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False)])


def _id(tokenizer: Tokenizer, token: str) -> int:
    number = tokenizer.token_to_id(token)
    if number is None:
        raise ValueError(f"the vocabulary lacks {shown(token)}")
    return number


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], Any]:
    """Tokens, merges, and the added tokens of ``tokenizer.json``."""
    merges = []
    if is_there(folder / "tokenizer.json"):
        whole = read_json(folder / "tokenizer.json")
        model = whole["model"]
        for pair in model["merges"]:
            one, other = pair.split(" ") if isinstance(pair, str) else pair
            merges.append((one, other))
        return dict(model["vocab"]), merges, whole.get("added_tokens")

    if not (is_there(folder / "vocab.json") and is_there(folder / "merges.txt")):
        raise WeightsError(f"{folder}: must hold tokenizer.json, or vocab.json and merges.txt")
    text = read_bytes(folder / "merges.txt").decode("utf-8")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#version"):
            one, other = line.split()
            merges.append((one, other))
    return read_json(folder / "vocab.json"), merges, None


def _added(folder: Path, config: Mapping[str, Any], stored: Any) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary, by number. ``tokenizer_config.json`` has precedence over files of older formats."""
    listed = config.get("added_tokens_decoder")
    if listed is not None:
        return {int(number): _token(fields) for number, fields in listed.items()}

    added: dict[int, AddedToken] = {}
    if is_there(folder / "added_tokens.json"):
        numbers = read_json(folder / "added_tokens.json").items()
        added = {int(number): AddedToken(text, normalized=True, special=False) for text, number in numbers}
    for fields in stored or ():
        added[int(fields["id"])] = _token(fields)
    return added


def _token(fields: Mapping[str, Any]) -> AddedToken:
    options = {name: bool(fields[name]) for name in _OPTIONS if name in fields}
    return AddedToken(str(fields["content"]), **options)


def _marks(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The four special tokens. ``special_tokens_map.json`` has precedence if the config lists no added tokens."""
    settings = dict(config)
    path = folder / "special_tokens_map.json"
    if config.get("added_tokens_decoder") is None and is_there(path):
        settings |= read_json(path)

    marks = {}
    for name, default in _MARKS.items():
        mark = _text(settings.get(f"{name}_token"))
        marks[name] = mark or default
    return marks


def _text(token: Any) -> str:
    """A token as written: a string, or an object that holds it."""
    if isinstance(token, dict):
        return str(token["content"])
    return str(token or "")
