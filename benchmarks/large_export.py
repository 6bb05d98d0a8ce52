"""`python -m benchmarks.large_export [FAMILY]`: a full-size UNet of random weights as a graph, and one step of it.

Says the largest difference to torch and each part's peak memory. The parts are processes of their own: weights to a
file and torch's result, export, and the graph's result, which is what a user's machine has to hold.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.networks import Weights, _randomise, unet_config
from intarsia.backends.onnx.device import Device
from intarsia.backends.onnx.sources import Source
from intarsia.batch.running.process import peak_memory
from intarsia.checkpoints.stored import stored_weights
from intarsia.export.networks import Network, denoiser_graph
from intarsia.export.stored import places, read_stored
from intarsia.models.unet import UNet

SIDE, HALVES = 32, 2
FILE = "unet.safetensors"


def write(folder: Path, family: str) -> None:
    """Float16 weights, and what torch makes of them in float32."""
    unet = UNet(unet_config(Weights(family))).requires_grad_(False)
    _randomise(unet, torch.Generator().manual_seed(0))
    save_file({name: value.half().contiguous() for name, value in unet.state_dict().items()}, folder / FILE)
    unet.load_state_dict({name: value.float() for name, value in load_file(folder / FILE).items()})
    rng, config = np.random.default_rng(0), unet.config
    sample = rng.standard_normal((1, config.in_channels, SIDE, SIDE), dtype=np.float32)
    hidden = rng.standard_normal((HALVES, 77, config.cross_attention_dim[0]), dtype=np.float32)
    added = {}
    if config.added_inputs:
        width = config.added_inputs - 6 * (config.addition_time_embed_dim or 0)
        added = {"pooled": torch.randn(1, width), "time_ids": torch.tensor([[256.0, 256, 0, 0, 256, 256]])}
    with torch.inference_mode():
        embeddings, context = unet.embed(torch.tensor([500.0]), **added), unet.cross_kv(torch.from_numpy(hidden))
        both = torch.from_numpy(sample).expand(HALVES, -1, -1, -1)
        expected = unet(both, embeddings.expand(HALVES, -1), context)
    wide = embeddings[None].expand(-1, HALVES if added else 1, -1)
    feeds = {"sample": sample, "embeddings": wide.numpy(), "row": np.array([0]), "context": context.numpy()}
    np.savez(folder / "step.npz", expected=expected.numpy(), **feeds)


def export(folder: Path, family: str) -> None:
    """The graph, beside the weights that it refers to."""
    with torch.device("meta"):
        unet = UNet(unet_config(Weights(family)))
    source = Source(path=folder, hashes={}, command="")
    found = places(unet, read_stored(source, stored_weights(folder / FILE, "unet")), folder)
    content = denoiser_graph(Network(unet.to_empty(device="cpu").requires_grad_(False), found))
    (folder / "unet.onnx").write_bytes(content)
    print(f"graph: {len(content) / 2**20:.2f} MiB")


def step(folder: Path, family: str) -> None:
    """One evaluation by ONNX Runtime."""
    arrays = dict(np.load(folder / "step.npz"))
    expected = arrays.pop("expected")
    began = time.perf_counter()
    session = Device("cpu").open((folder / "unet.onnx").read_bytes(), folder)
    opened = time.perf_counter()
    (found,) = session.run(None, arrays)
    print(f"opened in {opened - began:.1f} s, one step in {time.perf_counter() - opened:.1f} s")
    print(f"largest difference {np.abs(found - expected).max():.2e}, deviation of the output {expected.std():.3f}")


PARTS = {"write": write, "export": export, "step": step}


def main(family: str) -> None:
    """All parts, one process after the other."""
    with tempfile.TemporaryDirectory() as folder:
        for name in PARTS:
            part = ["--part", name, "--folder", folder]
            subprocess.run([sys.executable, "-m", "benchmarks.large_export", family, *part], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?", default="sd15-inpaint")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is None:
        main(arguments.family)
    else:
        PARTS[arguments.part](arguments.folder, arguments.family)
        print(f"{arguments.part}: peak {peak_memory() / 1024:.2f} GiB")
