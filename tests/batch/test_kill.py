"""Nothing that dies loses a row: the run itself, by SIGKILL at any moment, or one of its workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from intarsia import batch
from intarsia.batch import RunStats
from tests.batch.conftest import image_hashes, lines


def whole_lines(out: Path) -> list[bytes]:
    """Lines of results so far; the last may be torn."""
    path = out / "results.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_again_and_again_the_set_is_what_an_uninterrupted_run_gives(album, tmp_path, kills):
    rows = [album.row(number, **({"samples": 2} if number % 20 == 3 else {})) for number in range(100)]
    manifest, out, chance = album.manifest(rows), tmp_path / "out", random.Random(20)
    arguments = ("run", manifest, "--out", out, "--backend", "null", "--threads", 2, "--slots", 2)
    command, environment = album.command(*arguments, faults=0.02)
    seen = 0
    for kill in range(kills):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=album.folder
        )
        # Every third at any moment of its start; the others at any moment of their work.
        if kill % 3 == 0:
            time.sleep(chance.uniform(0, 0.6))
        else:
            goal = seen + chance.randint(1, 5)
            while len(whole_lines(out)) < goal and process.poll() is None:
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.04))
        process.kill()
        process.communicate()
        seen = len(whole_lines(out))
        image_hashes(out)  # whatever is there is whole
        for line in whole_lines(out)[:-1]:
            json.loads(line)
    assert kills / 2 < seen < 100, "the kills were to come while it worked"

    done = album.call(*arguments, faults=0)
    assert done.returncode == 0, done.stderr
    # another attempt of a row counts once: it has one line, and none was run again that had one
    assert sorted(line["id"] for line in lines(out)) == sorted(row["id"] for row in rows)
    assert {line["status"] for line in lines(out)} == {"ok"}
    batch.run(manifest, tmp_path / "reference", album.options)
    assert image_hashes(out) == image_hashes(tmp_path / "reference")
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_rows_are_run_again(with_faults, tmp_path):
    rows = with_faults.rows(40)
    for number, prompt in ((4, "crash once, one"), (17, "crash once, two"), (23, "crash")):
        rows[number]["prompt"] = prompt
    out, manifest = tmp_path / "out", with_faults.manifest(rows)
    stats = batch.run(manifest, out, with_faults.with_options(workers=2))
    made = {line["id"]: line for line in lines(out)}
    assert len(lines(out)) == 40
    assert (stats.status["ok"], stats.errors) == (39, {"internal": 1})
    assert (made["row-23"]["error"], made["row-23"]["attempts"]) == ("internal", 3)
    assert "the worker process died (signal 9)" in made["row-23"]["text"]
    assert all(2 <= made[name]["attempts"] <= 3 for name in ("row-4", "row-17"))
    # the guilty row dies three times; the others once each, or batched with it
    assert 3 <= stats.restarts <= 5
    assert all(line["attempts"] <= 3 for line in made.values())
    reference = batch.run(manifest, tmp_path / "reference", with_faults.options)  # the marks of "once" are there now
    assert reference.errors == {"internal": 1}
    assert image_hashes(out) == image_hashes(tmp_path / "reference")


@pytest.mark.timeout(100)
def test_a_row_that_kills_its_worker_is_given_up_and_takes_no_other_with_it_twice(with_faults, tmp_path):
    """What was batched with it first is run again, each alone; what comes later never meets it."""
    rows = with_faults.rows(24)
    rows[0]["prompt"] = "crash"
    options = with_faults.with_options(slots=1, threads=1)  # four rows in flight at once
    stats = batch.run(with_faults.manifest(rows), tmp_path / "out", options)
    made = {line["id"]: line for line in lines(tmp_path / "out")}
    assert (stats.status, stats.restarts) == ({"ok": 23, "error": 1}, 3)
    assert (made["row-0"]["error"], made["row-0"]["attempts"]) == ("internal", 3)
    attempts = [line["attempts"] for name, line in made.items() if name != "row-0"]
    assert set(attempts) <= {1, 2}
    assert attempts.count(2) <= 3


@pytest.mark.slow
def test_a_retry_that_is_interrupted_leaves_its_rows_to_the_next(with_faults, tmp_path, monkeypatch):
    """Those in flight are no errors of another class now: the same command takes them up."""
    monkeypatch.setenv("INTARSIA_TEST_FAULTS", "0.05")
    rows, out = with_faults.rows(10), tmp_path / "out"
    for row in rows:
        row["init_image"] = row["init_image"].replace("photos", "late")
    manifest, options = with_faults.manifest(rows), with_faults.with_options(slots=1, threads=1)
    assert batch.run(manifest, out, options).errors == {"io": 10}
    (with_faults.folder / "photos").rename(with_faults.folder / "late")

    def interrupt(stats: RunStats) -> None:
        if stats.status["ok"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.retry(manifest, out, options, interrupt, classes=["io"])
    report = batch.report(out)
    assert report["ok"] + report["error"] == 10
    assert 1 <= report["ok"] < 10
    assert report["runs"]["report"]["cancelled"] >= 1
    stats = batch.retry(manifest, out, options, classes=["io"])
    assert stats.status == {"ok": report["error"]}
    assert batch.report(out)["ok"] == 10


@pytest.mark.slow
def test_after_a_cuda_error_another_process_takes_over(with_faults, tmp_path):
    rows = with_faults.rows(20)
    rows[7]["prompt"] = "cuda"
    out = tmp_path / "out"
    stats = batch.run(with_faults.manifest(rows), out, with_faults.options)
    made = {line["id"]: line for line in lines(out)}
    assert (stats.status["ok"], stats.errors, stats.restarts) == (19, {"internal": 1}, 3)
    assert "exit status 70: torch failed to evaluate the network: CUDA error" in made["row-7"]["text"]


def test_rows_that_do_not_fit_together_are_run_alone(with_faults, tmp_path):
    rows = with_faults.rows(12)
    for number in (2, 8):
        rows[number]["prompt"] = f"memory {number}"
    stats = batch.run(with_faults.manifest(rows), tmp_path / "out", with_faults.options)
    made = {line["id"]: line for line in lines(tmp_path / "out")}
    assert stats.status == {"ok": 12}
    assert made["row-2"]["attempts"] > 1
    assert made["row-2"]["degraded"] == ["run alone, after the memory had run out"]
    assert batch.report(tmp_path / "out")["degraded"] >= 2


def test_workers_that_never_start_end_the_run(album, tmp_path, monkeypatch):
    from intarsia.errors import BackendError, WeightsError

    with pytest.raises(BackendError, match="backend must be one of"):
        batch.run(album.manifest(album.rows(2)), tmp_path / "a", album.with_options(backend="tpu"))
    with pytest.raises(WeightsError, match="no such file"):
        batch.run(album.manifest(album.rows(2)), tmp_path / "b", album.with_options(weights="none.toml"))
    (album.folder / "sitecustomize.py").write_text("import os, sys\nif sys.argv[0] == '-m': os._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(album.folder))
    with pytest.raises(BackendError, match=r"died \(exit status 9\) before it was ready, 3 times"):
        batch.run(album.manifest(album.rows(2)), tmp_path / "c", album.options)


@pytest.mark.parametrize("sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupt_names_every_row_and_the_next_run_goes_on(album, tmp_path, sign):
    rows, out = album.rows(80), tmp_path / "out"
    manifest = album.manifest(rows)
    command, environment = album.command("run", manifest, "--out", out, "--backend", "null", "--slots", 2, faults=0.02)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip
    while len(whole_lines(out)) < 5 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, sign)
    printed, complaint = process.communicate(timeout=120)
    assert process.returncode == 130
    assert printed == ""
    assert complaint.startswith("intarsia: interrupted; the same command goes on")
    made = {line["id"]: line["status"] for line in lines(out)}
    assert len(made) == len(lines(out)) == 80
    assert {"ok", "cancelled", "skipped"} == set(made.values())
    done = sum(status == "ok" for status in made.values())
    stats = batch.run(manifest, out, album.options)
    assert (stats.before, stats.status) == (done, {"ok": 80 - done})
    assert len(image_hashes(out)) == 80


def test_while_one_run_goes_on_a_second_is_refused(album, tmp_path):
    out, manifest = tmp_path / "out", album.manifest(album.rows(60))
    arguments = ("run", manifest, "--out", out, "--backend", "null", "--slots", 1)
    command, environment = album.command(*arguments, faults=0.02)
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not (out / ".intarsia-batch.lock").exists() or not (out / ".intarsia-batch.lock").read_text():
        assert first.poll() is None
        time.sleep(0.01)
    second = album.call(*arguments)
    assert first.poll() is None
    assert second.returncode == 2
    assert f"in use by another run (process {first.pid} on" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert first.wait(timeout=300) == 0
    assert len(image_hashes(out)) == 60
