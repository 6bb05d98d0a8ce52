"""`python -m benchmarks.halves [MODEL]`: one guided evaluation on the CPU, its halves computed as one up to the prompt
beside both computed throughout, as they were before and as SDXL's still are.

MODEL is intarsia-tiny (its own weights) or a family at full size (random ones, float32). One process, one thread, in
turns; processor time, so that other work on the machine counts for little. No time is printed unless both agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.measure import Call, median
from benchmarks.networks import Weights, _randomise, unet_config
from intarsia.models.loading import load_unet
from intarsia.models.unet import UNet
from intarsia.registry.registry import Registry

TOLERANCE = 1e-4
"""Largest difference allowed, as a share of the output's deviation: float32 in another order."""


def network(model: str) -> UNet:
    """The packaged model's UNet, or one of random weights."""
    if model == "intarsia-tiny":
        return load_unet(Registry().find(model).path / "unet", torch.device("cpu"), torch.float32)
    unet = UNet(unet_config(Weights(model))).requires_grad_(False).eval()
    _randomise(unet, torch.Generator().manual_seed(0))
    return unet.to(memory_format=torch.channels_last)


def ways(unet: UNet, side: int) -> tuple[Call, Call]:
    """One evaluation of ``side``² latents for two prompts: halves as one, and apart."""
    config, generator = unet.config, torch.Generator().manual_seed(1)
    sample = torch.randn(1, config.in_channels, side, side, generator=generator)
    sample = sample.to(memory_format=torch.channels_last)
    both = sample.expand(2, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    cross_kv = unet.cross_kv(torch.randn(2, 77, config.cross_attention_dim[0], generator=generator))
    emb = unet.embed(torch.tensor([500.0])).expand(2, -1).contiguous()
    return lambda: unet(sample, emb, cross_kv), lambda: unet(both, emb, cross_kv)


def differ(one: Tensor, other: Tensor) -> float:
    """Largest difference, as a share of the deviation."""
    return float((one - other).abs().max() / other.std())


def processor_seconds(call: Call) -> float:
    """Of all threads of this process."""
    began = time.process_time()
    call()
    return time.process_time() - began


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", default="intarsia-tiny", choices=["intarsia-tiny", "sd15", "sd15-inpaint", "sd2"]
    )
    parser.add_argument("--side", type=int, default=64, help="of the latents")
    parser.add_argument("--turns", type=int, default=15)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    as_one, apart = ways(network(asked.model), asked.side)
    difference = differ(as_one(), apart())  # type: ignore[arg-type]
    print(f"{asked.model}, {asked.side} x {asked.side} latents: largest difference {difference:.1e} of the deviation")
    if not difference < TOLERANCE:
        print(f"that is more than {TOLERANCE}: no times", file=sys.stderr)
        return 1
    times = [(processor_seconds(as_one), processor_seconds(apart)) for _ in range(asked.turns)]
    one, two = (median([each[place] for each in times]) for place in range(2))
    ratios = sorted(second / first for first, second in times)
    print(f"as one {1e3 * one:.1f} ms, apart {1e3 * two:.1f} ms: {two / one:.3f} times as fast")
    print(f"of {asked.turns} turns: median {median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
