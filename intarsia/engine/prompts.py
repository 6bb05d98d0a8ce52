"""A request's prompts as they will be encoded: template, syntax, and the LoRAs and embeddings that they name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from intarsia.backends.protocol import PromptEmbedding
from intarsia.checkpoints.bundled_embeddings import bundled_names
from intarsia.checkpoints.header import read_header
from intarsia.engine.parts import fitting_part
from intarsia.engine.plan import PromptPlan
from intarsia.engine.prompt_syntax import notes_on, notes_on_weighted
from intarsia.engine.prompt_tags import take_lora_tags
from intarsia.engine.request import InpaintRequest, Lora
from intarsia.errors import WeightsError, expect, shown
from intarsia.prompt_words import PromptWords, explicit_words
from intarsia.registry.entries import ModelEntry, PartEntry, normalize
from intarsia.registry.files import check, entry_hash, locate
from intarsia.registry.registry import Registry
from intarsia.registry.usable import check_content
from intarsia.weighted_text import PromptSyntax

__all__ = ["Prompts", "read_prompts"]

_MOST_CLIP_SKIP = 8
_CLIP_SKIP = 1


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Both prompts of a request, and what their words say beside what is encoded.

    Attributes:
        asked: the caller's prompt, before any template and with its tags.
        loras: those that are named in the prompt.
        embeddings: those whose words are in one of the prompts.
    """

    prompt: str
    negative_prompt: str
    asked: str
    syntax: PromptSyntax
    clip_skip: int
    loras: tuple[Lora, ...] = ()
    embeddings: tuple[PartEntry, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def plan(self) -> PromptPlan:
        """What of them decides the images."""
        return PromptPlan(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            asked=self.asked,
            clip_skip=self.clip_skip,
            syntax=self.syntax,
            embeddings=tuple(f"{entry.id}:{entry_hash(entry)}" for entry in self.embeddings),
        )

    def opened(self) -> tuple[PromptEmbedding, ...]:
        """The embeddings for a backend, once their files have been found whole and of the right kind.

        Raises:
            WeightsError: a file is missing, damaged or something else than its entry says.
        """
        embeddings = []
        for entry in self.embeddings:
            path = check(entry)
            check_content(entry)
            embeddings.append(PromptEmbedding(_words(entry), path, entry_hash(entry)))
        return tuple(embeddings)


def read_prompts(
    request: InpaintRequest, model: ModelEntry, registry: Registry, *, allow_paths: bool = False
) -> Prompts:
    """Apply template and syntax.

    Args:
        allow_paths: paths of embeddings may stand for ids.

    Raises:
        RequestError: a tag of a LoRA that says nothing.
        WeightsError: an embedding that neither the registry nor a LoRA of the request has, or that is for another
            family.
    """
    syntax: PromptSyntax = request.prompt_syntax or model.prompt_syntax or "weighted"
    prompt, negative = request.prompt, request.negative_prompt
    if request.enhance_prompt:
        prompt = model.prompt_template.replace("{prompt}", prompt)

    loras: tuple[Lora, ...] = ()
    warnings: list[str] = []
    if syntax == "weighted":
        prompt, loras = take_lora_tags("prompt", prompt)
        negative, misplaced = take_lora_tags("negative_prompt", negative)
        names = ", ".join(lora.id for lora in misplaced)
        if names:
            warnings.append(f"negative_prompt: its LoRAs were left out, as they are named in the prompt: {names}")

    requested = _Requested(embeddings=request.embeddings, loras=(*request.loras, *loras), allow_paths=allow_paths)
    finder = _Finder(requested, model, registry)
    embeddings, more = finder.find(syntax, f"{prompt}\n{negative}")
    notes = [
        *finder.notes("prompt", syntax, request.prompt, embeddings),
        *finder.notes("negative_prompt", syntax, negative, embeddings),
    ]
    return Prompts(
        prompt=prompt,
        negative_prompt=negative,
        asked=request.prompt,
        syntax=syntax,
        clip_skip=_clip_skip(request, model),
        loras=loras,
        embeddings=tuple(embeddings),
        warnings=(*warnings, *more, *notes),
    )


def _clip_skip(request: InpaintRequest, model: ModelEntry) -> int:
    """The request's, or the model's default."""
    if request.clip_skip is not None:
        return request.clip_skip
    value = model.defaults.get("clip_skip", _CLIP_SKIP)
    allowed = f"a whole number between 1 and {_MOST_CLIP_SKIP}"
    expect("clip_skip", value, int, allowed)  # a registry's default may be anything
    if not 1 <= value <= _MOST_CLIP_SKIP:
        raise WeightsError(f"models.{model.id}.defaults: clip_skip must be {allowed}, not {shown(value)}")
    return int(value)


@dataclass(frozen=True, kw_only=True)
class _Requested:
    """What a request names that may have words of its own.

    Attributes:
        embeddings: ids, or paths where they are allowed.
        loras: also those that its prompt names.
        allow_paths: paths of files may stand for ids.
    """

    embeddings: Sequence[str]
    loras: Sequence[Lora]
    allow_paths: bool


class _Finder:
    """Finds the embeddings that count in a request's prompts."""

    def __init__(self, requested: _Requested, model: ModelEntry, registry: Registry) -> None:
        self._find = partial(fitting_part, model=model, registry=registry)
        self._model = model
        self._registry = registry
        self._loras = requested.loras
        self._allow_paths = requested.allow_paths
        self._requested = [
            self._find("embeddings", name, allow_paths=requested.allow_paths) for name in requested.embeddings
        ]

    def find(self, syntax: PromptSyntax, text: str) -> tuple[list[PartEntry], list[str]]:
        """Those whose words are in the text, and what there is to say of others.

        With weights, every embedding of the registry has its word; plain text has those of the request alone.
        """
        entries = {word: entry for entry in self._requested for word in _words(entry)}
        warnings: list[str] = []
        if syntax == "weighted":
            more, warnings = self._of_registry(text)
            entries = {**more, **entries}
            for name in self._not_bundled(PromptWords(entries).without(text)):
                entry = self._find("embeddings", name)  # which says what is wrong with it
                entries |= dict.fromkeys((*_words(entry), name), entry)

        found = list({entry.id: entry for entry in PromptWords(entries).found(text)}.values())
        unused = [entry.id for entry in self._requested if entry not in found]
        if unused:
            warnings.append(f"embeddings: without effect, as their words are in neither prompt: {', '.join(unused)}")
        return found, warnings

    def _of_registry(self, text: str) -> tuple[dict[str, PartEntry], list[str]]:
        """By their words; a word in the text whose embedding is for other models is text, and named."""
        fitting: dict[str, PartEntry] = {}
        others: dict[str, PartEntry] = {}
        for entry in self._registry.parts["embeddings"].values():
            fits = not entry.families or self._model.family in entry.families
            target = fitting if fits else others
            target |= dict.fromkeys(_words(entry), entry)

        warnings = []
        left = PromptWords(fitting).without(text)
        if PromptWords(others).found(left):
            left = self._bundled.without(left)
        for entry in PromptWords(others).found(left):
            warnings.append(
                f"prompt: {entry.id} was read as text: the embedding of that name is for "
                f"{', '.join(entry.families)}, not for {self._model.family}"
            )
        return fitting, warnings

    def notes(self, field: str, syntax: PromptSyntax, text: str, found: Sequence[PartEntry]) -> tuple[str, ...]:
        """What in a prompt is syntax that is not read here, beside the words of the embeddings that were found."""
        words = PromptWords({word: word for entry in found for word in _words(entry)})
        left = words.without(text)
        if explicit_words(left):
            left = self._bundled.without(left)
        return notes_on(field, left) if syntax == "plain" else notes_on_weighted(field, left)

    def _not_bundled(self, text: str) -> list[str]:
        """What is written behind ``embedding:`` and no LoRA of the request brings along."""
        if not explicit_words(text):
            return []  # without a look into the LoRAs' files
        return explicit_words(self._bundled.without(text))

    @cached_property
    def _bundled(self) -> PromptWords[str]:
        """The words of the embeddings in the request's LoRAs, which a backend finds in the prompts by itself."""
        words: dict[str, str] = {}
        for lora in self._loras:
            path = locate(self._find("loras", lora.id, allow_paths=self._allow_paths))
            if path.is_file():  # a folder of PEFT has none
                words |= {word: word for word in bundled_names(read_header(path).tensors)}
        return PromptWords(words)


def _words(entry: PartEntry) -> tuple[str, ...]:
    """What stands for an embedding in a prompt: its id and aliases, each in one form."""
    return tuple(dict.fromkeys(normalize(name) for name in (entry.id, *entry.aliases)))
