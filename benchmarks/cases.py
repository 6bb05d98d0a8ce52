"""What is measured, as data: cases, goals, peers and what each costs in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from intarsia.execution import FP8, STANDARD

PEERS = ("eager", "tomesd", "onnx", "compile")
"""In the order in which time is given to them; the last is dropped first."""

COMPILED = PEERS[-1]
"""Built when everything else is measured and written: it takes minutes, and may fail as none of the others can."""

YARDSTICK = PEERS[0]
"""Its images are compared in any case, whether it is timed or not."""

TITLES = {
    "eager": "diffusers eager",
    "compile": "diffusers compiled",
    "tomesd": "diffusers + tomesd 50 %",
    "onnx": "ONNX Runtime",
    "torch": "intarsia on torch",
    "half": "intarsia in half precision",
}

HALF = "half"
"""Ours without e4m3, beside a case that has it."""


@dataclass(frozen=True)
class Goals:
    """What is wanted: ratios of medians (theirs over ours) by peer, and absolute times on the reference GPU."""

    ratios: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    step_ms: float | None = None
    fill: float | None = None


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        kind: which code measures it: ``pipeline``, ``mixed``, ``resolution``, ``lora``, ``cold`` or ``tables``.
        family: shape of the networks, filled with seeded random weights; "packaged" is the packaged model.
        batch: images asked for at once.
        requests: how many, in a mixed load.
        device: ``cuda``, ``cpu``, or ``any``.
        seconds: share of the time budget, the compiled peer left out; what a case does not use, the next ones have.
        backend: ours; ``beside`` are others of ours, measured in the same turns.
        precision: ours; beside ``fp8`` the standard one is checked first, and measured in the same turns.
        by_name: it is measured only where it is asked for.
        peer_seconds: what a peer is expected to take, compilation included; one that does not fit is left out.
        note: why a goal is what it is.
    """

    name: str
    title: str
    kind: str = "pipeline"
    family: str = "sd15-inpaint"
    size: int = 512
    steps: int = 21
    strength: float = 0.7
    guidance: float = 7.5
    scheduler: str = "DPMSolverMultistepScheduler"
    batch: int = 1
    token_merging: float = 0.0
    requests: int = 1
    peers: tuple[str, ...] = ()
    goals: Goals = Goals()
    device: str = "cuda"
    backend: str = "torch"
    beside: tuple[str, ...] = ()
    precision: str = STANDARD
    by_name: bool = False
    seconds: float = 30.0
    peer_seconds: Mapping[str, float] = field(default_factory=dict)
    warmups: int = 3
    runs: int = 20
    note: str = ""

    @property
    def least(self) -> float:
        """Seconds without which a case is not worth beginning: networks, check, turns, and the quick peers."""
        return 20.0 + sum(self.peer_seconds.get(peer, 0.0) for peer in ("eager", "tomesd") if peer in self.peers)


_SMALL = {"eager": 8.0, "tomesd": 8.0, "onnx": 120.0, "compile": 150.0}
_LARGE = {"eager": 45.0, "tomesd": 45.0, "onnx": 240.0, "compile": 300.0}

_FILLED = (
    "at 512² one guided SD1.5 step already keeps such a GPU busy: by the operations and bytes of its launches, a step "
    "of eight lanes takes 31 to 38 ms and eight steps of one lane 46 to 57 ms, so company cannot give more than about "
    "1.5 times as much; at 256² a lane has a quarter of the work in as many launches, so company pays. A model of the "
    "GPU, not a measurement."
)

CASES: tuple[Case, ...] = (
    Case(
        "S1", "SD1.5-inpaint 512², 14 evaluations", peers=PEERS, seconds=50, peer_seconds=_SMALL,
        goals=Goals({"eager": 3.0, "compile": 1.4, "tomesd": 3.2, "onnx": 2.0}, seconds=0.090, step_ms=5.0),
    ),
    Case(
        "S1-onnx", "the same on ONNX Runtime, exported first", backend="onnx", beside=("torch",), peers=PEERS[:1],
        by_name=True, seconds=190, peer_seconds=_SMALL,
    ),
    Case(
        "S2", "SDXL 1024², 30 steps", family="sdxl", size=1024, steps=30, strength=1.0, peers=PEERS, seconds=90,
        peer_seconds=_LARGE, runs=10,
        goals=Goals({"eager": 1.5, "compile": 1.12, "tomesd": 1.5, "onnx": 1.4}, seconds=0.95, step_ms=29.0),
    ),
    Case(
        "S2-fp8", "the same, products in e4m3", family="sdxl", size=1024, steps=30, strength=1.0, precision=FP8,
        peers=PEERS[:1], by_name=True, seconds=150, peer_seconds=_LARGE, runs=10,
        goals=Goals({"eager": 1.8, HALF: 1.15}, seconds=0.95),
    ),
    Case(
        "S3", "SDXL-inpaint 1024², 14 evaluations", family="sdxl-inpaint", size=1024, peers=PEERS, seconds=70,
        peer_seconds=_LARGE, goals=Goals({"eager": 1.6, "compile": 1.2, "tomesd": 1.6, "onnx": 1.5}, seconds=0.5),
    ),
    Case(
        "S4", "SD1.5-inpaint 512², batch 8", batch=8, peers=PEERS, seconds=40, peer_seconds=_SMALL,
        goals=Goals({"eager": 1.35, "compile": 1.1, "tomesd": 1.3, "onnx": 1.3}),
    ),
    Case(
        "S5-768", "SD1.5-inpaint 768², token merging 50 %", size=768, token_merging=0.5, peers=PEERS[:2] + PEERS[3:],
        seconds=25, peer_seconds=_SMALL, goals=Goals({"eager": 2.0, "compile": 1.35, "tomesd": 1.8}),
    ),
    Case(
        "S5-1024", "SD1.5-inpaint 1024², token merging 50 %", size=1024, token_merging=0.5,
        peers=PEERS[:2] + PEERS[3:], seconds=30, peer_seconds=_SMALL,
        goals=Goals({"eager": 1.8, "compile": 1.5, "tomesd": 1.6}),
    ),
    Case(
        "mixed", "64 requests, random scheduler, 10–50 steps, strength 0.3–1", kind="mixed", requests=64, seconds=25,
        goals=Goals({"one at a time": 1.4}, fill=0.9), note=_FILLED,
    ),
    Case(
        "mixed-256", "the same at 256²", kind="mixed", size=256, requests=64, seconds=10,
        goals=Goals({"one at a time": 2.5}, fill=0.9),
    ),
    Case(
        "resolution", "first image at a new resolution", kind="resolution", peers=(COMPILED,), seconds=10,
        peer_seconds=_SMALL, goals=Goals({"compile": 20.0}, seconds=2.0),
    ),
    Case("lora", "first image after a LoRA change", kind="lora", seconds=10, goals=Goals(seconds=0.3)),
    Case("cold", "process start to first image, weights on disk", kind="cold", seconds=20,
         goals=Goals({"compile": 10.0}, seconds=10.0)),
    Case(
        "cpu", "main job on a CPU, packaged model: 512², 14 evaluations", family="packaged", device="cpu",
        peers=("eager",), seconds=60, peer_seconds={"eager": 30.0}, warmups=1, runs=7,
        goals=Goals({"eager": 1.1}, seconds=4.0),
    ),
    Case(
        "onnx", "the same on ONNX Runtime", family="packaged", device="cpu", backend="onnx", beside=("torch",),
        peers=("eager",), seconds=90, peer_seconds={"eager": 30.0}, warmups=1, runs=7,
        goals=Goals({"eager": 2.0, "torch": 1.5}, seconds=4.0),
    ),
    Case("tables", "compile a 50-step table, every scheduler", kind="tables", device="any", seconds=10,
         goals=Goals(seconds=5e-3)),
)  # fmt: skip

BUDGET = 540.0
"""Seconds for all cases on a GPU."""


def chosen(names: Sequence[str], device: str) -> list[Case]:
    """The cases asked for, ``S5`` meaning both of its sizes; without names, all of the device but those by name.

    Raises:
        ValueError: a name that no case has.
    """
    if not names:
        return [case for case in CASES if case.device in (device, "any") and not case.by_name]
    found = []
    for name in names:
        cases = [case for case in CASES if case.name.lower() == name.lower()]
        cases = cases or [case for case in CASES if case.name.lower().partition("-")[0] == name.lower()]
        if not cases:
            raise ValueError(f"case must be one of {', '.join(case.name for case in CASES)}, not {name!r}")
        found += cases
    return list({case.name: case for case in found}.values())


def shortened(case: Case) -> Case:
    """The same case small enough for a CPU: shrunk networks, small images, three runs. A rehearsal, no result."""
    if case.kind == "tables":
        return case
    if case.family == "packaged":
        return replace(case, runs=3)
    size = {256: 64, 512: 128}.get(case.size, 192)
    batch, requests = min(case.batch, 4), min(case.requests, 8)
    peers = tuple(peer for peer in case.peers if peer != "onnx")
    return replace(
        case, size=size, steps=min(case.steps, 4), batch=batch, requests=requests, warmups=1, runs=3, peers=peers,
        peer_seconds=dict.fromkeys(peers, 0.0),
    )  # fmt: skip


def share(seconds: Sequence[float], first: Case, left: float) -> float:
    """What the first of several may take of ``left``: its own of their shares, but never less than it needs.

    So where time is short, all have less, and the first ones come to their numbers.
    """
    scaled = left * seconds[0] / sum(seconds) if sum(seconds) else left
    return max(scaled, min(left, first.least))


def affordable(case: Case, seconds: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Peers that fit into ``seconds``, in the order of :data:`PEERS`, and those that do not."""
    taken: list[str] = []
    left = seconds
    for peer in (peer for peer in PEERS if peer in case.peers):
        cost = case.peer_seconds.get(peer, 0.0)
        if cost <= left:
            taken.append(peer)
            left -= cost
    return tuple(taken), tuple(peer for peer in case.peers if peer not in taken)
