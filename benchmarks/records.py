"""Records: what a case gave, as JSON. One whose check did not pass holds the reason and no number."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from benchmarks.cases import CASES, HALF, Case
from intarsia.execution import STANDARD

KINDS = ("gpu", "cpu")
"""What a record was made on: the first part of its file's name."""

REHEARSAL = "rehearsal"
"""The same, of one that was made small for a CPU."""

ROOM = 64 * 2**20
"""Bytes that a results folder must have room for."""

# Levels: 2.55 are 40 dB. Relative: a network's output that is wrong by a hundredth changes the samples in the end by
# 0.0035 of their size (shrunk networks, 14 and 21 evaluations). Float32's roundings change them by 0.000005, those of
# half precision ours by 0.0013 and diffusers', which round the samples too, by 0.0018.
_LEVELS, _CHAOS, _RELATIVE, _RELATIVE_HALF = 2.55, 25.5, 1e-3, 2.2e-3
# Ours may be so many times the yardstick's, because roundings are random, and so many levels above it for the final
# rounding to 8 bits.
_TIMES, _ROUNDING = 1.25, 0.1
# What products in e4m3 may cost: 4.53 levels are 35 dB. Simulated, they change the samples of shrunk networks by 0.004
# (30 evaluations) to 0.008 (4 of them); full-size ones have up to ten times as many blocks in a row.
_LEVELS_FLOAT8, _RELATIVE_FLOAT8 = 4.53, 0.03


@dataclass(frozen=True)
class Check:
    """Whether the images are right, said before anything is timed.

    Attributes:
        errors: RMS in 8-bit levels against the reference, by contender: evidence, there in any case.
        samples: the same of the samples before they are decoded, relative to the reference's RMS. Eight bits and an
            autoencoder hide what is wrong by a hundredth; this does not.
    """

    passed: bool
    reason: str
    errors: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One case on one machine. One with numbers and without a passed check cannot be made: ValueError.

    Attributes:
        settings: the case as it was run; ``rehearsal`` where it was made small for a CPU.
        numbers: times in seconds by contender, ratios, memory …; empty unless the check passed.
        absent: peers that were not measured, and why.
    """

    case: str
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    check: Check
    numbers: Mapping[str, Any] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    rehearsal: bool = False

    def __post_init__(self) -> None:
        if self.numbers and not self.check.passed:
            raise ValueError(f"{self.case}: a record has no numbers unless its check passed ({self.check.reason})")

    def write(self, folder: Path) -> Path:
        """Write ``<case>.json``, with the kind of device in front."""
        return write(folder / f"{kind_of(asdict(self))}_{self.case}.json", asdict(self))

    def comparable(self, other: Record) -> bool:
        """Whether both were made by the same commit on the same kind of device, of the same case."""
        here, there = ((one.case, one.settings, *_origin(one.environment)) for one in (self, other))
        return here == there and self.rehearsal == other.rehearsal

    def with_peer(self, peer: str, other: Record) -> Record:
        """This, and what ``other`` has of a peer that was measured there, in turns with ours.

        Its ratio is that of those turns, and what ours took in them stands under ``turns``. If ``other`` has no numbers
        of it, only the reason is taken over.
        """
        if peer not in other.numbers.get("seconds", {}):
            reason = other.absent.get(peer, other.check.reason)
            return self if peer in self.numbers.get("seconds", {}) else _without(self, peer, reason)
        numbers = {name: dict(each) if isinstance(each, Mapping) else each for name, each in self.numbers.items()}
        for name, each in other.numbers.items():
            if isinstance(each, Mapping) and peer in each:
                numbers[name] = {**numbers.get(name, {}), peer: each[peer]}
        turns = other.numbers.get("turns", {}).get(peer, other.numbers["seconds"].get("intarsia"))
        numbers["turns"] = {**numbers.get("turns", {}), peer: turns}
        errors, samples = (
            {**ours, peer: theirs[peer]} if peer in theirs else ours
            for ours, theirs in ((self.check.errors, other.check.errors), (self.check.samples, other.check.samples))
        )
        absent = {name: why for name, why in self.absent.items() if name != peer}
        check = replace(self.check, errors=errors, samples=samples)
        return replace(self, check=check, numbers=numbers, absent=absent)


def _origin(environment: Mapping[str, Any]) -> tuple[object, ...]:
    return tuple(environment.get(name) for name in ("commit", "changed_files", "gpu"))


def _without(record: Record, peer: str, reason: str) -> Record:
    return replace(record, absent={**record.absent, peer: reason})


def kind_of(content: Mapping[str, Any]) -> str:
    """What a record was made on."""
    if content.get("rehearsal"):
        return REHEARSAL
    return KINDS[0] if content["environment"].get("gpu") else KINDS[1]


def write(path: Path, content: object) -> Path:
    """As JSON; whole or not at all, for others may read it meanwhile."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> Path:
    """Whole or not at all, for others may read it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    return fresh.replace(path)


def unwritable(folder: Path) -> str | None:
    """Why nothing can be written into a results folder, in one line; None where it can. It is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < ROOM:
            return f"{folder}: {free / 2**20:.0f} MiB are free, {ROOM / 2**20:.0f} MiB are needed"
        with NamedTemporaryFile(dir=folder, suffix=".new") as probe:  # a quota says no only to what is written
            probe.write(bytes(2**20))
    except OSError as exc:
        return f"{folder}: nothing can be written there: {exc.strerror or exc}"
    return None


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of all cases that a folder has, rehearsals left out. ValueError names a file that is no record."""
    return _found(folder, KINDS)


def read_back(folder: Path, *, rehearsals: bool) -> dict[str, Record]:
    """The same as records, by case; rehearsals alone where those are asked for."""
    names = ("settings", "environment", "numbers", "absent")
    made = {}
    for content in _found(folder, (REHEARSAL,) if rehearsals else KINDS):
        check = Check(**content["check"])
        rest = {name: content[name] for name in names}
        made[content["case"]] = Record(content["case"], check=check, rehearsal=content["rehearsal"], **rest)
    return made


def _found(folder: Path, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    found = []
    for path in (folder / f"{kind}_{case.name}.json" for case in CASES for kind in kinds):
        if path.is_file():
            content = json.loads(path.read_text())
            if not {"case", "check", "numbers", "environment"} <= set(content):
                raise ValueError(f"{path}: not a record of benchmarks.run")
            found.append(content)
    return found


def judged(
    errors: Mapping[str, float], yardstick: str, half_precision: bool, samples: Mapping[str, float] | None = None
) -> Check:
    """Compare our error against the float32 reference with the yardstick's: images in levels, samples relative.

    In float32 both must agree with it to 40 dB (2.55 levels) and a thousandth. In half precision ours may be a quarter
    above diffusers' own, and for images a tenth of a level; and the yardstick itself must be within 20 dB (25.5
    levels), or it would measure chaos. A yardstick that could not be run leaves fixed bars.
    """
    samples = samples or {}
    if not all(math.isfinite(error) for error in (*errors.values(), *samples.values())):
        return Check(False, "an error is not finite", errors, samples)
    ours, theirs = errors["intarsia"], errors.get(yardstick)
    if not half_precision or theirs is None:
        ours, bar = max(ours, theirs or 0.0), _LEVELS
        sample_bar = _RELATIVE_HALF if half_precision else _RELATIVE
        precision = f"without {yardstick}" if half_precision else "in float32"
        reason = f"worst error {ours:.2f} levels; at most {bar} {precision}"
    elif theirs > _CHAOS:
        reason = f"the yardstick's own error is {theirs:.2f} levels; above {_CHAOS} it tells nothing"
        return Check(False, reason, errors, samples)
    else:
        bar = _TIMES * theirs + _ROUNDING
        sample_bar = _TIMES * samples[yardstick] if yardstick in samples else _RELATIVE_HALF
        reason = f"error {ours:.2f} levels; at most {bar:.2f}, {yardstick} has {theirs:.2f}"
    sample = samples.get("intarsia")
    if sample is not None:
        reason += f"; samples {sample:.1e}, at most {sample_bar:.1e}"
    return Check(ours <= bar and (sample is None or sample <= sample_bar), reason, errors, samples)


def judged_float8(
    errors: Mapping[str, float], yardstick: str, half_precision: bool, samples: Mapping[str, float]
) -> Check:
    """Ours in standard precision is held to :func:`judged`; then products in e4m3 may cost what fixed bars say."""
    standard = {"intarsia": errors[HALF]} | ({yardstick: errors[yardstick]} if yardstick in errors else {})
    kept = {"intarsia": samples[HALF]} | ({yardstick: samples[yardstick]} if yardstick in samples else {})
    check = judged(standard, yardstick, half_precision, kept)
    reason = f"standard precision: {check.reason}"
    if not check.passed:
        return Check(False, reason, errors, samples)
    ours, sample = errors["intarsia"], samples["intarsia"]
    reason = (
        f"fp8: error {ours:.2f} levels, at most {_LEVELS_FLOAT8}; samples {sample:.1e}, at most {_RELATIVE_FLOAT8}; "
        + reason
    )
    return Check(ours <= _LEVELS_FLOAT8 and sample <= _RELATIVE_FLOAT8, reason, errors, samples)


def settings(case: Case) -> dict[str, Any]:
    """What a record says of its case."""
    kept = ("title", "kind", "family", "size", "steps", "strength", "guidance", "scheduler", "batch")
    kept += ("token_merging", "requests", "warmups", "runs", "backend")
    prompts = {"prompts": "encoded by each before it is timed"} if case.kind == "pipeline" else {}
    precision = {} if case.precision == STANDARD else {"precision": case.precision}
    return {name: getattr(case, name) for name in kept} | precision | prompts
