"""`python -m benchmarks.gpu_run --out FOLDER`: everything that wants a GPU, in one command and within nine minutes.

First the tests of `tests/gpu`, each file in a process of its own and all of them side by side, for after a fault on the
device nothing in that process is right any more; then the profile of a step; then the cases of `benchmarks.run` with
their peers in the time that is left. What each printed goes into a file of its own, everything measured into one
`gpu_run.json`, which is written again whenever something is done, so that whoever ends this early has what there was.
A table comes last. `--unpack FILE` puts the records of such a file into `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.records import read, write
from benchmarks.tables import RESULTS, page

BUDGET = 540.0
"""Seconds for everything."""

TESTS = Path("tests/gpu")

# Tests and profile have at most so much of it where cases follow; these have what is left, and stop a little before
# the end.
_TESTS, _PROFILE, _RESERVE = 150.0, 75.0, 15.0
# Seconds between looks whether something is done, and between writings where nothing is.
_LOOK, _WRITE = 0.2, 10.0
# pytest's answer where it had to skip a whole file
_NOTHING = 5
_NEEDED = (
    "numpy", "PIL", "platformdirs", "pydantic", "rich", "safetensors", "tokenizers", "tomlkit", "httpx2", "torch",
    "triton", "transformers", "pytest",
)  # fmt: skip
_WANTED = ("diffusers", "tomesd", "onnxruntime")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if tests passed and every case came to its numbers, 4 where what it needs is not there."""
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
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 4
    return run(asked)


@dataclass
class Part:
    """One process: what it is called, the module it runs, and where what it prints goes."""

    name: str
    module: Sequence[str]
    log: Path
    code: int | None = None
    seconds: float = 0.0
    began: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """In a process group, so that what it starts can be ended with it."""
        kept = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.module], stdout=file, stderr=subprocess.STDOUT, env=kept, process_group=0
            )
        self.began = time.monotonic()

    def look(self, ended: bool) -> bool:
        """Whether it is done; where time has ``ended`` it is made to be, and returned 124."""
        if self.process is None or self.code is not None:
            return True
        self.code = self.process.poll()
        if self.code is None and ended:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.code = 124
        if self.code is None:
            return False
        self.seconds = time.monotonic() - self.began
        print(f"== {self.name} returned {self.code} after {self.seconds:.0f} s", flush=True)
        print("\n".join(self.log.read_text(errors="replace").splitlines()[-12:]), flush=True)
        return True


class Report:
    """What there is by now, and the file of it."""

    def __init__(self, out: Path) -> None:
        self.out, self.profile, self.records = out, out / "profile.json", out / "records"
        for old in (self.profile, *self.records.glob("*.json")):
            old.unlink(missing_ok=True)
        self.found: dict[str, Any] = {"returned": {}, "seconds": {}, "profile": {}, "records": []}
        self.found["absent"] = [name for name in _WANTED if find_spec(name) is None]

    def write(self) -> None:
        """What there is."""
        if self.profile.is_file():
            self.found["profile"] = json.loads(self.profile.read_text())
        self.found["records"] = read(self.records)
        write(self.out / "gpu_run.json", self.found)

    def run(self, parts: Sequence[Part], most: float) -> None:
        """All of them side by side, for at most so many seconds; the file is written as each ends, and now and then."""
        print(f"== {', '.join(part.name for part in parts)} (at most {most:.0f} s)", flush=True)
        ends, written = time.monotonic() + most, time.monotonic()
        for part in parts:
            part.start()
        left = list(parts)
        try:
            while left:
                time.sleep(_LOOK)
                done = [part for part in left if part.look(time.monotonic() >= ends)]
                for part in done:
                    left.remove(part)
                    self.found["returned"][part.name] = part.code
                    self.found["seconds"][part.name] = round(part.seconds, 1)
                if done or time.monotonic() - written > _WRITE:
                    self.write()
                    written = time.monotonic()
        finally:
            for part in left:  # where this was interrupted
                part.look(True)


def run(asked: argparse.Namespace) -> int:
    """Tests, profile, cases, table."""
    asked.out.mkdir(parents=True, exist_ok=True)
    ends, skipped = time.monotonic() + asked.budget, asked.skip.split(",")
    report = Report(asked.out)
    report.write()
    if report.found["absent"]:
        print(f"not installed, so left out: {', '.join(report.found['absent'])}", flush=True)

    def left(most: float) -> float:
        return max(1.0, min(most, ends - time.monotonic() - _RESERVE))

    if "tests" not in skipped:
        files = sorted(TESTS.glob("test_*.py"))
        # a warning of another version of something fails no test here
        options = ["pytest", "-q", "-W", "default"]
        tests = [Part(file.stem, [*options, str(file)], asked.out / f"{file.stem}.txt") for file in files]
        report.run(tests, left(asked.budget if "cases" in skipped else _TESTS))
    if "profile" not in skipped:
        most = left(_PROFILE)
        profile = ["benchmarks.step_profile", "--out", str(report.profile), "--budget", str(most - _RESERVE / 3)]
        report.run([Part("profile", profile, asked.out / "profile.txt")], most)
    if "cases" not in skipped:
        most = left(asked.budget)
        cases = ["benchmarks.run", *asked.cases, "--out", str(report.records), "--budget", str(most)]
        cases += ["--peers", asked.peers] if asked.peers else []
        report.run([Part("cases", cases, asked.out / "cases.txt")], most + _RESERVE / 2)
    print(summary(report.found))
    return 0 if all(code in (0, _NOTHING) for code in report.found["returned"].values()) else 1


def summary(found: dict[str, Any]) -> str:
    """What came of it: the table of goals, and one line for each part."""
    parts = [f"{part} returned {code}" for part, code in found["returned"].items()]
    steps = [
        f"{name}: {each['failed']}" if "failed" in each else
        f"{name}: step {each['step_ms']:.2f} ms, recorded in {each['recording_seconds']:.2f} s (goal 1 s)"
        for name, each in found["profile"].items()
    ]  # fmt: skip
    return "\n".join([page(found["records"]), *steps, *parts])


def unpack(path: Path, folder: Path) -> int:
    """Write the records of a run as files of their own, as benchmarks.run does."""
    records = {record["case"]: record for record in json.loads(path.read_text())["records"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records.items():
        kind = "gpu" if record["environment"].get("gpu") else "cpu"
        write(folder / f"{kind}_{name}.json", record)
    missing = [case.name for case in CASES if case.device == "cuda" and case.name not in records]
    print(f"{len(records)} records in {folder}" + (f"; none of {', '.join(missing)}" if missing else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
