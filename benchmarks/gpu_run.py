"""`python -m benchmarks.gpu_run --out FOLDER`: everything that wants a GPU, in one command and within nine minutes.

First the tests of `tests/gpu`, then the profile of a step, then the cases of `benchmarks.run` with their peers in the
time that is left. What each printed goes into a file of its own, everything measured into one `gpu_run.json`, and a
table comes last. `--unpack FILE` puts the records of such a file into `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.records import read
from benchmarks.tables import RESULTS, page

BUDGET = 540.0
"""Seconds for everything."""

# Tests and profile have at most so much of it where cases follow; these have what is left, and stop a little before
# the end.
_TESTS, _PROFILE, _RESERVE = 150.0, 75.0, 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if tests passed and every case came to its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="of benchmarks.run; none are all")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    parser.add_argument("--peers", help="comma-separated")
    parser.add_argument("--skip", default="", help="tests, profile, cases; comma-separated")
    parser.add_argument("--unpack", type=Path, help="a gpu_run.json: put its records into benchmarks/results")
    asked = parser.parse_args(arguments)
    if asked.unpack is not None:
        return unpack(asked.unpack, RESULTS)
    return run(asked)


def run(asked: argparse.Namespace) -> int:
    """Tests, profile, cases, table."""
    asked.out.mkdir(parents=True, exist_ok=True)
    ends, skipped = time.monotonic() + asked.budget, asked.skip.split(",")
    found: dict[str, Any] = {"returned": {}, "profile": {}, "records": []}
    with tempfile.TemporaryDirectory(prefix="inlay-gpu-") as name:
        folder = Path(name)
        profile = ["benchmarks.step_profile", "--out", str(folder / "profile.json")]
        for part, module, most in (
            ("tests", ["pytest", "-q", "tests/gpu"], asked.budget if "cases" in skipped else _TESTS),
            ("profile", profile, _PROFILE),
            ("cases", ["benchmarks.run", *asked.cases, "--out", str(folder)], asked.budget),
        ):
            if part in skipped:
                continue
            left = min(most, ends - time.monotonic() - _RESERVE)
            if part == "cases":
                module += ["--budget", str(max(1.0, left))]
                module += ["--peers", asked.peers] if asked.peers else []
            found["returned"][part] = _run(module, asked.out / f"{part}.txt", left)
        if (folder / "profile.json").is_file():
            found["profile"] = json.loads((folder / "profile.json").read_text())
        found["records"] = read(folder)
    (asked.out / "gpu_run.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print(summary(found))
    return 0 if all(code == 0 for code in found["returned"].values()) else 1


def _run(module: Sequence[str], log: Path, seconds: float) -> int:
    """Run a module, its output here and in a file; 124 where it did not end in time."""
    kept = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", *module]
    print(f"== {' '.join(module)} (at most {seconds:.0f} s)", flush=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=kept)
        try:
            code = process.wait(timeout=max(1.0, seconds + _RESERVE / 2))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = 124
    print("\n".join(log.read_text().splitlines()[-25:]), flush=True)
    return code


def summary(found: dict[str, Any]) -> str:
    """What came of it: the table of goals, and one line for each part."""
    parts = ", ".join(f"{part} returned {code}" for part, code in found["returned"].items())
    steps = [
        f"{name}: step {each['step_ms']:.2f} ms, recorded in {each['recording_seconds']:.2f} s (goal 1 s)"
        for name, each in found["profile"].items()
    ]
    return "\n".join([page(found["records"]), *steps, parts])


def unpack(path: Path, folder: Path) -> int:
    """Write the records of a run as files of their own, as benchmarks.run does."""
    records = {record["case"]: record for record in json.loads(path.read_text())["records"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        kind = "gpu" if record["environment"].get("gpu") else "cpu"
        (folder / f"{kind}_{name}.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    missing = [case.name for case in CASES if case.device == "cuda" and case.name not in records]
    print(f"{len(records)} records in {folder}" + (f"; none of {', '.join(missing)}" if missing else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
