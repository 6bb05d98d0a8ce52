"""A model on ONNX Runtime: encode, start, advance, decode.

Each lane is evaluated by itself, always in the same shape, so that its bits do not depend on its company
(decision 0005). A lane's buffers stay on the device from its start to its last row, and the device counts the rows; the
host hands over fresh noise, and waits only so as not to run too far ahead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.onnx.buffers import Given, Loop, Pool
from intarsia.backends.onnx.capture import prove
from intarsia.backends.onnx.device import Device, installed_versions, translated
from intarsia.backends.onnx.graphs import GraphFolder
from intarsia.backends.onnx.merging import Level, find_levels, level_tokens, map_sizes
from intarsia.backends.onnx.state import Conditioning, Floats, State, matrices, scalars, timesteps
from intarsia.backends.protocol import Inputs, Runtime, Step
from intarsia.errors import BackendError, NotFinite, RequestError
from intarsia.models.clip_config import read_text_shape
from intarsia.models.tokens import ClipTokens, load_tokens
from intarsia.schedulers import Table

__all__ = ["STEP", "OnnxSession"]

STEP = Path(__file__).with_name("step.onnx")
"""A row of any table; ``intarsia/export/step.py`` makes it."""

_Prompt = tuple[Floats, Floats | None, tuple[str, ...]]

# Encoded prompts kept per session, as in the torch backend.
_PROMPTS = 64


class OnnxSession:
    """One model; see :class:`intarsia.backends.protocol.Session`."""

    def __init__(self, graphs: GraphFolder, device: Device, capture: str = "auto") -> None:
        self.device, self.facts, self._graphs = device, graphs.facts, graphs
        self._prompts: OrderedDict[tuple[str, int, bool], _Prompt] = OrderedDict()
        towers = self.facts["towers"]
        self._tokens = [_tokens(graphs.weights, tower) for tower in towers]
        self._texts = [self._open(graphs, tower["graph"]) for tower in towers]
        self._context, self._embed = self._open(graphs, "unet_context"), self._open(graphs, "unet_embed")
        self._encoder, self._decoder = self._open(graphs, "vae_encoder"), self._open(graphs, "vae_decoder")
        loop, notes = self._open_loop(capture)
        self._pool = Pool(loop)
        self._merging: Pool | None = None
        self._runtime = Runtime(
            backend="onnx",
            device=device.name,
            dtype=graphs.dtype,
            deterministic=True,
            versions=installed_versions(),
            token_merging=True,
            capture="on" if loop.captured else "off",
            notes=notes,
            options=(*device.options, ("graphs", graphs.hashes["unet"][:12])),
        )

    @property
    def runtime(self) -> Runtime:
        refused = self._pool.refused
        return replace(self._runtime, notes=(*self._runtime.notes, refused)) if refused else self._runtime

    def encode(self, inputs: Inputs) -> tuple[Conditioning, tuple[str, ...]]:
        with translated("encode the request", self.device):
            prompts = [self._prompt(inputs.prompt, inputs.clip_skip)]
            if inputs.guidance_scale > 1:
                prompts.insert(0, self._prompt(inputs.negative_prompt, inputs.clip_skip, negative=True))
            pooled = [each[1] for each in prompts if each[1] is not None]
            clean, masked = self._encode_images(inputs)
            mask = inputs.latent_mask.astype(np.float32)[None]
            both = np.concatenate([mask, masked])
            levels, unmerged = self._levels(inputs)
            conditioning = Conditioning(
                context=self.device.put(np.concatenate([each[0] for each in prompts])),
                pooled=np.concatenate(pooled) if pooled else None,
                time_ids=self._time_ids(inputs),
                guidance=inputs.guidance_scale,
                clean=clean,
                mask=mask,
                extra=both if self._is_inpainting else both[:0],
                noise_fill=inputs.noise_fill,
                levels=levels,
            )
        return conditioning, (*(warning for each in prompts for warning in each[2]), *unmerged)

    def start(self, conditioning: Conditioning, table: Table, noise: np.ndarray) -> State:
        with translated("start a picture", self.device):
            shared = conditioning
            first = np.zeros((table.slots, *noise.shape), np.float32)
            first[0] = np.where(shared.mask > 0.5, 0, shared.clean) if shared.noise_fill else shared.clean
            arrays = {
                "state": first,
                "noise": noise.copy(),
                "matrices": matrices(table),
                "scalars": scalars(table, shared.guidance, keeps_known=not self._is_inpainting),
                "clean": shared.clean,
                "start": noise,
                "mask": shared.mask,
                "extra": shared.extra,
            }
            told: dict[str, np.ndarray] = {"embeddings": self._embeddings(shared, table)}
            told |= level_tokens(shared.levels, noise, len(table))
            return State(self._pool_for(shared.levels), Given(shared.context, told, arrays))

    def advance(self, steps: Sequence[Step]) -> None:
        stream = self._pool.loop.stream
        with translated("evaluate the network", self.device):
            stream.wait()
            for step in steps:
                step.state.advance(step.row, step.noise)
            stream.mark()

    def decode(self, states: Sequence[State]) -> list[np.ndarray]:
        with translated("decode a picture", self.device):
            return [self._decode(state.latents) for state in states]

    def close(self) -> None:
        """Forget sessions and cached prompts."""
        self._prompts.clear()
        del self._pool, self._merging, self._texts, self._context, self._embed, self._encoder, self._decoder

    @property
    def _is_inpainting(self) -> bool:
        """Whether the network sees the mask; else the loop keeps what is outside it."""
        return bool(self.facts["in_channels"] > self.facts["latent_channels"])

    def _open(self, graphs: GraphFolder, name: str, **how: Any) -> ort.InferenceSession:
        content = graphs.read(name)
        with translated(f"load {graphs.folder / name}.onnx", self.device):
            return self.device.open(content, graphs.root, **how)

    def _open_loop(self, capture: str) -> tuple[Loop, tuple[str, ...]]:
        """Network and step, and a sentence where steps could not be captured although nobody asked for that."""
        notes: tuple[str, ...] = ()
        if capture != "off" and self.device.captures:
            try:
                return self._open_captured(), notes
            except BackendError as exc:
                if capture == "on":
                    raise
                notes = (f"steps are launched one operation at a time, not captured: {exc}",)
        return self._open_pair(captured=False), notes  # here, where all of the attempt is gone

    def _open_captured(self) -> Loop:
        why_not = self.device.why_not_captured(self._graphs.dtype)
        if why_not:
            raise BackendError(f"steps cannot be captured: {why_not}")
        loop = self._open_pair(captured=True)
        with translated("capture a step", self.device), CAPTURE_LOCK:
            prove(loop, self.facts["latent_channels"])
        return loop

    def _open_pair(self, captured: bool) -> Loop:
        stream = self.device.stream()
        step = self.device.open(STEP.read_bytes(), stream=stream, captured=captured)
        network = self._open(self._graphs, "unet", stream=stream, captured=captured)
        return Loop(network, step, self.device, stream, captured)

    def _prompt(self, text: str, clip_skip: int, negative: bool = False) -> _Prompt:
        """Keys and values ``[1, n, K]``, pooled text ``[1, P]`` and warnings of one prompt."""
        key = (text, clip_skip, negative)
        if key not in self._prompts:
            hidden, pooled, warnings = self._read(text, clip_skip)
            if negative and not text and self.facts["zero_empty_prompt"]:
                hidden, pooled = np.zeros_like(hidden), None if pooled is None else np.zeros_like(pooled)
            (context,) = self._context.run(None, {"hidden": hidden})
            self._prompts[key] = (context, pooled, warnings)
            if len(self._prompts) > _PROMPTS:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _read(self, text: str, clip_skip: int) -> _Prompt:
        """What the text encoders make of a prompt: ``[1, n, D]``, ``[1, P]`` or None, warnings."""
        most = min(tower["layers"] for tower in self.facts["towers"])
        if not 1 <= clip_skip <= most:
            raise RequestError("clip_skip", clip_skip, f"between 1 and {most} for this model")
        hidden: list[Floats] = []
        pooled: Floats | None = None
        warnings: list[str] = []
        for tokens, session in zip(self._tokens, self._texts, strict=True):
            ids, cut = tokens.encode(text)
            warnings += cut
            found = session.run(None, {"ids": ids, "skip": np.array([clip_skip], np.int64)})
            hidden.append(found[0])
            pooled = found[1] if len(found) > 1 and pooled is None else pooled
        return np.concatenate(hidden, axis=2), pooled, tuple(dict.fromkeys(warnings))

    def _encode_images(self, inputs: Inputs) -> tuple[Floats, Floats]:
        """Latents ``[C, h, w]`` of the image, and of the image with the mask grey (0 in -1…1)."""
        image = inputs.image.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        pictures = (image, image * ~inputs.mask)
        clean, masked = (self._encoder.run(None, {"pictures": each[None]})[0][0] for each in pictures)
        return clean, masked

    def _time_ids(self, inputs: Inputs) -> Floats | None:
        """SDXL's sizes (Podell et al. 2023, section 2.2): original and target are the generation size."""
        if not self.facts["added"]:
            return None
        height, width = inputs.mask.shape
        return np.array([[height, width, 0, 0, height, width]], np.float32)

    def _embeddings(self, shared: Conditioning, table: Table) -> Floats:
        """``[R + 1, 1 or halves, T]``: time embeddings of all rows in one go, each half with its own pooled text."""
        rows: dict[str, Any] = {"timesteps": timesteps(table)}
        if shared.pooled is None:
            alike: Floats = self._embed.run(None, rows)[0][:, None]
            return alike
        rows["time_ids"] = shared.time_ids
        made = [self._embed.run(None, {**rows, "pooled": pooled[None]})[0] for pooled in shared.pooled]
        return np.stack(made, axis=1)

    def _levels(self, inputs: Inputs) -> tuple[tuple[Level, ...], tuple[str, ...]]:
        """Where tokens merge, and a sentence where they do not although that was asked for."""
        if not inputs.token_merging:
            return (), ()
        asked = {"levels": inputs.token_merging_levels, "reuse": inputs.token_merging_reuse}
        if self.facts["merging"] != asked:
            found = self.facts["merging"]
            have = "none" if found is None else "levels {levels} and reuse {reuse}".format(**found)
            wanted = "levels {levels} and reuse {reuse}".format(**asked)
            return (), (
                f"token merging: {wanted} asked for, the model's graphs have {have}; made without it "
                "(intarsia export --again makes graphs with what the registry says)",
            )
        sizes = map_sizes(self.facts["attention"], *inputs.latent_mask.shape)[: asked["levels"]]
        levels = find_levels(inputs.token_merging, sizes, inputs.latent_mask)
        return levels, () if levels else ("token merging: the mask leaves too little to merge; made without it",)

    def _pool_for(self, levels: Sequence[Level]) -> Pool:
        """The network that merges is opened when it is first wanted, and not captured: its shapes follow the mask."""
        if not levels:
            return self._pool
        if self._merging is None:
            loop = self._pool.loop
            network = self._open(self._graphs, "unet_merging", stream=loop.stream)
            self._merging = Pool(replace(loop, network=network), most=0)
        return self._merging

    def _decode(self, latents: Floats) -> np.ndarray:
        """``[1, C, h, w]`` → uint8 ``[H, W, 3]``."""
        picture = self._decoder.run(None, {"latents": latents})[0][0]
        if not np.isfinite(picture).all():
            raise NotFinite(f"the decoded picture has values that are not finite ({self._runtime.dtype})")
        levels = np.rint(np.clip(picture * 127.5 + 127.5, 0, 255)).astype(np.uint8)
        return np.ascontiguousarray(levels.transpose(1, 2, 0))


def _tokens(folder: Path, tower: Mapping[str, Any]) -> ClipTokens:
    """The tokenizer of one of a model's text encoders."""
    shape = read_text_shape(folder / tower["graph"] / "config.json")
    return load_tokens(folder / tower["tokenizer"], tower["limit"], shape["vocab_size"])
