"""Schedulers and backends from outside the package: installed distributions, registration, and bad ones of both."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import intarsia
from intarsia import schedulers
from intarsia.backends.choose import BACKENDS, backend_names, register_backend
from intarsia.backends.null import NullBackend
from intarsia.schedulers import names
from intarsia.schedulers.euler import euler
from tests.installed import cli, install

SOLVER = """
from intarsia.schedulers import Grid, Solver
from intarsia.schedulers.euler import euler

SOLVER = Solver(rows=euler, grid=Grid(choices=("spacing", "final")), aliases=("outer euler",), note="from outside")
LIKE_OURS = Solver(rows=euler, grid=Grid(), aliases=("heun",))
NOT_ONE = euler
"""
BACKEND = """
from intarsia.backends.null import NullBackend
from intarsia.errors import BackendError


class Outer(NullBackend):
    def __init__(self, device, execution):
        self._execution = execution
        if not device.startswith(("auto", "quantum")):
            raise BackendError(f"device must be auto or quantum[:N], not {device!r}")
        self.device = device


class NotOne:
    pass
"""
SCHEDULERS, BACKEND_GROUP = "intarsia.schedulers", "intarsia.backends"
counter = itertools.count()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install distributions where this process finds them; ``MODULE`` in a value is the module's name."""
    before = set(sys.modules)
    folder = tmp_path / "site"

    def add(distribution: str, entry_points: dict[str, dict[str, str]], text: str) -> None:
        module = f"outer_{next(counter)}"
        named = {
            group: {name: value.replace("MODULE", module) for name, value in points.items()}
            for group, points in entry_points.items()
        }
        # sys.path is what is remembered of entry points: a folder for each distribution
        monkeypatch.syspath_prepend(str(install(folder / module, distribution, named, **{module: text})))

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("outer_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def _nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from intarsia.backends import choose as choosing

    for outside in (names._OUTSIDE, choosing._OUTSIDE):
        monkeypatch.setattr(outside, "_registered", {})
        monkeypatch.setattr(outside, "_loaded", {})
        monkeypatch.setattr(outside, "_ignored", set())


@pytest.fixture
def outer_scheduler(installed: Callable[..., None]) -> None:
    installed("outer-schedulers", {SCHEDULERS: {"OuterEuler": "MODULE:SOLVER"}}, SOLVER)


@pytest.fixture
def outer_backend(installed: Callable[..., None]) -> None:
    installed("outer-backends", {BACKEND_GROUP: {"outer": "MODULE:Outer"}}, BACKEND)


def solver(*aliases: str) -> schedulers.Solver:
    return schedulers.Solver(rows=euler, grid=schedulers.Grid(), aliases=aliases)


# Schedulers


def test_an_installed_scheduler_has_a_table(outer_scheduler):
    ours = schedulers.table("EulerDiscreteScheduler", 8)
    for name in ("OuterEuler", "outereuler", " OUTER  Euler "):
        theirs = schedulers.table(name, 8)
        assert theirs.name == "OuterEuler"
        assert theirs.notes == ("from outside",)
        assert np.array_equal(theirs.matrix, ours.matrix)
        assert np.array_equal(theirs.timesteps, ours.timesteps)


def test_an_installed_scheduler_is_in_the_catalogue(outer_scheduler):
    *documented, entry = schedulers.catalogue()
    assert tuple(info.name for info in documented) == schedulers.NAMES
    assert (entry.name, entry.aliases, entry.note) == ("OuterEuler", ("outer euler",), "from outside")


PACKAGES = {"torch": "torch", "onnx": "onnxruntime"}
BACKENDS_HERE = ["null", *(name for name, package in PACKAGES.items() if find_spec(package))]


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_every_backend_runs_an_installed_scheduler(outer_scheduler, backend, request_of):
    """Its table is Euler's under another name, which only the null backend's images depend on."""
    with intarsia.Engine(backend, "cpu") as engine:
        result = engine.run(request_of(scheduler="outer euler", steps=3))
        ours = engine.run(request_of(scheduler="euler", steps=3))
    assert result.plan.sampler.scheduler == "OuterEuler"
    assert "from outside" in result.plan.sampler.notes
    assert backend == "null" or result.images[0].tobytes() == ours.images[0].tobytes()


def test_documented_requests_take_documented_names_only(outer_scheduler, engine, tmp_path):
    body = {"key": "k", "prompt": "x", "scheduler": "OuterEuler"}
    reply = engine.reply(body, "community", out=tmp_path)
    assert reply["status"] == "error"
    assert f"scheduler must be one of {', '.join(schedulers.NAMES)}, not 'OuterEuler'" in reply["message"]


def test_an_unknown_scheduler_is_refused_with_the_names_of_all(outer_scheduler):
    schedulers.register("Registered", solver())
    with pytest.raises(
        intarsia.RequestError, match=r"one of DDPM.*LCMScheduler, Registered, OuterEuler, not 'nothing'"
    ):
        schedulers.table("nothing", 5)


def test_a_registered_scheduler_is_known_in_this_process(request_of, engine):
    own = solver("mine", "my own")
    schedulers.register("MyScheduler", own)
    schedulers.register("MyScheduler", own)  # the same again
    assert schedulers.resolve("MY  own") == "MyScheduler"
    assert engine.run(request_of(scheduler="mine")).plan.sampler.scheduler == "MyScheduler"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("EulerDiscreteScheduler", solver(), "cannot be registered: there is one of that name"),
        ("eulerdiscretescheduler", solver(), "cannot be registered: there is one of that name"),
        ("DPM++  2M", solver(), "cannot be registered: there is one of that name"),
        ("OuterEuler", solver(), "cannot be registered: there is one of that name"),
        ("New", solver("heun"), "alias heun of scheduler New is one of HeunDiscreteScheduler"),
        ("New", euler, r"scheduler New must be an intarsia\.schedulers\.Solver, not a function"),
        ("", solver(), "a scheduler's name must be 1 to 80 printable characters, not ''"),
        ("two\nlines", solver(), "a scheduler's name must be 1 to 80 printable characters"),
        ("x" * 81, solver(), "a scheduler's name must be 1 to 80 printable characters"),
        (7, solver(), "a scheduler's name must be 1 to 80 printable characters, not 7"),
    ],
)
def test_registering_is_refused(outer_scheduler, name, value, sentence):
    before = schedulers.catalogue()
    with pytest.raises(intarsia.RequestError, match=sentence):
        schedulers.register(name, value)
    assert schedulers.catalogue() == before


def test_a_scheduler_that_cannot_be_imported_harms_itself_only(installed, outer_scheduler):
    installed("broken-one", {SCHEDULERS: {"Broken": "MODULE:SOLVER"}}, "raise OSError('no such library')")
    installed("broken-two", {SCHEDULERS: {"Absent": "intarsia_has_no_such_module:SOLVER"}}, "")
    installed("broken-three", {SCHEDULERS: {"Lacking": "MODULE:nothing"}}, "")
    installed("broken-four", {SCHEDULERS: {"Leaving": "MODULE:SOLVER"}}, "raise SystemExit(3)")
    for name, distribution, reason in (
        ("Broken", "broken-one", "OSError: no such library"),
        ("absent", "broken-two", "ModuleNotFoundError: No module named 'intarsia_has_no_such_module'"),
        ("Lacking", "broken-three", "AttributeError: .*nothing"),
        ("Leaving", "broken-four", "SystemExit: 3"),
    ):
        pattern = f"scheduler {name.title()} of distribution {distribution} cannot be loaded: {reason}"
        with pytest.raises(intarsia.RequestError, match=pattern):
            schedulers.table(name, 5)
    notes = {entry.name: entry.note for entry in schedulers.catalogue()}
    assert "cannot be loaded: OSError" in notes["Broken"]
    assert notes["OuterEuler"] == "from outside"
    assert schedulers.table("outer euler", 5).name == "OuterEuler"  # an alias: all are looked through
    assert schedulers.table("heun", 5).name == "HeunDiscreteScheduler"


def test_what_is_no_solver_is_refused_with_its_distribution(installed):
    installed("outer-schedulers", {SCHEDULERS: {"NotOne": "MODULE:NOT_ONE"}}, SOLVER)
    with pytest.raises(intarsia.RequestError, match=r"scheduler NotOne of distribution outer-schedulers must be an "):
        schedulers.table("NotOne", 5)


def two_slots(run: schedulers.SamplingRun) -> schedulers.Rows:
    rows = schedulers.Rows(run, state_slots=2, variance_exploding=True)
    rows.add(run.timesteps[0], run.sigmas[0], rows.sample)
    return rows


def not_finite(run: schedulers.SamplingRun) -> schedulers.Rows:
    rows = schedulers.Rows(run, state_slots=1, variance_exploding=True)
    rows.add(run.timesteps[0], run.sigmas[0], float("nan") * rows.sample)
    return rows


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (lambda run: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda run: None, "it gave no rows"),
        (lambda run: schedulers.Rows(run, 1, variance_exploding=True), "it gave no rows"),
        (two_slots, "ValueError: a row needs 2 sums of unit vectors, one for each state slot"),
        (not_finite, "its coefficients are not finite"),
    ],
)
def test_a_solver_that_fails_is_named(rows, reason, engine, request_of):
    schedulers.register("Faulty", schedulers.Solver(rows=rows, grid=schedulers.Grid()))
    with pytest.raises(intarsia.RequestError, match=f"the solver of Faulty failed for 6 steps: {reason}"):
        engine.run(request_of(scheduler="faulty"))
    assert engine.run(request_of(scheduler="euler")).images


@pytest.mark.parametrize("taken", ["EulerDiscreteScheduler", "heunDISCRETEscheduler", "dpm++ 2m"])
def test_a_name_of_the_package_is_not_given_away(installed, taken, caplog):
    installed("greedy", {SCHEDULERS: {taken: "MODULE:SOLVER", "Other": "MODULE:SOLVER"}}, SOLVER)
    assert schedulers.table(taken, 5).notes == ()
    assert [entry.name for entry in schedulers.catalogue()] == [*schedulers.NAMES, "Other"]
    schedulers.catalogue()
    assert caplog.messages == [f"scheduler {taken!r} of distribution greedy is ignored: there is one of that name"]


def test_an_alias_of_the_package_is_not_given_away(installed):
    installed("greedy", {SCHEDULERS: {"Greedy": "MODULE:LIKE_OURS"}}, SOLVER)
    assert schedulers.resolve("heun") == "HeunDiscreteScheduler"
    assert schedulers.resolve("greedy") == "Greedy"


def test_a_name_of_two_distributions_is_refused_when_it_is_asked_for(installed, outer_scheduler):
    installed("another", {SCHEDULERS: {"OuterEuler": "MODULE:SOLVER", "Third": "MODULE:SOLVER"}}, SOLVER)
    sentence = (
        "scheduler OuterEuler is claimed by distribution another and distribution outer-schedulers: uninstall one"
    )
    with pytest.raises(intarsia.RequestError, match=sentence):
        schedulers.table("OuterEuler", 5)
    assert schedulers.table("Third", 5).name == "Third"
    assert {entry.name: sentence in entry.note for entry in schedulers.catalogue()}["OuterEuler"]


def test_an_alias_of_two_schedulers_is_refused(outer_scheduler):
    schedulers.register("Mine", solver("outer euler"))
    with pytest.raises(intarsia.RequestError, match="outer euler is claimed by the schedulers Mine and OuterEuler"):
        schedulers.resolve("Outer Euler")
    assert schedulers.resolve("mine") == "Mine"


def test_damaged_metadata_harms_no_name_of_the_package(installed, tmp_path, monkeypatch, caplog):
    site = install(tmp_path / "damaged", "damaged", {SCHEDULERS: {"Damaged": "no module : at all"}})
    monkeypatch.syspath_prepend(str(site))
    assert schedulers.table("euler", 5).name == "EulerDiscreteScheduler"
    with pytest.raises(intarsia.RequestError, match=r"Damaged of distribution damaged cannot be loaded|one of DDPM"):
        schedulers.table("Damaged", 5)
    (site / "damaged-1.0.dist-info" / "entry_points.txt").write_text(f"[{SCHEDULERS}]\nno equals sign\n")
    monkeypatch.syspath_prepend(str(tmp_path))  # a path that was not read yet
    assert [entry.name for entry in schedulers.catalogue()][:18] == list(schedulers.NAMES)


# Backends


def test_an_installed_backend_runs_on_a_device_of_its_own(outer_backend, request_of):
    assert backend_names() == ("null", "onnx", "outer", "torch")
    with intarsia.Engine("outer", "quantum:3") as engine:
        assert engine.run(request_of()).runtime.backend == "null"  # whose sessions it opens


def test_an_installed_backend_spells_its_devices(outer_backend):
    with pytest.raises(intarsia.BackendError, match=r"device must be auto or quantum\[:N\], not 'cuda'"):
        intarsia.Engine("outer", "cuda")
    for backend in ("auto", *BACKENDS_HERE):
        with pytest.raises(intarsia.BackendError, match=r"device must be auto, cpu, .*, not 'quantum:3'"):
            intarsia.Engine(backend, "quantum:3")


@pytest.mark.parametrize("backend", ["null", "torch"])
def test_tensorrt_is_of_onnx(backend):
    if backend not in BACKENDS_HERE:
        pytest.skip("needs torch")
    with pytest.raises(intarsia.BackendError, match=f"device tensorrt:1 is of backend onnx, not of {backend}"):
        intarsia.Engine(backend, "tensorrt:1")


def test_an_unknown_backend_is_refused_with_the_names_of_all(outer_backend):
    register_backend("registered", NullBackend)
    with pytest.raises(intarsia.BackendError, match="one of auto, null, onnx, outer, registered, torch, not 'nothing'"):
        intarsia.Engine("nothing")


@pytest.mark.parametrize("backend", [NullBackend, BACKENDS["null"]])
def test_a_registered_backend_is_known_in_this_process(backend, request_of):
    register_backend("mine", backend)
    with intarsia.Engine("mine", "cpu") as engine:
        assert engine.run(request_of()).images


@pytest.mark.parametrize(
    ("name", "backend", "sentence"),
    [
        ("torch", NullBackend, "backend torch cannot be registered: there is one of that name"),
        ("Auto", NullBackend, "backend Auto cannot be registered: there is one of that name"),
        ("outer", NullBackend, "backend outer cannot be registered: there is one of that name"),
        ("mine", 7, "backend mine must be a class with open and open_checker, not 7"),
        ("mine", Image.Image, "backend mine must be a class with open and open_checker, not Image without"),
        ("a\tb", NullBackend, "a backend's name must be 1 to 80 printable characters"),
    ],
)
def test_registering_a_backend_is_refused(outer_backend, name, backend, sentence):
    with pytest.raises(intarsia.BackendError, match=sentence):
        register_backend(name, backend)
    assert backend_names() == ("null", "onnx", "outer", "torch")


def test_a_backend_that_cannot_be_imported_harms_itself_only(installed, outer_backend):
    installed("broken", {BACKEND_GROUP: {"broken": "MODULE:Outer"}}, "import intarsia_has_no_such_module")
    installed("wrong", {BACKEND_GROUP: {"wrong": "MODULE:NotOne"}}, BACKEND)
    register_backend("later", "intarsia_has_no_such_module:Backend")
    for name, sentence in (
        ("broken", "backend broken of distribution broken cannot be loaded: ModuleNotFoundError: No module named"),
        ("wrong", "backend wrong of distribution wrong must be a class .*, not NotOne without open and open_checker"),
        ("later", "backend later cannot be loaded: ModuleNotFoundError"),
    ):
        with pytest.raises(intarsia.BackendError, match=sentence):
            intarsia.Engine(name)
    for name in ("null", "outer"):
        intarsia.Engine(name).close()


def test_a_backends_name_of_the_package_is_not_given_away(installed, caplog):
    installed("greedy", {BACKEND_GROUP: {"null": "MODULE:Outer", "auto": "MODULE:Outer"}}, BACKEND)
    intarsia.Engine("null", "cpu").close()
    assert backend_names() == ("null", "onnx", "torch")
    assert len(caplog.messages) == 2
    assert "backend 'null' of distribution greedy is ignored: there is one of that name" in caplog.messages


def test_a_backend_of_two_distributions_is_refused_when_it_is_asked_for(installed, outer_backend):
    installed("another", {BACKEND_GROUP: {"outer": "MODULE:Outer"}}, BACKEND)
    with pytest.raises(
        intarsia.BackendError, match="outer is claimed by distribution another and distribution outer-b"
    ):
        intarsia.Engine("outer")


# Other processes


@pytest.fixture
def site(tmp_path: Path) -> Path:
    points = {SCHEDULERS: {"OuterEuler": "outside:SOLVER", "Broken": "absent_module:SOLVER"}}
    points[BACKEND_GROUP] = {"outer": "outside:Outer"}
    return install(tmp_path / "site", "outside", points, outside=SOLVER + BACKEND)


@pytest.fixture
def place(tmp_path: Path, image_and_mask: tuple[np.ndarray, np.ndarray]) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    for name, array in zip(("image.png", "mask.png"), image_and_mask, strict=True):
        Image.fromarray(array).save(folder / name)
    return folder


def test_the_command_line_has_both(site, place):
    done = cli("inpaint", "image.png", "mask.png", "--prompt", "x", "--backend", "outer", "--device", "quantum",
               "--scheduler", "outer euler", "--steps", 4, "--out", "made.png", installed=site, cwd=place)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (place / "made.png").is_file()
    listed = cli("schedulers", "--json", installed=site, cwd=place)
    notes = {row["name"]: row["note"] for row in json.loads(listed.stdout)["schedulers"]}
    assert notes["OuterEuler"] == "from outside"
    assert "scheduler Broken of distribution outside cannot be loaded" in notes["Broken"]


@pytest.mark.slow
def test_a_batch_has_both_in_its_worker_processes(site, place):
    asked = ["OuterEuler", "Broken", "euler", "outer euler"]
    shared = {"init_image": "image.png", "mask_image": "mask.png", "prompt": "x", "steps": 3}
    rows = [{"id": f"row{number}", "scheduler": name, **shared} for number, name in enumerate(asked)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    arguments = ("batch", "run", "rows.jsonl", "--out", "out", "--backend", "outer", "--workers", 2)
    done = cli(*arguments, installed=site, cwd=place)
    assert done.returncode == 1, done.stderr  # one row failed
    records = [json.loads(line) for line in (place / "out" / "results.jsonl").read_text().splitlines()]
    status = {record["id"]: record["status"] for record in records if "id" in record}
    assert status == {"row0": "ok", "row1": "error", "row2": "ok", "row3": "ok"}
    [failed] = [record for record in records if record.get("status") == "error"]
    assert "scheduler Broken of distribution outside cannot be loaded" in json.dumps(failed)
