"""Compiles every kernel to machine code of an H100/H200, for which no GPU is needed; prints their names.

Run by itself, without TRITON_INTERPRET: what the interpreter forgives, the compiler may not.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from inlay.kernels.fused_step import advance, first_input
from inlay.kernels.geglu import geglu
from inlay.kernels.groupnorm import Norm, group_norm
from inlay.kernels.launch import Kernel
from inlay.kernels.layernorm import add_layer_norm, layer_norm
from inlay.kernels.matcher import match, merge
from inlay.kernels.pick import pick_rows
from inlay.kernels.pixels import paste, to_levels
from inlay.kernels.residual import residual
from inlay.kernels.step_lanes import StepLanes, pack_rows
from inlay.schedulers import table

OPTIONS = ("num_warps", "enable_fp_fusion")
KINDS = {torch.float16: "fp16", torch.float32: "fp32", torch.bfloat16: "bf16", torch.uint8: "u8", torch.int32: "i32"}
KINDS[torch.int64] = "i64"


def compiled(kernel, grid, *given, **constants):
    """In place of :meth:`Kernel.launch`."""
    import triton
    from triton.backends.compiler import GPUTarget

    options = {name: constants.pop(name) for name in OPTIONS if name in constants}
    names, signature = kernel.compiled.arg_names, {}
    for name, value in zip(names, given, strict=False):
        plain = "fp32" if isinstance(value, float) else "i32"
        signature[name] = f"*{KINDS[value.dtype]}" if isinstance(value, torch.Tensor) else plain
    signature |= dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(kernel.compiled, {name: signature[name] for name in names}, constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert len(made.asm["cubin"]) > 0
    print(kernel.function.__module__, kernel.function.__name__)


def lanes(extra):
    made = table("PNDMScheduler", 4)
    last = torch.channels_last
    known = {"mask": torch.ones(1, 1, 8, 8), "clean": torch.zeros(1, 4, 8, 8), "noise": torch.zeros(1, 4, 8, 8)}
    return StepLanes(
        torch.zeros(1, made.slots + 2, 4, 8, 8),
        torch.from_numpy(pack_rows(made, made.slots, len(made))[None].astype(np.float32)),
        torch.zeros(1, dtype=torch.int32),
        torch.ones(1),
        torch.zeros(2, 9 if extra else 4, 8, 8, dtype=torch.float16).to(memory_format=last),
        cursor=torch.zeros(1, dtype=torch.int32),
        **({"extra": torch.zeros(1, 5, 8, 8, dtype=torch.float16)} if extra else known),
    )


def main() -> None:
    assert "triton" not in sys.modules, "importing the kernels imports triton"
    Kernel.launch = compiled
    ones = torch.ones(320, dtype=torch.float16)
    for size in (8, 64):
        x = torch.zeros(1, 320, size, size, dtype=torch.float16).to(memory_format=torch.channels_last)
        group_norm(x, Norm(32, ones, ones, silu=True), torch.zeros(1, 320, dtype=torch.float16), fused=True)
        residual(x, x, ones, ones, fused=True)
    tokens = torch.zeros(2, 320, dtype=torch.bfloat16)
    layer_norm(tokens, ones, ones, fused=True)
    add_layer_norm(tokens, tokens, ones, ones, fused=True)
    for kind in (torch.float16, torch.bfloat16, torch.float32):
        tokens, ends = torch.zeros(2, 64, 320, dtype=kind), torch.arange(16)[None]
        sources = torch.arange(16, 64)[None]
        matched = match(tokens, sources, ends, 20, torch.zeros(1, 64, dtype=torch.bool), fused=True)
        merge(tokens, *matched, sources, ends, fused=True)
    geglu(torch.zeros(2, 2560, dtype=torch.float16), fused=True)
    picture = torch.zeros(1, 3, 8, 8, dtype=torch.float16)
    to_levels(picture, fused=True)
    base, weights = torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)
    paste(base, picture[0], weights, fused=True)
    paste(base, base, weights, fused=True)
    for extra in (False, True):
        output = torch.zeros(2, 4, 8, 8, dtype=torch.float16).to(memory_format=torch.channels_last)
        advance(lanes(extra), output, fused=True)
    first_input(lanes(True), fused=True)
    for dtype in (torch.float16, torch.uint8):
        cursor = torch.zeros(1, dtype=torch.int32)
        pick_rows(torch.zeros(1, 3, 1, 64, dtype=dtype), cursor, torch.zeros(2, 64, dtype=dtype), cursor, fused=True)


if __name__ == "__main__":
    main()
