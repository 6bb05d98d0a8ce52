"""`python -m benchmarks.gpu_run --out FOLDER`: everything that wants a GPU, in calls of at most nine minutes.

A plan has parts in their order (`benchmarks/plan.py`): the tests of `tests/gpu` and `tests/kernels`, profiles, the
cases of `benchmarks.run` with their peers, then the compiled peer. Each is a process of its own with a limit of its
own, for after a fault on the device nothing in that process is right any more. A call ends before its budget does;
the next one with the same folder goes on where it ended, also where it was killed. A part that failed is not begun
again, one that was cut short once more.

All there is by now stands in `gpu_run.json` and `logs.txt`, written again whenever something is done. Where the folder
is emptied between calls, `--from` names a copy of it. A table comes last. `--unpack FILE` puts the records of a
`gpu_run.json` into `benchmarks/results`.

Returns 0 where all is done, 1 where something failed, 2 for bad usage, 3 where there is more to do, 4 where what it
needs is not there.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.commit import VARIABLE, commit_of_tree
from benchmarks.gpu_state import State, clear
from benchmarks.part import Running
from benchmarks.plan import PLANS, Part, batch, finished, unmeasured
from benchmarks.records import REHEARSAL, kind_of, unwritable, write
from benchmarks.tables import RESULTS, ROOT, page
from benchmarks.wheels import commit_beside, install

BUDGET = 540.0
"""Seconds for a call."""

# It stops a little before the end.
_RESERVE = 10.0
# Of its limit, what a case does not measure in: imports, and the end of what is under way.
_IMPORTS = 20.0
# Seconds between looks whether something is done, and between writings where nothing is.
_LOOK, _WRITE = 0.2, 10.0
_NEEDED = ("intarsia", "httpx2", "pydantic", "benchmarks.run", "benchmarks.step_profile", "pytest", "hypothesis")
_WANTED = ("triton", "tomesd", "optimum", "onnxruntime")

# Importing tells what a search for a module does not: whether what it needs itself is there.
_IMPORTING = """
import importlib, json, sys
problems = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as exc:
        problems[name] = (str(exc).splitlines() or [type(exc).__name__])[0]
print(json.dumps(problems))
"""


@dataclass(kw_only=True)
class Call:
    """One call: its plan, its state, when it has to end, and what its parts find in their environment."""

    parts: Sequence[Part]
    state: State
    ends: float
    environment: dict[str, str]

    def run(self) -> None:
        """Parts until all are done, or the time is over."""
        begun: set[str] = set()
        while True:
            group, limit = batch(self.parts, self.state.parts, self.ends - time.monotonic(), begun)
            if not group:
                return
            begun |= {part.name for part in group}
            self._side_by_side(group, limit)

    def _side_by_side(self, group: Sequence[Part], limit: float) -> None:
        """For at most so many seconds; the file is written as each ends, as it leaves something, and now and then."""
        print(f"== {', '.join(part.name for part in group)} (at most {limit:.0f} s)", flush=True)
        for part in group:
            self.state.begin(part)
        self._write({})
        ends, written = time.monotonic() + limit, time.monotonic()
        running = {part.name: self._started(part, limit) for part in group}
        left = list(group)
        try:
            while left:
                time.sleep(_LOOK)
                done = [part for part in left if running[part.name].look(time.monotonic() >= ends)]
                for part in done:
                    left.remove(part)
                    self._end(part, running.pop(part.name), limit)
                if self.state.changed() or done or time.monotonic() - written > _WRITE:
                    self._write(running)
                    written = time.monotonic()
        except BaseException:  # interrupted
            for part in left:
                running[part.name].look(True)
                self.state.end(part, running[part.name], limit, interrupted=True)
            self._write({})
            raise

    def _started(self, part: Part, limit: float) -> Running:
        work = self.state.work
        filled = {"records": str(self.state.records), "profile": str(work / f"{part.name}.json")}
        filled["seconds"] = f"{max(_RESERVE, limit - _IMPORTS):.0f}"
        command = [each.format_map(filled) if each.startswith("{") else each for each in part.command]
        log = work / f"{part.name}.txt"
        running = Running(name=part.name, command=command, log=log, environment=self.environment)
        running.start()
        return running

    def _end(self, part: Part, running: Running, limit: float) -> None:
        self.state.end(part, running, limit)
        status = self.state.parts[part.name]["status"]
        print(f"== {part.name}: {status}, returned {running.code} after {running.seconds:.0f} s", flush=True)
        print("\n".join(running.last_lines()[-12:]), flush=True)

    def _write(self, running: dict[str, Running]) -> None:
        """A folder that is full by now costs the file, not the run: what was measured is printed too."""
        try:
            self.state.write(running)
        except OSError as exc:
            print(f"== cannot be written: {exc}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    asked = _parser().parse_args(arguments)
    if asked.unpack is not None:
        return unpack(asked.unpack, RESULTS)
    began, out = time.monotonic(), asked.out.resolve()
    parts = [replace(part, seconds=asked.limits * part.seconds) for part in PLANS[asked.plan](asked.short)]
    problem = _strange(asked, parts) or unwritable(out)
    if problem is not None:
        print(problem, file=sys.stderr)
        return 2
    if asked.fresh:
        clear(out)
    with tempfile.TemporaryDirectory(prefix="intarsia-gpu-") as folder:
        work = Path(folder)
        environment, problem = _environment(asked.packages, work / "site")
        absent = {} if problem else problems((*_NEEDED, *_WANTED), environment)
        missing = {name: why for name, why in absent.items() if name not in _WANTED}
        if problem or missing:
            print(problem or f"not importable: {_listed(missing)}; see python -m benchmarks.wheels", file=sys.stderr)
            return 4
        try:
            state = State.begun(out, work, asked.plan, asked.short, asked.begins)
        except ValueError as exc:
            print(exc, file=sys.stderr)
            return 2
        state.found["absent"] = absent
        if absent:
            print(f"left out, not importable: {_listed(absent)}", flush=True)
        if VARIABLE not in environment and not commit_of_tree()[0]:
            print(f"no commit is known, so the records will name none: set {VARIABLE}", flush=True)
        for name in asked.again:
            state.parts.pop(name, None)
        try:
            Call(parts=parts, state=state, ends=began + asked.budget - _RESERVE, environment=environment).run()
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            return 130
    print(summary(state.found, parts))
    return _answer(state, parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", choices=sorted(PLANS), default="first")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--from", dest="begins", type=Path, help="a copy of the folder of the call before")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for this call")
    parser.add_argument("--limits", type=float, default=1.0, help="times each part's limit, for a slow machine")
    parser.add_argument("--short", action="store_true", help="everything shrunk, on a CPU")
    parser.add_argument("--fresh", action="store_true", help="begin anew; what is in the folder goes")
    parser.add_argument("--again", action="append", default=[], metavar="PART", help="begin a part once more")
    parser.add_argument("--packages", type=Path, help="folder of wheels and commit.txt (benchmarks.wheels)")
    parser.add_argument("--unpack", type=Path, help="a gpu_run.json: put its records into benchmarks/results")
    return parser


def _strange(asked: argparse.Namespace, parts: Sequence[Part]) -> str | None:
    """What was asked for and is not there."""
    names = [part.name for part in parts]
    unknown = [name for name in asked.again if name not in names]
    if unknown:
        return f"--again must be of {', '.join(names)}, not {unknown[0]!r}"
    if asked.begins is not None and not asked.begins.is_dir():
        return f"--from must be a folder, not {str(asked.begins)!r}"
    return None


def _environment(packages: Path | None, site: Path) -> tuple[dict[str, str], str | None]:
    """What parts find: this tree, then the wheels that travelled, and the commit; or why they cannot be had."""
    paths, environment = [str(ROOT)], {}
    if packages is not None:
        problem = install(packages, site)
        if problem:
            return {}, problem
        paths.append(str(site))
        said = os.environ.get(VARIABLE) or ("" if commit_of_tree()[0] else commit_beside(packages))
        environment = {VARIABLE: said} if said else {}
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}, None


def problems(names: Sequence[str], environment: dict[str, str]) -> dict[str, str]:
    """Modules that cannot be imported in a new process, and why."""
    command = [sys.executable, "-c", _IMPORTING, *names]
    kept = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:  # something that it imports ends the process
        return {", ".join(names): (done.stderr.strip().splitlines() or [f"returned {done.returncode}"])[-1]}
    found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _listed(missing: dict[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in missing.items())


def _answer(state: State, parts: Sequence[Part]) -> int:
    states = [state.parts.get(part.name, {}) for part in parts]
    if not all(finished(each) for each in states):
        return 3
    return 0 if all(each["status"] == "done" for each in states) else 1


def summary(found: dict[str, Any], parts: Sequence[Part] = ()) -> str:
    """What came of it: the table of goals, profiles, and one line for each part."""
    lines = [
        f"{name}: {each['failed']}" if "failed" in each else
        f"{name}: step {each['step_ms']:.2f} ms, recorded in {each['recording_seconds']:.2f} s (goal 1 s)"
        for name, each in found["profile"].items()
    ]  # fmt: skip
    lines += [f"{name}: {each['status']}, returned {each.get('code')}" for name, each in found["parts"].items()]
    left = [part.name for part in parts if not finished(found["parts"].get(part.name, {}))]
    lines += [f"more to do, by the same command: {', '.join(left)}"] if left else []
    records = [record for record in found["records"] if kind_of(record) != REHEARSAL]
    return "\n".join([page(records), *lines])


def unpack(path: Path, folder: Path) -> int:
    """Write the records of a run as files of their own, as benchmarks.run does; rehearsals are no results."""
    records = [record for record in json.loads(path.read_text())["records"] if kind_of(record) != REHEARSAL]
    folder.mkdir(parents=True, exist_ok=True)
    for record in records:
        write(folder / f"{kind_of(record)}_{record['case']}.json", record)
    missing = unmeasured(records)
    print(f"{len(records)} records in {folder}" + (f"; none of {', '.join(missing)}" if missing else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
