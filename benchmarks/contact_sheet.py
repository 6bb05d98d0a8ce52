"""`python -m benchmarks.contact_sheet --rows 50000 --out FILE.json`: a contact sheet of a large batch, and its opening.

The batch is made of a run on the null backend over a few synthetic photographs (JPEG), masks (PNG) and results (PNG);
each row has links to their files under names of its own, so that the sheet reads every file of every row. What is
measured: seconds, processor time and peak memory of ``intarsia batch sheet``, the bytes that it writes, and where
Playwright and Chromium are there, the seconds from opening the first page until all images in view are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.environment import environment

KINDS = 16
"""Different photographs."""

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


def make_batch(folder: Path, rows: int, side: int) -> Path:
    """The output folder of a batch with that many rows."""
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
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    _multiply(out, folder / "links", rows)
    return out


def _multiply(out: Path, links: Path, rows: int) -> None:
    """Put ``rows`` rows in place of the run's own, with links to its files."""
    ledger = out / "results.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
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
            line |= {"id": f"photo {number:06d}", "line": number + 1, "sources": sources, "outputs": [output]}
            file.write(json.dumps(line) + "\n")


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


def measured(rows: int, side: int) -> dict[str, Any]:
    """What the sheet of that many rows costs."""
    with tempfile.TemporaryDirectory() as folder:
        out = make_batch(Path(folder), rows, side)
        began = time.perf_counter()
        command = [sys.executable, "-m", "intarsia", "batch", "sheet", os.fspath(out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit("the contact sheet was not made")
        files = [out / "sheet.html", *(path for path in (out / "sheet-files").rglob("*") if path.is_file())]
        return {
            "rows": rows,
            "side": side,
            "seconds": round(seconds, 1),
            "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
            "peak_mib_of_a_process": round(used.ru_maxrss / 1024, 1),
            "written_mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
            "seconds_to_open": seconds_to_open(out / "sheet.html"),
            "environment": environment(),
        }


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=512, help="pixels of the images' sides")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    record = measured(asked.rows, asked.side)
    print(json.dumps(record, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
