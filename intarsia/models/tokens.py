"""Prompts to token ids: CLIP's byte-level pair encoding (Radford et al. 2021, section 2.4), by way of tokenizers.

Every backend reads prompts with this, so that the same folder gives the same tokens. The pipeline is the one of
transformers' ``CLIPTokenizer``: built anew of the vocabulary, merges and added tokens of the folder, whatever else its
files say. Nothing here needs torch.
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

__all__ = ["ClipTokens", "load_tokens"]

_MARKS = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}
_WORD_END = "</w>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_SIDES = ("lstrip", "rstrip", "single_word", "normalized", "special")
# A start, an end, and something between them.
_FEWEST = 3


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


def load_tokens(folder: Path, positions: int, rows: int) -> ClipTokens:
    """Read a folder of ``tokenizer_config.json`` and ``vocab.json`` with ``merges.txt``, or ``tokenizer.json``.

    Args:
        positions: most tokens that the text encoder takes.
        rows: tokens that the text encoder has vectors for.

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
        made = _pipeline(vocabulary, merges, marks, added)
        end, pad = _id(made, marks["eos"]), _id(made, marks["pad"])
    except WeightsError:
        raise
    # the tokenizers library raises bare Exception for damaged merges
    except Exception as exc:
        raise WeightsError(f"{folder}: not readable as a CLIP tokenizer: {one_line(exc)}") from exc
    highest = max(made.get_vocab(with_added_tokens=True).values())
    if highest >= rows:
        raise WeightsError(f"{folder}: has a token {highest}, and the text encoder's vocab_size is {rows}")
    return ClipTokens(made, limit, end, pad)


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
    made = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=list(merges),
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
    for number, token in sorted(added.items()):
        made.add_tokens([token])
        if made.token_to_id(token.content) != number:
            raise ValueError(f"the added token {shown(token.content)} cannot have the number {number}")
    known = {token.content for token in added.values()}
    for mark in dict.fromkeys(marks.values()):
        _id(made, mark)  # one that is not there would be given a number that the text encoder does not have
        if mark not in known:
            made.add_special_tokens([AddedToken(mark, special=True, normalized=False)])
    start, end = ((mark, _id(made, mark)) for mark in (marks["bos"], marks["eos"]))
    made.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return made


def _id(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the vocabulary lacks {shown(token)}")
    return found


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]], Any]:
    """Tokens, merges, and what ``tokenizer.json`` lists as added to them."""
    if is_there(folder / "tokenizer.json"):
        whole = read_json(folder / "tokenizer.json")
        model = whole["model"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        return dict(model["vocab"]), [(one, other) for one, other in pairs], whole.get("added_tokens")
    if not (is_there(folder / "vocab.json") and is_there(folder / "merges.txt")):
        raise WeightsError(f"{folder}: must hold tokenizer.json, or vocab.json and merges.txt")
    lines = read_bytes(folder / "merges.txt").decode("utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    return read_json(folder / "vocab.json"), [(one, other) for one, other in pairs], None


def _added(folder: Path, config: Mapping[str, Any], stored: Any) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary, by number. ``tokenizer_config.json`` goes before the files of earlier years."""
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
    return AddedToken(str(fields["content"]), **{name: bool(fields[name]) for name in _SIDES if name in fields})


def _marks(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The four special tokens. What ``special_tokens_map.json`` says counts where no added tokens are listed."""
    said = dict(config)
    path = folder / "special_tokens_map.json"
    if config.get("added_tokens_decoder") is None and is_there(path):
        said |= read_json(path)
    return {name: _text(said.get(f"{name}_token")) or default for name, default in _MARKS.items()}


def _text(token: Any) -> str:
    """A token as written: a string, or an object that holds it."""
    return str(token["content"]) if isinstance(token, dict) else str(token or "")
