"""The cards of the parts and the variants, written from settings.toml and results.json: no measured number is typed."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tools.train_tiny.settings import REPOSITORY
from tools.train_tiny_parts.effects import EFFECTS
from tools.train_tiny_parts.export import ASSETS
from tools.train_tiny_parts.settings import HERE, Settings, read_settings

RESULTS = HERE / "results.json"
UNDISTILLED = REPOSITORY / "tools" / "train_tiny" / "results.json"  # of 20 guided steps: 512², then 256²
CARDS = REPOSITORY / "docs" / "models"
BARS = {"colour": 0.95, "shape": 0.80}


def _template(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _adapter_rows(settings: Settings) -> list[str]:
    rows = []
    for name, adapter in settings.adapters.items():
        path = ASSETS / "loras" / f"{name}.safetensors"
        if path.exists():
            kind = {"lora": "LoRA, kohya's names", "loha": "LoHa, LyCORIS' names"}[adapter.kind]
            does = (EFFECTS[adapter.effect].__doc__ or "").splitlines()[0].rstrip(".")
            rows.append(
                f"| `{name}` | {kind}, rank {adapter.rank} | `loras/{path.name}` | {path.stat().st_size:,} | {does} |"
            )
    return rows


def _measured(results: dict[str, Any]) -> str:
    """The measurements of each part that has some."""
    lines = []
    adapters = {name: found for name, found in results.items() if "share of the effect" in found}
    if adapters:
        lines += [
            "| id | share of the effect at strength 0 | 0.5 | 1 | asked shape at strength 1 |",
            "|---|---|---|---|---|",
        ]
        for name, found in adapters.items():
            shares = " | ".join(f"{share:.2f}" for share in found["share of the effect"].values())
            lines.append(f"| `{name}` | {shares} | {found['asked shape']:.0%} |")
    for name, found in results.items():
        if "yellow circle" in found:
            shares = found["yellow circle"]
            lines += [
                "",
                f"`{name}`: the prompt `a {name}` paints a yellow circle in {shares['by the embedding']:.0%} of the "
                f"scenes, `a sun`, a word that the model does not know, in {shares['by the word']:.0%}.",
            ]
        if "same colour" in found:
            colours, shapes = found["same colour"], found["same shape"]
            lines += [
                "",
                f"`{name}`: with the empty prompt, and a reference image that shows another scene's shape, that "
                f"shape's color is painted in {colours['1.0']:.0%} of the scenes and its shape in {shapes['1.0']:.0%}; "
                f"at scale 0, where it is by chance, in {colours['0.0']:.0%} and {shapes['0.0']:.0%}.",
            ]
    return "\n".join(lines)


def _training(settings: Settings) -> str:
    """One line for each part: what was trained, how long, how fast."""
    lines = [
        f"- `{name}`: rank {found.rank}, alpha {found.alpha:g}, on every linear and 1×1 layer of the UNet's "
        f"transformers; {found.steps} steps of {found.batch} scenes, {found.scenes} scenes drawn once, AdamW, rate "
        f"{found.rate:g}, falling to zero."
        for name, found in settings.adapters.items()
        if (ASSETS / "loras" / f"{name}.safetensors").exists()
    ]
    token, image = settings.embedding, settings.ip_adapter
    if (ASSETS / "embeddings" / f"{token.token}.safetensors").exists():
        words = " and ".join(token.start)
        lines.append(
            f"- `{token.token}`: {len(token.start)} vectors, started from those of {words}, trained on scenes with a "
            f"yellow circle; {token.steps} steps of {token.batch} scenes, rate {token.rate:g}."
        )
    if (ASSETS / "ip-adapters" / image.name).exists():
        lines.append(
            f"- `{image.name}`: a CLIP vision transformer of three layers of width 64, for images of 64², was trained "
            f"to tell colors and shapes of {image.references} reference images apart ({image.encoder_steps} steps of "
            f"{image.encoder_batch}); then, fixed, the adapter on its embedding ({image.steps} steps of {image.batch} "
            f"scenes, rate {image.rate:g}), three quarters of the scenes without their captions."
        )
    return "\n".join(lines)


def _part_rows(settings: Settings) -> list[str]:
    """The embedding's row and the IP adapter's, where they are packaged."""
    rows = []
    token = settings.embedding.token
    path = ASSETS / "embeddings" / f"{token}.safetensors"
    if path.exists():
        kind = f"textual-inversion embedding, {len(settings.embedding.start)} vectors"
        rows.append(f"| `{token}` | {kind} | `embeddings/{path.name}` | {path.stat().st_size:,} | A yellow circle |")
    folder = ASSETS / "ip-adapters" / settings.ip_adapter.name
    if folder.exists():
        size = sum(found.stat().st_size for found in folder.rglob("*") if found.is_file())
        kind, does = "IP adapter, plain layout, 4 tokens", "The color and shape of a reference image"
        rows.append(f"| `{folder.name}` | {kind} | `ip-adapters/{folder.name}/` | {size:,} | {does} |")
    return rows


def write_parts() -> None:
    """Write docs/models/intarsia-tiny-parts.md."""
    settings = read_settings()
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = _template("card_parts.md").format(
        rows="\n".join(_adapter_rows(settings) + _part_rows(settings)),
        count=results["scenes"],
        **results["sampling"],
        measured=_measured(results["parts"]),
        seed=settings.seed,
        training=_training(settings),
    )
    (CARDS / "intarsia-tiny-parts.md").write_text(text, encoding="utf-8")


def _variant_row(found: dict[str, Any]) -> str:
    sampling, named = found["sampling"], found["named"]
    how = f"{sampling['steps']} steps of {sampling['scheduler']}, guidance {sampling['guidance']:g}"
    shares = " | ".join(f"{named[key]:.1%}" for key in ("colour", "shape", "both"))
    empty = f"{found['empty']['error']:.4f}" if found["empty"] else ""
    errors = f"{named['mean overlap']:.3f} | {named['error']:.4f} | {empty}"
    return f"| {found['model']} | {how} | {sampling['strength']:g} | {named['size']}² | {shares} | {errors} |"


def _bars_met(records: list[dict[str, Any]]) -> str:
    """At which strengths the bars are met, and where not."""
    sentences = []
    for record in records:
        met = all(record["named"][key] >= bar for key, bar in BARS.items())
        verdict = "meets the bar" if met else "is **below the bar**"
        sentences.append(f"strength {record['sampling']['strength']:g} {verdict}")
    return ", ".join(sentences)


def write_lcm() -> None:
    """Write docs/models/intarsia-tiny-lcm.md and its copy in the model folder."""
    settings = read_settings()
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    records, large = results["few steps"], results["few steps, large"]
    own = [record for record in records if record["model"] == "intarsia-tiny-lcm"]
    met = all(record["named"][key] >= bar for record in own for key, bar in BARS.items())
    few, undistilled = settings.few_steps, json.loads(UNDISTILLED.read_text(encoding="utf-8"))
    text = _template("card_lcm.md").format(
        count=own[0]["named"]["scenes"],
        empties=own[-1]["empty"]["scenes"],
        steps=own[0]["sampling"]["steps"],
        clip_skip=own[0]["sampling"]["clip_skip"],
        rows="\n".join(map(_variant_row, records)),
        colour_bar=BARS["colour"],
        shape_bar=BARS["shape"],
        large_count=large[0]["named"]["scenes"],
        large_empties=large[-1]["empty"]["scenes"],
        large_rows="\n".join(map(_variant_row, large)),
        large_verdict=_bars_met(large),
        verdict="The bar is met." if met else "**Below the bar.**",
        guided_overlap=undistilled["named"][1]["mean overlap"],
        guided_error=undistilled["empty"][1]["error"],
        seed=settings.seed,
        train_steps=few.steps,
        large_share=few.large_share,
        batch_256=few.batch_256,
        batch_512=few.batch_512,
        rate=few.rate,
        decay=few.decay,
        two_step_share=few.two_step_share,
        image_share=few.image_share,
    )
    for path in (CARDS / "intarsia-tiny-lcm.md", ASSETS / "intarsia-tiny-lcm" / "README.md"):
        path.write_text(text, encoding="utf-8")


def write_base() -> None:
    """Write docs/models/intarsia-tiny-base.md and its copy in the model folder."""
    settings = read_settings()
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [
        f"| {model} | {found['asked color']:.0%} | {found['asked shape']:.0%} |"
        for model, found in results["base"]["models"].items()
    ]
    trained = settings.text_only
    text = _template("card_base.md").format(
        count=results["base"]["scenes"],
        **results["sampling"],
        rows="\n".join(rows),
        seed=settings.seed,
        train_steps=trained.steps,
        batch=trained.batch,
        rate=trained.rate,
        decay=trained.decay,
    )
    for path in (CARDS / "intarsia-tiny-base.md", ASSETS / "intarsia-tiny-base" / "README.md"):
        path.write_text(text, encoding="utf-8")


def write() -> None:
    """Write the cards of everything that was measured."""
    write_parts()
    if "base" in json.loads(RESULTS.read_text(encoding="utf-8")):
        write_base()
    if "few steps" in json.loads(RESULTS.read_text(encoding="utf-8")):
        write_lcm()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    write()
