"""What the batch runner itself costs: `python -m benchmarks.batch_overhead DIR [--out benchmarks/results]`.

DIR holds photographs `NAME.png` with masks `NAME_mask.png`. On the null backend the runner should be bound by PNG: it
is held against the codec's own ceiling, the decoding of the same images and masks and the encoding of the same
outputs in as many processes as there are cores, with nothing around it. Rounds of both alternate. Beside the ratio of
rates stands the ratio of CPU time a row, which a machine that is busy with something else disturbs less. Then real rows
on the packaged model: how full the network's batches are. Then a manifest of many rows: `validate --no-decode`, and the
check of a finished run. Where outputs are missing there are no numbers. Three minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from PIL import Image, __version__

from benchmarks.records import Check, Record
from intarsia import batch
from intarsia.batch.ledger.records import Record as ResultRecord
from intarsia.batch.ledger.results import Results
from intarsia.batch.manifest.reader import Manifest
from intarsia.batch.manifest.rows import Reader, Row, sources_of
from intarsia.batch.manifest.spec_hash import Specs, identity
from intarsia.engine.request import InpaintRequest
from intarsia.images.encode import encode
from intarsia.images.sources import open_image
from intarsia.registry.registry import Registry

SCHEDULERS = (
    "EulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
)
SIDES = (256, 320)
GOALS = {
    "share_of_the_ceiling": ("at least", 0.8),
    "batch_fill": ("at least", 0.9),
    "validate_seconds": ("at most", 60),
    "validate_peak_mib": ("at most", 500),
    "resume_seconds": ("at most", 20),
}
"""Of the numbers, those that are held to something."""


def spent() -> float:
    """CPU seconds of this process and of those it has waited for."""
    return sum(sum(resource.getrusage(scope)[:2]) for scope in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measured(call: Callable[[], object], rows: int) -> tuple[float, float]:
    """Rows a second, and CPU seconds a row."""
    began, cpu = time.perf_counter(), spent()
    call()
    return rows / (time.perf_counter() - began), (spent() - cpu) / rows


_outputs: list[Image.Image] = []
_SAVING = batch.Options().saving  # made once, as a worker does it


def codec(job: tuple[int, bytes, bytes]) -> int:
    """The codec's share of one row: image and mask decoded, the output encoded as the runner does it."""
    number, image, mask = job
    for data in (image, mask):
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
    return len(encode(_outputs[number % len(_outputs)], "PNG", options=_SAVING)[0])


def codec_alone(jobs: list[tuple[int, bytes, bytes]], cores: int) -> None:
    """All rows through the codec, on all cores; the outputs are in memory when the processes begin."""
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        sizes = pool.map(codec, jobs, chunksize=4)
        pool.close()
        pool.join()
    if not all(sizes):
        raise SystemExit("the codec gave nothing")


def write_manifest(folder: Path, pairs: list[tuple[Path, Path]], count: int, real: bool = False) -> Path:
    """Rows that use the images in turn, with seeds and prompts of their own.

    Two schedulers and step counts; for ``real`` ones four, two sizes and all of the schedule.
    """
    path = folder / "manifest.jsonl"
    with path.open("w") as file:
        for number in range(count):
            image, mask = pairs[number % len(pairs)]
            row: dict[str, object] = {
                "id": f"row-{number}", "init_image": str(image), "mask_image": str(mask), "prompt": f"thing {number}",
                "steps": 4 + number % 2, "scheduler": ("EulerDiscreteScheduler", "DDIMScheduler")[number % 2],
            }  # fmt: skip
            if real:
                side = SIDES[number % len(SIDES)]
                row |= {"scheduler": SCHEDULERS[number % 4], "steps": 3 + number % 3, "strength": 1.0}
                row |= {"width": side, "height": side}
            file.write(json.dumps(row) + "\n")
    return path


def fill(folder: Path, pairs: list[tuple[Path, Path]], count: int) -> dict[str, float]:
    """How full the network's batches are where rows are mixed: it is not to wait for decoded ones."""
    stats = batch.run(write_manifest(folder, pairs, count, real=True), folder / "real", batch.Options(slots=4))
    if stats.status["ok"] != count:
        raise SystemExit(f"only {stats.status['ok']} of {count} real rows were done")
    return {"real_rows": count, "real_rows_per_second": stats.rate, "batch_fill": stats.fill}


def overhead(folder: Path, pairs: list[tuple[Path, Path]], count: int, rounds: int) -> dict[str, float]:
    """The runner beside the codec."""
    cores = len(os.sched_getaffinity(0))
    read = [(image.read_bytes(), mask.read_bytes()) for image, mask in pairs]
    jobs = [(number, *read[number % len(read)]) for number in range(count)]
    theirs, ours, rates, peaks = [], [], [], []
    few = write_manifest(folder, pairs, cores).rename(folder / "few.jsonl")
    start = spent()
    batch.run(few, folder / "few", batch.Options(backend="null", workers=cores))
    start = spent() - start  # CPU seconds that the processes take to start, whatever they do then
    manifest = write_manifest(folder, pairs, count)
    for turn in range(rounds):
        out = folder / f"out-{turn}"
        cpu = spent()
        stats = batch.run(manifest, out, batch.Options(backend="null", workers=cores))
        if stats.status["ok"] != count:
            raise SystemExit(f"only {stats.status['ok']} of {count} rows were done")
        rates.append(stats.rate)
        peaks.append(max(state.memory for state in stats.states))
        ours.append((spent() - cpu - start) / (count - cores))
        _outputs[:] = [Image.open(out / f"row-{number}.png") for number in range(len(pairs))]
        for image in _outputs:
            image.load()
        theirs.append(measured(lambda: codec_alone(jobs, cores), count))
    rate, cpu_alone = (statistics.median(column) for column in zip(*theirs, strict=True))
    return {
        "rows": count,
        "cores": cores,
        "codec_rows_per_second": rate,
        "runner_rows_per_second": statistics.median(rates),
        "share_of_the_ceiling": statistics.median(mine / other for mine, (other, _) in zip(rates, theirs, strict=True)),
        "codec_cpu_ms": 1000 * cpu_alone,
        "runner_cpu_ms": 1000 * statistics.median(ours),
        "share_of_the_ceiling_by_cpu": cpu_alone / statistics.median(ours),
        "runner_peak_mib_a_worker": max(peaks),
    }


def finished(manifest: Path, out: Path) -> None:
    """What a finished run of a manifest leaves, but for the images, which are four bytes each."""
    out.mkdir()
    options = batch.Options(backend="null")
    reader, specs = Reader(manifest.parent, options, {}), Specs(Registry(), options)
    hashes: dict[str, str] = {}
    lines = []
    for line in Manifest(manifest):
        row = reader.row(line)
        if not isinstance(row, Row):
            raise SystemExit(row.text)
        sources = sources_of(row.fields)
        for name, source in sources.items():
            if source not in hashes:
                hashes[source] = open_image(name, source).sha256
        contents = {name: hashes[source] for name, source in sources.items()}
        spec = specs.spec(InpaintRequest.parse(row.fields), contents, row.outputs)
        (out / row.outputs[0]).write_bytes(b"done")
        lines.append({
            "id": row.id, "line": row.number, "status": "ok", "time": "2026-01-01T00:00:00.000000+00:00",
            "outputs": list(row.outputs), "bytes": [4], "sha256": ["0" * 64], "spec_hash": spec, "contents": contents,
            "identities": {name: identity(source) for name, source in sources.items()}, "attempts": 1,
            "timings": dict.fromkeys(("resolve", "encode", "denoise", "decode", "paste", "write", "total"), 0.123456),
            "runtime": ["null", "cpu"], "seeds": [1], "model_sha256": "0" * 64,
        })  # fmt: skip
    with Results(out / "results.jsonl") as results:
        results.add(map(ResultRecord.from_json, lines))


def many(folder: Path, pairs: list[tuple[Path, Path]], count: int) -> dict[str, float]:
    """Seconds and peak MiB of validating many rows without decoding, and of finding all of them done."""
    manifest, out = write_manifest(folder, pairs, count), folder / "done"
    finished(manifest, out)
    program = (
        "import sys, time\nfrom intarsia import batch\nfrom intarsia.batch.running.process import peak_memory\n"
        "began, cpu = time.perf_counter(), time.process_time()\n"
        "if sys.argv[1] == 'validate':\n    found = batch.validate(sys.argv[2], decode=False)\n"
        "    assert found.rows == int(sys.argv[4]) and not found.problems\n"
        "else:\n    stats = batch.run(sys.argv[2], sys.argv[3], batch.Options(backend='null'))\n"
        "    assert stats.before == int(sys.argv[4]) and not stats.status\n"
        "print(time.perf_counter() - began, time.process_time() - cpu, peak_memory())\n"
    )
    numbers: dict[str, float] = {"many_rows": count}
    for what in ("validate", "resume"):
        command = [sys.executable, "-c", program, what, str(manifest), str(out), str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall, cpu, peak = map(float, done.stdout.split())
        numbers |= {f"{what}_seconds": wall, f"{what}_cpu_seconds": cpu, f"{what}_peak_mib": peak}
    return numbers


def verdicts(numbers: dict[str, float]) -> dict[str, bool]:
    """Goals that were measured, and whether they are reached."""
    return {
        name: numbers[name] >= bound if how == "at least" else numbers[name] <= bound
        for name, (how, bound) in GOALS.items()
        if name in numbers
    }


def record(arguments: argparse.Namespace, numbers: dict[str, float]) -> Record:
    """What is kept of a run; there are no numbers but where every output was there."""
    from benchmarks.environment import environment

    settings = {name: getattr(arguments, name) for name in ("rows", "rounds", "real", "many")}
    settings |= {"compression": batch.Options().compression, "pillow": __version__}
    check = Check(True, "every row was done in every run, and all of the finished manifest was found done")
    kept = numbers | {"goals": {name: list(goal) for name, goal in GOALS.items()}, "reached": verdicts(numbers)}
    return Record("batch_overhead", settings, environment(), check, kept)


def main() -> int:
    """Print the numbers as JSON; 1 where a goal was measured and missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rows", type=int, default=600, help="for the runner beside the codec")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--real", type=int, default=60, help="rows on the packaged model")
    parser.add_argument("--many", type=int, default=100_000, help="for validate and the check of a finished run")
    parser.add_argument("--out", type=Path, help="a folder for the JSON record")
    arguments = parser.parse_args()
    pairs = [(path, path.with_name(f"{path.stem}_mask.png")) for path in sorted(arguments.images.glob("*.png"))]
    pairs = [(image.absolute(), mask.absolute()) for image, mask in pairs if mask.exists()]
    if not pairs:
        raise SystemExit(f"{arguments.images} has no NAME.png with NAME_mask.png")
    numbers: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers |= overhead(folder, pairs, arguments.rows, arguments.rounds) if arguments.rows else {}
        numbers |= fill(folder, pairs, arguments.real) if arguments.real else {}
        numbers |= many(folder, pairs, arguments.many) if arguments.many else {}
    numbers = {key: round(value, 4) for key, value in numbers.items()}
    print(json.dumps(numbers, indent=2))
    if arguments.out:
        record(arguments, numbers).write(arguments.out)
    return 0 if all(verdicts(numbers).values()) else 1


if __name__ == "__main__":
    sys.exit(main())
