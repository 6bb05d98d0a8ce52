"""`inlay bench`, or `python -m benchmarks.run`: measure the cases, write a record of each, print a table.

Everything shares one process and one time budget. Each case has a share of it; what one does not use, the next
have. Where time is short, peers are left out: the last of `benchmarks.cases.PEERS` first, so the compiled ones,
and of these the first case's last of all.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import pipelines, situations
from benchmarks.cases import BUDGET, PEERS, Case, chosen, shortened
from benchmarks.environment import environment
from benchmarks.place import Place
from benchmarks.records import Check, Record, settings
from inlay.errors import RequestError

KINDS: dict[str, Callable[[Case, Place, float], Record]] = {
    "pipeline": pipelines.measure,
    "mixed": situations.mixed,
    "resolution": situations.resolution,
    "lora": situations.lora,
    "cold": situations.cold,
    "tables": situations.tables,
}


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        cases: names; none are all that belong to the device.
        short: everything shrunk, on the CPU.
        peers: names; None is all.
        budget: seconds for everything.
    """

    cases: tuple[str, ...] = ()
    out: Path | None = None
    short: bool = False
    peers: tuple[str, ...] | None = None
    budget: float = BUDGET


def run(options: Options) -> int:
    """Measure; the number of cases that did not come to their numbers.

    Raises:
        RequestError: a case or peer that there is not.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not options.short else "cpu")
    cases = _cases(options, device)
    ends, failed = time.perf_counter() + options.budget, 0
    first_calls: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="inlay-bench-") as folder:
        for place_in_line, case in enumerate(cases):
            own = torch.device("cpu") if case.device == "cpu" else device
            place = Place(own, Path(folder), environment(own), options.short, options.peers, first_calls)
            later = sum(other.seconds for other in cases[place_in_line + 1 :])
            record = _measured(case, place, ends - time.perf_counter() - later)
            failed += not record.check.passed
            print(line(record), flush=True)
            if options.out is not None:
                record.write(options.out)
            _release(own)
    return failed


def _release(device: torch.device) -> None:
    """Give back what a case held, so that the next one's memory is its own."""
    gc.collect()
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()


def _cases(options: Options, device: torch.device) -> list[Case]:
    for peer in options.peers or ():
        if peer not in PEERS:
            raise RequestError("peers", peer, f"of {', '.join(PEERS)}")
    try:
        cases = chosen(options.cases, device.type)
        if options.short and not options.cases:
            cases = [*chosen((), "cuda"), *chosen(("cpu",), "cpu")]
    except ValueError as exc:
        raise RequestError("cases", message=str(exc)) from exc
    return [shortened(case) for case in cases] if options.short else cases


def _measured(case: Case, place: Place, left: float) -> Record:
    """One case; whatever stops it is the reason in its record."""
    if case.device == "cuda" and place.device.type != "cuda" and not place.shrunk:
        return Record(case.name, settings(case), place.environment, Check(False, "needs a GPU; --short rehearses it"))
    if left <= 0:
        return Record(case.name, settings(case), place.environment, Check(False, "no time was left for it"))
    try:
        return KINDS[case.kind](case, place, left)
    except Exception as exc:  # noqa: BLE001 - the other cases go on, and the record says what happened
        reason = f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0]}"
        return Record(case.name, settings(case), place.environment, Check(False, reason), rehearsal=place.shrunk)


def line(record: Record) -> str:
    """One line of the table that is printed."""
    name = f"{record.case:12}" + (" (rehearsal)" if record.rehearsal else "")
    if not record.check.passed:
        return f"{name} no numbers: {record.check.reason}"
    medians = ", ".join(f"{who} {1e3 * took:.1f} ms" for who, took in record.numbers["median"].items())
    ratios = ", ".join(f"{ratio:.2f}× {who}" for who, ratio in record.numbers["ratio"].items())
    return f"{name} {medians}" + (f"; {ratios}" if ratios else "") + f"; {record.check.reason}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--out", type=Path, help="folder for the JSON records")
    parser.add_argument("--short", action="store_true", help="everything shrunk, on the CPU")
    parser.add_argument("--peers", help="comma-separated")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    asked = parser.parse_args(arguments)
    peers = tuple(asked.peers.split(",")) if asked.peers else None
    return 1 if run(Options(tuple(asked.cases), asked.out, asked.short, peers, asked.budget)) else 0


if __name__ == "__main__":
    sys.exit(main())
