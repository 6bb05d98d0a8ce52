"""The page as a person uses it: open, paint, run, look. Points are pixels of the picture."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.server.running import Running

__all__ = ["Workbench", "png"]

Point = tuple[float, float]

_READY = "html[data-ready]"


def png(pixels: np.ndarray, **options: Any) -> bytes:
    """A PNG file of pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


@dataclass
class Workbench:
    """One tab.

    Attributes:
        faults: what its console and its network have complained about.
        hosts: every host that it has asked for anything.
    """

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("?")[0]))
        self.page.on("console", lambda line: self.faults.append(line.text) if _is_fault(line.text) else None)

    def load(self) -> None:
        """Open the page, or reload it once all of it is written."""
        if self.page.url.startswith(self.url):
            self.wait_until_written()
        self.page.goto(f"{self.url}/")
        self.page.wait_for_selector(_READY)

    def wait_until_written(self) -> None:
        """Wait until leaving the page would lose nothing: it does not hold the browser back any more."""
        end = time.monotonic() + 30
        while not self.page.evaluate("window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"):
            assert time.monotonic() < end, "the page was not written"
            self.page.wait_for_timeout(20)

    def at(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def open(self, file: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
        """Choose a file in the dialog."""
        self.page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": file})
        self.page.wait_for_selector("#empty", state="hidden")
        width, height = Image.open(io.BytesIO(file)).size
        self.shows("#picture-size", f"{width} × {height}")

    def on_screen(self, point: Point) -> Point:
        """Where a pixel of the picture is, while all of the picture is in sight."""
        box = self.at("#stage").bounding_box()
        assert box is not None
        width, height = self.image_size
        scale = min(0.94 * box["width"] / width, 0.94 * box["height"] / height, 4)
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + point[0] * scale, top + point[1] * scale

    @property
    def image_size(self) -> tuple[int, int]:
        width, height = self.at("#picture-size").inner_text().split(" × ")
        return int(width), int(height)

    def stroke(self, *points: Point) -> None:
        """Press at the first point, move over the others, release."""
        mouse = self.page.mouse
        mouse.move(*self.on_screen(points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.on_screen(point))
        mouse.up()

    def brush(self, size: int) -> None:
        """Make the brush that large, and go back to the stage."""
        self.at("#brush-pixels").fill(str(size))
        self.at("#stage").focus()

    def mask(self, folder: Path) -> np.ndarray:
        """The mask, as it is saved."""
        with self.page.expect_download() as saved:
            self.at("#save-mask").click()
        path = folder / "saved-mask.png"
        saved.value.save_as(path)
        return np.asarray(Image.open(path))

    def settings(self, **values: Any) -> None:
        """Fill controls by the names of their fields."""
        self.unfold("settings")
        for name, value in values.items():
            control = self.at(f"#field-{name}" if name != "prompt" else "#prompt")
            if name in ("model", "scheduler", "masked_content"):
                control.select_option(value)
            elif isinstance(value, bool):
                control.set_checked(value)
            else:
                control.fill(json.dumps(value) if isinstance(value, dict) else str(value))

    def lora(self, name: str, strength: str) -> None:
        """Choose a LoRA."""
        item = self.at(".loras li").filter(has_text=name)
        item.get_by_role("checkbox").check()
        item.get_by_role("textbox").fill(strength)

    def unfold(self, section: str) -> None:
        """Open one of the folded parts."""
        if self.at(f"#{section}").get_attribute("open") is None:
            self.at(f"#{section} > summary").click()

    def paint(self) -> None:
        """Press the button, and wait for the result."""
        self.at("#run").click()
        self.wait_for_result()

    def wait_for_result(self) -> None:
        self.page.wait_for_selector("#result:not([hidden])")

    def result(self, server: Running) -> np.ndarray:
        """The pixels of the selected sample."""
        return np.asarray(Image.open(io.BytesIO(self.result_file(server))))

    def result_file(self, server: Running) -> bytes:
        address = self.at("#download").get_attribute("href")
        return server.client.get(f"/{address}").content

    def request_of_last_job(self, server: Running) -> dict[str, Any]:
        """The request of the newest job, without its images."""
        job = server.client.get("/jobs?limit=1").json()["jobs"][0]
        return {name: value for name, value in job["request"].items() if not name.endswith("_image")}

    def seen(self, selector: str) -> str:
        """The text of something that has to be in sight."""
        self.page.wait_for_selector(f"{selector}:not([hidden])")
        return self.at(selector).inner_text()

    def shows(self, selector: str, expected: str | re.Pattern[str]) -> None:
        """Wait until something has that text."""
        expect(self.at(selector)).to_have_text(expected, timeout=30_000)

    def drop(self, target: str, file: bytes, name: str = "photo.png", kind: str = "image/png") -> None:
        """Drop a file on something."""
        transfer = self.page.evaluate_handle(
            """([bytes, name, type]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
                return transfer;
            }""",
            [list(file), name, kind],
        )
        for event in ("dragover", "drop"):
            self.at(target).dispatch_event(event, {"dataTransfer": transfer})

    def pixels(self, canvas: str, points: Sequence[Point]) -> list[int]:
        """Opacity of a canvas of the stage, at pixels of the picture."""
        box = self.at("#stage").bounding_box()
        assert box is not None
        places = [(int(x - box["x"]), int(y - box["y"])) for x, y in map(self.on_screen, points)]
        script = """(canvas, places) => {
            const context = canvas.getContext('2d');
            return places.map(([x, y]) => context.getImageData(x, y, 1, 1).data[3]);
        }"""
        found: list[int] = self.at(canvas).evaluate(script, places)
        return found

    def pixel(self, canvas: str, point: Point) -> Sequence[int]:
        """RGBA of a canvas of the stage, at a pixel of the picture."""
        x, y = self.on_screen(point)
        box = self.at("#stage").bounding_box()
        assert box is not None
        script = "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data]"
        pixel: list[int] = self.at(canvas).evaluate(script, [int(x - box["x"]), int(y - box["y"])])
        return pixel


def _is_fault(line: str) -> bool:
    """Of the console: a status that the page handles is none."""
    return "Content Security Policy" in line or "Uncaught" in line
