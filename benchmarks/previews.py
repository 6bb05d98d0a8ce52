"""`python -m benchmarks.previews [--turns N]`: what previews cost beside a step, on the packaged model and the CPU.

For each backend, in turns: a step, what the engine's thread does for a preview of it, and what the preview's reader
does. Processor time of all threads, so that other work on the machine counts for little. No time is printed unless the
finished image has the same bits with and without previews.

`--fit` instead fits the colors of SD1.5's and SDXL's autoencoder (random weights of their size, float32), once each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import intarsia
from benchmarks.measure import Call, median
from intarsia.backends.choose import choose
from intarsia.backends.protocol import Step
from intarsia.engine.color_map import fit, sample_image
from intarsia.engine.color_maps import ColorMaps
from intarsia.engine.parts import model_files
from intarsia.engine.preview import Preview, Surroundings
from intarsia.engine.preview_copies import predicted_image
from intarsia.engine.resolve import resolve
from intarsia.engine.sampling import prediction_type_of, table_of
from intarsia.execution import Execution
from intarsia.registry.registry import Registry

BACKENDS = ("torch", "onnx")
SIDE, STEPS = 512, 21
# Repeats of what takes less than the processor's clock resolves.
REPEATS = 200


def scene() -> intarsia.InpaintRequest:
    """The packaged model's usual size, steps and guidance."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = np.stack([rows // 2, columns // 2, (rows + columns) // 4], axis=2).astype(np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[128:384, 128:384] = 255
    return intarsia.InpaintRequest(
        prompt="a red circle", init_image=image, mask_image=mask, seed=1, steps=STEPS, strength=1.0,
        width=SIDE, height=SIDE,
    )  # fmt: skip


def milliseconds(call: Call, repeats: int = 1) -> float:
    """Processor time of one call, of all threads of this process."""
    began = time.process_time()
    for _ in range(repeats):
        call()
    return 1e3 * (time.process_time() - began) / repeats


def same_bits(backend: str) -> bool:
    """Whether the finished image does not depend on previews."""
    with intarsia.Engine(backend, "cpu") as engine:
        *_, watched = engine.stream(scene(), preview_every=1)
        plain = engine.run(scene())
    return watched.drawn[0].tobytes() == plain.drawn[0].tobytes()


def parts_of(backend: str, turns: int) -> dict[str, float]:
    """Milliseconds of a step, of the copy after it, and of the image that is made of it; medians."""
    resolved = resolve(scene(), Registry())
    session: Any = choose(backend, "cpu", Execution()).open(model_files(resolved.entry, resolved.parts))
    table, kind = table_of(resolved.plan), prediction_type_of(resolved.plan)
    color_map, surroundings = ColorMaps().find(resolved, session), Surroundings(resolved.inputs)
    conditioning, _ = session.encode(resolved.inputs)
    state = session.start(conditioning, table, intarsia.noise(1, resolved.plan.latent_shape))

    def copied(row: int) -> Preview:
        latents = session.snapshot(state, predicted_image(table, row, kind))
        return Preview(latents, color_map, surroundings)

    times: dict[str, list[float]] = {"step": [], "copy": [], "image": []}
    for turn in range(turns + 1):
        row = turn % len(table)
        step = milliseconds(lambda row=row: session.advance([Step(state, row)]))
        copy = milliseconds(lambda row=row: copied(row), REPEATS)
        image = milliseconds(copied(row).image, REPEATS)
        if turn:  # the first one allocates
            for name, took in (("step", step), ("copy", copy), ("image", image)):
                times[name].append(took)
    return {name: median(values) for name, values in times.items()}


def fits() -> None:
    """Wall seconds of the first fit for autoencoders of real size."""
    import torch

    from benchmarks.networks import Weights, _randomise, vae_config
    from intarsia.backends.torch.vae import VaeRunner
    from intarsia.models.vae_kl import AutoencoderKL

    for family in ("sd15", "sdxl"):
        vae = AutoencoderKL(vae_config(Weights(family))).requires_grad_(False).eval()
        _randomise(vae, torch.Generator().manual_seed(0))
        runner = VaeRunner(vae.to(memory_format=torch.channels_last), torch.device("cpu"), fused=False)
        with torch.inference_mode():
            began = time.perf_counter()
            latents = runner.encode(sample_image(), None)
            fit(latents[0].numpy(), runner.decode(latents))
        print(f"{family}: {time.perf_counter() - began:.1f} s, {torch.get_num_threads()} threads")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--fit", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.fit:
        fits()
        return 0

    for backend in BACKENDS:
        if not same_bits(backend):
            print(f"{backend}: the image has other bits with previews: no times", file=sys.stderr)
            return 1
        cost = parts_of(backend, asked.turns)
        all_of_it, engines = (cost["copy"] + cost["image"]) / cost["step"], cost["copy"] / cost["step"]
        print(
            f"{backend}, {SIDE} x {SIDE}: step {cost['step']:.1f} ms, copy {cost['copy']:.3f} ms, "
            f"image {cost['image']:.3f} ms: {all_of_it:.2%} of a step, {engines:.2%} in the engine's thread"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
