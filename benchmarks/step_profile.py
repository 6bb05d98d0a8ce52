"""`python -m benchmarks.step_profile`: what recording takes, and where the time of a step, of encoding a picture and
of decoding one goes, by kind of kernel.

Needs a CUDA device; `--short` rehearses it on a CPU. Full-size networks with random weights, one session for each case;
nothing here is compared with anybody, so no check stands before the numbers: the pictures of the same cases are checked
by `benchmarks.run`. What there is is written before the next begins, and what fails says why.

`--convolutions padded,searched,unfolded` measures each case as it is and then in each of these forms
(`intarsia/models/convolutions.py`; `+` joins several). A form whose samples are not those of the case as it is gets no
numbers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import intarsia
from benchmarks.cases import Case, chosen, shortened
from benchmarks.environment import environment
from benchmarks.jobs import requests
from benchmarks.kernel_kinds import grouped
from benchmarks.measure import Call, median, nearest, seconds, synchronise
from benchmarks.networks import RandomBackend, register
from benchmarks.place import Place
from benchmarks.records import unwritable, write
from intarsia.backends.torch.session import TorchSession
from intarsia.engine.lanes import Lane
from intarsia.engine.parts import model_files
from intarsia.engine.resolve import Resolved, resolve
from intarsia.engine.sampling import table_of
from intarsia.errors import BackendError
from intarsia.execution import Execution
from intarsia.models.convolutions import check_forms

CASES = ("S1", "S2", "S4", "S5-1024")
AS_IT_IS = "as it is"

# Relative RMS difference of samples after a dozen evaluations that other sums of the same products may make: ours in
# half precision differ from float32 by 0.0013 to 0.0036 (benchmarks/LOG.md).
_SAME_HALF, _SAME_FULL = 0.01, 1e-4


def profiled(
    case: Case,
    place: Place,
    steps: int = 5,
    convolutions: tuple[str, ...] = (),
    samples: list[torch.Tensor] | None = None,
) -> Iterator[dict[str, Any]]:
    """One case: first its step, then also its pictures in and out; each time all that there is by then.

    Of a step: seconds to record it, milliseconds of it, and of each kind of kernel in it. Of pictures the same.

    Args:
        convolutions: forms that they are computed in.
        samples: takes the lanes' samples as they are after the steps, before the first numbers come.
    """
    registry = intarsia.Registry(place.registry(case))
    first = resolve(requests(case, None)[0], registry)
    backend = RandomBackend(str(place.device), Execution())
    backend.convolutions = convolutions
    session = backend.open(model_files(first.entry, first.parts))
    # libraries, kernels and attention are settled by another size, as they are in an engine under way
    _advance(_lanes(session, replace(case, size=case.size - 64 if case.size > 64 else 128), registry), 2)
    lanes = _lanes(session, case, registry)
    recording = seconds(lambda: _advance(lanes, 1))
    if "searched" in convolutions:  # which begins when the same lanes come up again
        session.decode([lane.state for lane in lanes])
        for lane in lanes:
            lane.begin()
            lane.cursor = 0
        recording = seconds(lambda: _advance(lanes, 1))
    stepping = [seconds(lambda: _advance(lanes, 1)) for _ in range(steps)]
    found = {
        "recording_seconds": recording - median(stepping),
        "step_ms": 1e3 * median(stepping),
        **_profile(lambda: _advance(lanes, steps), steps),
        "attention": session.runtime.attention,
        "capture": session.runtime.capture,
        "memory_mib": _memory(place.device),
    }
    if samples is not None:
        samples.extend(session._stepper.sample(lane.state).float().cpu() for lane in lanes)
    yield found
    for name, numbers in _pictures(session, first, lanes[0]):
        found = {**found, "pictures": {**found.get("pictures", {}), name: numbers}}
        yield found
    yield {**found, "attention": session.runtime.attention, "memory_mib": _memory(place.device)}
    session.close()


def measures(case: Case, place: Place, forms: Sequence[str]) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Names, each with what gives its numbers: the case, or where there are forms, the case as it is and in each."""
    if not forms:
        yield case.name, profiled(case, place)
        return
    expected: list[torch.Tensor] = []
    yield f"{case.name} {AS_IT_IS}", profiled(case, place, samples=expected)
    for form in forms:
        yield f"{case.name} {form}", _in_form(case, place, form, expected)


def _in_form(case: Case, place: Place, form: str, expected: list[torch.Tensor]) -> Iterator[dict[str, Any]]:
    if not expected:
        yield {"failed": f"there are no samples of the case {AS_IT_IS} to compare with"}
        return
    found: list[torch.Tensor] = []
    for numbers in profiled(case, place, convolutions=tuple(form.split("+")), samples=found):
        yield _checked(numbers, nearest(found, torch.stack(expected)), place)


def _checked(numbers: dict[str, Any], difference: float, place: Place) -> dict[str, Any]:
    """The numbers with how far the samples are from those they should be, or only that they are too far."""
    most = _SAME_HALF if place.half else _SAME_FULL
    if not difference <= most:
        return {"failed": f"its samples differ by {difference:.2g} from those of the case {AS_IT_IS}, at most {most}"}
    return {**numbers, "difference": difference}


def _profile(call: Call, turns: int) -> dict[str, Any]:
    """Kernels of one of so many turns: by kind, and the slowest by name."""
    kernels = _kernels(call)
    return {
        "kinds": grouped(kernels, turns),
        "slowest": [
            {"kernel": name[:160], "ms": took / 1e3 / turns, "launches": often / turns}
            for name, took, often in sorted(kernels, key=lambda each: -each[1])[:25]
        ],
    }


def _kernels(call: Call) -> list[tuple[str, float, int]]:
    """Names, microseconds and launches of what runs on the device; nothing on a CPU."""
    activities = torch.profiler.ProfilerActivity
    seen = activities.CUDA if torch.cuda.is_available() else activities.CPU
    with torch.profiler.profile(activities=[seen]) as profile:
        seconds(call)
    found = [(each.key, each.self_device_time_total, each.count) for each in profile.key_averages()]
    return [each for each in found if each[1] > 0]


def _pictures(session: TorchSession, resolved: Resolved, lane: Lane) -> Iterator[tuple[str, dict[str, Any]]]:
    """A picture in and out of the case's size: recorded the second time that it comes, replayed from then on."""
    session.encode(resolved.inputs)
    ways: dict[str, Call] = {
        "encode": lambda: session.encode(resolved.inputs),
        "decode": lambda: session.decode([lane.state]),
    }
    for name, call in ways.items():
        lane.begin()
        call()
        second, *others = (_again(lane, call) for _ in range(4))
        lane.begin()
        times = {"ms": 1e3 * median(others), "recording_seconds": second - median(others)}
        yield name, times | _profile(call, 1)


def _again(lane: Lane, call: Call) -> float:
    lane.begin()  # decoding ends a lane
    return seconds(call)


def _memory(device: torch.device) -> dict[str, float]:
    """What the session holds in the end: its weights and buffers, and with them what its recordings compute in."""
    if device.type != "cuda":
        return {}
    found = {"allocated": torch.cuda.memory_allocated(device), "reserved": torch.cuda.memory_reserved(device)}
    return {name: count / 2**20 for name, count in found.items()}


def _lanes(session: TorchSession, case: Case, registry: intarsia.Registry) -> list[Lane]:
    """The case's lanes, begun."""
    lanes = []
    for request in requests(case, None):
        resolved = resolve(request, registry)
        shared, table = session.encode(resolved.inputs)[0], table_of(resolved.plan)
        for sample, seed in enumerate(resolved.plan.seeds):
            key, shape = resolved.plan.group, resolved.plan.latent_shape
            lanes.append(Lane(key, sample, seed, table, shape, lambda: session, lambda kept=shared: kept))
    for lane in lanes:
        lane.begin()
    synchronise()
    return lanes


def _advance(lanes: Sequence[Lane], rows: int) -> None:
    """Rows of all lanes, the first again after the last."""
    for _ in range(rows):
        lanes[0].session().advance([lane.step() for lane in lanes])
        for lane in lanes:
            lane.cursor = (lane.cursor + 1) % lane.rows


def table(found: dict[str, dict[str, Any]]) -> str:
    """A few lines for each case."""
    lines = []
    for name, each in found.items():
        if "failed" in each:
            lines.append(f"{name}: {each['failed']}")
        if "step_ms" not in each:
            continue
        lines.append(f"{name}: a step takes {each['step_ms']:.2f} ms, recording it {each['recording_seconds']:.2f} s")
        lines += _by_kind(each)
        for part, picture in each.get("pictures", {}).items():
            lines.append(f"  {part}: {picture['ms']:.2f} ms, recorded in {picture['recording_seconds']:.2f} s")
            lines += _by_kind(picture)
    return "\n".join(lines)


def _by_kind(found: dict[str, Any]) -> list[str]:
    return [
        f"  {spent['ms']:7.3f} ms {spent['launches']:6.0f} launches  {kind}" for kind, spent in found["kinds"].items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--out", type=Path, help="file for the JSON")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds after which no further case begins")
    parser.add_argument("--short", action="store_true", help="everything shrunk, on the CPU")
    parser.add_argument("--convolutions", help="measure these forms too: NAME,NAME+NAME, …")
    asked = parser.parse_args(arguments)
    forms = asked.convolutions.split(",") if asked.convolutions else []
    try:
        check_forms([each for form in forms for each in form.split("+")])
    except BackendError as exc:
        print(f"--convolutions: {exc}", file=sys.stderr)
        return 2
    if not asked.short and not torch.cuda.is_available():
        print("needs a CUDA device; torch sees none", file=sys.stderr)
        return 4
    if asked.out is not None and (problem := unwritable(asked.out.resolve().parent)) is not None:
        print(problem, file=sys.stderr)
        return 2
    device, ends = torch.device("cpu" if asked.short else "cuda"), time.monotonic() + asked.budget
    found: dict[str, dict[str, Any]] = {}
    register()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), environment(device), asked.short)
        cases = [shortened(case) if asked.short else case for case in chosen(asked.cases, "cuda")]
        every = [each for case in cases for each in measures(case, place, forms)]
        for name, each in every:
            for numbers in _tried(each, place, ends):
                found[name] = numbers
                if asked.out is not None:
                    write(asked.out, found)
    print(table(found))
    return 1 if any("failed" in each for each in found.values()) else 0


def _tried(each: Iterator[dict[str, Any]], place: Place, ends: float) -> Iterator[dict[str, Any]]:
    """Numbers as they come, or what stopped them beside what there was by then."""
    found: dict[str, Any] = {}
    if time.monotonic() >= ends:
        yield {"failed": "no time was left for it"}
        return
    try:
        for found in each:
            yield found
        if place.device.type == "cuda":
            torch.cuda.empty_cache()
    except Exception as exc:  # noqa: BLE001 - the others go on, and the file says what happened
        traceback.print_exc()
        yield {**found, "failed": f"{type(exc).__name__}: {(str(exc).splitlines() or [''])[0]}"}


if __name__ == "__main__":
    sys.exit(main())
