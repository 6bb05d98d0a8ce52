"""A Chromium, tabs, and servers for them; skipped, with the reason, where there is no Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve: pip install -e '.[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra dev: pip install -e '.[dev]'")

from playwright.sync_api import Browser

from intarsia.server.settings import EngineSettings
from tests.page.workbench import Workbench, png
from tests.server.running import Running, running
from tests.server.step_gate import StepGate

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PIXELS = np.random.default_rng(3).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")  # while it is there, no other test of the process may run a loop of asyncio
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs a user other than root, which CI often has not.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_tab(browser: Browser) -> Iterator[Callable[..., Workbench]]:
    """Opens tabs, each in a profile of its own unless one is given; what they complained about fails the test."""
    profiles = []
    tabs = []

    def open_another(server: Running | str, *, beside: Workbench | None = None, **options: Any) -> Workbench:
        url = server if isinstance(server, str) else server.url
        if beside is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            context.set_default_timeout(30_000)
            profiles.append(context)
        else:
            context = beside.page.context
        tab = Workbench(context.new_page(), url)
        tabs.append(tab)
        tab.load()
        return tab

    yield open_another
    for context in profiles:
        context.close()
    assert [fault for tab in tabs for fault in tab.faults] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server on the packaged model that a module's tests share."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")
    with running(tmp_path_factory.mktemp("server") / "data", engine=EngineSettings()) as opened:
        yield opened


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> StepGate:
    return StepGate(monkeypatch)


@pytest.fixture
def held(gate: StepGate, tmp_path: Path) -> Iterator[Running]:
    """A server on the null backend, whose engine is held at the gate."""
    with running(tmp_path / "data") as opened:
        try:
            yield opened
        finally:
            gate.open()


@pytest.fixture
def tab(open_tab: Callable[..., Workbench], server: Running) -> Workbench:
    """A tab on the module's server."""
    return open_tab(server)


@pytest.fixture
def photo() -> bytes:
    """A small picture: 128 × 96."""
    return png(PIXELS)
