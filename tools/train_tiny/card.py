"""The model's card, written from settings.toml, results.json and the model folder: no number in it is typed."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

from tools.train_tiny.denoiser import BLANK_FROM
from tools.train_tiny.palette import COLOURS, SHAPES
from tools.train_tiny.settings import HERE, REPOSITORY

RESULTS = HERE / "results.json"
CARD = REPOSITORY / "docs" / "models" / "intarsia-tiny.md"
BARS = {"colour": 0.95, "shape": 0.80, "error": 0.06}

TEXT = """# intarsia-tiny

A Stable-Diffusion-shaped inpainting model, small enough to be packaged and trained by this repository on images
that it draws itself (`tools/train_tiny`). It is trained to paint eight colors ({colours})
in five shapes ({shapes}), named as `a red circle`, and to continue the background where
the prompt is empty or says nothing that it knows. How far it does so is measured below. It knows nothing else: it has
never seen a photograph.

This page is written by `python -m tools.train_tiny measure`.

## What is in the folder

{size:.1f} MB, float16 safetensors, diffusers' layout, {parameters:.2f} million parameters.

| part | what |
|---|---|
| `unet/` | {unet} |
| `vae/` | {vae} |
| `text_encoder/` | {text} |
| `tokenizer/` | CLIP's byte-level pair encoding, {vocabulary} tokens of its own |
| `scheduler/` | Stable Diffusion 1.5's published schedule; prediction type `{prediction}` |

## Measured

{count} fixed scenes a row that the model was not trained on (another seed range of the same drawing code; plain
backgrounds: gradient, soft texture, stripes; masks: boxes, discs, blobs, a shape's surroundings), {steps} steps of
DPM++ 2M Karras, guidance {guidance:g}, clip skip {clip_skip}, {painter}.

| size | asked color | asked shape | both | nothing painted | empty prompt: mean abs. error | its median |
|---|---|---|---|---|---|---|
{rows}
| bar | ≥ {colour_bar:.0%} | ≥ {shape_bar:.0%} | | | ≤ {error_bar} | |

{verdict}

Errors of the empty prompt by background (0…1): {backgrounds}.
Shapes taken for others, at 512²: {confusions}.

How it is judged (`judge.py`): pixels inside the mask that are nearer to one of the eight colors than to the true
background are the painted object; its largest connected piece counts. Its color is the one nearest to the median
of its pixels, its shape the one whose ideal silhouette, over rotations and ring widths, overlaps most after both
are brought to the same centroid and area. The judge does not know what was asked. On the true drawings it reads
every color and shape, and against another scene's caption it is at chance (`tests/unit/test_train_tiny_scenes.py`).

## Training

Seed {seed}; settings in `tools/train_tiny/settings.toml` (its comment says where this run was stopped and went on
with other ones), log in `tools/train_tiny/log.jsonl`.

- Autoencoder: the encoder is 8×8 average pooling and is not trained; the decoder started as bilinear enlargement,
  {ae_steps} steps of {ae_batch} crops of {ae_crop}²; last logged mean absolute error {ae_error:.4f} on the 0…1
  scale, photograph-like textures included.
- UNet and text encoder, together: {steps_256} steps of {batch_256} scenes of 256², then {steps_512} steps of which
  {small_share:.0%} at 256² and the others {batch_512} scenes of 512²; {scenes_256} + {scenes_512} scenes drawn once.
  Muon for matrices and convolutions, AdamW for the rest (AdamW alone before step 9,250), rate {rate:g}, falling to 2 %
  from {fall_from:.0%} of the steps on, moving average {decay}. Errors outside the mask count {outside_weight:g}, where
  a shape would stand {centre_weight:g}. {layout_share:.0%} of the timesteps are drawn from the noisier half.
  A third of the scenes has nothing under the mask but background; captions of the others are dropped in
  {dropout_high:.0%} (timesteps from {dropout_from}) and {dropout_low:.0%} (below).
- The text encoder's exit is drawn at random for every caption (layer before the last in one half, last layer in a
  quarter, any of the six before them in a quarter): every clip skip of 1…8 was trained. Measured is 2 alone.
- The target is the velocity, not the noise: at high noise it asks for the image itself, where a network that
  predicts the noise has to hand its input through almost unchanged.
- The mask decides where a shape stands and how large it is: in the middle of the largest room inside it, filling it.
  {blank_share_first:.0%} of the inputs, after step {blank_until} {blank_share:.0%}, are noise alone at timesteps from
  {blank_from}, as at the start of sampling; scenes with squares, triangles and stars are drawn twice,
  empty ones three times as often as those with circles and rings.
- In {own_share:.0%} of the empty scenes the input is what the network itself makes of a noisier one in one step, as in
  sampling, from step 18,400 on.

## Limits

Shapes have soft, slightly uneven edges; long, thin or branching masks make them ragged. The background around and under
them is continued with a mottled guess; stripes lose their phase. Licence: that of this repository.
"""


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(results: dict[str, Any]) -> str:
    lines = []
    for named, empty in zip(results["named"], results["empty"], strict=True):
        shares = " | ".join(f"{named[key]:.1%}" for key in ("colour", "shape", "both"))
        errors = f"{empty['error']:.4f} | {empty['median error']:.4f}"
        lines.append(f"| {named['size']}² | {shares} | {named['nothing painted']} | {errors} |")
    return "\n".join(lines)


def _verdict(results: dict[str, Any]) -> str:
    """Which bars are met, in words."""
    missed = []
    for named, empty in zip(results["named"], results["empty"], strict=True):
        size = f"at {named['size']}²"
        missed += [f"asked {key} {size}" for key in ("colour", "shape") if named[key] < BARS[key]]
        missed += [f"error of the empty prompt {size}"] if empty["error"] > BARS["error"] else []
    return f"**Below the bar: {', '.join(missed)}.**" if missed else "All bars are met."


def _parts(model: Path) -> dict[str, Any]:
    unet, vae, text = (_read(model / part / "config.json") for part in ("unet", "vae", "text_encoder"))
    widths = ", ".join(map(str, unet["block_out_channels"]))
    return {
        "unet": f"9 channels in, 4 out; widths {widths}; {unet['layers_per_block']} residual block(s) a level; "
        f"attention at 1/2 and 1/4 of the latents' resolution and in the middle; text width {text['hidden_size']}",
        "vae": f"AutoencoderTiny, 8×, {vae['latent_channels']} latents, width {vae['decoder_block_out_channels'][0]}, "
        f"scaling factor {vae['scaling_factor']}",
        "text": f"CLIP text transformer, {text['num_hidden_layers']} layers of width {text['hidden_size']}",
        "vocabulary": text["vocab_size"],
        "prediction": _read(model / "scheduler" / "scheduler_config.json")["prediction_type"],
    }


def _weights(model: Path) -> dict[str, float]:
    files = [path for path in model.rglob("*") if path.is_file() and path.name != "README.md"]
    weights = sum(path.stat().st_size for path in files if path.suffix == ".safetensors")
    return {"size": sum(path.stat().st_size for path in files) / 1e6, "parameters": weights / 2e6}


def record(results: dict[str, Any]) -> None:
    """Keep what was measured."""
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write(model: Path) -> None:
    """Write the card and its copy in the model folder, from what is recorded."""
    results, raw = _read(RESULTS), tomllib.loads((HERE / "settings.toml").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (HERE / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    confused = results["named"][0]["shapes confused"]
    errors = results["empty"][0]["by background"]
    drawing, coding, cached = raw["denoiser"], raw["autoencoder"], raw["latents"]
    last = [record["l1"] for record in log if record["stage"] == "autoencoder"][-5:]
    card = TEXT.format(
        colours=", ".join(COLOURS),
        shapes=", ".join(SHAPES),
        count=results["named"][0]["scenes"],
        painter=results["painter"],
        rows=_rows(results),
        verdict=_verdict(results),
        backgrounds=", ".join(f"{kind} {error:.3f}" for kind, error in errors.items()),
        confusions=", ".join(f"{pair} {count}" for pair, count in confused.items()) or "none",
        colour_bar=BARS["colour"],
        shape_bar=BARS["shape"],
        error_bar=BARS["error"],
        seed=raw["seed"],
        ae_steps=coding["steps"],
        ae_batch=coding["batch"],
        ae_crop=coding["crop"],
        ae_error=sum(last) / len(last) / 2,
        **results["sampling"],
        **{key: value for key, value in drawing.items() if key != "steps"},
        blank_from=BLANK_FROM,
        scenes_256=cached["scenes_256"],
        scenes_512=cached["scenes_512"],
        **_parts(model),
        **_weights(model),
    )
    for path in (CARD, model / "README.md"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write(REPOSITORY / "intarsia" / "assets" / "intarsia-tiny")
