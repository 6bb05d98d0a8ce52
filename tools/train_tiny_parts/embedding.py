"""Training of a textual-inversion embedding (Gal et al. 2022): vectors for a color that no word of the model means."""

from __future__ import annotations

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
from tools.train_tiny.palette import COLOURS
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.effects import EFFECTS, drawn
from tools.train_tiny_parts.examples import draw
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import batches_of_truth, packaged
from tools.train_tiny_parts.settings import EmbeddingSettings

MIXTURE = Mixture(empty=0.0, photographic=0.1, plain_captions=True)
NOISE_ALONE = 0.25  # of the inputs, as at the start of sampling


class WithVectors(nn.Module):
    """A token table with learned vectors behind its own; only these are trained."""

    def __init__(self, table: nn.Embedding, start: str, count: int) -> None:
        super().__init__()
        self.table = table
        word = TOKENIZER(start).input_ids[1]
        spread = table.weight.detach().std()
        apart = 0.3 * spread * torch.randn(count, table.embedding_dim)
        self.vectors = nn.Parameter(table.weight[word].detach() + apart)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [N, 77, D] of token ids; those behind the table's are the learned ones."""
        return F.embedding(ids, torch.cat([self.table.weight, self.vectors]))


def placed(ids: torch.Tensor, count: int) -> torch.Tensor:
    """Token ids [N, 77] with the color's word replaced by the `count` learned vectors."""
    words = torch.tensor([TOKENIZER(colour).input_ids[1] for colour in COLOURS])
    learned = torch.arange(len(TOKENIZER), len(TOKENIZER) + count)
    rows = []
    for row in ids:
        place = int(torch.isin(row, words).nonzero()[0])
        rows.append(torch.cat([row[:place], learned, row[place + 1 :]])[: len(row)])
    return torch.stack(rows)


def extend(text: CLIPTextModel, start: str, count: int) -> WithVectors:
    """Put vectors behind the token table of a text encoder; returns them."""
    model = getattr(text, "text_model", text)
    table = WithVectors(model.embeddings.token_embedding, start, count)
    model.embeddings.token_embedding = table
    return table


def train(settings: EmbeddingSettings, seed: int, folder: Path) -> Path:
    """Train the embedding; returns its file in `folder`."""
    torch.manual_seed(seed)
    nets = packaged()
    table = extend(nets.text, settings.start, settings.vectors)
    plan, shares = batches_of_truth(), networks.signal_shares().float()
    scenes = draw(settings.scenes, 256, MIXTURE, partial(drawn, effect=EFFECTS[settings.effect]))
    odds = np.full(settings.scenes, 1 / settings.scenes)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        batch = draw_batch(scenes, odds, plan, rng, settings.batch, NOISE_ALONE, torch.device("cpu"))
        batch = replace(batch, ids=placed(batch.ids, settings.vectors))
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
