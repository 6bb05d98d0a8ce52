"""What a session has to have compiled, by picture size and company: prints a line of JSON for each of some cases.

Run by itself, without TRITON_INTERPRET. Nothing is compiled or computed: of each launch Triton says what it would look
up.
"""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.networks import Weights, parts
from intarsia.backends.protocol import Inputs, Step
from intarsia.backends.torch import session as sessions
from intarsia.execution import Execution
from intarsia.schedulers import table
from tests.kernels.offline import launching

CPU = torch.device("cpu")
# Height and width, and the steps of each lane: small maps and large, odd ones, one lane and several, tables short and
# long.
CASES = [((64, 64), [4]), ((136, 328), [4, 3, 5]), ((256, 192), [70, 4]), ((200, 72), [3] * 5)]


def inputs(height: int, width: int) -> Inputs:
    mask = np.zeros((height, width), bool)
    mask[:24, :24] = True
    picture, latent_mask = np.zeros((height, width, 3), np.uint8), mask[::8, ::8].astype(np.float32)
    return Inputs(
        prompt="a",
        negative_prompt="b",
        clip_skip=1,
        guidance_scale=4.0,
        image=picture,
        mask=mask,
        latent_mask=latent_mask,
        token_merging=0.5,
    )


def run(session: sessions.TorchSession, size: tuple[int, int], steps: list[int]) -> None:
    """Every kind of work that a request causes; one lane needs norms, and one has left in the end."""
    shared, _ = session.encode(inputs(*size))
    assert shared.regions
    lanes = []
    for place, count in enumerate(steps):
        made = table("ScoreSdeVeScheduler" if place == 0 else "euler", count)
        noise = np.zeros((4, size[0] // 8, size[1] // 8), np.float32)
        lanes.append(session.start(shared, made, noise))
    session.advance([Step(lane, 0) for lane in lanes])
    session.advance([Step(lane, 1) for lane in lanes[: max(1, len(lanes) - 1)]])
    session.decode(lanes[:1])
    height, width = size[0] + 3, size[1] + 5  # the picture that it is pasted into has any size
    picture = np.zeros((height, width, 3), np.uint8)
    session.blend(picture, picture, np.zeros((height, width), np.uint8))


def main() -> None:
    with (
        launching(lambda kernel, key: asked.add(f"{kernel.split()[1]} {key}"), compiling=False),
        # so that what no kernel fills has values
        patch.object(torch.Tensor, "new_empty", torch.Tensor.new_zeros),
        patch.object(torch, "empty_like", torch.zeros_like),
        patch.object(sessions, "pick_kernels", lambda *_: True),
    ):
        networks = parts(Weights("sd15-inpaint", shrunk=True), CPU, torch.float32)
        session = sessions.TorchSession(networks, CPU, Execution(deterministic=False))
        for size, steps in CASES:
            asked: set[str] = set()
            run(session, size, steps)
            print(json.dumps({"case": [*size, len(steps)], "asked": sorted(asked)}))


if __name__ == "__main__":
    main()
