"""`python -m benchmarks.full_size CHECKPOINT FOLDER --out FILE.json`: what a full-size model costs on a CPU.

CHECKPOINT is one file, FOLDER the same model as diffusers saves it, whose graphs have been exported (`intarsia
export`); weights may be random. For torch and ONNX Runtime of this package and for diffusers, each in a process of its
own: seconds and peak memory of opening the model, of one guided evaluation, and of the image after a LoRA was asked
for. Memory is peak resident MiB without pages of mapped files. No number is written unless the images of torch and ONNX
Runtime agree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RANK, SPACING = 16, "linspace"
AGREE = 45.0
"""PSNR of torch's and ONNX Runtime's images."""

_LINEAR = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")


class PeakMemory:
    """The most memory that this process had which is no file's, in MiB, looked at fifty times a second."""

    def __init__(self) -> None:
        self._most = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def taken(self) -> float:
        """The peak since the last call."""
        most, self._most = max(self._most, _anonymous()), 0.0
        return round(most, 1)

    def _watch(self) -> None:
        while True:
            self._most = max(self._most, _anonymous())
            time.sleep(0.02)


def _anonymous() -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) / 1024


def write_lora(folder: Path, path: Path) -> None:
    """A LoRA of small random numbers for every attention layer of a UNet, in diffusers' names."""
    import torch  # here, so that it takes no memory of a contender that does without
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted((folder / "unet").glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - the file is no mapping
                if not name.endswith(_LINEAR) or ".attn" not in name:
                    continue
                rows, columns = stored.get_slice(name).get_shape()
                layer = f"unet.{name.removesuffix('.weight')}"
                tensors[f"{layer}.lora_A.weight"] = 0.02 * torch.randn(RANK, columns, generator=generator)
                tensors[f"{layer}.lora_B.weight"] = 0.02 * torch.randn(rows, RANK, generator=generator)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Pixels of the images' sides, and evaluations of one image."""

    side: int
    steps: int


def pictures(side: int) -> tuple[Image.Image, Image.Image]:
    """An image and a mask of the size."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
    return Image.fromarray(small).resize((side, side)), Image.fromarray(mask)


def of_package(size: Size, backend: str, model: str, lora: str, image_file: str) -> dict[str, float]:
    """Our numbers on a backend; the first image is written to a file."""
    began = time.perf_counter()
    import intarsia

    memory, (image, mask) = PeakMemory(), pictures(size.side)
    asked: dict[str, Any] = {"init_image": image, "mask_image": mask, "prompt": "a red circle", "model": model}
    asked |= {
        "scheduler": "EulerDiscreteScheduler",
        "steps": size.steps,
        "seed": 1,
        "strength": 1.0,
        "guidance_scale": 7.5,
    }
    # a folder may say how timesteps are spaced, and a single file does not
    asked |= {"width": size.side, "height": size.side, "spacing": SPACING}
    with intarsia.Engine(backend, "cpu") as engine:
        first = engine.run(intarsia.InpaintRequest(**asked))
        opening = time.perf_counter() - began - first.timings["denoise"] - first.timings["decode"]
        numbers = {
            "open_seconds": opening,
            "step_seconds": first.timings["denoise"] / size.steps,
            "peak_mib": memory.taken(),
        }
        first.generated[0].save(image_file)

        again = engine.run(intarsia.InpaintRequest(**asked))
        with_lora = engine.run(intarsia.InpaintRequest(**asked, loras=[{"id": lora}]))
        numbers["lora_seconds"] = _outside(with_lora.timings) - _outside(again.timings)
        numbers["lora_peak_mib"] = memory.taken()
    return numbers


def _outside(timings: Mapping[str, float]) -> float:
    """Seconds of an image but for its stages, which differ from image to image by more than a LoRA takes."""
    return timings["total"] - sum(timings[stage] for stage in ("encode", "denoise", "decode"))


def of_diffusers(size: Size, folder: str, lora: str) -> dict[str, float]:
    """The same of diffusers' pipeline, in float32 as ours; its LoRA is fused, as ours is."""
    began = time.perf_counter()
    import torch
    from diffusers import DiffusionPipeline, EulerDiscreteScheduler

    memory, (image, mask) = PeakMemory(), pictures(size.side)
    ends: list[float] = []

    def on_step(_pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        ends.append(time.perf_counter())
        return tensors

    def paint() -> None:
        pipeline(
            prompt="a red circle", image=image, mask_image=mask, height=size.side, width=size.side,
            num_inference_steps=size.steps + 1, strength=1.0, guidance_scale=7.5, callback_on_step_end=on_step,
        )  # fmt: skip

    pipeline = DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing=SPACING)
    pipeline.set_progress_bar_config(disable=True)
    opening = time.perf_counter() - began
    paint()
    numbers = {
        "open_seconds": opening,
        "step_seconds": float(np.median(np.diff(ends))),
        "peak_mib": memory.taken(),
    }

    began = time.perf_counter()
    pipeline.load_lora_weights(lora)
    pipeline.fuse_lora()
    return numbers | {"lora_seconds": time.perf_counter() - began, "lora_peak_mib": memory.taken()}


def alone(size: Size, *arguments: str) -> dict[str, float]:
    """One contender's numbers, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.full_size", "--alone", json.dumps(arguments)]
    command += ["--side", str(size.side), "--steps", str(size.steps)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(arguments[0], found, flush=True)
    return found


def measured(checkpoint: Path, folder: Path, size: Size) -> dict[str, Any]:
    """Every contender's numbers, and the check."""
    from benchmarks.environment import environment  # which imports torch

    with tempfile.TemporaryDirectory() as scratch:
        lora = Path(scratch, "lora.safetensors")
        write_lora(folder, lora)
        images = {name: str(Path(scratch, f"{name}.png")) for name in ("torch", "onnx")}
        found = {
            "torch": alone(size, "torch", str(checkpoint), str(lora), images["torch"]),
            "onnx": alone(size, "onnx", str(folder), str(lora), images["onnx"]),
            "diffusers": alone(size, "diffusers", str(folder), str(lora)),
        }
        one, other = (np.asarray(Image.open(path), np.float64) for path in images.values())

    psnr = 10 * np.log10(255**2 / max(float(np.mean((one - other) ** 2)), 1e-9))
    record = {"model": folder.name, "file_mib": checkpoint.stat().st_size / 2**20, "environment": environment()}
    record |= {"side": size.side, "steps": size.steps, "psnr": psnr}
    return record | ({"numbers": found} if psnr >= AGREE else {"refused": f"the images are {psnr:.1f} dB apart"})


def _alone(size: Size, arguments: list[str]) -> Mapping[str, float]:
    contender, *rest = arguments
    return of_diffusers(size, *rest) if contender == "diffusers" else of_package(size, contender, *rest)


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", type=int, default=512, help="pixels of the images' sides")
    parser.add_argument("--steps", type=int, default=3, help="evaluations of one image")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = Size(side=asked.side, steps=asked.steps)
    if asked.alone:
        print(json.dumps(_alone(size, json.loads(asked.alone))))
        return
    record = measured(asked.checkpoint, asked.folder, size)
    print(json.dumps(record, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
