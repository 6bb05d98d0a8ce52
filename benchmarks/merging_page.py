"""`python -m benchmarks.merging_page`: `docs/token-merging.md` and its plot, from `benchmarks.merging`'s record."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.merging import ACCURACY_GOAL, GOAL_RATIO, WAYS, summary, verdicts

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "cpu_merging.json"
DOCS = ROOT / "docs"

HEAD = """# Token merging

Made by `python -m benchmarks.merging_page` from `benchmarks/results/cpu_merging.json`; no number here is typed by
hand.

Self-attention at high resolution is most of what a large image costs, and neighboring tokens often say the same.
With `token_merging` (`True`, or a ratio up to 0.75) the most similar tokens go through self-attention as one: in each
cell of 2×2 tokens one is a destination, the others join the destination that is most like them, and every token gets
back what became of it. That much is what the package tomesd does, and `tests/oracle/test_merging.py` holds it to that.
Two things are different here:

- **weighted**: a merged key counts as many times as the tokens it stands for. Without that, large even areas lose
  their say in what everything else looks at.
- **mask-aware**: tokens inside and near the mask are never merged, nor is anything merged into them. Outside, the
  network's result is replaced by the original anyway. The ratio is of the tokens outside, rounded down to a sixteenth
  of the level, so that few shapes occur; where the mask leaves too little, nothing is merged, and the result says so.

It acts at the highest resolution that has attention (`token_merging_levels` in [weights.toml](models/README.md) adds
lower ones). The two guided halves of an image share one matching. Destinations are drawn for every step from the
image's own starting noise, so an image does not depend on its company.

"""


def page(record: Mapping[str, Any]) -> str:
    """The whole page."""
    sampling = record["sampling"]
    said = (
        f"`intarsia-tiny`, {record['scenes']} scenes that it was not trained on (the first {record['few']} of them for "
        f"ratios other than {GOAL_RATIO:g}), {sampling['scheduler']}, "
        f"{sampling['steps']} steps, guidance {sampling['guidance_scale']:g}, CPU, float32. *Error*: RMS difference of "
        "the final latents inside the mask to the image without merging, the mean of all scenes; in brackets the "
        "median. *Pooled*: the root of the mean square over all scenes, which the worst ones decide. *Merged*: tokens "
        "that disappear, of all at that resolution. *Color*, *shape*: how often the judge "
        "(`tools/train_tiny/judge.py`) finds what was asked. Mask-aware merging merges less at the same ratio, because "
        "the ratio is of the tokens outside: compare it with the others by *merged* too."
    )
    tables = [_size(size, summary(painted)) for size, painted in record["sizes"].items()]
    parts = ["## What it costs in quality", textwrap.fill(said, 118), "![Error against ratio](images/merging.png)"]
    return HEAD + "\n\n".join(parts) + "\n" + "".join(tables)


def _size(size: str, table: dict[str, dict[str, float]]) -> str:
    lines = [
        f"\n### {size}²\n",
        "| way | ratio | scenes | error | part of tomesd's | pooled | merged | color | shape |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in table.items():
        way, _, ratio = name.rpartition(" ")
        error = f"{row['mean']:.3f} ({row['median']:.3f})" if way else "–"
        part = f"{row['mean'] / table[f'tomesd {ratio}']['mean']:.2f}" if way not in ("", "tomesd") else "–"
        merged = f"{row['scenes']} | {error} | {part} | {row['pooled']:.3f} | {row['merged']:.0%}"
        judged = f"{row['colour']:.1%} | {row['shape']:.1%}"
        lines.append(f"| {way or name} | {ratio if way else '–'} | {merged} | {judged} |")
    return "\n".join(lines) + "\n" + _goals(verdicts(table))


def _goals(goals: Mapping[str, Mapping[str, Any]]) -> str:
    if not goals:
        return ""
    lines = [f"\nGoals at ratio {GOAL_RATIO:g}:\n"]
    for name, goal in goals.items():
        said = "reached" if goal["reached"] else "missed"
        if name in WAYS:
            pooled = f"pooled, {goal['pooled']:.3f}"
            lines.append(
                f"- {name}: at most {goal['goal']:g} of tomesd's error; {goal['part']:.3f}, {said} ({pooled})."
            )
        else:
            what = name.replace("colour", "color")  # records keep the spelling that they began with
            lines.append(
                f"- {what}s rarer than without merging by at most {ACCURACY_GOAL:.0%}; {goal['lost']:+.1%}, {said}."
            )
    return "\n".join(lines) + "\n"


def plot(record: Mapping[str, Any], path: Path) -> None:
    """Error against ratio, one panel for each size, one line for each way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes, ratios = record["sizes"], record["ratios"]
    figure, panels = pyplot.subplots(1, len(sizes), figsize=(4.6 * len(sizes), 3.6), sharey=True, squeeze=False)
    for panel, (size, painted) in zip(panels[0], sizes.items(), strict=True):
        table = summary(painted)
        for way, marker in zip(WAYS, "osd^", strict=True):
            errors = [table[f"{way} {ratio}"]["mean"] for ratio in ratios]
            panel.plot(ratios, errors, marker=marker, label=way)
        panel.set(title=f"{size}²", xlabel="ratio", yscale="log")
        panel.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel("mean RMS error inside the mask")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--docs", type=Path, default=DOCS)
    asked = parser.parse_args()
    record = json.loads(asked.record.read_text())
    asked.docs.mkdir(parents=True, exist_ok=True)
    plot(record, asked.docs / "images" / "merging.png")
    (asked.docs / "token-merging.md").write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
