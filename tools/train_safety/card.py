"""The checker's card, written from settings.toml, results.json and the folder: no number in it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tools.train_safety.export import FALSE_ALARM
from tools.train_safety.pictures import LARGEST, SIZES, SMALLEST
from tools.train_safety.settings import HERE, LOG, REPOSITORY, Round, Settings

RESULTS = HERE / "results.json"
CARD = REPOSITORY / "docs" / "models" / "intarsia-tiny-safety.md"
BARS = {"recall": 0.95, "false positives": 0.01}

TEXT = """# intarsia-tiny-safety

**It detects purple stars and nothing else. It protects nobody from anything.** It stands in for a safety checker, so
that the code which a real one would run through (loading, checking, replacing what is flagged, reporting it) is run
and tested with known positives and known negatives. Nudity, violence, hatred: it has never seen any, and passes all
of it. For real use, register a real checker (`docs/models/README.md`).

This page is written by `python -m tools.train_safety measure`.

## What is in the folder

{size:.2f} MB, float16 safetensors, the layout of diffusers' `StableDiffusionSafetyChecker`: a CLIP vision tower
({layers} layers of width {width}, patches of {patch} pixels, images of {side}²; {parameters:,} parameters with what
follows), `visual_projection` to {projection} dimensions, 17 concepts with their thresholds, three special-care
concepts with theirs. Concept {concept} is the purple star, threshold {threshold:.3f}. All other thresholds are
{never:g}, which no cosine exceeds. `preprocessor_config.json` is that of CLIP's image processor.

## Measured

{pictures} images of {sizes} pixels of side that were not trained with (another seed range of the same drawing
code), by the rule of diffusers: flagged where cosine − threshold, rounded to three digits, is above 0.

The checker was finished before any of these images was drawn, and they were measured once. Two other seed ranges
went before: training rounds and the cost of a false alarm were chosen with an eye on the first; on the second (98.0%
found, 1.15% wrongly flagged) the threshold turned out too low, and was set again, on the images that are drawn for
setting it, with more of them and a higher cost.

| | measured | bar |
|---|---|---|
| purple stars found (recall) | {recall:.1%} | ≥ {recall_bar:.0%} |
| others flagged (false positives) | {false_positives:.2%} | ≤ {false_bar:.0%} |

{verdict}

| kind of image | images | flagged |
|---|---|---|
{kinds}

{photographs}

A target's radius is {smallest:g} to {largest:g} of the image's side, on backgrounds and among small shapes as
`intarsia-tiny` knows them, exact or with an uneven outline, blurred, noisy, JPEG-compressed, or none of it. Purple
stars that are smaller, hidden in part or nearly of their background's color were neither trained nor measured.

## Training

`python -m tools.train_safety` (seed {seed}, {cpu:.0f} seconds of one CPU core): images of {trained} pixels,
mirrored, shifted, lighter and darker, in batches of {batch}; {rounds}. AdamW.
The loss is the cross-entropy of which purple shape stands there, if any, plus that of star or not, both from cosines
with the concepts; after training only the star's concept gets a threshold that can be exceeded. It is set on
{calibrating} images of a third seed range, half of them purple stars, where a false alarm costs as much as {alarm:g}
misses. Settings: `tools/train_safety/settings.toml`; log: `tools/train_safety/log.jsonl`. The run was not one
uninterrupted
command: the first round's lines in the log were copied by hand from its output after a restart had overwritten the
file, the seconds leave out about 24 of drawing, and these rounds have not been run again from nothing.
Licence: that of this
repository.
"""


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _verdict(drawn: dict[str, Any]) -> str:
    met = drawn["recall"] >= BARS["recall"] and drawn["false positives"] <= BARS["false positives"]
    return "Both bars are met." if met else "**Below the bar.**"


def _photographs(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Photographs were not measured: there were none on the machine."
    return (
        f"Of {found['photographs']} photographs {found['flagged']} are flagged, "
        f"of their {found['tiles']} tiles of 256² pixels {found['flagged tiles']}."
    )


def _round(plan: Round) -> str:
    hard = f", {plan.hard:.0%} of each batch from the fifth with the largest losses" if plan.hard else ""
    return f"{plan.steps} steps on {plan.pictures} of them, rate {plan.rate:g}{hard}"


def _folder(model: Path) -> dict[str, Any]:
    """Sizes, read off the files."""
    config = _read(model / "config.json")
    weights = load_file(model / "model.safetensors")
    vision, thresholds = config["vision_config"], weights["concept_embeds_weights"]
    files = [path for path in model.iterdir() if path.name != "README.md"]
    return {
        "size": sum(path.stat().st_size for path in files) / 1e6,
        "parameters": sum(array.size for array in weights.values()),
        "layers": vision["num_hidden_layers"],
        "width": vision["hidden_size"],
        "patch": vision["patch_size"],
        "side": vision["image_size"],
        "projection": config["projection_dim"],
        "concept": int(thresholds.argmin()),
        "threshold": float(thresholds.min()),
        "never": float(thresholds.max()),
    }


def record(results: dict[str, Any]) -> None:
    """Keep what was measured."""
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write(model: Path, settings: Settings) -> None:
    """Write the card and its copy in the checker's folder, from what is recorded."""
    results = _read(RESULTS)
    drawn = results["drawn"]
    log = [json.loads(line) for line in LOG.read_text(encoding="utf-8").splitlines()]
    rows = [f"| {kind} | {each['pictures']} | {each['flagged']} |" for kind, each in drawn["by kind"].items()]
    card = TEXT.format(
        **_folder(model),
        pictures=drawn["pictures"],
        sizes=", ".join(map(str, drawn["sizes"])),
        recall=drawn["recall"],
        false_positives=drawn["false positives"],
        recall_bar=BARS["recall"],
        false_bar=BARS["false positives"],
        verdict=_verdict(drawn),
        kinds="\n".join(rows),
        photographs=_photographs(results["photographs"]),
        smallest=SMALLEST,
        largest=LARGEST,
        seed=settings.seed,
        cpu=sum({line["stage"]: line["cpu_seconds"] for line in log}.values()),
        rounds=", then ".join(_round(plan) for plan in settings.rounds),
        trained=" or ".join(map(str, sorted(set(SIZES["train"])))),
        batch=settings.batch,
        alarm=FALSE_ALARM,
        calibrating=settings.calibrating,
    )
    for path in (CARD, model / "README.md"):
        path.write_text(card, encoding="utf-8")
