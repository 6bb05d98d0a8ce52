"""The plan for the first GPU, as data: parts in their order, what each runs, and how long it may take.

Each part is a process of its own, so that a fault of the device costs that part. Parts in one go, a call of
`benchmarks.gpu_run`, come to the main case whatever those before it take; what is left is for the next call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cases import CASES, COMPILED, PEERS
from benchmarks.tables import ROOT
from intarsia.models.convolutions import FORMS

TESTS = ROOT / "tests" / "gpu"
KERNEL_TESTS = ROOT / "tests" / "kernels"
MAIN = "S1"
"""The part that a call comes to in any case."""

# Of its limit, what a part must have to be begun behind others; seconds below which it is not begun at all.
_ENOUGH, _LEAST = 0.8, 10.0
# A part that was cut short is begun so often.
_TRIES = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process.

    Attributes:
        command: what follows the interpreter; ``{records}``, ``{profile}`` and ``{seconds}`` are filled in.
        seconds: it is ended after so many.
        beside: parts of one word that follow each other run side by side.
    """

    name: str
    command: tuple[str, ...]
    seconds: float
    beside: str = ""


def first(short: bool = False) -> tuple[Part, ...]:
    """Tests, profile, main cases, then what takes long or is worth least. ``short`` rehearses it on a CPU."""
    short_too = ("--short",) if short else ()

    def profile(case: str, seconds: float) -> Part:
        command = ("-m", "benchmarks.step_profile", case, "--out", "{profile}", *short_too)
        return Part(name=f"profile {case}", command=command, seconds=seconds)

    def forms(case: str, seconds: float) -> Part:
        part = profile(case, seconds)
        command = (*part.command, "--convolutions", f"{','.join(FORMS)},{'+'.join(FORMS)}")
        return replace(part, name=f"{part.name} convolutions", command=command)

    def case(name: str, seconds: float, *peers: str) -> Part:
        who = ",".join(peers or PEERS[:-1])
        options = ("--peers", who, "--add", "--out", "{records}", "--budget", "{seconds}")
        command = ("-m", "benchmarks.run", name, *options, *short_too)
        return Part(name=f"{name} {COMPILED}" if peers == (COMPILED,) else name, command=command, seconds=seconds)

    return (
        *_tests(), profile("S1", 80), profile("S2", 90),
        case("S1", 120), case("S4", 100), case("mixed", 90), case("mixed-256", 60), case("S2", 240), case("S3", 180),
        case("S1", 400, COMPILED), case("S2", 480, COMPILED), case("S3", 480, COMPILED), case("S4", 400, COMPILED),
        case("S2-fp8", 240), case("resolution", 90), case("lora", 90), case("S5-768", 100), case("S5-1024", 120),
        case("cold", 150), case("tables", 60), case("resolution", 400, COMPILED), case("S5-768", 400, COMPILED),
        case("S5-1024", 480, COMPILED), forms("S1", 300), forms("S2", 480),
    )  # fmt: skip


def _tests() -> list[Part]:
    """Recorded graphs beside freed workspaces, the rest of their file, then all other files side by side."""
    graphs = str(TESTS / "test_capture.py")
    # a warning of another version of something fails no test here
    pytest = ("-m", "pytest", "-q", "-W", "default")
    others = [path for path in sorted(TESTS.glob("test_*.py")) if path.name != Path(graphs).name]
    # in Triton's interpreter where there is no GPU, compiled where there is one
    kernels = sorted(KERNEL_TESTS.glob("test_*.py"))
    return [
        Part(name="test workspace", command=(*pytest, graphs, "-k", "workspace"), seconds=60),
        Part(name="test capture", command=(*pytest, graphs, "-k", "not workspace"), seconds=90),
        *(_test(path.stem, (*pytest, str(path))) for path in others),
        *(_test(f"test_kernels_{path.stem.removeprefix('test_')}", (*pytest, str(path))) for path in kernels),
    ]


def _test(name: str, command: tuple[str, ...]) -> Part:
    return Part(name=name, command=command, seconds=120, beside="tests")


PLANS = {"first": first}


def finished(state: Mapping[str, object]) -> bool:
    """Whether a part is not begun again: it is done, it failed by itself, or it was cut short too often."""
    status = state.get("status")
    return status in ("done", "failed") or (status == "cut short" and int(str(state["tries"])) >= _TRIES)


def batch(
    parts: Sequence[Part], states: Mapping[str, Mapping[str, object]], left: float, begun: Collection[str]
) -> tuple[list[Part], float]:
    """What to run next, side by side, and for how many seconds; nothing where this call is over.

    Args:
        left: seconds of this call.
        begun: names of what it has begun already; what was cut short in it waits for the next call.
    """
    pending = [part for part in parts if not finished(states.get(part.name, {})) and part.name not in begun]
    groups = _groups(pending)
    if not groups:
        return [], 0.0
    at = next((place for place, group in enumerate(groups) if group[0].name == MAIN), 0)
    if at:
        before, main = sum(group[0].seconds for group in groups[:at]), groups[at][0]
        seconds = groups[0][0].seconds * min(1.0, (left - main.seconds) / before)
        if seconds >= _LEAST:
            return groups[0], seconds
    group = groups[at]
    seconds = min(group[0].seconds, left)
    if seconds < (_ENOUGH * group[0].seconds if begun else min(_LEAST, group[0].seconds)):
        return [], 0.0
    return group, seconds


def cut_short(part: Part, seconds: float) -> bool:
    """Whether a part that was ended after ``seconds`` had less than it should have."""
    return seconds < _ENOUGH * part.seconds


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
    """Neighbours with the same word run side by side."""
    groups: list[list[Part]] = []
    for part in parts:
        if groups and part.beside and part.beside == groups[-1][0].beside:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def unmeasured(records: Sequence[Mapping[str, object]]) -> list[str]:
    """Cases for a GPU that there is no record of."""
    names = {record["case"] for record in records}
    return [case.name for case in CASES if case.device == "cuda" and not case.by_name and case.name not in names]
