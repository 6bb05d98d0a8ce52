"""Usable by everybody: axe-core, four viewports, light and dark, the keyboard's way through the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.node_tools import axe_script
from tests.page.workbench import Workbench

VIEWPORTS = [(1280, 800), (820, 1180), (390, 844), (360, 640)]
SMALL = {"width": 64, "height": 64}


def serious(tab: Workbench, script: Path) -> list[str]:
    """What axe-core finds that is serious or critical."""
    tab.page.evaluate(script.read_text(encoding="utf-8"))
    found = tab.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {[node['html'][:120] for node in violation['nodes']]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


def worn(tab: Workbench, photo: bytes) -> None:
    """Everything in sight: a result with samples, all parts unfolded, a grid, an error."""
    tab.open(photo)
    tab.brush(24)
    tab.stroke((50, 40), (80, 50))
    tab.settings(prompt="a red circle", steps=3, seed=7, samples=2, other=SMALL)
    for part in ("history", "compare", "code"):
        tab.unfold(part)
    tab.at("#across-values").fill("euler, unipc")
    tab.at("#down-values").fill("2, 3")
    tab.at("#compare-run").click()
    tab.page.wait_for_selector("#compare-result:not([hidden])")
    tab.settings(steps=151)
    tab.at("#run").click()
    tab.seen("#field-steps-error")
    tab.settings(steps=3)
    tab.paint()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), VIEWPORTS)
def test_axe_finds_nothing_serious_and_nothing_is_cut_off(open_tab, server, photo, scheme, width, height):
    script = axe_script()
    tab = open_tab(server, viewport={"width": width, "height": height}, color_scheme=scheme)
    assert serious(tab, script) == []
    worn(tab, photo)
    assert serious(tab, script) == []
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_alone_leads_from_an_example_to_a_result(tab):
    keyboard = tab.page.keyboard
    tab.at("[data-example=sky]").focus()
    keyboard.press("Enter")
    tab.shows("#picture-size", "512 × 512")
    tab.at("#stage").focus()
    keyboard.press("Enter")
    for key in ("ArrowRight", "ArrowDown") * 6:
        keyboard.press(key)
    keyboard.press("Enter")
    tab.settings(steps=2, other=SMALL)
    tab.at("#prompt").focus()
    keyboard.press("Control+Enter")
    tab.wait_for_result()
    tab.at("#split").focus()
    keyboard.press("End")
    assert tab.at("#split").input_value() == "100"
    keyboard.press("Tab")
    expect(tab.at("#keep")).to_be_focused()
    keyboard.press("Enter")
    expect(tab.at("#result")).to_be_hidden()


def test_progress_and_end_are_read_aloud(tab, photo):
    tab.open(photo)
    tab.stroke((50, 50))
    tab.settings(steps=2, other=SMALL)
    assert tab.at("#announcer").get_attribute("role") == "status"
    tab.paint()
    tab.shows("#announcer", re.compile(r"^Done in .*, seed \d+$"))


def test_every_control_has_a_name(tab):
    tab.page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    nameless = tab.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea, a')]
            .filter((element) => !element.hidden && element.type !== 'file')
            .filter((element) => !element.labels?.length && !element.getAttribute('aria-label'))
            .filter((element) => !element.textContent.trim())
            .map((element) => element.outerHTML)"""
    )
    assert nameless == []
