"""`python -m benchmarks`: measure the cases, write a record of each, print a table.

Everything shares one process and one time budget. Each case has a share of what is left of it, and the first ones at
least what they need; what one does not use, the next have. Where time is short, peers are left out: the last of
`benchmarks.cases.PEERS` first. The compiled peer comes when everything else is measured and written, one case after the
other: it takes minutes, and what it ends with, or breaks, costs nothing that was there before.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks import pipelines, roofline, situations
from benchmarks.cases import BUDGET, COMPILED, PEERS, Case, chosen, share, shortened
from benchmarks.environment import environment
from benchmarks.place import Place
from benchmarks.records import Check, Record, read_back, settings, unwritable
from intarsia.errors import OutputError, RequestError

KINDS: dict[str, Callable[[Case, Place, float], Record]] = {
    "pipeline": pipelines.measure,
    "mixed": situations.mixed,
    "resolution": situations.resolution,
    "lora": situations.lora,
    "cold": situations.cold,
    "tables": situations.tables,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is asked for.

    Attributes:
        cases: names; none are all that belong to the device.
        out: folder for the records.
        short: everything shrunk, on the CPU.
        peers: names; None is all.
        budget: seconds for everything.
        add: peers measured now join the records in ``out``, if those are of the same commit and device.
        capture: our engine's, on a GPU: auto, on or off.
    """

    cases: tuple[str, ...] = ()
    out: Path | None = None
    short: bool = False
    peers: tuple[str, ...] | None = None
    budget: float = BUDGET
    add: bool = False
    capture: str = "auto"


@dataclass(frozen=True)
class Turn:
    """A case with some of its peers, and its share of the time."""

    case: Case
    peers: tuple[str, ...]
    seconds: float


def run(options: Options) -> int:
    """Measure; the number of cases that did not come to their numbers.

    Raises:
        RequestError: a case or peer that there is not.
        OutputError: nothing can be written into the folder for the records.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not options.short else "cpu")
    turns = turns_of(_cases(options, device), options)
    if options.out is not None and (problem := unwritable(options.out)) is not None:
        raise OutputError(problem)
    kept = read_back(options.out, rehearsals=options.short) if options.add and options.out is not None else {}
    failed = set()
    for turn, record in _measured_turns(turns, device, options):
        kept[turn.case.name] = merged = _merged(kept.get(turn.case.name), record, turn)
        if not record.check.passed:
            failed.add(turn.case.name)
        print(line(record), flush=True)
        for changed in (merged, *_cold_beside_compiled(kept)):
            if options.out is not None:
                changed.write(options.out)
    return len(failed)


def turns_of(cases: Sequence[Case], options: Options) -> list[Turn]:
    """First every case without the compiled peer, then those that have one with it alone.

    The first of these has time set aside for it, the others have what is left. A rehearsal compiles only where it is
    asked to.
    """
    others = tuple(peer for peer in options.peers or PEERS if peer != COMPILED)
    compiles = COMPILED in options.peers if options.peers is not None else not options.short
    compiled = [case for case in cases if compiles and COMPILED in case.peers]
    turns = [Turn(case, others, case.seconds) for case in cases if others or case not in compiled]
    for place_in_line, case in enumerate(compiled):
        turns.append(Turn(case, (COMPILED,), 0.0 if place_in_line else case.peer_seconds[COMPILED]))
    return turns


def _measured_turns(turns: Sequence[Turn], device: torch.device, options: Options) -> Iterator[tuple[Turn, Record]]:
    """Each turn's record. After a fault of the device nothing is right on it any more: the rest only says so."""
    ends, fault, found = time.perf_counter() + options.budget, "", {}
    with tempfile.TemporaryDirectory(prefix="intarsia-bench-") as folder:
        for at, turn in enumerate(turns):
            own = torch.device("cpu") if turn.case.device == "cpu" else device
            if not (fault and own.type == "cuda"):
                found = environment(own)
            place = Place(own, Path(folder), found, options.short, turn.peers, options.capture)
            left = share([each.seconds for each in turns[at:]], turn.case, ends - time.perf_counter())
            yield turn, _measured(turn.case, place, left, fault if own.type == "cuda" else "")
            fault = fault or _release(own, turn.case)


def _release(device: torch.device, case: Case) -> str:
    """Give back what a case held, so that the next one's memory is its own; what is wrong with the device, if it is."""
    gc.collect()
    if device.type == "cuda":
        try:
            if "torch._dynamo" in sys.modules:  # importing it takes seconds
                torch.compiler.reset()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError as exc:  # an illegal access stays with the process
            return f"the device failed in {case.name}: {(str(exc).splitlines() or [''])[0]}"
    return ""


def _merged(earlier: Record | None, record: Record, turn: Turn) -> Record:
    """One record of what two turns gave; the later alone where the earlier says nothing about it."""
    if earlier is None or not earlier.numbers or not earlier.comparable(record):
        return record
    if turn.peers == (COMPILED,):
        return earlier.with_peer(COMPILED, record)
    compiled = COMPILED in earlier.numbers.get("seconds", {})
    return record.with_peer(COMPILED, earlier) if compiled and record.numbers else record


def _cold_beside_compiled(kept: Mapping[str, Record]) -> list[Record]:
    """The cold start with what compiling took in S1, once both are known.

    That is a first call alone, without what starting a process and loading weights would add to it.
    """
    cold, main = kept.get("cold"), kept.get("S1")
    if cold is None or main is None or not cold.numbers or cold.environment["commit"] != main.environment["commit"]:
        return []
    took = main.numbers.get("first_call", {}).get(COMPILED)
    if took is None:
        return []
    medians = {**cold.numbers["median"], COMPILED: took}
    return [replace(cold, numbers={**cold.numbers, "median": medians, "ratio": {COMPILED: took / medians["intarsia"]}})]


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


def _measured(case: Case, place: Place, left: float, fault: str) -> Record:
    """One case; whatever stops it is the reason in its record."""
    reason = fault
    if case.device == "cuda" and place.device.type != "cuda" and not place.shrunk:
        reason = "needs a GPU; --short rehearses it"
    elif left <= 0:
        reason = reason or "no time was left for it"
    elif place.compiles and left < case.peer_seconds[COMPILED]:
        reason = reason or f"no time for {COMPILED}: {left:.0f} s were left"
    if not reason:
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
    if not record.numbers:
        return f"{name} no numbers: {'; '.join(f'{who}: {why}' for who, why in record.absent.items())}"
    medians = ", ".join(f"{who} {1e3 * took:.1f} ms" for who, took in record.numbers["median"].items())
    ratios = ", ".join(f"{ratio:.2f}× {who}" for who, ratio in record.numbers["ratio"].items())
    launched = record.environment.get("gpu") and record.numbers.get("ran", {}).get("capture") == "off"
    how = "; steps launched, not captured" if launched else ""
    return f"{name} {medians}" + (f"; {ratios}" if ratios else "") + f"; {record.check.reason}{how}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 where what is asked for is not there, or nothing can be written."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--out", type=Path, help="folder for the JSON records")
    parser.add_argument("--short", action="store_true", help="everything shrunk, on the CPU")
    parser.add_argument("--peers", help="comma-separated")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything")
    parser.add_argument("--add", action="store_true", help="peers measured now join the records in --out")
    parser.add_argument("--capture", choices=("auto", "on", "off"), default="auto", help="our engine's, on a GPU")
    parser.add_argument("--floor", action="store_true", help="count parameters, FLOPs and operations; no GPU")
    parser.add_argument("--json", action="store_true", help="the counts of --floor as JSON")
    asked = vars(parser.parse_args(arguments))

    floor, as_json = asked.pop("floor"), asked.pop("json")
    if floor:
        print(roofline.as_json() if as_json else roofline.as_text())
        return 0

    peers = tuple(asked["peers"].split(",")) if asked["peers"] else None
    try:
        return 1 if run(Options(**{**asked, "cases": tuple(asked["cases"]), "peers": peers})) else 0
    except (RequestError, OutputError) as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
