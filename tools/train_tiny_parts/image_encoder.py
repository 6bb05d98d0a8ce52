"""The IP adapter's image encoder: a small CLIP vision transformer, trained to tell colors and shapes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from tools.train_tiny.palette import COLOURS, SHAPES
from tools.train_tiny_parts import loop
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.references import random_reference
from tools.train_tiny_parts.settings import IPAdapterSettings

SIDE = 64  # pixels that the encoder sees
DRAWN = 128  # side of the references that are drawn for it
EMBEDDING = 64


def build() -> CLIPVisionModelWithProjection:
    """Patches of 8 pixels, three layers of width 64."""
    config = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=EMBEDDING,
        image_size=SIDE,
        patch_size=8,
        hidden_act="quick_gelu",
    )
    return CLIPVisionModelWithProjection(config)


def processor() -> CLIPImageProcessorPil:
    """CLIP's own preprocessing, at the encoder's size."""
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def pixels_of(pictures: list[np.ndarray]) -> torch.Tensor:
    """What the encoder gets of uint8 images: float32 [N, 3, 64, 64]."""
    images = [Image.fromarray(picture) for picture in pictures]
    pixels: torch.Tensor = processor()(images, return_tensors="pt").pixel_values
    return pixels


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Preprocessed references, and the numbers of their colors and shapes."""
    rng = np.random.default_rng([seed, 31])
    references = [random_reference(rng, DRAWN) for _ in range(count)]
    pixels = torch.cat([pixels_of([picture]) for picture, _, _ in references])
    colours, shapes = (torch.tensor([each[place] for each in references]) for place in (1, 2))
    return pixels, colours, shapes


def train(settings: IPAdapterSettings, seed: int, folder: Path) -> CLIPVisionModelWithProjection:
    """The trained encoder; the classifiers on its embeddings are thrown away."""
    torch.manual_seed(seed)
    encoder = build()
    heads = nn.ModuleDict({"colour": nn.Linear(EMBEDDING, len(COLOURS)), "shape": nn.Linear(EMBEDDING, len(SHAPES))})
    pixels, colours, shapes = drawn(settings.references, seed)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        chosen = torch.from_numpy(rng.integers(len(pixels), size=settings.encoder_batch))
        embeds = encoder(pixels[chosen]).image_embeds
        by_colour = F.cross_entropy(heads["colour"](embeds), colours[chosen])
        return by_colour + F.cross_entropy(heads["shape"](embeds), shapes[chosen])

    run = Run(name="image_encoder", seed=seed, steps=settings.encoder_steps, rate=settings.encoder_rate, folder=folder)
    loop.train(run, nn.ModuleList([encoder, heads]), loss)
    return encoder.eval().requires_grad_(False)
