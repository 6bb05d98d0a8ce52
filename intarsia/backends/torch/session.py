"""A model on a torch device: encode, start, advance, decode.

Lanes are stepped in one of two ways. With fused kernels (CUDA) they stand on stages (:mod:`.stages`), where a step is
recorded once and replayed. Otherwise each lane keeps its own buffer (:mod:`.plain`).

On a CPU (and in deterministic mode everywhere) each lane is evaluated by itself, always in the same shape:
convolution and matrix libraries choose their blocking by batch size, so only then do a picture's bits not
depend on its company. On a CPU that costs about 2 %: one guided pair fills the cores (decision 0004).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from intarsia.backends.protocol import Inputs, ModelFiles, Runtime, Step
from intarsia.backends.token_regions import draw_choices, find_regions
from intarsia.backends.torch.capture import CudaRecorder, Pace
from intarsia.backends.torch.device import installed_versions, pick_dtype, translated, upload
from intarsia.backends.torch.memory import Attempt
from intarsia.backends.torch.pictures import Pictures
from intarsia.backends.torch.plain import PlainSteps
from intarsia.backends.torch.regions import DeviceRegion, MergingVariant, upload_regions
from intarsia.backends.torch.stage import Network
from intarsia.backends.torch.stages import StagedSteps
from intarsia.backends.torch.state import Conditioning, State
from intarsia.errors import BackendError
from intarsia.execution import Capture, Execution
from intarsia.kernels.attention import DEFAULT, Choices
from intarsia.kernels.launch import pick_kernels
from intarsia.models.convolutions import check_forms, use_forms
from intarsia.models.ip_adapter import ImagePrompts
from intarsia.models.layers import use_kernels
from intarsia.models.loading import Parts
from intarsia.models.lora_change import change_loras
from intarsia.models.text import TextEncoding
from intarsia.schedulers import Table

__all__ = ["TorchSession"]

_Prompt = tuple[Tensor, Tensor | None, tuple[str, ...]]

# Encoded prompts kept per session, and the device memory that they may take: in half precision the keys and values of
# one prompt are 3 MB for SD1.5 and 26 MB for SDXL.
_PROMPTS, _PROMPT_BYTES = 64, 256 * 2**20
# Stages kept per session, and their share of a GPU's memory. A stage of eight lanes of SD1.5 takes about 100 MB.
_STAGES, _STAGES_SHARE = 16, 8


class TorchSession:
    """One model; see :class:`intarsia.backends.protocol.Session`.

    Args:
        execution: it is deterministic on a CPU unless it says otherwise.
        files: where the networks come from; None where that is no folder.
        merging: how tokens merge where a request asks for it.
        convolutions: of :data:`intarsia.models.convolutions.FORMS`; none computes them as torch does by itself. An
            engine has no such switch: they are here to be measured
            (``python -m benchmarks.step_profile --convolutions``).

    Attributes:
        files: what its networks come from now.
        fused: the networks, and the step, run fused kernels.

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
    ) -> None:
        forms = check_forms(convolutions)
        self.parts, self.device, self.image_prompts = parts, device, image_prompts
        self.files, self._merging = files, merging
        self.dtype = pick_dtype(device)
        self.fused = pick_kernels(execution.kernels, device)
        deterministic = device.type == "cpu" if execution.deterministic is None else execution.deterministic
        for network in (parts.unet, parts.vae):
            use_kernels(cast(nn.Module, network), self.fused)
        use_forms(parts.unet, cast(nn.Module, parts.vae), forms)
        captured = _captures(execution.capture, device, self.fused)
        # one for all that is recorded, whose memory they share; so either lets go of its own where the other needs it
        recorder = CudaRecorder(device, required=execution.capture == "on") if captured else None
        self._recorder = recorder
        self._pictures = Pictures(parts.vae, device, self.fused, recorder, lambda: self._steps.let_go())
        # what a search finds can differ from process to process, and its bits with it
        search = "searched" in forms and not deterministic
        evaluated = Network(parts.unet, device, self.dtype, self.fused, recorder, search)
        self._steps = _stepping(evaluated, deterministic, self._pictures.let_go)
        self._attention = Choices(timed=not deterministic)
        self._pace = Pace() if device.type == "cuda" else None
        self._rest = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        self._prompts: OrderedDict[tuple[str, int, bool], _Prompt] = OrderedDict()
        self._runtime = Runtime(
            "torch",
            torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            str(self.dtype).removeprefix("torch."),
            deterministic,
            installed_versions(),
            token_merging=True,
            kernels="fused" if self.fused else "plain",
            capture="on" if captured else "off",
            precision=parts.precision,
            options=(("convolutions", "+".join(sorted(forms))),) if forms else (),
        )

    @property
    def runtime(self) -> Runtime:
        chosen = self._attention.record if self.device.type == "cuda" else (("every shape", DEFAULT),)
        reason = (self.files.reason,) if self.files and self.files.reason else ()
        notes, capture = (*reason, *self.parts.notes, *self._pictures.notes), self._runtime.capture
        notes += self.parts.precision_notes
        if self._recorder is not None and self._recorder.refused:
            notes, capture = (*notes, self._recorder.refused), "off"
        return replace(self._runtime, attention=chosen, notes=notes, capture=capture)

    @torch.inference_mode()
    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        height, width = inputs.mask.shape
        with self._working("encode the request", Attempt(width, height, rest=self._rest)):
            prompts = [self._prompt(inputs.prompt, inputs.clip_skip)]
            if inputs.guidance_scale > 1:
                prompts.insert(0, self._prompt(inputs.negative_prompt, inputs.clip_skip, negative=True))
            pooled = [each[1] for each in prompts if each[1] is not None]
            nine = self.parts.unet.config.in_channels > self.parts.vae.latent_channels
            latents = self._pictures.encode(inputs.image, inputs.mask if nine else None)
            mask = upload(inputs.latent_mask, self.device)[None]
            conditioning = Conditioning(
                contexts=torch.cat([each[0] for each in prompts]),
                pooled=torch.cat(pooled) if pooled else None,
                time_ids=self._time_ids(inputs),
                guidance=inputs.guidance_scale,
                clean=latents[0],
                mask=mask,
                extra=torch.cat([mask, latents[1]]).to(self.dtype) if nine else None,
                noise_fill=inputs.noise_fill,
                image=self._image_context(inputs),
                regions=self._regions(inputs),
            )
        warnings = [warning for each in prompts for warning in each[2]]
        if inputs.token_merging.ratio and not conditioning.regions:
            warnings.append("token merging: the mask leaves too little to merge; made without it")
        return conditioning, tuple(warnings)

    @torch.inference_mode()
    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        with self._working("start a picture"):
            shared = conditioning
            unit = upload(noise, self.device)
            clean = torch.where(shared.mask > 0.5, 0.0, shared.clean) if shared.noise_fill else shared.clean
            buffer = torch.zeros(self._steps.slots(table) + 2, *unit.shape, device=self.device)
            buffer[0] = table.start_image * clean + table.start_noise * unit
            cells = [region.shape.cells for region in shared.regions]
            drawn = draw_choices(noise, len(table.timesteps), cells)
            choices = tuple(upload(each, self.device) for each in drawn)
            return State(shared, table, self._steps.pack(table), self._embed(shared, table), buffer, unit, choices)

    @torch.inference_mode()
    def advance(self, steps: Sequence[Step]) -> None:
        first: State = steps[0].state
        with self._working("evaluate the network", self._attempt(first.noise, len(steps))):
            if self._pace is not None:
                self._pace.wait()
            self._steps.advance(steps)
            if self._pace is not None:
                self._pace.mark()

    @torch.inference_mode()
    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        with self._working("decode a picture", self._attempt(states[0].noise, 1)):
            pictures = []
            for state in states:
                pictures.append(self._pictures.decode(self._steps.sample(state)[None]))
                self._steps.drop(state)
            return pictures

    @torch.inference_mode()
    def blend(self, base: np.ndarray, over: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """See :class:`intarsia.backends.protocol.Blends`."""
        with translated("paste a picture", self.device):
            return self._pictures.blend(base, over, weights)

    def adapt(self, files: ModelFiles) -> bool:
        """See :class:`intarsia.backends.protocol.Adapts`. What was captured stays: weights are written in place."""
        if self.files is None or _without_loras(files) != _without_loras(self.files):
            return False
        if self.files.reason and not files.loras:
            return False  # without them auto may choose the other backend, whatever ran before

        with translated(f"change the LoRAs of {files.model}", self.device):
            self.parts = change_loras(self.parts, files.folder, files.loras)
        self.files = replace(files, reason=self.files.reason)
        self._prompts.clear()  # they were encoded by the weights before
        return True

    def close(self) -> None:
        """Forget weights, stages and cached prompts; device memory goes back to its allocator."""
        self._prompts.clear()
        self._pictures.let_go()
        self._steps.close()
        del self.parts, self.image_prompts, self._steps, self._pictures
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _working(self, what: str, attempt: Attempt | None = None) -> Iterator[None]:
        """Errors in our words, and attention by the kernels that were chosen."""
        with translated(what, self.device, attempt), self._attention.applied():
            yield

    def _attempt(self, latents: Tensor, lanes: int) -> Attempt:
        """``[C, h, w]`` latents in so many lanes."""
        factor = self.parts.vae.factor
        return Attempt(factor * latents.shape[2], factor * latents.shape[1], lanes, self._rest)

    def _prompt(self, text: str, clip_skip: int, negative: bool = False) -> _Prompt:
        """Keys and values, pooled text and warnings of one prompt; encoded alone, so always the same bits."""
        key = (text, clip_skip, negative)
        if key not in self._prompts:
            encoding: TextEncoding = self.parts.text.encode([text], clip_skip)
            if negative and not text and self.parts.zero_empty_prompt:
                encoding = encoding.zeros()
            context = self.parts.unet.context(encoding.hidden.to(self.dtype))
            self._prompts[key] = (context, encoding.pooled, encoding.warnings)
            self._forget_prompts()
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _forget_prompts(self) -> None:
        """Drop the longest unused, but never the last one."""
        sizes = [context.nbytes for context, _, _ in self._prompts.values()]
        while len(sizes) > 1 and (len(sizes) > _PROMPTS or sum(sizes) > _PROMPT_BYTES):
            self._prompts.popitem(last=False)
            del sizes[0]

    def _image_context(self, inputs: Inputs) -> Tensor | None:
        """The IP adapter's picture for each half, ``[2 or 1, m, K]``."""
        if self.image_prompts is None or inputs.image_prompt is None:
            return None
        both = self.image_prompts.context(inputs.image_prompt, inputs.image_scale)
        return both if inputs.guidance_scale > 1 else both[1:]

    def _time_ids(self, inputs: Inputs) -> Tensor | None:
        """SDXL's sizes (Podell et al. 2023, section 2.2): original and target are the generation size."""
        if self.parts.unet.add_embedding is None:
            return None
        height, width = inputs.mask.shape
        return upload(np.array([[height, width, 0, 0, height, width]], np.float32), self.device)

    def _embed(self, shared: Conditioning, table: Table) -> Tensor:
        """``[R, 1 or halves, T]``: time embeddings of all rows in one go, each half with its own pooled text."""
        rows = upload(table.timesteps.astype(np.float32), self.device)
        halves: Sequence[Tensor | None] = [None] if shared.pooled is None else [each[None] for each in shared.pooled]
        return torch.stack([self.parts.unet.embed(rows, pooled, shared.time_ids) for pooled in halves], dim=1)

    def _regions(self, inputs: Inputs) -> tuple[DeviceRegion, ...]:
        """Where tokens merge; counted on the host, where the mask is."""
        settings, mask = inputs.token_merging, inputs.latent_mask
        sizes = self.parts.unet.attention_sizes(*mask.shape)
        regions = find_regions(settings, sizes, mask, mask_aware=self._merging.mask_aware)
        return upload_regions(regions, self.device, reuse=settings.reuse, variant=self._merging)


def _without_loras(files: ModelFiles) -> ModelFiles:
    return replace(files, loras=(), reason="")


def _captures(choice: Capture, device: torch.device, fused: bool) -> bool:
    """Whether steps are captured; BackendError where that was asked for and cannot be."""
    able = device.type == "cuda" and fused
    if choice == "on" and not able:
        kernels = "fused" if fused else "plain"
        raise BackendError(
            f"captured steps need fused kernels on a CUDA device; here are {kernels} ones on {device}; "
            "capture must be auto or off"
        )
    return able and choice != "off"


def _stepping(network: Network, deterministic: bool, relieve: Callable[[], None]) -> PlainSteps | StagedSteps:
    """The way in which lanes are stepped."""
    device = network.device
    if not network.fused:
        return PlainSteps(network.unet, device, network.dtype, alone=deterministic)
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 2**40
    return StagedSteps(network, deterministic, (_STAGES, memory // _STAGES_SHARE), relieve)
