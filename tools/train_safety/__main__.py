"""`python -m tools.train_safety [stage]`: train intarsia-tiny-safety, set its threshold, measure it; see README.md."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from tools.train_safety.settings import MODEL, REPOSITORY, read_settings

STAGES = ("train", "threshold", "measure")


def main() -> None:
    """Run the stages asked for; all unless one is named."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_safety", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; all unless named")
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".train" / "safety", help="drawn pictures")
    parser.add_argument("--model", type=Path, default=MODEL)
    asked = parser.parse_args()
    if set(asked.stages) - set(STAGES):
        parser.error(f"stages: must be of {', '.join(STAGES)}")
    torch.set_num_threads(1)  # the networks are too small to share
    stages = asked.stages or STAGES
    settings = read_settings()
    if "train" in stages:
        from tools.train_safety.export import export
        from tools.train_safety.train import train

        export(train(settings, asked.work), settings, asked.model)
    if "threshold" in stages:
        from tools.train_safety.export import set_threshold

        set_threshold(settings, asked.model)
    if "measure" in stages:
        from tools.train_safety import card, measure

        card.record(measure.measure(asked.model))
        card.write(asked.model, settings)


if __name__ == "__main__":
    main()
