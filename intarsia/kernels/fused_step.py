"""A whole step for all lanes at once: guidance, table row, known region, next network input.

Lanes have tables and row numbers of their own. Everything that differs between them, and between rows, is in device
tensors (:class:`intarsia.kernels.step_lanes.StepLanes`), so that one launch serves any set of lanes, nothing waits for
the host, and a captured graph stays right while lanes come and go.

Covered: every row of every table. A row that takes its step size from norms (Langevin correctors, of ScoreSdeVe alone)
needs sums over a whole image first: a second, small kernel forms that row beforehand and does nothing for all others.
``StepLanes.langevin`` says whether it is launched.

On the meta device a step is one operation, ``torch.ops.intarsia.step``, that does nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intarsia.kernels.launch import ceil_div, check, launching, operation, power_of_two, runs_fused
from intarsia.kernels.step import advance_reference, first_input_reference
from intarsia.kernels.step_lanes import StepLanes

__all__ = ["advance", "first_input"]

_BLOCK = 256
_LANGEVIN_BLOCK = 2048


def advance(lanes: StepLanes, output: Tensor, *, fused: bool | None = None) -> None:
    """Apply each busy lane's row to its state, and write the network input of the row after it.

    In :mod:`intarsia.kernels.step`'s terms: guide, langevin, apply_row, keep_known. The output slot of the state holds
    the guided output afterwards. After a lane's last row its network input is the sample times
    zero, and ``inpaint_latents``. Nothing is read back by the host.

    Args:
        output: the network's, ``[L or 2L, C, h, w]``, float16, bfloat16 or float32, channels_last.
        fused: None takes the kernel on CUDA and the reference elsewhere. The reference reads row numbers on the host.

    Raises:
        BackendError: ``output`` has another shape or layout, or triton is missing.
    """
    _check_output(lanes, output)
    if not runs_fused(fused, lanes.state):
        advance_reference(lanes, output)
        return

    _step(
        lanes.state,
        output,
        lanes.records,
        lanes.row,
        lanes.guidance,
        lanes.network_input,
        lanes.inpaint_latents,
        lanes.mask,
        lanes.image_latents,
        lanes.noise,
        lanes.cursor,
        lanes.langevin,
    )


def first_input(lanes: StepLanes, *, fused: bool | None = None) -> None:
    """Write the network input of each busy lane's next row as its state is, for lanes that have just entered.

    The next row is the cursor's, or ``row`` without one. A lane under way gets the bytes that its last :func:`advance`
    wrote, once its row number is moved on.
    """
    if lanes.state.is_meta:
        return
    if not runs_fused(fused, lanes.state):
        first_input_reference(lanes)
        return

    # neither is read
    _launch_step(lanes, output=lanes.network_input, langevin_row=lanes.guidance, advances=False)


def _check_output(lanes: StepLanes, output: Tensor) -> None:
    count, _, channels, height, width = lanes.state.shape
    shape = (lanes.branches * count, channels, height, width)
    actual_shape = tuple(output.shape)

    fits = actual_shape == shape and output.is_contiguous(memory_format=torch.channels_last)
    actual = f"of shape {actual_shape} and strides {output.stride()}"
    check(fits, "step: output", f"of shape {shape} in channels_last memory", actual)


def _nothing_new(*_: object) -> None:
    """The operation writes to tensors that exist."""


@operation(
    "(Tensor(a!) state, Tensor output, Tensor records, Tensor row, Tensor guidance, Tensor(b!) network_input, "
    "Tensor? inpaint_latents, Tensor? mask, Tensor? image_latents, Tensor? noise, Tensor(c!)? cursor, "
    "bool langevin) -> ()",
    _nothing_new,
)
def _step(
    state: Tensor,
    output: Tensor,
    records: Tensor,
    row: Tensor,
    guidance: Tensor,
    network_input: Tensor,
    inpaint_latents: Tensor | None,
    mask: Tensor | None,
    image_latents: Tensor | None,
    noise: Tensor | None,
    cursor: Tensor | None,
    langevin: bool,
) -> None:
    lanes = StepLanes(
        state=state,
        records=records,
        row=row,
        guidance=guidance,
        network_input=network_input,
        inpaint_latents=inpaint_latents,
        mask=mask,
        image_latents=image_latents,
        noise=noise,
        cursor=cursor,
        langevin=langevin,
        shared=len(output) > len(network_input),
    )

    langevin_row = state.new_empty(state.shape[0], 3)
    if langevin:
        _launch_langevin(lanes, output, langevin_row)
    _launch_step(lanes, output, langevin_row, advances=True)


def _launch_langevin(lanes: StepLanes, output: Tensor, langevin_row: Tensor) -> None:
    count, _, channels, height, width = lanes.state.shape
    with launching("langevin", lanes.state):
        from intarsia.kernels.fused_step_triton import langevin_kernel

        langevin_kernel[(count,)](
            state=lanes.state,
            output=output,
            records=lanes.records,
            row_numbers=lanes.row,
            guidance=lanes.guidance,
            langevin_row=langevin_row,
            count=channels * height * width,
            channels=channels,
            rows=lanes.records.shape[1],
            SLOTS=lanes.slots,
            BRANCHES=lanes.branches,
            BLOCK=_LANGEVIN_BLOCK,
            enable_fp_fusion=False,
        )


def _launch_step(lanes: StepLanes, output: Tensor, langevin_row: Tensor, *, advances: bool) -> None:
    count, buffers, channels, height, width = lanes.state.shape
    pixels = height * width
    input_channels = lanes.network_input.shape[1]
    keeps_known = advances and lanes.keeps_known
    # what a launch does not read needs an address all the same
    unread = lanes.state

    grid = (ceil_div(input_channels * pixels, _BLOCK), count)
    with launching("step", lanes.state):
        from intarsia.kernels.fused_step_triton import step_kernel

        step_kernel[grid](
            state=lanes.state,
            output=output,
            records=lanes.records,
            row_numbers=lanes.row if advances else lanes.next_row,
            cursor=lanes.next_row,
            guidance=lanes.guidance,
            langevin_row=langevin_row,
            mask=lanes.mask if keeps_known else unread,
            image_latents=lanes.image_latents if keeps_known else unread,
            noise=lanes.noise if keeps_known else unread,
            inpaint_latents=unread if lanes.inpaint_latents is None else lanes.inpaint_latents,
            network_input=lanes.network_input,
            pixels=pixels,
            channels=channels,
            input_channels=input_channels,
            rows=lanes.records.shape[1],
            SLOTS=lanes.slots,
            COLUMNS=power_of_two(buffers),
            BRANCHES=lanes.branches,
            COPIES=lanes.copies,
            KEEPS_KNOWN=keeps_known,
            ADVANCES=advances,
            MOVES_CURSOR=advances and lanes.cursor is not None,
            BLOCK=_BLOCK,
            # multiplications and additions rounded one by one, as the reference does
            enable_fp_fusion=False,
        )
