"""`python -m tools.train_tiny_parts PART…`: train what goes with intarsia-tiny; see README.md beside this file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # drawing and training share the cores

import torch

from tools.train_tiny.settings import REPOSITORY
from tools.train_tiny_parts.settings import Settings, read_settings


def train(part: str, settings: Settings, folder: Path) -> None:
    """Train one part; the modules of the others are not imported."""
    if part in settings.adapters:
        from tools.train_tiny_parts import low_rank

        low_rank.train(part, settings.adapters[part], settings.seed, folder)
    elif part == "embedding":
        from tools.train_tiny_parts import embedding

        embedding.train(settings.embedding, settings.seed, folder)
    elif part == "ip-adapter":
        from tools.train_tiny_parts import ip_adapter

        ip_adapter.train(settings.ip_adapter, settings.seed, folder)
    elif part == "lcm":
        from tools.train_tiny_parts import few_steps

        few_steps.train(settings.few_steps, settings.seed, folder)
    else:
        from tools.train_tiny_parts import text_only

        text_only.train(settings.text_only, settings.seed, folder)


def main() -> None:
    """Train the parts asked for, each going on from what the work folder holds."""
    settings = read_settings()
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny_parts", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=[*settings.adapters, "embedding", "ip-adapter", "lcm", "base"])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".train-parts", help="checkpoints and logs")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        train(part, settings, asked.work)


if __name__ == "__main__":
    main()
