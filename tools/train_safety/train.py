"""Training: pictures drawn once; the vision tower and five concepts, the purple shapes, together, in rounds."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from intarsia.models.safety import Preprocessing, SafetyNetwork
from tools.train_safety.pictures import CONCEPT, draw_example
from tools.train_safety.settings import LOG, Settings
from tools.train_tiny.palette import SHAPES
from tools.train_tiny.records import log

CONCEPT_AXIS = SHAPES.index(CONCEPT[1])
NO_PURPLE = len(SHAPES)  # the class of pictures without a purple target
SHARPNESS = 12.0  # cosines times this are logits
# CLIP's published constants (Radford et al. 2021).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Green against purple, blue against yellow, brightness: the axes that the tower starts from.
OPPONENTS = ((0.5, -1.0, 0.5), (-0.5, -0.5, 1.0), (0.33, 0.33, 0.33))


def preprocessing(settings: Settings) -> Preprocessing:
    """How the checker looks at a picture, in training too."""
    side = settings.network["image_size"]
    return Preprocessing(size=side, crop=side, mean=CLIP_MEAN, std=CLIP_STD)


def build(settings: Settings) -> SafetyNetwork:
    """An untrained network whose patches already carry three colour axes at half their resolution, and their place."""
    torch.manual_seed(settings.seed)
    network = SafetyNetwork(settings.network, settings.network["projection_dim"])
    torch.nn.init.orthogonal_(network.concept_embeds)
    _start_from_colours(network)
    return network


@torch.no_grad()
def _start_from_colours(network: SafetyNetwork) -> None:
    embeddings = network.vision_model.embeddings
    kernel, cells = embeddings.patch_embedding.weight, 4
    side = kernel.shape[-1] // cells
    kernel.zero_()
    for place in range(cells * cells):
        y, x = place // cells * side, place % cells * side
        for axis, weights in enumerate(OPPONENTS):
            spread = torch.tensor(weights)[:, None, None] / side**2
            kernel[place * len(OPPONENTS) + axis, :, y : y + side, x : x + side] = spread
    first = cells * cells * len(OPPONENTS)
    frequencies = (kernel.shape[0] - first) // 4
    across = int(math.sqrt(embeddings.num_patches))
    steps = torch.arange(across) / across * math.pi
    waves = [f(steps * (k + 1) / 2) for k in range(frequencies) for f in (torch.sin, torch.cos)]
    table = embeddings.position_embedding.weight
    table.zero_()
    for k, wave in enumerate(waves):
        table[1:, first + 2 * k] = wave.repeat_interleave(across)
        table[1:, first + 2 * k + 1] = wave.repeat(across)


def draw_all(settings: Settings, count: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """What the network sees of the first `count` training pictures, uint8 [N, S, S, 3], and the class of each.

    Kept in `work`; what is there already is not drawn again.
    """
    side = settings.network["image_size"]
    path = work / f"pictures-{side}.npz"
    if path.is_file():
        kept = np.load(path)
        seen, classes = list(kept["seen"]), list(kept["classes"])
    else:
        seen, classes = [], []
    view, missing = preprocessing(settings), range(len(seen), count)
    for index in missing:
        example = draw_example("train", index)
        seen.append(view.windows(example.picture)[0])
        classes.append(SHAPES.index(example.purple_shape) if example.purple_shape else NO_PURPLE)
    if missing:
        work.mkdir(parents=True, exist_ok=True)
        np.savez(path, seen=np.stack(seen), classes=np.array(classes))
    return np.stack(seen[:count]), np.array(classes[:count])


def varied(rng: np.random.Generator, pictures: np.ndarray) -> np.ndarray:
    """Mirrored, shifted by up to four pixels, lighter or darker; uint8 in and out."""
    made = np.empty_like(pictures)
    for place, picture in enumerate(pictures):
        picture = picture[:, ::-1] if rng.random() < 0.5 else picture
        y, x = rng.integers(0, 9, 2)
        moved = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="edge")[y : y + len(picture), x : x + len(picture)]
        made[place] = np.clip(moved * rng.uniform(0.93, 1.07) + rng.uniform(-8, 8), 0, 255).round()
    return made


def losses_of(network: SafetyNetwork, pixels: Tensor, classes: Tensor) -> Tensor:
    """Of each picture [N]: which purple shape, if any, and whether it is a star; by cosines with the concepts alone."""
    embeddings = functional.normalize(network(pixels))
    logits = SHARPNESS * embeddings @ functional.normalize(network.concept_embeds[: len(SHAPES)]).T
    shapes = functional.cross_entropy(functional.pad(logits, (0, 1), value=SHARPNESS / 2), classes, reduction="none")
    star = functional.binary_cross_entropy_with_logits(
        2 * (logits[:, CONCEPT_AXIS] - SHARPNESS / 2), (classes == CONCEPT_AXIS).float(), reduction="none"
    )
    return shapes + star


def train(settings: Settings, work: Path) -> SafetyNetwork:
    """All rounds; one that is done, by the file it left in `work`, is not done again."""
    network = build(settings)
    for number, plan in enumerate(settings.rounds):
        path = work / f"round-{number}.safetensors"
        if path.is_file():
            network.load_state_dict(load_file(path))
            continue
        if number == 0:
            LOG.unlink(missing_ok=True)
        began = time.process_time()
        pictures, classes = draw_all(settings, plan.pictures, work)
        log(LOG, stage=f"pictures {number}", count=len(pictures), cpu_seconds=round(time.process_time() - began, 1))
        _descend(network, settings, number, pictures, classes)
        save_file(network.state_dict(), path)
    return network.eval()


@torch.no_grad()
def hardness(network: SafetyNetwork, view: Preprocessing, pictures: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Loss of every picture as it is, float32 [N]."""
    starts = range(0, len(pictures), 64)
    batches = [(view.normalize(list(pictures[s : s + 64])), torch.from_numpy(classes[s : s + 64])) for s in starts]
    return torch.cat([losses_of(network, *batch) for batch in batches]).numpy()


def _descend(
    network: SafetyNetwork, settings: Settings, number: int, pictures: np.ndarray, classes: np.ndarray
) -> None:
    """One round: AdamW, a short warm-up, a cosine down to 2 %."""
    began, view, plan = time.process_time(), preprocessing(settings), settings.rounds[number]
    rng = np.random.default_rng(settings.seed + number)
    hardest, from_hardest = np.arange(len(pictures)), round(settings.batch * plan.hard)
    if from_hardest:
        hardest = hardest[hardness(network, view, pictures, classes).argsort()[-len(pictures) // 5 :]]
    optimizer = torch.optim.AdamW(network.parameters(), plan.rate, (0.9, 0.98), weight_decay=settings.weight_decay)
    mean = 0.0
    for step in range(plan.steps):
        share = max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / plan.steps))
        optimizer.param_groups[0]["lr"] = plan.rate * share * min(1.0, (step + 1) / settings.warmup)
        chosen = rng.integers(0, len(pictures), settings.batch)
        chosen[:from_hardest] = rng.choice(hardest, from_hardest)
        pixels = view.normalize(list(varied(rng, pictures[chosen])))
        loss = losses_of(network, pixels, torch.from_numpy(classes[chosen])).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == plan.steps - 1:
            cpu = round(time.process_time() - began, 1)
            log(LOG, stage=f"round {number}", step=step, loss=round(mean, 4), cpu_seconds=cpu)
