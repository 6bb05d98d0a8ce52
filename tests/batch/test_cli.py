"""``intarsia batch`` in a process of its own: exit codes, streams, sentences."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest


def test_a_run_its_report_and_a_retry(album, tmp_path):
    rows = album.rows(4)
    rows[1]["init_image"] = "photos/gone.png"
    manifest, out = album.manifest(rows), tmp_path / "out"
    checked = album.call("validate", manifest)
    assert (checked.returncode, checked.stderr) == (2, "")
    assert checked.stdout.splitlines()[-1] == "4 rows, 1 with problems"
    assert checked.stdout.startswith("line 2: row-1: io: init_image: file not found")
    done = album.call("run", manifest, "--out", out, "--backend", "null", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    numbers = json.loads(done.stdout)
    assert (numbers["rows"], numbers["ok"], numbers["error"], numbers["errors"]) == (4, 3, 1, {"io": 1})
    report = album.call("report", out)
    assert report.returncode == 0
    assert report.stdout.splitlines()[0] == "4 rows: 3 ok, 1 error"
    assert "row-1: io: init_image: file not found" in report.stdout
    assert json.loads(album.call("report", out, "--json").stdout)["failed"][0]["id"] == "row-1"

    again = album.call("retry", manifest, "--out", out, "--backend", "null", "--class", "io")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1] == f"intarsia: why rows failed: intarsia batch report {out}"

    (album.folder / "photos/3.png").rename(album.folder / "photos/gone.png")
    again = album.call("retry", manifest, "--out", out, "--backend", "null", "--class", "io")
    assert again.returncode == 0
    assert again.stdout.splitlines()[0] == "1 row: 1 ok"
    assert album.call("merge", out).stdout == f"4 rows in {out / 'results.jsonl'}\n"


BAD = [
    (["run"], "Missing option"),
    (["run", "--out", "out"], "give either a manifest, or --images"),
    (["run", "m.jsonl", "--out", "out", "--images", "photos", "--masks", "masks"], "give either a manifest"),
    (["run", "none.jsonl", "--out", "out"], "does not exist"),
    (["run", "empty.jsonl", "--out", "out"], "has no rows"),
    (["run", "m.jsonl", "--out", "out", "--shard", "3/2"], "shard must be I/N"),
    (["run", "m.jsonl", "--out", "out", "--max-errors", "x"], "max_errors must be"),
    (["retry", "m.jsonl", "--out", "out", "--class", "bad"], "--class must be one of decode"),
    (["run", "m.jsonl", "--out", "out", "--defaults", "typo.toml"], "stepz is not a field"),
    (["run", "m.jsonl", "--out", "out", "--steps", "many"], "steps must be an integer"),
    (["run", "m.jsonl", "--out", "out", "--set", "stepz=4"], "stepz is not a field"),
    (["run", "m.jsonl", "--out", "out", "--set", "output=x.png"], "output cannot be the same for all rows"),
    (["run", "m.jsonl", "--out", "out", "--steps", "4", "--set", "steps=5"], "--set steps is given by an option"),
    (["validate", "m.jsonl", "--set", "stepz=4"], "stepz is not a field"),
    (["report", "photos"], "holds no results"),
    (["merge", "photos"], "holds no results"),
    (["validate", "empty.jsonl"], "has no rows"),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD, ids=[" ".join(row[0]) for row in BAD])
def test_bad_usage_is_two_and_one_line(album, arguments, sentence):
    from typer.testing import CliRunner

    from intarsia.cli import app
    from intarsia.errors import IntarsiaError

    album.manifest(album.rows(1), "m.jsonl")
    (album.folder / "empty.jsonl").write_text("\n")
    (album.folder / "typo.toml").write_text("stepz = 1\n")
    before = sorted(album.folder.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(album.folder)
        done = CliRunner().invoke(app, ["batch", *arguments])
    assert sorted(album.folder.rglob("*")) == before
    if isinstance(done.exception, IntarsiaError):
        assert done.exception.exit_code == 2
        assert sentence in str(done.exception)
        assert "\n" not in str(done.exception)
    else:
        assert done.exit_code == 2
        assert sentence in done.output


@pytest.mark.parametrize("command", ["run", "retry", "merge"])
def test_what_is_interrupted_goes_on_with_the_same_command(tmp_path, monkeypatch, command):
    """They may have written something by then, so no other sentence would be true."""
    from typer.testing import CliRunner

    import intarsia.batch
    from intarsia.cli import app
    from intarsia.errors import Cancelled

    def interrupted(*arguments: object, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(intarsia.batch, command, interrupted)
    given = [str(tmp_path)] if command == "merge" else ["m.jsonl", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["batch", command, *given])
    assert isinstance(done.exception, Cancelled)
    assert str(done.exception).startswith("interrupted; the same command goes on")
    assert str(tmp_path) in str(done.exception)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
