"""The run on a GPU, as far as it needs none: its plan, a call cut short or killed, what is left in the folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the benchmarks need torch: pip install 'intarsia[torch]'")

from benchmarks import commit, environment, gpu_run, gpu_state, plan, step_profile, wheels
from benchmarks.kernel_kinds import OTHER, grouped, kind_of
from benchmarks.part import Running
from benchmarks.plan import Part, batch, first
from benchmarks.records import read


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("step_kernel", "our step"),
        ("group_norm_kernel", "our norms"),
        ("cudnn_generated_fort_native_sdpa_sm90_knob_7_fprop", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128", "convolution"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT", "matrix product"),
        ("void at::native::elementwise_kernel<128, 4, ...gpu_kernel_impl_nocast<at::native::CUDAFunctor_add>>", OTHER),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<...>", "copies and layouts"),
    ],
)
def test_kernels_are_recognized_by_their_names(name, kind):
    assert kind_of(name) == kind


def test_times_are_those_of_one_step():
    found = grouped([("step_kernel", 100.0, 10), ("cutlass_gemm", 3000.0, 20), ("ampere_gemm", 1000.0, 10)], steps=10)
    assert list(found) == ["matrix product", "our step"]
    assert found["matrix product"] == {"ms": pytest.approx(0.4), "launches": pytest.approx(3.0)}
    assert found["our step"] == {"ms": pytest.approx(0.01), "launches": pytest.approx(1.0)}


def record(case: str, gpu: str | None = "A Card", **more: Any) -> dict[str, Any]:
    where = {"gpu": gpu, "driver": "1", "cores": 2, "commit": "0" * 9, "packages": {}}
    check = {"passed": True, "reason": "error 1.00 levels", "errors": {}}
    numbers = {"median": {"intarsia": 0.08}, "ratio": {"eager": 4.0}}
    made = {"case": case, "settings": {}, "environment": where, "check": check, "numbers": numbers, "absent": {}}
    return {**made, "rehearsal": False, **more}


def test_records_come_back_as_files(tmp_path, capsys):
    records = [record("S1"), record("tables", None), record("S2", None, rehearsal=True)]
    parts = {"test capture": {"status": "done", "code": 0}, "S1": {"status": "failed", "code": 1}}
    found = {"parts": parts, "profile": {}, "records": records}
    (tmp_path / "gpu_run.json").write_text(json.dumps(found))
    assert gpu_run.unpack(tmp_path / "gpu_run.json", tmp_path / "results") == 0
    assert [each["case"] for each in read(tmp_path / "results")] == ["S1", "tables"]
    assert len(list((tmp_path / "results").iterdir())) == 2, "a rehearsal is no result"
    said = capsys.readouterr().out
    assert "2 records in" in said
    assert "none of S2, S3" in said
    assert "test capture: done, returned 0\nS1: failed, returned 1" in gpu_run.summary(found)
    assert "**4.00×** (≥ 3×)" in gpu_run.summary(found)


# What the plan says


def took(parts: Sequence[Part], budget: float, share_of_limit: float = 1.0) -> list[tuple[str, float]]:
    """Names and seconds of one call in which each part takes such a share of what it may."""
    states, left, ran = {}, budget, []
    while True:
        group, seconds = batch(parts, states, left, dict(ran))
        if not group:
            return ran
        for part in group:
            states[part.name] = {"status": "done", "tries": 1}
            ran.append((part.name, seconds))
        left -= share_of_limit * seconds


def test_the_order_is_that_of_worth():
    names = [part.name for part in first()]
    assert names[:2] == ["test workspace", "test capture"]
    wanted = "profile S1, profile S2, S1, S4, mixed, mixed-256, S2, S3, S1 compile, resolution, lora, S5-768"
    places = [names.index(name) for name in wanted.split(", ")]
    assert places == sorted(places)
    assert max(names.index(name) for name in names if name.startswith("test_")) < names.index("profile S1")
    assert {path.stem for path in plan.TESTS.glob("test_*.py")} - {"test_capture"} <= set(names)
    assert plan.unmeasured([{"case": name} for name in names]) == []


@pytest.mark.parametrize("budget", [530, 400, 300, 200, 130, 60])
def test_the_main_case_is_measured_in_the_first_call_whatever_comes_before(budget):
    main = next(part for part in first() if part.name == "S1")
    ran = dict(took(first(), budget))
    assert ran["S1"] >= 0.99 * min(budget, main.seconds)
    assert sum(seconds for name, seconds in ran.items() if not name.startswith("test_")) <= budget


def test_quick_parts_leave_their_time_to_what_follows():
    ran = [name for name, _ in took(first(), 530, share_of_limit=0.2)]
    assert ran[-1] == "S3"
    assert "S1 compile" in [name for name, _ in took(first(), 530, share_of_limit=0.1)]


def test_every_part_fits_into_a_call_of_its_own():
    for part in first():
        assert took([part], 530) == [(part.name, part.seconds)]


def parts(*names: str, seconds: int = 100, beside: str = "") -> list[Part]:
    return [Part(name=name, command=("-c", ""), seconds=seconds, beside=beside) for name in names]


def test_what_failed_is_not_begun_again_and_what_was_cut_short_once_more():
    everything = parts("a", "b", "c", "d", "e")
    states = {
        "a": {"status": "done", "tries": 1},
        "b": {"status": "failed", "tries": 1},
        "c": {"status": "cut short", "tries": 2},
        "d": {"status": "cut short", "tries": 1},
    }
    assert batch(everything, states, 500, ()) == ([everything[3]], 100)
    states["d"] = {"status": "done", "tries": 2}
    assert batch(everything, states, 500, ()) == ([everything[4]], 100)


def test_a_part_that_does_not_fit_waits_for_the_next_call():
    assert batch(parts("a"), {}, 70, begun="z") == ([], 0)
    assert batch(parts("a"), {}, 70, begun=())[1] == 70, "but not for ever"
    assert batch(parts("a"), {}, 85, begun="z")[1] == 85
    together = [*parts("a", "b", beside="tests"), *parts("c")]
    assert [part.name for part in batch(together, {}, 500, ())[0]] == ["a", "b"]


# What a call does


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """One call with a plan of given parts; what is needed is there."""
    monkeypatch.setattr(gpu_run, "problems", lambda *_: {})
    monkeypatch.setattr(gpu_run, "_LOOK", 0.02)

    def run(plan: Iterable[Part], *arguments: str, budget: int = 1000) -> int:
        monkeypatch.setitem(gpu_run.PLANS, "first", lambda short: tuple(plan))
        return gpu_run.main(["--out", str(tmp_path / "out"), "--budget", str(budget), *arguments])

    return run


def script(name: str, code: str, seconds: float = 60.0, beside: str = "") -> Part:
    command = ("-c", textwrap.dedent(code), "{records}", "{profile}", "{seconds}")
    return Part(name=name, command=command, seconds=seconds, beside=beside)


def state(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "gpu_run.json").read_text())


WRITES = f"""
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "fresh").write_text({json.dumps(json.dumps(record("S1")))})
(folder / "fresh").replace(folder / "gpu_S1.json")
"""
COUNTS = "import pathlib, sys; path = pathlib.Path({path!r}); path.write_text(path.read_text() + '.')\n"


def counter(tmp_path: Path, name: str) -> str:
    """Code that counts how often it ran."""
    path = tmp_path / name
    path.write_text("")
    return COUNTS.format(path=str(path))


def test_what_fails_or_crashes_takes_nothing_else_with_it(tmp_path, call, capsys):
    plan = [
        script("good", "print('fine')", beside="tests"),
        script("bad", "import sys; print('1 failed'); sys.exit(1)", beside="tests"),
        script("crash", "import os; os.abort()", beside="tests"),
        script("nothing to do", "import sys; sys.exit(5)", beside="tests"),
        script("S1", WRITES),
    ]
    assert call(plan) == 1
    found = state(tmp_path)
    assert found["parts"]["crash"]["code"] == -signal.SIGABRT
    assert {name: each["status"] for name, each in found["parts"].items()} == {
        "good": "done", "bad": "failed", "crash": "failed", "nothing to do": "done", "S1": "done",
    }  # fmt: skip
    assert [each["case"] for each in found["records"]] == ["S1"]
    assert "1 failed" in (tmp_path / "out" / "logs.txt").read_text()
    assert "bad: failed, returned 1" in capsys.readouterr().out


def test_a_part_that_takes_too_long_leaves_what_it_had_written(tmp_path, call, monkeypatch):
    """As a compilation that never ends: ours and the other peers' were written before it began."""
    written = tmp_path / "written"
    hangs = WRITES + f"pathlib.Path({str(written)!r}).touch(); import time; time.sleep(600)"

    def clock() -> float:
        """Jumps when the record is there."""
        return time.monotonic() + (1000 if written.exists() else 0)

    monkeypatch.setattr(gpu_run, "time", SimpleNamespace(sleep=time.sleep, monotonic=clock))
    assert call([script("S1", hangs, seconds=900), script("S4", "pass")], budget=10_000) == 1
    found = state(tmp_path)
    found["parts"]["S1"].pop("seconds")
    assert found["parts"]["S1"] == {"status": "failed", "tries": 1, "code": 124}
    assert found["parts"]["S4"]["status"] == "done"
    assert [each["case"] for each in found["records"]] == ["S1"]


def test_limits_can_be_widened_for_a_slow_machine(call, capsys):
    assert call([script("a", "pass", seconds=30)], "--limits", "2.5") == 0
    assert "== a (at most 75 s)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_folder_holds_few_and_small_files(tmp_path, call):
    chatter = "import sys; [sys.stdout.write('x' * 999 + chr(10)) for _ in range(40_000)]"
    plan = [script(f"part {number}", chatter, beside="all") for number in range(3)]
    assert call([*plan, *(script(f"quick {number}", "print(1)", beside="q") for number in range(9))]) == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert max(path.stat().st_size for path in files) < 2**20, "40 MB were printed"
    assert len(state(tmp_path)["parts"]) == 12


KILLED = """
import os, sys
from benchmarks import gpu_run
from benchmarks.plan import Part
gpu_run.problems = lambda *_: {{}}
gpu_run._LOOK = 0.02
plan = [Part(name=name, command=("-c", code), seconds=600) for name, code in {plan!r}]
gpu_run.PLANS["first"] = lambda short: plan
sys.exit(gpu_run.main(["--out", {out!r}]))
"""


@pytest.mark.slow
def test_a_call_that_was_killed_is_continued_by_the_next(tmp_path, call):
    """SIGKILL while the second of three parts is under way, which ends with it and is run again; the first is not."""
    counts = {name: counter(tmp_path, name) for name in ("one", "two", "three")}
    pid = tmp_path / "pid"
    records = tmp_path / "copy"
    waits = f"import os, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    plan = [("one", counts["one"]), ("two", counts["two"] + waits), ("three", counts["three"])]
    code = KILLED.format(plan=plan, out=str(tmp_path / "out"))
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not (pid.exists() and pid.read_text()):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    assert wait_until(lambda: _has_ended(Path(f"/proc/{pid.read_text()}/stat"))), "it would hold the device"
    assert state(tmp_path)["parts"]["two"]["status"] == "running"
    assert not records.exists()

    assert call([Part(name=name, command=("-c", counts[name]), seconds=600) for name in counts]) == 0
    assert {name: len((tmp_path / name).read_text()) for name in counts} == {"one": 1, "two": 2, "three": 1}
    assert {name: each["tries"] for name, each in state(tmp_path)["parts"].items()} == {"one": 1, "two": 2, "three": 1}


def wait_until(condition: Callable[[], object]) -> bool:
    """Whether it came true; a killed process may still be running for a moment on a busy machine."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.05)
    return False


def _has_ended(stat: Path) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(("tries", "ran", "answer"), [(1, ".", 0), (2, "", 1)])
def test_a_part_that_kills_its_call_each_time_is_given_up(tmp_path, call, tries, ran, answer):
    plan = [script("deadly", counter(tmp_path, "ran")), script("other", "pass")]
    found = {"plan": "first", "short": False, "absent": {}, "profile": {}, "records": [], "logs": {}}
    found["parts"] = {"deadly": {"status": "running", "tries": tries}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gpu_run.json").write_text(json.dumps(found))
    assert call(plan) == answer
    assert (tmp_path / "ran").read_text() == ran
    assert state(tmp_path)["parts"]["other"]["status"] == "done"


def test_a_part_that_was_ended_from_outside_is_begun_again_by_the_next_call(tmp_path, call):
    """As the kernel does where the host's memory lacks: not for ever, and not in the same call."""
    deadly = counter(tmp_path, "ran") + "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    plan = [script("a", deadly), script("b", "pass")]
    assert call(plan) == 3
    assert state(tmp_path)["parts"]["a"]["status"] == "cut short"
    assert state(tmp_path)["parts"]["b"]["status"] == "done"
    assert (tmp_path / "ran").read_text() == "."
    assert call(plan) == 1
    assert call(plan) == 1
    assert (tmp_path / "ran").read_text() == ".."


def test_the_next_call_goes_on_where_the_time_ended(tmp_path, call, capsys):
    counts = [counter(tmp_path, name) for name in "ab"]
    plan = [script("a", counts[0], seconds=30), script("b", counts[1], seconds=500)]
    assert call(plan, budget=100) == 3
    assert "more to do, by the same command: b" in capsys.readouterr().out
    assert call(plan) == 0
    assert call(plan) == 0
    assert [(tmp_path / name).read_text() for name in "ab"] == [".", "."]
    assert call(plan, "--again", "a") == 0
    assert (tmp_path / "a").read_text() == ".."
    assert call(plan, "--fresh") == 0
    assert [(tmp_path / name).read_text() for name in "ab"] == ["...", ".."]


def test_a_copy_of_the_folder_is_continued_in_an_empty_one(tmp_path, call):
    """Where results are fetched and the folder is emptied: records of calls before are there again, to be added to."""
    sees = "import pathlib, sys; assert pathlib.Path(sys.argv[1], 'gpu_S1.json').is_file()"
    assert call([script("S1", WRITES)]) == 0
    (tmp_path / "out").rename(tmp_path / "copy")
    assert call([script("S1", "1 / 0"), script("S1 compile", sees)], "--from", str(tmp_path / "copy")) == 0
    assert [each["case"] for each in state(tmp_path)["records"]] == ["S1"]


def test_what_was_begun_otherwise_is_not_continued(tmp_path, call, capsys):
    assert call([script("a", "pass")], "--short") == 0
    capsys.readouterr()
    assert call([script("a", "pass")]) == 2
    problem = capsys.readouterr().err
    assert "it is of plan first, a rehearsal; --fresh begins anew" in problem
    assert problem.count("\n") == 1
    (tmp_path / "out" / "gpu_run.json").write_text("[]")
    assert call([script("a", "pass")]) == 2
    assert "not a state of benchmarks.gpu_run" in capsys.readouterr().err
    assert call([script("a", "pass")], "--again", "z") == 2
    assert capsys.readouterr().err == "--again must be of a, not 'z'\n"


def test_a_folder_that_takes_nothing_is_found_before_the_work(tmp_path, call, monkeypatch, capsys):
    ran = counter(tmp_path, "ran")
    (tmp_path / "out").write_text("a file")
    assert call([script("a", ran)]) == 2
    assert "nothing can be written there" in capsys.readouterr().err
    (tmp_path / "out").unlink()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3 * 2**20})())
    assert call([script("a", ran)]) == 2
    said = capsys.readouterr().err
    assert "3 MiB are free, 64 MiB are needed" in said
    assert said.count("\n") == 1
    assert (tmp_path / "ran").read_text() == ""
    assert step_profile.main(["--short", "--out", str(tmp_path / "p" / "p.json"), "S1"]) == 2


def test_a_folder_that_is_full_by_now_costs_no_part(tmp_path, call, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gpu_run.State, "write", full)
    assert call([script("a", "pass"), script("b", "pass")]) == 0
    said = capsys.readouterr()
    assert "No space left on device" in said.err
    assert "b: done, returned 0" in said.out


def test_an_interrupted_call_leaves_no_process(tmp_path, call, monkeypatch, capsys):
    begun = []

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    start = Running.start
    monkeypatch.setattr(Running, "start", lambda self: (start(self), begun.append(self)))
    monkeypatch.setattr(gpu_run.time, "sleep", interrupt)
    assert call([script("hang", "import time; time.sleep(600)")]) == 130
    assert begun[0].process.poll() is not None
    assert state(tmp_path)["parts"]["hang"]["status"] == "cut short"
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_what_hangs_is_ended_with_what_it_started(tmp_path):
    started = tmp_path / "started"
    write_id = f"open({str(started)!r}, 'w').write(str(p.pid))"
    hang = f"import subprocess; p = subprocess.Popen(['sleep', '600']); {write_id}; p.wait()"
    running = Running(name="hang", command=["-c", hang], log=tmp_path / "log")
    running.start()
    while not started.exists() or not started.read_text():
        assert running.process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    assert not running.look(ended=False)
    assert running.look(ended=True)
    assert running.code == 124
    assert wait_until(lambda: _has_ended(Path(f"/proc/{started.read_text()}/stat")))


def test_what_there_is_is_written_while_a_part_is_under_way(tmp_path, call, monkeypatch):
    """A call that is killed now has the record already, though its part goes on."""
    seen, write = [], gpu_state.State.write

    def look(self: Any, running: Any = None) -> None:
        write(self, running)
        if running and self.found["records"]:
            seen.append((list(running), state(tmp_path)["records"][0]["case"]))
            (tmp_path / "go on").write_text("")

    monkeypatch.setattr(gpu_state.State, "write", look)
    waits = f"import time\nwhile not pathlib.Path({str(tmp_path / 'go on')!r}).exists(): time.sleep(0.02)"
    assert call([script("S1", WRITES + waits)]) == 0
    assert seen[0] == (["S1"], "S1")


# What it needs


@pytest.mark.slow
def test_what_cannot_be_imported_is_named(tmp_path, monkeypatch, capsys):
    """A module that is there and lacks what it imports: a search for it finds nothing wrong."""
    (tmp_path / "outer_part.py").write_text("import missing_part\n")
    (tmp_path / "fatal_part.py").write_text("raise SystemExit('no GPU driver')\n")
    paths = {"PYTHONPATH": str(tmp_path)}
    assert gpu_run.problems(("json", "outer_part"), paths) == {"outer_part": "No module named 'missing_part'"}
    assert list(gpu_run.problems(("json", "fatal_part"), paths).values()) == ["no GPU driver"]
    monkeypatch.setattr(gpu_run, "_NEEDED", ("outer_part", "json"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert gpu_run.main(["--out", str(tmp_path / "out")]) == 4
    said = capsys.readouterr().err
    assert said == "not importable: outer_part (No module named 'missing_part'); see python -m benchmarks.wheels\n"


def test_what_is_needed_is_imported():
    assert {"intarsia", "httpx2", "pydantic", "benchmarks.run"} <= set(gpu_run._NEEDED)


def pack(folder: Path, name: str, code: str) -> None:
    """A wheel of one module."""
    folder.mkdir(exist_ok=True)
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", code)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_packages_that_travelled_are_found_by_the_parts(tmp_path, call, monkeypatch, capsys):
    """Without a registry and without git: the modules and the commit come from the folder."""
    packages, said = tmp_path / "wheels", tmp_path / "said"
    code = f"import os, travelled, pathlib; pathlib.Path({str(said)!r}).write_text(os.environ['INTARSIA_COMMIT'])"
    assert call([script("a", code)], "--packages", str(packages)) == 4
    assert "no wheels in it; python -m benchmarks.wheels" in capsys.readouterr().err
    pack(packages, "travelled", "")
    (packages / "commit.txt").write_text("abcdef+2\n")
    monkeypatch.delenv("INTARSIA_COMMIT", raising=False)
    monkeypatch.setattr(commit, "ROOT", tmp_path)  # where there is no git
    assert call([script("a", code)], "--packages", str(packages)) == 0
    assert said.read_text() == "abcdef+2"


def test_the_commit_that_travelled_gives_way_to_one_that_was_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "install", lambda *_: None)
    (tmp_path / "commit.txt").write_text("abcdef+2\n")

    def commit_given() -> str | None:
        return gpu_run._environment(tmp_path, tmp_path / "site")[0].get("INTARSIA_COMMIT")

    monkeypatch.delenv("INTARSIA_COMMIT", raising=False)
    monkeypatch.setattr(commit, "said", lambda *_: "from git")
    assert commit_given() is None, "git says it"
    monkeypatch.setattr(commit, "said", lambda *_: "")
    assert commit_given() == "abcdef+2"
    monkeypatch.setenv("INTARSIA_COMMIT", "123")
    assert commit_given() == "123"


def test_wheels_that_cannot_be_installed_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("")
    refused = subprocess.CompletedProcess([], 1, "", "WARNING: much\nERROR: Wheel is invalid.\n")
    monkeypatch.setattr(wheels.subprocess, "run", lambda *_, **__: refused)
    assert wheels.install(tmp_path, tmp_path / "site") == f"{tmp_path}: ERROR: Wheel is invalid."


def test_twelve_packages_travel():
    command = wheels.download(Path("there"), "3.12")
    named = [each.partition("==")[0] for each in command if "==" in each]
    assert sorted(named) == sorted(wheels.TRAVELLING)
    assert len(named) == 12
    assert {"--no-deps", "--only-binary=:all:", "3.12", "there"} <= set(command)


def test_the_commit_is_said_where_there_is_no_git(tmp_path, monkeypatch, call, capsys):
    monkeypatch.delenv("INTARSIA_COMMIT", raising=False)
    monkeypatch.setattr(commit, "ROOT", tmp_path)
    assert commit.commit_of_tree() == ("", None)
    assert call([script("a", "pass")]) == 0
    assert "no commit is known, so the records will name none: set INTARSIA_COMMIT" in capsys.readouterr().out
    for text, expected in {"abc": ("abc", None), "abc+0": ("abc", 0), " abc+12 ": ("abc", 12)}.items():
        monkeypatch.setenv("INTARSIA_COMMIT", text)
        assert commit.commit_of_tree() == expected
        assert environment.environment()["commit"] == "abc"


# What the profile says


def test_a_case_that_fails_leaves_the_others_of_the_profile(tmp_path, monkeypatch, capsys):
    """And what it had found by then."""

    def profiled(case: Any, place: object) -> Iterator[dict[str, Any]]:
        yield {"step_ms": 4.5, "recording_seconds": 0.2, "kinds": {}, "slowest": []}
        if case.name == "S2":
            raise RuntimeError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(step_profile, "profiled", profiled)
    monkeypatch.setattr(step_profile, "register", lambda: None)
    assert step_profile.main(["--short", "--out", str(tmp_path / "p.json"), "S1", "S2", "S4"]) == 1
    found = json.loads((tmp_path / "p.json").read_text())
    assert list(found) == ["S1", "S2", "S4"]
    assert found["S2"]["failed"] == "RuntimeError: CUDA error: an illegal memory access"
    assert found["S2"]["step_ms"] == 4.5
    said = gpu_run.summary({"parts": {}, "profile": found, "records": []})
    assert "S4: step 4.50 ms" in said
    assert "S2: RuntimeError" in said
    assert step_profile.main(["--short", "--budget", "0", "S1"]) == 1
    assert "S1: no time was left for it" in capsys.readouterr().out


def test_the_profile_is_rehearsed_on_a_cpu(tmp_path, monkeypatch, capsys):
    """Kernels are listed for a step, and for one image in and one out."""
    kernels, turns = [("step_kernel", 3000.0, 5), ("cudnn_fprop", 9000.0, 10)], []
    monkeypatch.setattr(step_profile, "_kernels", lambda call: (call(), turns.append(call)) and kernels)
    assert step_profile.main(["--short", "--out", str(tmp_path / "p.json"), "S1"]) == 0
    found = json.loads((tmp_path / "p.json").read_text())["S1"]
    assert len(turns) == 3
    assert found["step_ms"] > 0
    assert found["kinds"]["our step"] == {"ms": pytest.approx(0.6), "launches": 1}
    assert set(found["pictures"]) == {"encode", "decode"}
    for image in found["pictures"].values():
        assert image["ms"] > 0
        assert image["kinds"]["convolution"] == {"ms": 9, "launches": 10}
        assert image["slowest"][0]["kernel"] == "cudnn_fprop"
    assert capsys.readouterr().out.count("convolution") == 3


def numbers_of(samples: Sequence[Any], taken: list[Any]) -> Iterator[dict[str, Any]]:
    """What profiles a case gives, and the samples that it leaves."""
    taken.extend(samples)
    yield {"step_ms": 1.0, "recording_seconds": 0.1, "kinds": {}}
    yield {"step_ms": 1.0, "recording_seconds": 0.1, "kinds": {}, "pictures": {}}


def test_forms_of_convolutions_are_measured_beside_the_case_as_it_is(tmp_path, monkeypatch, capsys):
    """One whose samples are others has no numbers; what there is is written before the next begins."""
    asked, files = [], []
    sample = torch.linspace(-1, 1, 64).view(1, 8, 8)

    def profiled(
        case: object, place: object, convolutions: tuple[str, ...] = (), samples: Any = None
    ) -> Iterator[dict[str, Any]]:
        asked.append(convolutions)
        files.append(list(json.loads(out.read_text())) if out.exists() else [])
        if convolutions == ("unfolded",):
            raise RuntimeError("no algorithm")
        yield from numbers_of([sample * (1.001 if convolutions[1:] else 1.0)], samples)

    out = tmp_path / "p.json"
    monkeypatch.setattr(step_profile, "profiled", profiled)
    monkeypatch.setattr(step_profile, "register", lambda: None)
    forms = "padded,unfolded,padded+unfolded,searched"
    assert step_profile.main(["--short", "--out", str(out), "--convolutions", forms, "S1"]) == 1
    assert asked == [(), ("padded",), ("unfolded",), ("padded", "unfolded"), ("searched",)]
    assert files[2] == ["S1 as it is", "S1 padded"]
    found = json.loads(out.read_text())
    assert found["S1 as it is"]["step_ms"] == 1.0
    assert (found["S1 padded"]["step_ms"], found["S1 padded"]["difference"]) == (1.0, 0.0)
    assert list(found["S1 padded+unfolded"]) == ["failed"]
    sentence = "its samples differ by 0.001 from those of the case as it is, at most 0.0001"
    assert found["S1 padded+unfolded"]["failed"] == sentence
    assert found["S1 unfolded"] == {"failed": "RuntimeError: no algorithm"}
    assert found["S1 searched"]["step_ms"] == 1.0
    said = gpu_run.summary({"parts": {}, "profile": found, "records": []})
    assert "S1 padded: step 1.00 ms" in said
    assert step_profile.main(["--short", "--convolutions", "padded,wide", "S1"]) == 2
    assert "--convolutions: convolutions must be of padded, searched, unfolded, not 'wide'" in capsys.readouterr().err


def test_the_plan_ends_with_forms_of_convolutions():
    last = [part for part in first(short=True) if "convolutions" in part.name]
    assert [part.name for part in first(short=True)][-2:] == [part.name for part in last]
    assert [part.name for part in last] == ["profile S1 convolutions", "profile S2 convolutions"]
    for part in last:
        place = part.command.index("--convolutions")
        assert part.command[place + 1] == "padded,searched,unfolded,padded+searched+unfolded"
        assert "{profile}" in part.command


def test_without_a_gpu_the_profile_says_so(monkeypatch, capsys):
    monkeypatch.setattr(step_profile.torch.cuda, "is_available", lambda: False)
    assert step_profile.main([]) == 4
    assert "needs a CUDA device" in capsys.readouterr().err
