"""A part of a plan as a process under way: started, looked at, ended when its time is over."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.tables import ROOT

TOOK_TOO_LONG = 124

# Of what a process printed: the last lines, each cut. Reading begins so many bytes before the end.
_LINES, _WIDTH, _READ = 200, 400, 2**20


@dataclass(kw_only=True)
class Running:
    """One process, in a group with what it starts, so that they end together.

    Attributes:
        command: what follows the interpreter.
        log: where what it prints goes.
        code: what it returned; None while it runs. 124 where it was ended.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    code: int | None = None
    seconds: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _began: float = 0.0

    def start(self) -> None:
        """In the repository's folder; it ends with this process, however that ends."""
        kept = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", **self.environment}
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *self.command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=kept,
                process_group=0, preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )  # fmt: skip
        self._began = time.monotonic()

    def look(self, ended: bool) -> bool:
        """Whether it is done; where time has ``ended`` it is made to be."""
        if self.process is None or self.code is not None:
            return True
        self.code = self.process.poll()
        if self.code is None and ended:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.code = TOOK_TOO_LONG
        self.seconds = time.monotonic() - self._began
        return self.code is not None

    def last_lines(self) -> list[str]:
        """The end of what it printed so far."""
        with self.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _READ))
            text = file.read().decode(errors="replace")
        return [line[-_WIDTH:] for line in text.splitlines()[-_LINES:]]


def _end_with_parent() -> None:
    """The kernel kills this process when the one that started it has gone: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
