"""What a run on a GPU has by now: the state of each part, profiles, records, ends of logs, in one file.

It is written again whenever something changes, so that whoever ends a run has what there was, and the next call goes
on from there. Beside it stands `logs.txt`, the same ends of logs for reading. Nothing else is left in the folder.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.part import TOOK_TOO_LONG, Running
from benchmarks.plan import Part, cut_short
from benchmarks.records import KINDS, REHEARSAL, kind_of, write, write_text

FILE, LOGS = "gpu_run.json", "logs.txt"

# pytest's answer where it had to skip a whole file, or nothing has the word that was asked for
_NOTHING = 5
# Returned by a process that somebody, or the kernel where memory lacks, has ended.
_ENDED = (-signal.SIGKILL, -signal.SIGTERM)


class State:
    """State of a plan in a folder.

    Attributes:
        found: what the file holds: ``plan``, ``short``, ``parts``, ``absent``, ``profile``, ``records``, ``logs``.
        work: folder in which the parts leave their files; temporary.
    """

    def __init__(self, out: Path, work: Path, found: dict[str, Any]) -> None:
        self.out, self.work, self.found = out, work, found
        self._seen: dict[Path, int] = {}
        for record in found["records"]:
            write(self.records / f"{kind_of(record)}_{record['case']}.json", record)
        for name, state in self.parts.items():
            if state["status"] == "running":  # whoever ran it was ended
                state["status"] = "cut short"
                print(f"== {name} was cut short by the end of the call before", flush=True)

    @classmethod
    def begun(cls, out: Path, work: Path, plan: str, short: bool, begins: Path | None = None) -> State:
        """From the folder's file, else from that of ``begins``, else new.

        Raises:
            ValueError: the file is of another plan, or none of ours; one line.
        """
        fresh: dict[str, Any] = {"plan": plan, "short": short, "parts": {}, "absent": {}}
        fresh |= {"profile": {}, "records": [], "logs": {}}
        for path in (folder / FILE for folder in (out, begins) if folder is not None):
            if path.is_file():
                try:
                    found = json.loads(path.read_text())
                except ValueError as exc:
                    raise ValueError(f"{path}: not JSON: {exc}") from exc
                if not isinstance(found, dict) or not set(fresh) <= set(found):
                    raise ValueError(f"{path}: not a state of benchmarks.gpu_run; --fresh begins anew")
                if (found["plan"], found["short"]) != (plan, short):
                    kind = "a rehearsal" if found["short"] else "on a GPU"
                    raise ValueError(f"{path}: it is of plan {found['plan']}, {kind}; --fresh begins anew")
                return cls(out, work, found)
        return cls(out, work, fresh)

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """Of each part that was begun: ``status``, ``tries``, ``code``, ``seconds``."""
        parts: dict[str, dict[str, Any]] = self.found["parts"]
        return parts

    @property
    def records(self) -> Path:
        """Folder of the records, as benchmarks.run writes them."""
        return self.work / "records"

    def begin(self, part: Part) -> None:
        """Before it runs, so that a call that is killed meanwhile is found to have been."""
        tries = self.parts.get(part.name, {}).get("tries", 0)
        self.parts[part.name] = {"status": "running", "tries": tries + 1}

    def end(self, part: Part, running: Running, limit: float, interrupted: bool = False) -> None:
        """What came of it. One that was ended from outside, or had less time than it should have, has not failed."""
        status = "done" if running.code in (0, _NOTHING) else "failed"
        too_early = running.code == TOOK_TOO_LONG and (interrupted or cut_short(part, limit))
        if too_early or running.code in _ENDED:
            status = "cut short"
        self.parts[part.name] |= {"status": status, "code": running.code, "seconds": round(running.seconds, 1)}
        self.found["logs"][part.name] = running.last_lines()

    def changed(self) -> bool:
        """Whether a part has left something since this was asked last."""
        seen = {path: path.stat().st_mtime_ns for path in self._files()}
        is_new, self._seen = seen != self._seen, seen
        return is_new

    def _files(self) -> list[Path]:
        return [*self.work.glob("*.json"), *self.records.glob("*.json")]

    def write(self, running: Mapping[str, Running] | None = None) -> None:
        """All that there is; the logs of what runs as far as they are."""
        for path in self.work.glob("profile *.json"):
            self.found["profile"] |= json.loads(path.read_text())
        names = [f"{kind}_{case.name}.json" for case in CASES for kind in (*KINDS, REHEARSAL)]
        paths = [self.records / name for name in names]
        self.found["records"] = [json.loads(path.read_text()) for path in paths if path.is_file()]
        self.found["logs"] |= {name: each.last_lines() for name, each in (running or {}).items()}
        write(self.out / FILE, self.found)
        logs = [f"== {name}\n" + "\n".join(lines) for name, lines in self.found["logs"].items()]
        write_text(self.out / LOGS, "\n\n".join(logs) + "\n")


def clear(out: Path) -> None:
    """Take away what an earlier run left in the folder, and nothing else."""
    for name in (FILE, LOGS):
        (out / name).unlink(missing_ok=True)
        (out / name).with_suffix(".new").unlink(missing_ok=True)
