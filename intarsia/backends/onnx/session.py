"""A model on ONNX Runtime: encode, start, advance, decode.

Each lane is evaluated by itself, always in the same shape, so that its bits do not depend on other lanes (decision
0005). A lane's buffers stay on the device from its start to its last row, and the device counts the rows; the host
uploads fresh noise, and waits only so as not to run too far ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort

from intarsia.backends.device_memory import release_freed
from intarsia.backends.memory_plan import MemoryPlan
from intarsia.backends.onnx.buffer_pool import BufferPool
from intarsia.backends.onnx.device import Device, installed_versions, translated
from intarsia.backends.onnx.image_prompts import IMAGE_GRAPHS, ImagePrompts
from intarsia.backends.onnx.lane_buffers import LaneInputs
from intarsia.backends.onnx.model_graphs import ModelGraphs
from intarsia.backends.onnx.open_sessions import ReopenedGraph, held, open_graph, open_step_sessions
from intarsia.backends.onnx.prompts import CONTEXT, PromptEncoder
from intarsia.backends.onnx.state import Conditioning, Floats, State, matrices, scalars, timesteps
from intarsia.backends.onnx.token_inputs import graph_regions, map_sizes, token_inputs
from intarsia.backends.onnx.vae import VAE_GRAPHS, OnnxVae
from intarsia.backends.prompt_reading import prompt_keys
from intarsia.backends.protocol import Inputs, Runtime, Shares, Snapshot, Step
from intarsia.backends.token_regions import TokenRegion
from intarsia.checkpoints.stored import TEXT_ENCODERS
from intarsia.errors import NotFinite
from intarsia.execution import Capture
from intarsia.schedulers import Table

__all__ = ["OnnxSession"]

# The part of the network that depends on timesteps and sizes alone.
_EMBED = "unet_embed"


class OnnxSession:
    """One model; see :class:`intarsia.backends.protocol.Session`.

    Args:
        memory: what to do where it is short; None keeps everything open.
    """

    def __init__(
        self, graphs: ModelGraphs, device: Device, capture: Capture = "auto", memory: MemoryPlan | None = None
    ) -> None:
        self.device = device
        self.facts = graphs.facts
        self.weight_bytes = 0 if memory is None else memory.weights
        self._graphs = graphs
        self._released = _released(memory)
        # the largest first: opening it takes more than it needs from then on
        sessions, notes = open_step_sessions(graphs, device, capture)
        loras = [file.path for file in graphs.changes.additions.files]
        self._prompts = PromptEncoder(graphs, self._open, loras)
        self._embed = self._open(_EMBED)
        self._vae = OnnxVae(self._open, self.facts, None if memory is None else memory.whole_pixels)

        image_facts = graphs.image_facts
        self._image_prompts = ImagePrompts(image_facts, self._open) if image_facts is not None else None

        self._pool = BufferPool(sessions)
        self._merging_pool: BufferPool | None = None
        self._runtime = Runtime(
            backend="onnx",
            device=device.name,
            dtype=graphs.unet.dtype,
            deterministic=True,
            versions=installed_versions(),
            token_merging=True,
            capture="on" if sessions.captured else "off",
            notes=(*graphs.changes.additions.notes, *notes),
            options=(*device.options, ("graphs", graphs.unet.hashes["unet"][:12]), *self._memory_options(memory)),
        )

    @property
    def runtime(self) -> Runtime:
        refused = self._pool.refused
        notes = (*self._runtime.notes, *self._vae.notes)
        if refused:
            notes = (*notes, refused)
        return replace(self._runtime, notes=notes)

    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        with translated("encode the request", self.device):
            prompts = self._prompts.encode_all(prompt_keys(inputs))
            cross_kv = np.concatenate([prompt.cross_kv for prompt in prompts])
            pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]

            image_latents, masked_latents = self._encode_images(inputs)
            mask = inputs.latent_mask.astype(np.float32)[None]
            inpaint_latents = np.concatenate([mask, masked_latents])
            levels = mask if inputs.soft_mask is None else inputs.soft_mask.astype(np.float32)[None]
            regions, merging_warnings = self._regions(inputs)

            conditioning = Conditioning(
                cross_kv=self.device.put(cross_kv),
                pooled=np.concatenate(pooled) if pooled else None,
                time_ids=self._time_ids(inputs),
                guidance_scale=inputs.guidance_scale,
                image_latents=image_latents,
                mask=levels,
                keeps_known=not self._is_inpainting or inputs.soft_mask is not None,
                inpaint_latents=inpaint_latents if self._is_inpainting else inpaint_latents[:0],
                noise_fill=inputs.noise_fill,
                image_kv=self._image_kv(inputs),
                regions=regions,
            )

        if not self.device.packs:
            release_freed()
        warnings = [warning for prompt in prompts for warning in prompt.warnings]
        return conditioning, (*warnings, *merging_warnings)

    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        with translated("start an image", self.device):
            embeddings = self._embeddings(conditioning, table)
            tokens = token_inputs(conditioning.regions, noise, len(table))
            step_inputs = self._step_inputs(conditioning, table, noise)
            network_inputs: dict[str, np.ndarray] = {"embeddings": embeddings, **tokens}
            if conditioning.image_kv is not None:
                network_inputs["image_context"] = conditioning.image_kv
            inputs = LaneInputs(conditioning.cross_kv, network_inputs, step_inputs)

            pool = self._pool_for(conditioning.regions)
            return State(pool, inputs)

    def advance(self, steps: Sequence[Step]) -> None:
        stream = self._pool.sessions.stream
        with translated("evaluate the network", self.device):
            stream.wait()
            for step in steps:
                step.state.advance(step.row, step.noise)
            stream.mark()

    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        with translated("decode an image", self.device):
            with self._vae.decoder_held():
                images = [self._decode(state.latents) for state in states]
            if not self.device.packs:
                release_freed()
            return images

    def snapshot(self, state: State, shares: Shares) -> Snapshot:
        """See :class:`intarsia.backends.protocol.Previews`. ONNX Runtime's copies to the host wait for the device."""
        with translated("copy a preview", self.device):
            combined = state.combined(shares)
        return lambda: combined

    def autoencode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`intarsia.backends.protocol.Autoencodes`."""
        with translated("fit the colors of previews", self.device):
            latents = self._vae.encode(_pixels(image))
            return latents, self._decode(latents[None])

    def close(self) -> None:
        """Release sessions and cached prompts."""
        del self._pool, self._merging_pool, self._prompts, self._image_prompts, self._embed, self._vae

    @property
    def _is_inpainting(self) -> bool:
        """Whether the network takes the mask as input; else the loop keeps what is outside it."""
        return bool(self.facts["in_channels"] > self.facts["latent_channels"])

    def _memory_options(self, memory: MemoryPlan | None) -> tuple[tuple[str, str], ...]:
        if memory is None:
            return ()
        has_image = self._image_prompts is not None
        return memory.options(
            {
                "text encoders are opened for each new prompt": memory.releases_encoders,
                "the image encoder is opened for each image": memory.releases_encoders and has_image,
                "the VAE is opened for each use": memory.releases_vae,
                "matrices are not packed": not self.device.packs,
                f"images above {memory.whole_pixels or 0:,} pixels in tiles": memory.whole_pixels is not None,
            }
        )

    def _open(self, name: str) -> ort.InferenceSession:
        if name in self._released:
            return ReopenedGraph(self._graphs, name, self.device)
        return open_graph(self._graphs, name, self.device)

    def _encode_images(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Latents ``[C, h, w]`` of the image, and of the image with the mask gray (0 in -1…1)."""
        image = _pixels(inputs.image)
        masked = image * ~inputs.mask
        with self._vae.encoder_held():
            return self._vae.encode(image), self._vae.encode(masked)

    def _image_kv(self, inputs: Inputs) -> Floats | None:
        """Keys and values of the IP adapter's image for each branch."""
        if self._image_prompts is None or inputs.image_prompt is None:
            return None
        both_branches = self._image_prompts.image_kv(inputs.image_prompt, inputs.image_scale)
        return both_branches if inputs.guidance_scale > 1 else both_branches[1:]

    def _time_ids(self, inputs: Inputs) -> Floats | None:
        """SDXL's sizes (Podell et al. 2023, section 2.2): original and target are the generation size."""
        if not self.facts["added"]:
            return None
        height, width = inputs.mask.shape
        return np.array([[height, width, 0, 0, height, width]], np.float32)

    def _step_inputs(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> dict[str, np.ndarray]:
        """Inputs of the step graph, by its names, before the start."""
        mask = conditioning.mask
        image_latents = conditioning.image_latents
        state = np.zeros((table.state_slots, *noise.shape), np.float32)
        state[0] = image_latents
        if conditioning.noise_fill:
            state[0] = np.where(mask > 0.5, 0, image_latents)

        return {
            "state": state,
            "noise": noise.copy(),
            "matrices": matrices(table),
            "scalars": scalars(table, conditioning.guidance_scale, keeps_known=conditioning.keeps_known),
            "clean": image_latents,
            "start": noise,
            "mask": mask,
            "extra": conditioning.inpaint_latents,
        }

    def _embeddings(self, conditioning: Conditioning, table: Table) -> Floats:
        """``[R + 1, 1 or branches, T]``: time embeddings of all rows at once, each branch with its own pooled text."""
        inputs: dict[str, Floats | None] = {"timesteps": timesteps(table)}
        if conditioning.pooled is None:
            shared: Floats = self._embed.run(None, inputs)[0]
            return shared[:, None]

        inputs["time_ids"] = conditioning.time_ids
        branches = []
        with held(self._embed):
            for pooled in conditioning.pooled:
                inputs["pooled"] = pooled[None]
                branches.append(self._embed.run(None, inputs)[0])
        return np.stack(branches, axis=1)

    def _regions(self, inputs: Inputs) -> tuple[tuple[TokenRegion, ...], tuple[str, ...]]:
        """Where tokens merge; second: a warning where they do not although the request asks for it."""
        settings = inputs.token_merging
        if not settings.ratio:
            return (), ()

        if self._image_prompts is not None:
            return (), ("token merging: not together with an IP adapter on ONNX Runtime; made without it",)
        exported = self.facts["merging"]
        if exported != {"levels": settings.levels, "reuse": settings.reuse}:
            has = "none" if exported is None else "levels {levels} and reuse {reuse}".format(**exported)
            return (), (
                f"token merging: levels {settings.levels} and reuse {settings.reuse} asked for, "
                f"the model's graphs have {has}; made without it "
                "(intarsia export --again makes graphs with what the registry says)",
            )

        height, width = inputs.latent_mask.shape
        sizes = map_sizes(self.facts["attention"], height, width)
        regions = graph_regions(settings, sizes[: settings.levels], inputs.latent_mask)
        if not regions:
            return (), ("token merging: the mask leaves too little to merge; made without it",)
        return regions, ()

    def _pool_for(self, regions: Sequence[TokenRegion]) -> BufferPool:
        """The network that merges is opened on first use, and not captured: its shapes follow the mask."""
        if not regions:
            return self._pool
        if self._merging_pool is None:
            sessions = self._pool.sessions
            network = open_graph(
                self._graphs, "unet_merging", self.device, stream=sessions.stream, beside=sessions.network
            )
            self._merging_pool = BufferPool(replace(sessions, network=network), capacity=0)
        return self._merging_pool

    def _decode(self, latents: Floats) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``."""
        image = self._vae.decode(latents)
        if not np.isfinite(image).all():
            raise NotFinite(f"the decoded image has values that are not finite ({self._runtime.dtype})")

        levels = np.clip(image * 127.5 + 127.5, 0, 255)
        pixels = np.rint(levels).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _released(memory: MemoryPlan | None) -> tuple[str, ...]:
    """Graphs that are opened for each use."""
    if memory is None:
        return ()
    encoders = (*TEXT_ENCODERS, CONTEXT, *IMAGE_GRAPHS) if memory.releases_encoders else ()
    return (*encoders, *VAE_GRAPHS, _EMBED) if memory.releases_vae else encoders


def _pixels(image: np.ndarray) -> Floats:
    """uint8 ``[h, w, 3]`` → ``[3, h, w]`` in -1…1."""
    pixels: Floats = image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    return pixels
