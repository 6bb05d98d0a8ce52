"""Compiles every kernel to machine code of an H100/H200, for which no GPU is needed; prints what came of each.

Run by itself, without TRITON_INTERPRET: what the interpreter forgives, the compiler may not. With the argument `all` it
compiles for every width and dtype, else for a choice of them.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from intarsia.kernels.float8 import quantize
from intarsia.kernels.fused_step import advance, first_input
from intarsia.kernels.geglu import geglu, geglu_float8
from intarsia.kernels.group_norm import Norm, group_norm
from intarsia.kernels.layer_norm import add_layer_norm, layer_norm, layer_norm_float8
from intarsia.kernels.matcher import match, merge
from intarsia.kernels.pick import pick_rows
from intarsia.kernels.pixels import paste, to_levels
from intarsia.kernels.residual import residual
from intarsia.kernels.step_lanes import StepLanes
from intarsia.schedulers import table
from intarsia.schedulers.packing import pack_rows
from tests.kernels.offline import launching

FLOAT16 = torch.float16
LAST = torch.channels_last
# Channels of the norms of SD1.5, SDXL and their autoencoder, and of their tokens.
WIDTHS = (128, 256, 512, 320, 640, 960, 1280, 1920, 2560)
TOKEN_WIDTHS = (320, 640, 1280)
DTYPES = (FLOAT16, torch.bfloat16, torch.float32)

# The fewest channels and the most, and the groups that need the most registers and the most local memory.
FEW_WIDTHS = (128, 320, 960, 2560)
FEW_TOKEN_WIDTHS = (320, 1280)
FEW_DTYPES = (FLOAT16, torch.bfloat16)


def report(kernel: str, compiled: Any) -> None:
    """One line: kernel, widest load in bytes, registers and spilled bytes of a thread."""
    code = compiled.asm["ptx"]
    widths = [int(count or 1) * int(bits) // 8 for count, bits in re.findall(LOADS, code)]
    widths += [int(count, 16) for count in re.findall(COPIES, code)]
    registers, spilled = usage(compiled.asm["cubin"])
    print(f"{kernel} load={max(widths)} registers={registers} spilled={spilled}")


LOADS = r"ld\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)"
COPIES = r"cp\.async\.c[ag]\.shared\.global .*?, (0x\w+)"


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes, by the disassembler that Triton brings."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    actual = re.search(r"REG:(\d+) STACK:(\d+)", said.stdout + said.stderr)
    return int(actual[1]), int(actual[2])


def lanes(is_inpainting: bool, copies: int) -> StepLanes:
    pndm = table("PNDMScheduler", 4)
    known = {"mask": torch.ones(1, 1, 8, 8), "image_latents": torch.zeros(1, 4, 8, 8), "noise": torch.zeros(1, 4, 8, 8)}
    return StepLanes(
        state=torch.zeros(1, pndm.state_slots + 2, 4, 8, 8),
        records=torch.from_numpy(pack_rows(pndm, pndm.state_slots, len(pndm))[None]),
        row=torch.zeros(1, dtype=torch.int32),
        guidance=torch.ones(1),
        network_input=torch.zeros(copies, 9 if is_inpainting else 4, 8, 8, dtype=FLOAT16).to(memory_format=LAST),
        shared=copies == 1,
        cursor=torch.zeros(1, dtype=torch.int32),
        **({"inpaint_latents": torch.zeros(1, 5, 8, 8, dtype=FLOAT16)} if is_inpainting else known),
    )


def layers(width: int, size: int) -> None:
    """What the networks run at one width."""
    ones = torch.ones(width, dtype=FLOAT16)
    x = torch.zeros(1, width, size, size, dtype=FLOAT16).to(memory_format=LAST)
    group_norm(x, Norm(groups=32, weight=ones, bias=ones, silu=True), torch.zeros(1, width, dtype=FLOAT16), fused=True)
    residual(x, x, ones, ones, fused=True)


def tokens(dtype: torch.dtype) -> None:
    x, ends = torch.zeros(2, 64, 320, dtype=dtype), torch.arange(16)[None]
    sources = torch.arange(16, 64)[None]
    matched = match(x, sources, ends, 20, torch.zeros(1, 64, dtype=torch.bool), fused=True)
    merge(x, *matched, sources, ends, fused=True)


def images() -> None:
    image = torch.zeros(1, 3, 8, 8, dtype=FLOAT16)
    to_levels(image, fused=True)
    base, weights = torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)
    paste(base, image[0], weights, fused=True)
    paste(base, base, weights, fused=True)


def steps() -> None:
    output = torch.zeros(2, 4, 8, 8, dtype=FLOAT16).to(memory_format=LAST)
    for is_inpainting, copies in ((False, 2), (True, 2), (False, 1), (True, 1)):
        advance(lanes(is_inpainting, copies), output, fused=True)
    first_input(lanes(True, 1), fused=True)
    for dtype in (FLOAT16, torch.uint8):
        cursor = torch.zeros(1, dtype=torch.int32)
        pick_rows(torch.zeros(1, 3, 1, 64, dtype=dtype), cursor, torch.zeros(2, 64, dtype=dtype), cursor, fused=True)


def main() -> None:
    assert "triton" not in sys.modules, "importing the kernels imports triton"
    everything = sys.argv[1:] == ["all"]
    with launching(report, compiling=True):
        for width in WIDTHS if everything else FEW_WIDTHS:
            layers(width, 8)
        for width in TOKEN_WIDTHS if everything else FEW_TOKEN_WIDTHS:
            ones, rows = torch.ones(width, dtype=FLOAT16), torch.zeros(2, width, dtype=FLOAT16)
            layer_norm(rows, ones, ones, fused=True)
            add_layer_norm(rows, rows, ones, ones, fused=True)
            layer_norm_float8(rows, rows, ones, ones, fused=True)
            quantize(rows, fused=True)
            geglu_float8(torch.zeros(2, 8 * width, dtype=FLOAT16), fused=True)
        for dtype in DTYPES if everything else FEW_DTYPES:
            tokens(dtype)
        geglu(torch.zeros(2, 2560, dtype=FLOAT16), fused=True)
        images()
        steps()


if __name__ == "__main__":
    main()
