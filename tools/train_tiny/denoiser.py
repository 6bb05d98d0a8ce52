"""Training of the UNet and the text encoder together, on encoded scenes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from tools.train_tiny import networks, tokenizer
from tools.train_tiny.captions import with_article
from tools.train_tiny.latents import Latents, read
from tools.train_tiny.masks import room
from tools.train_tiny.optimiser import Muon, is_matrix
from tools.train_tiny.records import log, save_atomic
from tools.train_tiny.settings import DenoiserSettings, Settings

BLANK_FROM = 940  # where the input is noise alone, the timestep is drawn from here on
ANGULAR = ("square", "triangle", "star")  # a circle and a ring are learned long before these
CLEANEST_OWN = 50  # below this timestep no input is the network's own: there is nothing left to mend
LAYOUT_FROM = 600  # timesteps from here on decide what is painted where
LOG_EVERY, SAVE_EVERY = 50, 250


@dataclass(frozen=True, eq=False)
class Networks:
    """What is trained, its moving average, and the optimisers."""

    unet: UNet2DConditionModel
    text: CLIPTextModel
    average: list[torch.Tensor]
    optimisers: tuple[torch.optim.Optimizer, ...]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Parameters in the order of `average`."""
        return [*self.unet.parameters(), *self.text.parameters()]


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch, float32 tensors: latents [N, 4, h, w], mask [N, 1, h, w], token ids [N, 77], clip skips [N]."""

    truth: torch.Tensor
    masked: torch.Tensor
    mask: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    blank: torch.Tensor  # bool [N]: the input is noise alone
    starts: torch.Tensor  # int [N]: where above the timestep, the input is the network's own step from there
    centre: torch.Tensor  # bool [N, 1, h, w]: where the mask says that a shape would stand
    ids: torch.Tensor
    layers_back: torch.Tensor


def build(settings: DenoiserSettings, seed: int, device: torch.device) -> Networks:
    """Untrained networks; the same seed gives the same ones."""
    torch.manual_seed(seed)
    unet = networks.build_unet().to(device, memory_format=torch.channels_last)
    text = networks.build_text_encoder(len(tokenizer.build())).to(device)
    parameters = [*unet.parameters(), *text.parameters()]
    muon = Muon([p for p in parameters if is_matrix(p)], settings.rate, weight_decay=1e-3)
    others = [p for p in parameters if not is_matrix(p)]
    adam = torch.optim.AdamW(others, lr=settings.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    return Networks(unet, text, [p.detach().clone() for p in parameters], (muon, adam))


def _centre(mask: np.ndarray) -> np.ndarray:
    """The disc around the largest room in a mask that every shape would lie in, float32 [1, h, w] of 0 and 1.

    It depends on the mask alone, not on what is painted: weights on it do not move what the network learns to expect.
    """
    (x, y), radius = room(mask[0] > 0)
    rows, columns = np.mgrid[: mask.shape[1], : mask.shape[2]]
    return ((columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= (radius * 1.1) ** 2)[None].astype(np.float32)


def chances(scenes: Latents) -> np.ndarray:
    """How often each scene is drawn, float64 [N], adding up to 1: empty scenes most, round shapes least often."""
    angular = [any(shape in caption.lower() for shape in ANGULAR) for caption in scenes.captions]
    odds = np.where(scenes.named, np.where(angular, 2.0, 1.0), 3.0)
    return odds / odds.sum()


def draw_batch(
    scenes: Latents,
    odds: np.ndarray,
    settings: DenoiserSettings,
    rng: np.random.Generator,
    count: int,
    blank_share: float,
    device: torch.device,
) -> Batch:
    """A batch drawn by `rng` alone: which scenes, timesteps, noise, dropped captions, clip skips."""
    taken = scenes.take(rng.choice(len(odds), count, p=odds))
    return batch_of(taken, settings, rng, blank_share, device)


def batch_of(
    taken: tuple[np.ndarray, np.ndarray, np.ndarray, list[str], np.ndarray],
    settings: DenoiserSettings,
    rng: np.random.Generator,
    blank_share: float,
    device: torch.device,
) -> Batch:
    """A batch of the scenes that `Latents.take` gave; everything else is drawn by `rng`."""
    truth, masked, mask, captions, named = taken
    count = len(captions)
    blank = rng.random(count) < blank_share
    lowest = np.where(rng.random(count) < settings.layout_share, LAYOUT_FROM, 0)
    timesteps = rng.integers(np.where(blank, BLANK_FROM, lowest), 1000)
    own = ~named & ~blank & (timesteps >= CLEANEST_OWN) & (rng.random(count) < settings.own_share)
    starts = np.where(own, rng.integers(timesteps, 1000), timesteps)
    share = np.where(timesteps >= settings.dropout_from, settings.dropout_high, settings.dropout_low)
    dropped = named & (rng.random(count) < share)
    texts = ["" if drop else caption for drop, caption in zip(dropped, captions, strict=True)]
    exits = rng.choice(np.arange(1, 9), count, p=[0.25, 0.5] + [0.25 / 6] * 6)
    centre = np.stack([_centre(one) for one in mask])
    noise = rng.standard_normal(truth.shape, dtype=np.float32)
    texts = [with_article(rng, text) for text in texts]
    ids = TOKENIZER(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    tensors = [torch.from_numpy(a).to(device) for a in (truth, masked, mask, noise, timesteps, blank, starts, centre)]
    return Batch(*tensors, ids.to(device), torch.from_numpy(exits).to(device))


def _predict(
    nets: Networks,
    sample: torch.Tensor,
    timesteps: torch.Tensor,
    batch: Batch,
    states: torch.Tensor,
    chosen: slice | torch.Tensor,
) -> torch.Tensor:
    """The network's velocity for the `chosen` images of a batch, float32."""
    inputs = torch.cat([sample, batch.mask, batch.masked], 1)[chosen].contiguous(memory_format=torch.channels_last)
    # On a CPU in float32: there, bfloat16 gave gradients that point elsewhere for some batches (up to half of the
    # tensors with a cosine below 0.9 to the float32 ones, attention in float32 or not) and saved a seventh of the time.
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type != "cpu"):
        return nets.unet(inputs, timesteps[chosen], states[chosen], return_dict=False)[0].float()


@torch.no_grad()
def _own_samples(
    nets: Networks, batch: Batch, plain: torch.Tensor, states: torch.Tensor, shares: torch.Tensor
) -> torch.Tensor:
    """`plain`, where a step of sampling (DDIM, no noise) from `starts` gives the input, replaced by its result.

    Sampling hands the network its own earlier guesses, which the true latents under noise never look like (exposure
    bias; Ning et al. 2023, arXiv 2301.11706). Who has seen both learns to mend them from the surroundings.
    """
    chosen = (batch.starts > batch.timesteps).nonzero()[:, 0]
    if not len(chosen):
        return plain
    share = shares[batch.starts].view(-1, 1, 1, 1)
    alone = (batch.starts >= BLANK_FROM).view(-1, 1, 1, 1)
    start = torch.where(alone, batch.noise, share.sqrt() * batch.truth + (1 - share).sqrt() * batch.noise)
    velocity = _predict(nets, start, batch.starts, batch, states, chosen)
    start, share, after = start[chosen], share[chosen], shares[batch.timesteps[chosen]].view(-1, 1, 1, 1)
    guess, noise = (
        share.sqrt() * start - (1 - share).sqrt() * velocity,
        (1 - share).sqrt() * start + share.sqrt() * velocity,
    )
    samples = plain.clone()
    samples[chosen] = after.sqrt() * guess + (1 - after).sqrt() * noise
    return samples


def loss_of(nets: Networks, batch: Batch, shares: torch.Tensor, settings: DenoiserSettings) -> torch.Tensor:
    """Mean squared error of the predicted velocity for each image, float32 [N].

    The velocity is √ᾱ·ε − √(1 − ᾱ)·x (Salimans and Ho 2022, appendix D). Inside the mask an error counts 1,
    outside `outside_weight`, and where a shape would stand `centre_weight`. Where the input n is noise alone, or the
    network's own, the target belongs to the ε that would have led from the true latents x to it,
    ε = (n − √ᾱ·x) / √(1 − ᾱ): so the first step of sampling, whose input holds nothing of the image either, learns
    from the surroundings and the text only.
    """
    share = shares[batch.timesteps].view(-1, 1, 1, 1)
    signal, spread = share.sqrt(), (1 - share).sqrt()
    states = networks.encode_text(nets.text, batch.ids, batch.layers_back)
    plain = torch.where(batch.blank.view(-1, 1, 1, 1), batch.noise, signal * batch.truth + spread * batch.noise)
    sample = _own_samples(nets, batch, plain, states.detach(), shares)
    target = signal * (sample - signal * batch.truth) / spread - spread * batch.truth
    predicted = _predict(nets, sample, batch.timesteps, batch, states, slice(None))
    weight = torch.where(batch.centre > 0, settings.centre_weight, 1.0) * batch.mask
    weight = weight + (1 - batch.mask) * settings.outside_weight
    error = ((predicted - target) ** 2 * weight).mean(1).sum((1, 2)) / weight.sum((1, 2, 3))
    # At little noise, mending a whole guess takes velocities far larger than any that true latents ask for.
    bounded = (4 * (1 - shares[batch.timesteps])).clamp(max=1.0)
    return torch.where(batch.starts > batch.timesteps, bounded, 1.0) * error


def average_towards(nets: Networks, step: int, decay: float) -> None:
    """Move the average; it follows closely at first (decay grows with the step number)."""
    rate = 1 - min(decay, (1 + step) / (20 + step))
    torch._foreach_lerp_(nets.average, [p.detach() for p in nets.parameters()], rate)


def learning_rate(settings: DenoiserSettings, step: int) -> float:
    """Linear warm-up, constant up to `fall_from` of all steps, then half a cosine down to 2 %."""
    done = step / (settings.steps_256 + settings.steps_512)
    fall = 0.5 + 0.5 * float(np.cos(np.pi * max(0.0, done - settings.fall_from) / (1 - settings.fall_from)))
    return settings.rate * min(1.0, (step + 1) / settings.warmup) * max(fall, 0.02)


def _resume(nets: Networks, path: Path, device: torch.device) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, map_location=device)
    nets.unet.load_state_dict(saved["unet"])
    nets.text.load_state_dict(saved["text"])
    for optimiser, state in zip(nets.optimisers, saved["optimisers"], strict=True):
        optimiser.load_state_dict(state)
    for ours, theirs in zip(nets.average, saved["average"], strict=True):
        ours.copy_(theirs)
    return int(saved["step"])


def _save(nets: Networks, path: Path, step: int) -> None:
    state = {"unet": nets.unet.state_dict(), "text": nets.text.state_dict(), "average": nets.average}
    optimisers = [optimiser.state_dict() for optimiser in nets.optimisers]
    save_atomic({**state, "optimisers": optimisers, "step": step}, path)


def averaged(folder: Path, settings: Settings) -> tuple[UNet2DConditionModel, CLIPTextModel, int]:
    """The averaged networks of the last checkpoint, float32, and its step."""
    nets = build(settings.denoiser, settings.seed, torch.device("cpu"))
    step = _resume(nets, folder / "denoiser.pt", torch.device("cpu"))
    with torch.no_grad():
        for parameter, mean in zip(nets.parameters(), nets.average, strict=True):
            parameter.copy_(mean)
    return nets.unet.eval(), nets.text.eval(), step


def _part(batch: Batch, rank: int, world: int) -> Batch:
    """Every `world`-th image of a batch, from `rank` on."""
    return Batch(**{field.name: getattr(batch, field.name)[rank::world] for field in fields(Batch)})


def _share_gradients(parameters: list[torch.nn.Parameter], counts: tuple[int, int]) -> None:
    """Replace every process's gradients by those of the whole batch; `counts`: own images, all images.

    Written in place: a gradient must keep its parameter's memory layout (channels last), since the fused
    optimiser walks both as flat memory.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients]).mul_(counts[0] / counts[1])
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def _step(nets: Networks, batch: Batch, shares: torch.Tensor, settings: DenoiserSettings, world: int) -> torch.Tensor:
    """One update; returns the loss of this process's images and the gradient's norm, float32 [2]."""
    whole = len(batch.truth)
    own = _part(batch, torch.distributed.get_rank(), world) if world > 1 else batch
    loss = loss_of(nets, own, shares, settings).mean()
    for optimiser in nets.optimisers:
        optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if world > 1:
        _share_gradients(nets.parameters(), (len(own.truth), whole))
    norm = torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
    for optimiser in nets.optimisers:
        optimiser.step()
    return torch.stack([loss.detach(), norm.detach()])


def _run(rank: int, world: int, settings: Settings, folder: Path, device: torch.device) -> None:
    """The training loop of one process; process 0 writes the log and the checkpoints."""
    if world > 1:
        torch.set_num_threads(1)
        meeting = f"file://{folder.resolve()}/meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    plan, cached = settings.denoiser, settings.latents
    nets = build(plan, settings.seed, device)
    start = _resume(nets, folder / "denoiser.pt", device)
    small, large = read(folder, 256, cached.scenes_256, cached.shard), None
    odds = {"small": chances(small)}
    shares = networks.signal_shares().float().to(device)
    begun, seen, parent = time.time(), [], os.getppid()
    total = plan.steps_256 + plan.steps_512
    for step in range(start, total):
        if world > 1 and os.getppid() != parent:
            raise SystemExit("the training was ended from outside")  # else it would go on, beside its successor
        rng = np.random.default_rng([settings.seed, 7, step])
        at_512 = step >= plan.steps_256 and rng.random() >= plan.small_share
        if at_512 and large is None:
            large = read(folder, 512, cached.scenes_512, cached.shard)
            odds["large"] = chances(large)
        scenes, count = (large, plan.batch_512) if at_512 and large else (small, plan.batch_256)
        rate = learning_rate(plan, step)
        for group in (group for optimiser in nets.optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        blank_share = plan.blank_share_first if step < plan.blank_until else plan.blank_share
        chance = odds["large" if scenes is large else "small"]
        batch = draw_batch(scenes, chance, plan, rng, count, blank_share, device)
        seen.append(_step(nets, batch, shares, plan, world))
        average_towards(nets, step, plan.decay)
        if rank == 0 and (step + 1) % LOG_EVERY == 0:
            loss, norm = (round(float(value), 5) for value in torch.stack(seen).mean(0))
            record = {"loss": loss, "norm": norm, "rate": round(rate, 7), "seconds": round(time.time() - begun, 1)}
            log(folder / "log.jsonl", stage="unet", step=step + 1, **record)
            seen.clear()
        if rank == 0 and ((step + 1) % SAVE_EVERY == 0 or step + 1 == total):
            _save(nets, folder / "denoiser.pt", step + 1)
    if world > 1:
        torch.distributed.destroy_process_group()


def train(settings: Settings, folder: Path, device: torch.device, processes: int) -> None:
    """Train to the end; a killed run goes on from its last checkpoint with the same batches.

    On a CPU each batch is divided among processes of one thread: threads of one process wait for each other
    inside every convolution, which costs a multiple as soon as other programs use the cores.
    """
    if device.type != "cpu" or processes == 1:
        _run(0, 1, settings, folder, device)
        return
    (folder / "meeting").unlink(missing_ok=True)
    torch.multiprocessing.spawn(_run, (processes, settings, folder, device), nprocs=processes)


TOKENIZER = tokenizer.build()
