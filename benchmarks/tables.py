"""`python -m benchmarks.tables`: `docs/benchmarks.md` from the records, goals beside what was measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES, TITLES, Case
from benchmarks.records import read

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks.md"

NONE = "not measured"

HEAD = """# Benchmarks

Made by `python -m benchmarks.tables` from the records in `benchmarks/results`; nothing here is typed by hand. A
cell is *measured (goal)*: how many times as fast as the peer intarsia is, by medians of calls in turns in one process,
PIL in → PIL out, guidance on, same weights and noise. Prompts are encoded beforehand, by each for itself, as the
engine keeps them, unless it says otherwise below. A record holds numbers only where its images, and the samples they
were decoded from, passed the check against float32. The compiled peer has turns of its own beside ours, after all
others.
"""

NO_GPU = """
Nothing has been measured on a GPU yet; `python -m benchmarks.gpu_run` is the command for it.
"""


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The whole page."""
    by_case = {record["case"]: record for record in records}
    on_gpu = any(record["environment"].get("gpu") for record in records)
    head = HEAD if on_gpu else HEAD + NO_GPU
    parts = [head, _ratios(by_case), _absolute(by_case), _errors(by_case), _machines(by_case)]
    return "\n".join(part for part in parts if part)


def _ratios(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Cases that are measured against somebody."""
    peers = list(dict.fromkeys(peer for case in CASES for peer in case.goals.ratios))
    lines = [
        "## Against others",
        "",
        _row(["case", *(TITLES.get(peer, peer) for peer in peers)]),
        _rule(len(peers) + 1),
    ]
    for case in CASES:
        if case.goals.ratios:
            cells = [_ratio(case, peer, records.get(case.name)) for peer in peers]
            lines.append(_row([f"{case.name}: {case.title}", *cells]))
    notes = [f"- Goal of {case.name}: {case.note}" for case in CASES if case.note]
    return "\n".join([*lines, "", *notes]) + "\n"


def _ratio(case: Case, peer: str, record: Mapping[str, Any] | None) -> str:
    goal = case.goals.ratios.get(peer)
    if goal is None:
        return ""
    found = _number(record, "ratio", peer)
    return f"{NONE if found is None else f'**{found:.2f}×**'} (≥ {goal:g}×)"


def _absolute(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Times, and how full the batches were."""
    heads = ["case", "median", "p95", "step", "batch fill", "images/s"]
    lines = ["## Times", "", _row(heads), _rule(len(heads))]
    for case in CASES:
        record, goals = records.get(case.name), case.goals
        cells = [
            _with_goal(_number(record, "median", "intarsia"), 1e3, " ms", goals.seconds, "≤"),
            _with_goal(_number(record, "p95", "intarsia"), 1e3, " ms", None, ""),
            _with_goal(_number(record, "step_ms", "intarsia"), 1, " ms", goals.step_ms, "≤", goal_scale=1),
            _with_goal(_number(record, "fill"), 1e2, " %", goals.fill, "≥"),
            _with_goal(_number(record, "images_per_second", "intarsia"), 1, "", None, ""),
        ]
        lines.append(_row([case.name, *cells]))
    return "\n".join(lines) + "\n"


def _with_goal(
    found: float | None, scale: float, unit: str, goal: float | None, sign: str, *, goal_scale: float | None = None
) -> str:
    shown = "" if found is None else f"{found * scale:.4g}{unit}"
    if goal is None:
        return shown
    return f"{shown or NONE} ({sign} {goal * (goal_scale or scale):g}{unit})"


def _errors(records: Mapping[str, Mapping[str, Any]]) -> str:
    """What the checks found; those that did not pass say why there is no number."""
    lines = ["## Checks", "", _row(["case", "passed", "finding"]), _rule(3)]
    for case in CASES:
        record = records.get(case.name)
        if record is not None:
            check = record["check"]
            lines.append(_row([case.name, "yes" if check["passed"] else "**no**", check["reason"]]))
    return "\n".join(lines) + "\n" if len(lines) > 4 else ""


def _machines(records: Mapping[str, Mapping[str, Any]]) -> str:
    """What the numbers depend on, by case."""
    lines = ["## Where", ""]
    for case in CASES:
        if case.name in records:
            lines.append(f"- {case.name}: {_machine(records[case.name])}")
            absent = records[case.name].get("absent", {})
            if case.kind == "pipeline" and "prompts" not in records[case.name]["settings"]:
                lines.append("  - the peers encoded the prompt in each call, which counts for ours")
            lines += [f"  - without {TITLES.get(peer, peer)}: {why}" for peer, why in absent.items()]
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def _machine(record: Mapping[str, Any]) -> str:
    where = record["environment"]
    device = f"{where['gpu']}, driver {where['driver']}" if where["gpu"] else f"{where['cores']} CPU cores"
    device += f", attention by itself {where['sdpa']}" if where.get("sdpa") else ""
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return f"{device}, commit {where['commit'][:9] or 'unknown'}, {packages}"


def _number(record: Mapping[str, Any] | None, *path: str) -> float | None:
    found: Any = record["numbers"] if record is not None else {}
    for name in path:
        found = found.get(name, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, float | int) else None


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(read(RESULTS)))
    print(PAGE)
    return 0


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.exit(main())
