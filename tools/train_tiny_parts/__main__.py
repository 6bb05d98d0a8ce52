"""`python -m tools.train_tiny_parts PART…`: train what goes with intarsia-tiny; see README.md beside this file."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # drawing and training share the cores

import torch

from tools.train_tiny.__main__ import thin_log
from tools.train_tiny.settings import REPOSITORY
from tools.train_tiny_parts.settings import HERE, Settings, read_settings

OTHERS = ("embedding", "ip-adapter", "lcm", "base")  # besides the LoRAs and LoHas of settings.toml


def train(part: str, settings: Settings, folder: Path) -> None:
    """Train one part and export it; the modules of the others are not imported."""
    from tools.train_tiny_parts import export

    if part in settings.adapters:
        from tools.train_tiny_parts import low_rank

        export.export_file(low_rank.train(part, settings.adapters[part], settings.seed, folder), "loras")
    elif part == "embedding":
        from tools.train_tiny_parts import embedding

        export.export_file(embedding.train(settings.embedding, settings.seed, folder), "embeddings")
    elif part == "ip-adapter":
        from tools.train_tiny_parts import ip_adapter

        source = ip_adapter.train(settings.ip_adapter, settings.seed, folder)
        export.export_folder(source, export.ASSETS / "ip-adapters" / source.name)
    elif part == "lcm":
        from tools.train_tiny_parts import few_steps

        export.export_model(few_steps.train(settings.few_steps, settings.seed, folder), "intarsia-tiny-lcm")
    else:
        from tools.train_tiny_parts import text_only

        unet = text_only.train(settings.text_only, settings.seed, folder)
        export.export_model(unet, "intarsia-tiny-base", "StableDiffusionPipeline")


def main() -> None:
    """Train the parts asked for, each going on from what the work folder holds."""
    settings = read_settings()
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny_parts", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=[*settings.adapters, *OTHERS, "card"])
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".train-parts", help="checkpoints and logs")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    for part in asked.parts:
        if part == "card":
            from tools.train_tiny_parts import card

            thin_log(asked.work / "log.jsonl", HERE / "log.jsonl")
            card.write()
        else:
            train(part, settings, asked.work)


if __name__ == "__main__":
    main()
