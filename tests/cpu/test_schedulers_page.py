"""docs/schedulers.md: the code on it, run as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the packaged model runs on torch here: pip install 'intarsia[torch]'")

from intarsia import cli
from intarsia.schedulers import NAMES
from intarsia.schedulers.chosen_settings import SETTINGS, settings_of
from intarsia.schedulers.names import solver_of

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "schedulers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
[COMMAND] = [text for language, text in BLOCKS if language == "sh"]
_, SETTINGS_BLOCK, TRACED = [text for language, text in BLOCKS if language == "python"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photograph and the mask that the page speaks of."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 24:72] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_settings_reach_an_image(place):
    seeded = SETTINGS_BLOCK.replace("**settings)", "**settings, seed=5)")
    exec(seeded, {})
    exec(seeded.replace("third-order", "second-order").replace(', "solver_order": 3', ""), {})
    assert (pixels(place / "third-order.png") != pixels(place / "second-order.png")).any()


@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_a_traced_scheduler_makes_an_image_and_a_file_that_the_command_line_takes(place):
    pytest.importorskip("diffusers", reason="the page traces an object of diffusers: pip install 'intarsia[oracle]'")
    namespace: dict[str, object] = {}
    exec(TRACED.replace("table=table", "table=table, seed=5"), namespace)
    cli.app([*shlex.split(COMMAND)[1:], "--seed", "5"], standalone_mode=False)
    np.testing.assert_array_equal(pixels(place / "lu.png"), pixels(place / "lu-again.png"))
    assert len(namespace["table"]) == 6  # type: ignore[arg-type]


def test_the_page_says_which_scheduler_takes_which_setting():
    """The rows of its table, against what the solvers declare."""
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    said = {cells[0].strip(" `"): cells[-1].strip() for cells in rows}
    short = {name: name.removesuffix("Scheduler") for name in NAMES}
    takes = {setting: {name for name in NAMES if setting in settings_of(solver_of(name))} for setting in SETTINGS}

    assert (said["spacing"], takes["spacing"]) == ("all", set(NAMES))
    assert (said["eta"], takes["eta"]) == ("DDIM", {"DDIMScheduler"})
    families = {name for name in NAMES if short[name].startswith(("DPMSolver", "UniPC", "DEIS"))}
    assert said["solver_order"] == "DPM-Solver (both forms), UniPC, DEIS"
    assert said["solver_type"] == "DPM-Solver; UniPC; DEIS"
    assert takes["solver_order"] == takes["solver_type"] == families
    assert said["final_sigmas_type"].startswith("all but LCM")
    assert takes["final_sigmas_type"] == set(NAMES) - {"LCMScheduler"}
    [curves] = [cells[-1].strip() for cells in (line.strip("|").split("|") for line in PAGE.splitlines())
                if len(cells) == 3 and "`exponential`" in cells[1] and not cells[0].strip()]  # fmt: skip
    without = {short[name] for name in NAMES if not solver_of(name).curves}
    assert set(re.findall(r"[A-Z]\w+", curves)) == without
