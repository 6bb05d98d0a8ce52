"""`python -m benchmarks.contact_sheet --rows 50000 --out FILE.json`: a contact sheet of a large batch, and its opening.

The batch is made of a run on the null backend over a few synthetic photographs (JPEG), masks (PNG) and results (PNG);
each row has links to their files under names of its own, so that the sheet reads every file of every row. With
``--thumbnails`` the run has made the thumbnails, of which each row has a link under its own key.

What is measured: seconds, processor time and peak memory of ``intarsia batch sheet`` with its processes, the bytes that
it writes, and where Playwright and Chromium are there, the seconds from opening the first page until all images in view
are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.environment import environment
from intarsia.batch.ledger.records import Record
from intarsia.batch.sheet.pages import FILES
from intarsia.batch.sheet.sheet_rows import task_of

KINDS = 16
"""Different photographs."""

_BETWEEN = 0.1  # seconds between two looks at the memory

_SHOWN = """() => [...document.images].filter(image => image.getBoundingClientRect().top < innerHeight)
    .every(image => image.complete && image.naturalWidth > 0)"""


def photograph(number: int, side: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A smooth image with a camera's noise, and a mask with one rectangle."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(rng.uniform(3, 20) * x + rng.uniform(3, 20) * y + rng.uniform(0, 6)) for _ in range(3)]
    noise = rng.normal(0, 3, (side, side, 3))
    pixels = (127 + 90 * np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8)

    mask = np.zeros((side, side), np.uint8)
    left, top = rng.integers(0, side // 2, 2)
    mask[top : top + side // 3, left : left + side // 3] = 255
    return pixels, mask


def make_batch(folder: Path, rows: int, side: int, *, thumbnails: bool = False) -> Path:
    """The output folder of a batch with that many rows.

    Args:
        thumbnails: whether the run has made them.
    """
    sources = folder / "images"
    sources.mkdir()
    for number in range(KINDS):
        pixels, mask = photograph(number, side)
        Image.fromarray(pixels).save(sources / f"{number}.jpg", quality=92)
        Image.fromarray(mask).save(sources / f"{number}_mask.png")
    out = folder / "out"
    command = [
        sys.executable,
        "-m",
        "intarsia",
        "batch",
        "run",
        "--images",
        os.fspath(sources),
        "--out",
        os.fspath(out),
    ]
    command += ["--prompt", "a red circle", "--backend", "null", "--steps", "2", "--quiet"]
    command += ["--thumbnails"] if thumbnails else []
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    _multiply(out, folder / "links", rows)
    return out


def _multiply(out: Path, links: Path, rows: int) -> None:
    """Put ``rows`` rows in place of the run's own, with links to its files, and to its thumbnails where it has any."""
    ledger = out / "results.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    made = {path.name.partition("-")[0]: path for path in (out / FILES).rglob("*.jpg")}
    links.mkdir()
    (out / "r").mkdir()
    with ledger.open("w") as file:
        for number in range(rows):
            line = dict(lines[number % len(lines)])
            sources = {}
            for name, source in line["sources"].items():
                sources[name] = os.fspath(links / f"{number}-{Path(source).name}")
                os.link(source, sources[name])
            output = f"r/{number}.png"
            os.link(out / line["outputs"][0], out / output)
            thumbnail = made.get(_key(line, out))
            line |= {"id": f"photo {number:06d}", "line": number + 1, "sources": sources, "outputs": [output]}
            file.write(json.dumps(line) + "\n")
            if thumbnail is not None:
                key = _key(line, out)
                (out / FILES / key[:2]).mkdir(exist_ok=True)
                os.link(thumbnail, out / FILES / key[:2] / f"{key}-{thumbnail.stem.partition('-')[2]}.jpg")


def _key(line: dict[str, Any], out: Path) -> str:
    """What the name of the row's thumbnail begins with."""
    return task_of(Record.from_json(line), out).key


def seconds_to_open(page: Path) -> float | None:
    """From opening the page in Chromium until its images in view are there; None without Chromium or Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        return None

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        tab.goto(page.as_uri())
        tab.wait_for_function(_SHOWN)
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


def memory_of(pid: int) -> float:
    """MiB of a process and its children, each page divided by how many processes share it; 0 where it has ended."""
    kib = 0
    with suppress(FileNotFoundError, ProcessLookupError):
        processes = [str(pid)]
        for thread in Path(f"/proc/{pid}/task").iterdir():
            processes += (thread / "children").read_text().split()
        for each in processes:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def measured(rows: int, side: int, *, thumbnails: bool) -> dict[str, Any]:
    """What the sheet of that many rows costs."""
    with tempfile.TemporaryDirectory() as folder:
        out = make_batch(Path(folder), rows, side, thumbnails=thumbnails)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_before = before.ru_utime + before.ru_stime
        began = time.perf_counter()
        command = [sys.executable, "-m", "intarsia", "batch", "sheet", os.fspath(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(_BETWEEN)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit("the contact sheet was not made")
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        files = [out / "sheet.html", *(path for path in (out / "sheet-files").rglob("*") if path.is_file())]
        return {
            "rows": rows,
            "side": side,
            "thumbnails": "made by the run" if thumbnails else "made by the sheet",
            "seconds": round(seconds, 1),
            "processor_seconds": round(used.ru_utime + used.ru_stime - used_before, 1),
            "peak_mib": round(peak, 1),
            "written_mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
            "seconds_to_open": seconds_to_open(out / "sheet.html"),
            "environment": environment(),
        }


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=512, help="pixels of the images' sides")
    parser.add_argument("--thumbnails", action="store_true", help="the run has made them")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    record = measured(asked.rows, asked.side, thumbnails=asked.thumbnails)
    print(json.dumps(record, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
