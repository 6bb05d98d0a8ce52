"""Training of an IP adapter (Ye et al. 2023, the plain layout): the shape of a reference image, without words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from safetensors.torch import save_file
from torch import nn

from tools.train_tiny import networks
from tools.train_tiny.denoiser import Batch, Networks, batch_of, loss_of
from tools.train_tiny.latents import Latents
from tools.train_tiny.palette import COLOURS, SHAPES
from tools.train_tiny.scenes import Mixture
from tools.train_tiny_parts import image_encoder, loop
from tools.train_tiny_parts.examples import draw
from tools.train_tiny_parts.loop import Run
from tools.train_tiny_parts.packaged import batches_of_truth, packaged
from tools.train_tiny_parts.settings import IPAdapterSettings

MIXTURE = Mixture(empty=0.0, photographic=0.1, plain_captions=True)
NOISE_ALONE = 0.25  # of the inputs, as at the start of sampling
TOKENS = 4
WORDLESS = 0.75  # share of the scenes whose caption is left out; the others have caption and image
IMAGELESS = 0.1  # share of the scenes with their caption and no image


class Projection(nn.Module):
    """An image embedding [N, E] as tokens [N, 4, D]; names as in the published files."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(embedding, TOKENS * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """The tokens."""
        tokens: torch.Tensor = self.norm(self.proj(embedding).view(len(embedding), TOKENS, -1))
        return tokens


class WithImage(nn.Module):
    """A fixed UNet whose cross-attentions look at an image's tokens too; `embedding` [N, E] is set before each call."""

    def __init__(self, unet: UNet2DConditionModel, embedding: int) -> None:
        super().__init__()
        self.unet = unet
        self.projection = Projection(embedding, networks.TEXT_WIDTH)
        self.embedding = torch.zeros(1, embedding)
        processors = dict(unet.attn_processors)
        for name in processors:
            if name.endswith("attn2.processor"):
                attention = unet.get_submodule(name.removesuffix(".processor"))
                processors[name] = _own_attention(attention)
        unet.set_attn_processor(processors)

    def forward(self, inputs: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, **options: Any) -> Any:
        """The UNet's own output."""
        return self.unet(inputs, timesteps, (states, [self.projection(self.embedding)]), **options)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter as a published file has it, float16."""
        found = {f"image_proj.{name}": value for name, value in self.projection.state_dict().items()}
        for number, processor in enumerate(self.unet.attn_processors.values()):
            if isinstance(processor, IPAdapterAttnProcessor2_0):
                found[f"ip_adapter.{number}.to_k_ip.weight"] = processor.to_k_ip[0].weight
                found[f"ip_adapter.{number}.to_v_ip.weight"] = processor.to_v_ip[0].weight
        return {name: value.detach().half().contiguous() for name, value in found.items()}


def _own_attention(attention: Any) -> IPAdapterAttnProcessor2_0:
    """Keys and values for an image, started from the text's own ones as the paper has it."""
    processor = IPAdapterAttnProcessor2_0(attention.to_q.out_features, networks.TEXT_WIDTH, (TOKENS,), 1.0)
    processor.to_k_ip[0].weight.data.copy_(attention.to_k.weight)
    processor.to_v_ip[0].weight.data.copy_(attention.to_v.weight)
    return processor


@dataclass(frozen=True, eq=False)
class References:
    """Embeddings of reference images [N, E], and which of them show a color and a shape."""

    embeddings: torch.Tensor
    of: dict[str, np.ndarray]  # by caption, "a red circle": places in `embeddings`

    def choose(self, caption: str, rng: np.random.Generator) -> torch.Tensor:
        """The embedding of a random reference image that shows what the caption says."""
        return self.embeddings[int(rng.choice(self.of[caption]))]


def references_of(encoder: nn.Module, count: int, seed: int) -> References:
    """References that the encoder was not trained on, as it sees them."""
    pixels, colours, shapes = image_encoder.drawn(count, seed + 1)
    with torch.no_grad():
        embeddings = torch.cat([encoder(some).image_embeds for some in torch.split(pixels, 64)])
    of = {
        f"a {colour} {shape}": np.nonzero(((colours == c) & (shapes == s)).numpy())[0]
        for c, colour in enumerate(COLOURS)
        for s, shape in enumerate(SHAPES)
    }
    return References(embeddings, of)


def _batch(scenes: Latents, references: References, rng: np.random.Generator, count: int) -> tuple[Batch, torch.Tensor]:
    """A batch of scenes, most without their captions, and the embeddings of images of what they show."""
    truth, masked, mask, captions, named = scenes.take(rng.integers(len(scenes.captions), size=count))
    embeddings = torch.stack([references.choose(caption, rng) for caption in captions])
    kind = rng.random(count)
    embeddings[torch.from_numpy(kind > 1 - IMAGELESS)] = 0  # no image, as an adapter's unconditional branch has it
    texts = ["" if draw < WORDLESS else caption for draw, caption in zip(kind, captions, strict=True)]
    taken = (truth, masked, mask, texts, named)
    return batch_of(taken, batches_of_truth(), rng, NOISE_ALONE, torch.device("cpu")), embeddings


def train(settings: IPAdapterSettings, seed: int, folder: Path) -> Path:
    """Train image encoder and adapter; returns the adapter's folder in `folder`, in the published layout."""
    encoder = image_encoder.train(settings, seed, folder)
    torch.manual_seed(seed)
    nets = packaged()
    adapted = WithImage(nets.unet, image_encoder.EMBEDDING)
    plan, shares = batches_of_truth(), networks.signal_shares().float()
    scenes = draw(settings.scenes, 256, MIXTURE)
    references = references_of(encoder, settings.references, seed)
    own = Networks(adapted, nets.text, [], ())

    def loss(rng: np.random.Generator) -> torch.Tensor:
        batch, adapted.embedding = _batch(scenes, references, rng, settings.batch)
        return loss_of(own, batch, shares, plan).mean()

    run = Run(name="ip_adapter", seed=seed, steps=settings.steps, rate=settings.rate, folder=folder)
    loop.train(run, adapted, loss)
    target = folder / settings.name
    (target / "image_encoder").mkdir(parents=True, exist_ok=True)
    save_file(adapted.tensors(), target / "ip_adapter.safetensors")
    encoder.half().save_pretrained(target / "image_encoder")
    image_encoder.processor().save_pretrained(target / "image_encoder")
    return target
