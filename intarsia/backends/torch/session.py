"""A model on a torch device: encode, start, advance, decode.

With fused kernels (CUDA) lanes are stepped in static batches (:mod:`.captured_stepper`), where a step is captured once
and replayed. Otherwise operations are launched one by one (:mod:`.eager_stepper`).

On a CPU (and in deterministic mode everywhere) each lane is evaluated by itself, always in the same shape: convolution
and matrix libraries choose their blocking by batch size, so only then do an image's bits not depend on the lanes that
it is batched with. On a CPU that costs about 2 %: one guided pair fills the cores (decision 0004).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.backends.memory_plan import MemoryPlan
from intarsia.backends.prompt_reading import prompt_keys
from intarsia.backends.protocol import Inputs, ModelFiles, Runtime, Shares, Snapshot, Step
from intarsia.backends.token_regions import draw_choices
from intarsia.backends.torch.capture import CudaGraphCapturer, RunAhead, captures
from intarsia.backends.torch.captured_stepper import CapturedStepper, Limits
from intarsia.backends.torch.device import download, installed_versions, pick_dtype, translated, upload
from intarsia.backends.torch.eager_stepper import EagerStepper
from intarsia.backends.torch.encoder_memory import image_memory, text_memory
from intarsia.backends.torch.memory import Attempt
from intarsia.backends.torch.network_inputs import merging_regions, row_embeddings, time_ids
from intarsia.backends.torch.prompts import EncodedPrompt, PromptCache
from intarsia.backends.torch.regions import MergingVariant
from intarsia.backends.torch.state import Conditioning, State
from intarsia.backends.torch.static_batch import Network
from intarsia.backends.torch.stepper import Stepper
from intarsia.backends.torch.vae import VaeRunner
from intarsia.errors import WeightsError
from intarsia.execution import Execution
from intarsia.kernels.attention import DEFAULT, Choices
from intarsia.kernels.launch import pick_kernels
from intarsia.models.convolutions import check_forms, use_forms
from intarsia.models.ip_adapter import ImagePrompts
from intarsia.models.layers import use_kernels
from intarsia.models.loading import Parts
from intarsia.models.lora_change import HalfChangedError, change_loras
from intarsia.schedulers import Table

__all__ = ["TorchSession"]

# Static batches kept per session, and the part of a GPU's memory that they may take. One of eight lanes of SD1.5 takes
# about 100 MB.
_BATCHES, _MEMORY_DIVISOR = 16, 8


class TorchSession:
    """One model; see :class:`intarsia.backends.protocol.Session`.

    Args:
        execution: it is deterministic on a CPU unless it says otherwise.
        files: where the networks come from; None where that is no folder.
        merging: how tokens merge where a request asks for it.
        convolutions: of :data:`intarsia.models.convolutions.FORMS`; none computes them as torch does by itself. An
            engine has no such switch: they are here to be measured
            (``python -m benchmarks.step_profile --convolutions``).
        memory: what to do where it is short; None keeps everything on the device.

    Attributes:
        files: the files of its networks, with the LoRAs that are in them now.
        fused: the networks, and the step, run fused kernels.
        slots: lanes that the memory budget allows together; None leaves that to the engine.

    Raises:
        BackendError: kernels or capture that the device does not have, or no such form of convolutions.
    """

    def __init__(
        self,
        parts: Parts,
        device: torch.device,
        execution: Execution,
        image_prompts: ImagePrompts | None = None,
        *,
        files: ModelFiles | None = None,
        merging: MergingVariant = MergingVariant(),
        convolutions: Sequence[str] = (),
        memory: MemoryPlan | None = None,
    ) -> None:
        forms = check_forms(convolutions)
        self.parts, self.image_prompts = parts, image_prompts
        self.files, self._merging = files, merging
        self.device = device
        self.dtype = pick_dtype(device)
        self.fused = pick_kernels(execution.kernels, device)
        is_deterministic = device.type == "cpu" if execution.deterministic is None else execution.deterministic
        _set_up(parts, self.fused, forms)

        # UNet and VAE graphs share one memory pool; on out-of-memory each may free the other's graphs.
        self._capturer: CudaGraphCapturer | None = None
        if captures(execution.capture, device, self.fused):
            self._capturer = CudaGraphCapturer(device, required=execution.capture == "on")
        self._vae = VaeRunner(
            parts.vae,
            device,
            fused=self.fused,
            capturer=self._capturer,
            free_others=lambda: self._stepper.free_graphs(),
            whole_pixels=None if memory is None else memory.whole_pixels,
        )
        # what a search finds can differ from process to process, and its bits with it
        network = self._network(search="searched" in forms and not is_deterministic)
        self._stepper: Stepper = _make_stepper(network, is_deterministic, self._vae.free_graphs)

        self.slots = None if memory is None else memory.slots
        releases = memory is not None and memory.releases_encoders
        self._text_memory = text_memory(lambda: self.parts, device, self.dtype, releases=releases)
        self._image_memory = image_memory(image_prompts, files, device, self.dtype, releases=releases)
        self._prompts = PromptCache(parts, self.dtype, self._text_memory)
        self._unusable = ""  # why no request can run, where a change of LoRAs left some weights half-way
        self._attention = Choices(timed=not is_deterministic)
        self._run_ahead = RunAhead() if device.type == "cuda" else None
        self._weight_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        self._runtime = self._settled_runtime(is_deterministic, forms, memory)

    @property
    def runtime(self) -> Runtime:
        """What runs, as far as it is known by now."""
        attention = self._attention.record if self.device.type == "cuda" else (("every shape", DEFAULT),)
        refused = "" if self._capturer is None else self._capturer.refused

        notes = (*self.parts.notes, *self._vae.notes, *self.parts.precision_notes)
        if self.files is not None and self.files.reason:
            notes = (self.files.reason, *notes)
        if refused:
            notes = (*notes, refused)

        capture = "off" if refused else self._runtime.capture
        return replace(self._runtime, attention=attention, notes=notes, capture=capture)

    @torch.inference_mode()
    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        """Encode prompts, image and mask; see :class:`intarsia.backends.protocol.Session`."""
        height, width = inputs.mask.shape
        attempt = Attempt(width=width, height=height, rest=self._weight_bytes)
        with self._working("encode the request", attempt):
            prompts = self._prompts.get_all(prompt_keys(inputs))
            conditioning = self._conditioning(inputs, prompts)

        warnings = [warning for prompt in prompts for warning in prompt.warnings]
        if inputs.token_merging.ratio and not conditioning.regions:
            warnings.append("token merging: the mask leaves too little to merge; made without it")
        return conditioning, tuple(warnings)

    @torch.inference_mode()
    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        """A lane's state before its first row; see :class:`intarsia.backends.protocol.Session`."""
        with self._working("start an image"):
            unit_noise = upload(noise, self.device)
            image_latents = conditioning.image_latents
            if conditioning.noise_fill:
                image_latents = torch.where(conditioning.mask > 0.5, 0.0, image_latents)

            # state slots, guided prediction, fresh noise
            count = self._stepper.state_slots(table) + 2
            buffer = torch.zeros(count, *unit_noise.shape, device=self.device)
            buffer[0] = table.start_image * image_latents + table.start_noise * unit_noise

            cells = [region.shape.cells for region in conditioning.regions]
            choices = draw_choices(noise, len(table), cells)

            return State(
                conditioning=conditioning,
                table=table,
                packed_table=self._stepper.pack(table),
                embeddings=row_embeddings(self.parts.unet, conditioning, table, self.device),
                buffer=buffer,
                noise=unit_noise,
                choices=tuple(upload(destinations, self.device) for destinations in choices),
            )

    @torch.inference_mode()
    def advance(self, steps: Sequence[Step]) -> None:
        """One evaluation, then each lane's own row; see :class:`intarsia.backends.protocol.Session`."""
        first: State = steps[0].state
        with self._working("evaluate the network", self._attempt(first, lanes=len(steps))):
            if self._run_ahead is not None:
                self._run_ahead.wait()
            self._stepper.advance(steps)
            if self._run_ahead is not None:
                self._run_ahead.mark()

    @torch.inference_mode()
    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        """Images of finished lanes; see :class:`intarsia.backends.protocol.Session`."""
        images = []
        with self._working("decode an image", self._attempt(states[0], lanes=1)):
            for state in states:
                latents = self._stepper.sample(state)[None]
                images.append(self._vae.decode(latents))
                self._stepper.free(state)
        return images

    @torch.inference_mode()
    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`intarsia.backends.protocol.Blends`."""
        with translated("paste an image", self.device):
            return self._vae.blend(base, over, weights)

    @torch.inference_mode()
    def snapshot(self, state: State, shares: Shares) -> Snapshot:
        """See :class:`intarsia.backends.protocol.Previews`."""
        with translated("copy a preview", self.device):
            buffer = self._stepper.buffer(state)
            combined = shares.sample * buffer[0]
            combined += shares.output * buffer[-2]
            combined += shares.noise * buffer[-1]
            return download(combined)

    @torch.inference_mode()
    def autoencode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`intarsia.backends.protocol.Autoencodes`."""
        height, width = image.shape[:2]
        mask = np.zeros((height, width), bool) if self._is_inpainting else None  # captured by size, so as for requests
        attempt = Attempt(width=width, height=height, rest=self._weight_bytes)
        with self._working("fit the colors of previews", attempt):
            latents = self._vae.encode(image, mask)[:1]
            return latents[0].cpu().numpy(), self._vae.decode(latents)

    def adapt(self, files: ModelFiles) -> bool:
        """See :class:`intarsia.backends.protocol.Adapts`. What was captured stays: weights are written in place."""
        if self.files is None or _without_loras(files) != _without_loras(self.files):
            return False
        if self.files.reason and not files.loras:
            return False  # without them auto may choose the other backend, whatever ran before

        with translated(f"change the LoRAs of {files.model}", self.device):
            try:
                with self._text_memory.present():
                    self.parts = change_loras(self.parts, files.loras)
            except HalfChangedError as exc:
                self.parts, self._unusable = exc.parts, str(exc)
                raise
        self._unusable = ""
        self.files = replace(files, reason=self.files.reason)
        self._prompts.renew(self.parts)
        return True

    def close(self) -> None:
        """Release weights, graphs and cached prompts; device memory goes back to its allocator."""
        self._vae.free_graphs()
        self._stepper.close()
        del self.parts, self.image_prompts, self._stepper, self._vae, self._prompts
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def _is_inpainting(self) -> bool:
        """Whether the network takes the mask as input; else the loop keeps what is outside it."""
        return self.parts.unet.config.in_channels > self.parts.vae.latent_channels

    def _network(self, search: bool) -> Network:
        return Network(
            unet=self.parts.unet,
            device=self.device,
            dtype=self.dtype,
            fused=self.fused,
            capturer=self._capturer,
            search=search,
        )

    def _settled_runtime(self, is_deterministic: bool, forms: frozenset[str], memory: MemoryPlan | None) -> Runtime:
        """What is known of the runtime from the beginning."""
        device = self.device
        device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        options: tuple[tuple[str, str], ...] = (("convolutions", "+".join(sorted(forms))),) if forms else ()
        if memory is not None:
            options += memory.options(self._done_for(memory))
        return Runtime(
            backend="torch",
            device=device_name,
            dtype=str(self.dtype).removeprefix("torch."),
            deterministic=is_deterministic,
            versions=installed_versions(),
            token_merging=True,
            kernels="fused" if self.fused else "plain",
            capture="off" if self._capturer is None else "on",
            precision=self.parts.precision,
            options=options,
        )

    def _done_for(self, memory: MemoryPlan) -> dict[str, bool]:
        return {
            "text encoders leave the device between prompts": self._text_memory.releases,
            "the image encoder leaves it between images": self._image_memory.releases,
            f"images above {memory.whole_pixels or 0:,} pixels in tiles": memory.whole_pixels is not None,
            f"{memory.slots} slots": memory.slots is not None,
        }

    @contextmanager
    def _working(self, what: str, attempt: Attempt | None = None) -> Iterator[None]:
        """Translate torch's errors, and attend by the kernels that were chosen."""
        if self._unusable:
            raise WeightsError(self._unusable)
        with translated(what, self.device, attempt), self._attention.applied():
            yield

    def _attempt(self, state: State, lanes: int) -> Attempt:
        """The size of what is computed, for messages."""
        height, width = state.noise.shape[1:]
        factor = self.parts.vae.factor
        return Attempt(width=factor * width, height=factor * height, lanes=lanes, rest=self._weight_bytes)

    def _conditioning(self, inputs: Inputs, prompts: Sequence[EncodedPrompt]) -> Conditioning:
        latents = self._vae.encode(inputs.image, inputs.mask if self._is_inpainting else None)
        mask = upload(inputs.latent_mask, self.device)[None]
        is_soft = inputs.soft_mask is not None
        levels = mask if inputs.soft_mask is None else upload(inputs.soft_mask, self.device)[None]
        inpaint_latents = None
        if self._is_inpainting:
            inpaint_latents = torch.cat([mask, latents[1]]).to(self.dtype)

        pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
        return Conditioning(
            cross_kv=torch.cat([prompt.cross_kv for prompt in prompts]),
            pooled=torch.cat(pooled) if pooled else None,
            time_ids=time_ids(self.parts.unet, inputs, self.device),
            guidance_scale=inputs.guidance_scale,
            image_latents=latents[0],
            mask=levels,
            inpaint_latents=inpaint_latents,
            noise_fill=inputs.noise_fill,
            image_kv=self._image_kv(inputs),
            regions=merging_regions(self.parts.unet, inputs, self._merging, self.device),
            is_soft=is_soft,
        )

    def _image_kv(self, inputs: Inputs) -> Tensor | None:
        """Keys and values of the IP adapter's image for each branch, ``[branches, m, K]``."""
        if self.image_prompts is None or inputs.image_prompt is None:
            return None

        with self._image_memory.present():
            both_branches = self.image_prompts.image_kv(inputs.image_prompt, inputs.image_scale)
        if inputs.guidance_scale > 1:
            return both_branches
        return both_branches[1:]


def _set_up(parts: Parts, fused: bool, forms: frozenset[str]) -> None:
    """Kernels and forms of convolutions in the networks."""
    vae = cast(nn.Module, parts.vae)
    use_kernels(parts.unet, fused)
    use_kernels(vae, fused)
    use_forms(parts.unet, vae, forms)


def _without_loras(files: ModelFiles) -> ModelFiles:
    return replace(files, loras=(), reason="")


def _make_stepper(network: Network, deterministic: bool, free_others: Callable[[], None]) -> Stepper:
    """Static batches for fused kernels, else torch's own operations."""
    device = network.device
    if not network.fused:
        return EagerStepper(network.unet, device, network.dtype, alone=deterministic)

    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**40
    limits = Limits(batches=_BATCHES, nbytes=memory // _MEMORY_DIVISOR)
    return CapturedStepper(network, deterministic, limits, free_others)
