"""A model on a torch device: encode, start, advance, decode.

On a CPU (and in deterministic mode everywhere) each lane is evaluated by itself, always in the same shape:
convolution and matrix libraries choose their blocking by batch size, so only then do a picture's bits not
depend on its company. On a CPU that costs about 2 %: one guided pair fills the cores (decision 0004).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from inlay.backends.protocol import Inputs, Opening, Runtime, Step
from inlay.backends.torch.device import installed_versions, pick_device, pick_dtype, translated
from inlay.backends.torch.safety import TorchChecker
from inlay.backends.torch.state import Conditioning, State, batches, mergings
from inlay.errors import BackendError, WeightsError
from inlay.kernels.step import apply_row, guide, keep_known, langevin
from inlay.models.ip_adapter import ImagePrompts
from inlay.models.ip_adapter_files import load_ip_adapter
from inlay.models.loading import Parts, load_pipeline_parts
from inlay.models.merging import Merging, Region, draw_choices, find_regions
from inlay.models.text import TextEncoding
from inlay.schedulers import Table

__all__ = ["TorchBackend", "TorchSession"]

_Prompt = tuple[Tensor, Tensor | None, tuple[str, ...]]

# Encoded prompts kept per session; one SD1.5 prompt is about 3 MB of keys and values in half precision.
_PROMPTS = 64


class TorchSession:
    """One model; see :class:`inlay.backends.protocol.Session`.

    Attributes:
        merging: how tokens merge where a request wants it; ratio, levels and reuse are the request's.
    """

    merging = Merging()

    def __init__(
        self, parts: Parts, device: torch.device, deterministic: bool, image_prompts: ImagePrompts | None = None
    ) -> None:
        self.parts, self.device, self.image_prompts = parts, device, image_prompts
        self.dtype = pick_dtype(device)
        # SDXL's own autoencoder overflows float16 and is loaded in float32.
        self._vae_dtype = next(cast(nn.Module, parts.vae).parameters()).dtype
        self._prompts: OrderedDict[tuple[str, int, bool], _Prompt] = OrderedDict()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        self.runtime = Runtime(
            "torch",
            name,
            str(self.dtype).removeprefix("torch."),
            deterministic,
            installed_versions(),
            token_merging=True,
        )

    @torch.inference_mode()
    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        with translated("encode the request", self.device):
            prompts = [self._prompt(inputs.prompt, inputs.clip_skip)]
            if inputs.guidance_scale > 1:
                prompts.insert(0, self._prompt(inputs.negative_prompt, inputs.clip_skip, negative=True))
            pooled = [each[1] for each in prompts if each[1] is not None]
            clean, masked = self._encode_images(inputs)
            mask = torch.from_numpy(inputs.latent_mask).to(self.device)[None]
            nine = self.parts.unet.config.in_channels > self.parts.vae.latent_channels
            conditioning = Conditioning(
                contexts=torch.cat([each[0] for each in prompts]),
                pooled=torch.cat(pooled) if pooled else None,
                time_ids=self._time_ids(inputs),
                guidance=inputs.guidance_scale,
                clean=clean.float(),
                mask=mask,
                extra=torch.cat([mask, masked]).to(self.dtype) if nine else None,
                noise_fill=inputs.noise_fill,
                image=self._image_context(inputs),
                regions=self._regions(inputs),
            )
        warnings = [warning for each in prompts for warning in each[2]]
        if inputs.token_merging and not conditioning.regions:
            warnings.append("token merging: the mask leaves too little to merge; made without it")
        return conditioning, tuple(warnings)

    @torch.inference_mode()
    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        with translated("start a picture", self.device):
            shared = conditioning
            unit = torch.from_numpy(noise).to(self.device)
            clean = torch.where(shared.mask > 0.5, 0.0, shared.clean) if shared.noise_fill else shared.clean
            buffer = torch.zeros(table.slots + 2, *unit.shape, device=self.device)
            buffer[0] = table.start_image * clean + table.start_noise * unit
            matrices = torch.from_numpy(table.matrix.astype(np.float32)).to(self.device)
            drawn = draw_choices(noise, len(table.timesteps), shared.regions)
            choices = tuple(each.to(self.device) for each in drawn)
            return State(shared, table, matrices, self._embed(shared, table), buffer, unit, choices)

    @torch.inference_mode()
    def advance(self, steps: Sequence[Step]) -> None:
        with translated("evaluate the network", self.device):
            for batch in batches(steps, alone=self.runtime.deterministic):
                for step, output in zip(batch, self._evaluate(batch), strict=True):
                    self._step(step, output)

    @torch.inference_mode()
    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        with translated("decode a picture", self.device):
            return [self._decode(state.buffer[:1]) for state in states]

    def close(self) -> None:
        """Forget weights and cached prompts; device memory goes back to its allocator."""
        self._prompts.clear()
        del self.parts, self.image_prompts
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prompt(self, text: str, clip_skip: int, negative: bool = False) -> _Prompt:
        """Keys and values, pooled text and warnings of one prompt; encoded alone, so always the same bits."""
        key = (text, clip_skip, negative)
        if key not in self._prompts:
            encoding: TextEncoding = self.parts.text.encode([text], clip_skip)
            if negative and not text and self.parts.zero_empty_prompt:
                encoding = encoding.zeros()
            context = self.parts.unet.context(encoding.hidden.to(self.dtype))
            self._prompts[key] = (context, encoding.pooled, encoding.warnings)
            if len(self._prompts) > _PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _image_context(self, inputs: Inputs) -> Tensor | None:
        """The IP adapter's picture for each half, ``[2 or 1, m, K]``."""
        if self.image_prompts is None or inputs.image_prompt is None:
            return None
        both = self.image_prompts.context(inputs.image_prompt, inputs.image_scale)
        return both if inputs.guidance_scale > 1 else both[1:]

    def _encode_images(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Latents ``[C, h, w]`` of the image, and of the image with the mask grey (0 in -1…1)."""
        pixels = torch.from_numpy(inputs.image.copy()).to(self.device)
        image = pixels.permute(2, 0, 1).to(self._vae_dtype) / 127.5 - 1
        keep = torch.from_numpy(~inputs.mask).to(self.device)
        both = torch.stack([image, image * keep]).to(memory_format=torch.channels_last)
        # One picture a call: half the peak memory, which the encoder's first level decides.
        clean, masked = (self.parts.vae.encode(each[None])[0] for each in both)
        return clean, masked

    def _time_ids(self, inputs: Inputs) -> Tensor | None:
        """SDXL's sizes (Podell et al. 2023, section 2.2): original and target are the generation size."""
        if self.parts.unet.add_embedding is None:
            return None
        height, width = inputs.mask.shape
        return torch.tensor([[height, width, 0, 0, height, width]], device=self.device, dtype=torch.float32)

    def _embed(self, shared: Conditioning, table: Table) -> Tensor:
        """``[R, halves, T]``: time embeddings of all rows in one go, each half with its own pooled text."""
        rows = torch.from_numpy(table.timesteps.astype(np.float32)).to(self.device)
        halves: Sequence[Tensor | None] = [None] if shared.pooled is None else [each[None] for each in shared.pooled]
        made = [self.parts.unet.embed(rows, pooled, shared.time_ids) for pooled in halves]
        each = torch.stack(made, dim=1)
        return each.expand(-1, shared.contexts.shape[0], -1)

    def _regions(self, inputs: Inputs) -> tuple[Region, ...]:
        """Where tokens merge; counted on the host, where the mask is."""
        merging = replace(
            self.merging,
            ratio=inputs.token_merging,
            levels=inputs.token_merging_levels,
            reuse=inputs.token_merging_reuse,
        )
        mask = torch.from_numpy(inputs.latent_mask)
        sizes = self.parts.unet.attention_sizes(*mask.shape)
        return tuple(region.to(self.device) for region in find_regions(merging, sizes, mask))

    def _evaluate(self, batch: Sequence[Step]) -> list[Tensor]:
        """One forward of the network for the batch; each lane's guided output, float32 ``[C, h, w]``."""
        states: list[State] = [step.state for step in batch]
        inputs = [self._network_input(state, step.row) for state, step in zip(states, batch, strict=True)]
        embeddings = [state.embeddings[step.row] for state, step in zip(states, batch, strict=True)]
        contexts = [state.shared.contexts for state in states]
        # lanes of one session and group have a picture beside the prompt all, or none
        images = [state.shared.image for state in states if state.shared.image is not None]
        seen = _cat(images) if images else None
        out = self.parts.unet(_cat(inputs), _cat(embeddings), _cat(contexts), seen, mergings(batch)).float()
        guided, first = [], 0
        for step, state in zip(batch, states, strict=True):
            pair = state.halves == 2
            scale = state.shared.guidance if state.table.guided[step.row] else 0.0  # 0: the negative prompt's output
            guided.append(guide(out[first], out[first + 1], scale) if pair else out[first])
            first += state.halves
        return guided

    def _network_input(self, state: State, row: int) -> Tensor:
        """``[halves, in_channels, h, w]``, channels last."""
        sample = (state.buffer[0] * float(state.table.input_scale[row])).to(self.dtype)
        if state.shared.extra is not None:
            sample = torch.cat([sample, state.shared.extra])
        both = sample[None].expand(state.halves, -1, -1, -1)
        return both.contiguous(memory_format=torch.channels_last)

    def _step(self, step: Step, output: Tensor) -> None:
        """The lane's own row, then the known region where the loop has to keep it."""
        state: State = step.state
        table, row, buffer, shared = state.table, step.row, state.buffer, state.shared
        buffer[-2] = output
        if step.noise is not None:
            buffer[-1] = torch.from_numpy(step.noise).to(self.device)
        matrix = state.matrices[row]
        snr = float(table.langevin_snr[row])
        apply_row(buffer, langevin(buffer, matrix, snr) if snr else matrix)
        if shared.extra is None:
            image, noise = float(table.known_image[row]), float(table.known_noise[row])
            keep_known(buffer[0], shared.mask, image * shared.clean + noise * state.noise)

    def _decode(self, latents: Tensor) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``."""
        latents = latents.to(self._vae_dtype).contiguous(memory_format=torch.channels_last)
        picture = self.parts.vae.decode(latents)[0]
        if not bool(torch.isfinite(picture).all()):
            raise BackendError(f"the decoded picture has values that are not finite ({self.runtime.dtype})")
        levels = (picture.float() * 127.5 + 127.5).clamp_(0, 255).round_().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())


class TorchBackend:
    """Opens models with torch on one device."""

    def __init__(self, device: str, deterministic: bool | None) -> None:
        self._device = pick_device(device)
        self.device = str(self._device)
        self.slots = 8
        self._deterministic = self._device.type == "cpu" if deterministic is None else deterministic

    def open(self, opening: Opening) -> TorchSession:
        """Load a model's networks; a network that is not of the promised kind is a :class:`WeightsError`."""
        with translated(f"load {opening.model}", self._device):
            dtype = pick_dtype(self._device)
            parts = load_pipeline_parts(
                opening.folder, self._device, dtype, vae_folder=opening.vae_folder, loras=opening.loras
            )
            _check(opening, parts)
            adapter = opening.ip_adapter
            prompts = None if adapter is None else load_ip_adapter(adapter, parts.unet, self._device, dtype)
        return self.open_parts(parts, prompts)

    def open_parts(self, parts: Parts, image_prompts: ImagePrompts | None = None) -> TorchSession:
        """A session on networks that are on the device already, wherever they came from."""
        return TorchSession(parts, self._device, self._deterministic, image_prompts)

    def open_checker(self, folder: Path) -> TorchChecker:
        """Load a safety checker."""
        return TorchChecker(folder, self._device)


def _check(opening: Opening, parts: Parts) -> None:
    """The networks are what the registry promises."""
    vae = opening.vae_folder or opening.model
    found = (
        (opening.model, "in_channels", parts.unet.config.in_channels),
        (vae, "latent_channels", parts.vae.latent_channels),
        (vae, "factor", parts.vae.factor),
    )
    for owner, name, value in found:
        promised = getattr(opening, name)
        if value != promised:
            raise WeightsError(
                f"{owner}: its files have {name} {value}, {opening.model}'s family in the registry promises {promised}"
            )


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
