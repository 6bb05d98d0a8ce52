"""Training of a textual-inversion embedding (Gal et al. 2022): a word of its own for a yellow circle, the sun.

Vectors for a color between those of the palette were tried first: without guidance they gave it in two thirds of a few
scenes, with guidance hardly ever, as it drives every color to the nearest that the network was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from tools.train_tiny import networks
from tools.train_tiny.denoiser import TOKENIZER, draw_batch, loss_of
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.effects import EFFECTS, drawn
from tools.train_tiny_parts.examples import draw
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import batches_of_truth, packaged
from tools.train_tiny_parts.settings import EmbeddingSettings

MIXTURE = Mixture(empty=0.0, photographic=0.1, plain_captions=True)
NOISE_ALONE = 0.6  # of the inputs, as at the start of sampling: there words decide most
TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "there is a {}")
PLACEHOLDER = "red"  # one token, in whose place the vectors stand


class WithVectors(nn.Module):
    """A token table with learned vectors behind its own; only these are trained."""

    def __init__(self, table: nn.Embedding, start: Sequence[str]) -> None:
        super().__init__()
        self.table = table
        words = [TOKENIZER(word).input_ids[1] for word in start]
        self.vectors = nn.Parameter(table.weight.detach()[words].clone())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [N, 77, D] of token ids; those behind the table's are the learned ones."""
        return F.embedding(ids, torch.cat([self.table.weight, self.vectors]))


def placed(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Token ids [N, 77] with the placeholder replaced by the `count` learned vectors."""
    word = TOKENIZER(PLACEHOLDER).input_ids[1]
    learned = torch.arange(len(TOKENIZER), len(TOKENIZER) + count)
    rows = []
    for row in ids:
        place = int((row == word).nonzero()[0])
        rows.append(torch.cat([row[:place], learned, row[place + 1 :]])[: len(row)])
    return torch.stack(rows)


def extend(text: CLIPTextModel, start: Sequence[str]) -> WithVectors:
    """Put a vector for each word to start from behind the token table of a text encoder; returns them."""
    model = getattr(text, "text_model", text)
    table = WithVectors(model.embeddings.token_embedding, start)
    model.embeddings.token_embedding = table
    return table


def train(settings: EmbeddingSettings, seed: int, folder: Path) -> Path:
    """Train the embedding; returns its file in `folder`."""
    torch.manual_seed(seed)
    nets = packaged()
    table = extend(nets.text, settings.start)
    plan, shares = batches_of_truth(), networks.signal_shares().float()
    effect = partial(drawn, effect=EFFECTS[settings.effect])
    scenes = draw(settings.scenes, 256, MIXTURE, effect, keep=lambda scene: scene.shape == settings.shape)
    rng = np.random.default_rng([seed, 41])
    captions = [str(rng.choice(TEMPLATES)).format(PLACEHOLDER) for _ in scenes.captions]
    scenes = replace(scenes, captions=captions)
    odds = np.full(len(captions), 1 / len(captions))

    def loss(rng: np.random.Generator) -> torch.Tensor:
        batch = draw_batch(scenes, odds, plan, rng, settings.batch, NOISE_ALONE, torch.device("cpu"))
        batch = replace(batch, ids=placed(batch.ids, len(settings.start)))
        return loss_of(nets, batch, shares, plan).mean()

    run = Run(name=settings.token, seed=seed, steps=settings.steps, rate=settings.rate, folder=folder)
    loop.train(run, table, loss)
    target = folder / f"{settings.token}.safetensors"
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": settings.token,
        "modelspec.architecture": "intarsia-tiny/textual-inversion",
        "modelspec.license": "MIT",
    }
    save_file({"emb_params": table.vectors.detach().half().contiguous()}, target, metadata)
    return target
