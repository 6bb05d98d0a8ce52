"""`python -m tools.train_tiny [stage]`: train, export and measure intarsia-tiny; see README.md beside this file."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # drawing and training share the cores

import torch

from tools.train_tiny.settings import HERE, REPOSITORY, read_settings

STAGES = ("autoencoder", "latents", "unet", "export", "measure")
LOG_LINES = 200


def thin_log(source: Path, target: Path) -> None:
    """Copy at most 200 lines of the log, evenly chosen in every stage, without clock times."""
    records = [json.loads(line) for line in source.read_text().splitlines()]
    stages = list(dict.fromkeys(record["stage"] for record in records))
    kept = []
    for stage in stages:
        own = {record["step"]: record for record in records if record["stage"] == stage}  # resumed: last one counts
        steps, room = sorted(own), LOG_LINES // len(stages)
        stride = -(-len(steps) // room)
        kept += [own[step] for step in (*steps[:-1:stride], steps[-1])]
    for record in kept:
        record.pop("clock", None)
    target.write_text("".join(json.dumps(record) + "\n" for record in kept[:LOG_LINES]))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"of {', '.join(STAGES)}; all but measure unless named")
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".train", help="checkpoints and encoded scenes")
    parser.add_argument("--settings", type=Path, default=HERE / "settings.toml")
    parser.add_argument("--model", type=Path, default=REPOSITORY / "intarsia" / "assets" / "intarsia-tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    unknown = set(chosen.stages) - set(STAGES)
    if unknown:
        parser.error(f"stages: {', '.join(sorted(unknown))} not in {', '.join(STAGES)}")
    return chosen


def main() -> None:
    """Run the stages asked for, each going on from what the work folder holds."""
    asked = arguments()
    settings, device = read_settings(asked.settings), torch.device(asked.device)
    stages = asked.stages or STAGES[:-1]
    torch.set_num_threads(asked.threads)
    if "autoencoder" in stages:
        from tools.train_tiny import autoencoder

        autoencoder.train(settings.autoencoder, settings.seed, asked.work, device)
    if "latents" in stages:
        from tools.train_tiny import latents

        latents.write(settings.latents, asked.work, asked.threads)
    if "unet" in stages:
        from tools.train_tiny import denoiser

        denoiser.train(settings, asked.work, device, asked.threads)
    if "export" in stages:
        from tools.train_tiny.export import export

        export(settings, asked.work, asked.model)
        thin_log(asked.work / "log.jsonl", HERE / "log.jsonl")
    if "measure" in stages:
        from tools.train_tiny import card, measure
        from tools.train_tiny.painters import Sampling, parallel_painter

        painter = parallel_painter(asked.model, Sampling(), asked.threads)
        card.record(measure.measure_all(painter, measure.NAME, (512, 256)))
        card.write(asked.model)


if __name__ == "__main__":
    main()
