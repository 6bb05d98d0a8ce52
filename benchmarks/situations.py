"""Cases that are no pipeline beside another: a mixed load, a new resolution, a new LoRA, a cold start, tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

import intarsia
from benchmarks import compile_tables, jobs, peers
from benchmarks.cases import COMPILED, Case
from benchmarks.measure import interleaved, median, rms, seconds
from benchmarks.pipelines import reference
from benchmarks.place import Place, engine, ours, ran
from benchmarks.records import Check, Record, judged, settings

# Sides at 512², so that all keep their proportions where images are smaller.
SIZES = ((576, 448), (640, 512), (448, 704))
# Levels. 14.3 are 25 dB: what half precision leaves of the same image in another batch shape, over up to 50
# guided steps. 2.55 are 40 dB.
_SAME_HALF, _SAME_FULL = 14.3, 2.55


def _record(case: Case, place: Place, check: Check, numbers: dict[str, Any]) -> Record:
    return Record(
        case.name, settings(case), place.environment, check, numbers if check.passed else {}, rehearsal=place.shrunk
    )


def _same(what: str, error: float, place: Place) -> Check:
    """Two ways to the same image."""
    bar = _SAME_HALF if place.half else _SAME_FULL
    return Check(error <= bar, f"{what}: {error:.2f} levels apart, at most {bar}", {"intarsia": error})


def mixed(case: Case, place: Place, left: float) -> Record:
    """All requests at once against one after the other; each image must be the same either way."""
    load = jobs.mixed(case, None)
    with engine(case, place) as opened:
        alone: list[Image.Image] = []
        together: list[Image.Image] = []

        def one_at_a_time() -> None:
            alone[:] = [opened.run(request).generated[0] for request in load]

        def at_once() -> None:
            tickets = [opened.submit(request) for request in load]
            together[:] = [ticket.result().generated[0] for ticket in tickets]

        warm = [opened.submit(request) for request in load[: opened.counters.slots]]
        for ticket in warm:
            ticket.result()
        opened.run(load[0])
        times = {"one at a time": [seconds(one_at_a_time)]}
        before = opened.counters
        times["intarsia"] = [seconds(at_once)]
        after, what_ran = opened.counters, ran(opened, case)
    error = max(rms([one], [other]) for one, other in zip(alone, together, strict=True))
    evaluations, rows = after.evaluations - before.evaluations, after.lane_rows - before.lane_rows
    medians = {name: median(each) for name, each in times.items()}
    numbers = {
        "seconds": times,
        "median": medians,
        "ratio": {"one at a time": medians["one at a time"] / medians["intarsia"]},
        "images_per_second": {name: len(load) / each for name, each in medians.items()},
        "fill": rows / (evaluations * after.slots),
        "ran": what_ran,
    }
    return _record(case, place, _same("worst picture alone and in company", error, place), numbers)


def resolution(case: Case, place: Place, left: float) -> Record:
    """A warm engine's first image at sizes that it has not seen; in its turn, the compiled peer's at one."""
    sizes = [(width * case.size // 512, height * case.size // 512) for width, height in SIZES]
    began = time.perf_counter()
    with engine(case, place) as opened:
        ours(opened, case)()
        first, again, pictures = [], [], []
        for size in sizes:
            call = ours(opened, case, size)
            first.append(seconds(lambda call=call: pictures.extend(call())))
            again.append(seconds(call))
        what_ran = ran(opened, case)
    made = place.pipeline(case, place.dtype)
    theirs = peers.call(made, case, sizes[0])()
    full = reference(case, place, sizes[0]) if place.half else theirs
    check = judged({"intarsia": rms(pictures[:1], full), "eager": rms(theirs, full)}, "eager", place.half)
    numbers: dict[str, Any] = {"seconds": {"intarsia": first}, "warm": {"intarsia": again}, "ran": what_ran}
    numbers["median"] = {"intarsia": median(first)}
    numbers["ratio"] = {}
    left -= time.perf_counter() - began
    absent = {COMPILED: "not asked for"}
    if place.compiles and check.passed:
        absent = _compiled_resolution(case, made, sizes[0], left, numbers)
    return replace(_record(case, place, check, numbers), absent=absent)


def _compiled_resolution(
    case: Case, made: Any, size: tuple[int, int], left: float, numbers: dict[str, Any]
) -> dict[str, str]:
    """The compiled peer's first image at another size goes into ``numbers``; why not, if it does not."""
    if left < case.peer_seconds[COMPILED]:
        return {COMPILED: f"no time for it: {left:.0f} s were left"}
    try:
        made = peers.compiled(made)
        peers.call(made, case)()
        took = seconds(peers.call(made, case, size))
    except Exception as exc:  # noqa: BLE001 - ours is not lost by it, and the record says what happened
        return {COMPILED: f"failed: {type(exc).__name__}: {(str(exc).splitlines() or [''])[0][:200]}"}
    numbers["seconds"][COMPILED] = [took]
    numbers["median"][COMPILED] = took
    numbers["ratio"][COMPILED] = took / numbers["median"]["intarsia"]
    return {}


def lora(case: Case, place: Place, left: float) -> Record:
    """An open engine's first image with a LoRA it has not seen; the same as an engine's that begins with it."""
    weights = _disk_registry(case, place, ("one", "other"))
    plain = jobs.requests(case, None)[0]
    asked = [plain.model_copy(update={"loras": (intarsia.Lora(id=name),)}) for name in ("one", "other")]
    with intarsia.Engine("torch", str(place.device), weights=weights) as opened:
        bare = opened.run(plain).generated
        warm = interleaved({"intarsia": lambda: opened.run(plain)}, 1, 3)["intarsia"]
        changed: list[Image.Image] = []
        first = [seconds(lambda request=request: changed.extend(opened.run(request).generated)) for request in asked]
    with intarsia.Engine("torch", str(place.device), weights=weights) as fresh:
        expected = fresh.run(asked[1]).generated
    error = rms(changed[1:], expected)
    check = _same("after a change and from the start", error, place)
    if rms(changed[:1], bare) < 0.1 or rms(changed[:1], changed[1:]) < 0.1:
        check = Check(False, "the LoRAs change nothing, so the check says nothing", check.errors)
    numbers = {
        "seconds": {"intarsia": first},
        "warm": {"intarsia": warm},
        "median": {"intarsia": median(first)},
        "ratio": {},
    }
    return _record(case, place, check, numbers)


def cold(case: Case, place: Place, left: float) -> Record:
    """A new process, from its start to its first image. The files were just written: the disk's cache is warm.

    So is Triton's, whose kernels were compiled here; one more process, the first to go where time is short, has an
    empty one.
    """
    ends = time.perf_counter() + left
    weights = _disk_registry(case, place, ())
    with intarsia.Engine("torch", str(place.device), weights=weights) as opened:
        expected = opened.run(jobs.requests(case, None)[0]).generated
    worst, fresh, warm_turns = 0.0, None, 1 if place.shrunk else 3
    times: list[float] = []
    for turn in range(warm_turns + 1):
        has_cache = turn < warm_turns
        if turn and ends - time.perf_counter() < 2 * max(times):
            break
        picture = place.folder / f"cold-{turn}.png"
        order = {"weights": str(weights), "device": str(place.device), "size": case.size, "steps": case.steps}
        order |= {"out": str(picture), "began": time.time()}
        try:
            took = _cold_process(order, None if has_cache else place.folder / "triton", ends - time.perf_counter())
        except _NoPicture as exc:
            return _record(case, place, Check(False, str(exc)), {})
        worst = max(worst, rms([Image.open(picture).convert("RGB")], expected))
        if has_cache:
            times.append(took)
        else:
            fresh = took
    check = _same("here and in a new process", worst, place)
    numbers = {"seconds": {"intarsia": times}, "median": {"intarsia": median(times)}, "ratio": {}}
    numbers["caches"] = "files in the disk's cache, Triton's kernels compiled before"
    numbers["seconds_with_empty_triton_cache"] = fresh
    return _record(case, place, check, numbers)


class _NoPicture(Exception):
    """A process that gave no image; the sentence is for the record."""


def _cold_process(order: dict[str, Any], triton_cache: Path | None, most: float) -> float:
    """Seconds from the start of a process to its image. It has as many as are left, and a minute if fewer are."""
    command = [sys.executable, "-m", "benchmarks.cold", json.dumps(order)]
    kept = {**os.environ, "TRITON_CACHE_DIR": str(triton_cache)} if triton_cache else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=kept, timeout=max(most, 60.0))
    except subprocess.TimeoutExpired as exc:
        raise _NoPicture(f"the process had no picture after {exc.timeout:.0f} s") from exc
    if done.returncode:
        raise _NoPicture(f"the process failed: {done.stderr.strip()[-300:]}")
    return float(done.stdout.split()[-1])


def tables(case: Case, place: Place, left: float) -> Record:
    """Every scheduler's 50-step table, compiled anew."""
    rows = compile_tables.measured(turns=9)
    wrong = [name for name in rows if not compile_tables.is_sound(name)]
    check = Check(not wrong, f"tables with other rows when compiled anew: {', '.join(wrong) or 'none'}")
    compiled = {name: row["compile"] for name, row in rows.items()}
    numbers = {"seconds": rows, "median": {"intarsia": max(compiled.values())}, "ratio": {}}
    return replace(_record(case, place, check, numbers), rehearsal=False)


def _disk_registry(case: Case, place: Place, loras: tuple[str, ...]) -> Path:
    """A ``weights.toml`` with the case's model, as files, and some random LoRAs."""
    model, lines = place.on_disk(case), []
    for seed, name in enumerate(loras):
        path = place.folder / f"{name}.safetensors"
        _write_lora(model, path, seed)
        lines += [f"[loras.{name}]", f"path = {json.dumps(str(path))}"]
    return place.listed(model, case, f"disk-{len(loras)}", lines)


def _write_lora(model: Path, path: Path, seed: int, rank: int = 8) -> None:
    """Random additions to all projections of a UNet's attention, in PEFT's names."""
    from safetensors import safe_open

    generator, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(next((model / "unet").glob("*.safetensors")), framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            if ".attn" in name and name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
                rows, columns = file.get_slice(name).get_shape()
                layer = f"unet.{name.removesuffix('.weight')}"
                down = torch.randn(rank, columns, generator=generator) / columns**0.5
                tensors[f"{layer}.lora_A.weight"] = down.half()
                tensors[f"{layer}.lora_B.weight"] = (torch.randn(rows, rank, generator=generator) / 4).half()
    save_file(tensors, path)
