"""A damaged line of any file that runs leave costs that line, and is named, whatever it holds."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from intarsia import batch
from intarsia.batch.ledger import json_lines as ledger
from intarsia.batch.ledger.claims import Claims
from intarsia.batch.ledger.json_lines import LONGEST, Damage
from intarsia.batch.ledger.records import STATUSES, Record
from intarsia.batch.ledger.report import write_report
from intarsia.batch.ledger.results import History, Results, read_history, read_lines
from intarsia.batch.ledger.run_stats import RunStats
from intarsia.cli import app
from tests.batch.conftest import lines

GOOD = {"id": "a", "status": "ok"}

DAMAGED = {
    "nested": (b"[" * 200_000, "nested too deeply"),
    "nested objects": (b'{"a":' * 100_000, "nested too deeply"),
    "torn": (b'{"id": "b", "sta', "not JSON"),
    "no JSON": (b"garbage", "not JSON"),
    "NULs": (b"\0" * 4096 + json.dumps(GOOD).encode(), "not JSON"),
    "not UTF-8": (b'{"id": "caf\xe9", "status": "ok"}', "not UTF-8"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "not UTF-8"),
    "long": (b'{"id": "b", "status": "ok", "x": "' + b"y" * LONGEST + b'"}', f"longer than {LONGEST} bytes"),
    "number": (b"5", "must be an object, not 5"),
    "list": (b'["id", "status"]', "must be an object, not ['id', 'status']"),
    "null": (b"null", "must be an object, not None"),
    "no id": (b'{"status": "ok"}', "id is missing"),
    "no status": (b'{"id": "b"}', "status is missing"),
    "two ids": (b'{"id": "b", "id": "a", "status": "ok"}', "not JSON: the key 'id' is there twice"),
    "two keys below": (
        b'{"id": "b", "status": "ok", "contents": {"x": "1", "x": "2"}}',
        "not JSON: the key 'x' is there twice",
    ),
    "digits": (b'{"id": "b", "status": "ok", "line": ' + b"9" * 5000 + b"}", "not JSON"),
    "escape": (b'{"id": "b", "status": "\\u001b[2J\\u202e"}', r"status cannot be '\x1b[2J\u202e'"),
}

WRONG = {
    "id": [5, "", None, ["a"]],
    "status": ["done", None, 1, ["ok"]],
    "line": ["1", -1, 1.5, True, 1 << 64],
    "attempts": [None, "2"],
    "run": ["7", -7, 7.0, False],
    "worker": ["0"],
    "nameless": [1, "yes"],
    "time": [5, None],
    "error": [["io"], {}],
    "text": [None, 3],
    "outputs": [5, "a.png", [5], None, {}],
    "sha256": ["ab", [None]],
    "bytes": [5, ["5"], [True], [-1]],
    "seeds": [[1.5], "1"],
    "sources": [[], {"init_image": None}],
    "contents": [5, ["a"], {"init_image": 5}],
    "identities": [[], {"init_image": None}],
    "model_sha256": [5],
    "spec_hash": [["x"]],
    "timings": [5, {"write": "1"}, {"write": True}, {"write": -1}, {"write": float("nan")}, {"write": 10**400}],
    "runtime": ["null", [None]],
    "warnings": ["none", [1]],
    "degraded": [True],
    "nsfw": [[0, 1], False],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_line_of_results_costs_itself_and_is_named(tmp_path, name):
    data, reason = DAMAGED[name]
    path, damage = tmp_path / "results.jsonl", Damage()
    whole = json.dumps(GOOD).encode()
    path.write_bytes(whole + b"\n" + data + b"\n\n  \r\n" + whole.replace(b'"a"', b'"c"') + b"\r\n" + data)
    assert [record.id for record in read_lines(path, damage)] == ["a", "c"]
    assert len(damage.warnings) == 2
    for number, sentence in zip((2, 6), damage.warnings, strict=True):
        assert sentence.startswith(f"{path}: line {number} is damaged and left out: {reason}")
        assert sentence.isprintable()
        assert len(sentence) < 400


@pytest.mark.parametrize("name", WRONG)
def test_fields_of_wrong_types_are_damage(tmp_path, name):
    path, damage = tmp_path / "results.jsonl", Damage()
    path.write_text("".join(json.dumps({**GOOD, name: value}) + "\n" for value in WRONG[name]))
    assert list(read_lines(path, damage)) == []
    assert len(damage.warnings) == len(WRONG[name])
    assert all(f" {name} cannot be " in sentence for sentence in damage.warnings)


def test_whatever_a_run_writes_is_no_damage(album, tmp_path):
    """Every field that any record has ever had is in the table above."""
    rows = [album.row(0, samples=2), album.row(1, steps=0), album.row(2, seed=2**63 - 1), "{"]
    out = tmp_path / "out"
    batch.run(album.manifest(rows), out, album.options)
    batch.run(album.manifest(rows[:3]), out, album.options)  # takes "line 4" back
    records = lines(out)
    assert {record["status"] for record in records} == {"ok", "error", "retired"}
    assert [record.to_json() for record in read_lines(out / "results.jsonl")] == records
    assert {name for record in records for name in record} <= set(WRONG)
    assert batch.report(out)["warnings"] == []
    everything = {
        "id": "x", "line": 1, "attempts": 1, "run": 1, "worker": 0, "nameless": True, "time": "2026", "error": "io",
        "text": "", "outputs": ["a"], "sha256": ["b"], "bytes": [1], "seeds": [1], "contents": {}, "identities": {},
        "sources": {}, "model_sha256": "", "spec_hash": "", "timings": {"a": 1, "b": 0.5}, "runtime": ["null", "cpu"],
        "warnings": ["w"], "degraded": ["d"], "nsfw": [True], "of a later version": {"a": [1]},
    }  # fmt: skip
    assert set(everything) >= set(WRONG) - {"status"}
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(everything | {"status": status}) + "\n" for status in STATUSES))
    assert len(list(read_lines(path))) == len(STATUSES)


def test_a_mark_of_the_byte_order_is_no_damage(tmp_path):
    path, damage = tmp_path / "results.jsonl", Damage()
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(list(read_lines(path, damage))) == 2
    assert damage.warnings == []


def test_a_line_without_end_takes_no_memory(tmp_path, monkeypatch):
    """A hundred megabytes without a line break, of which no more than a line's bound is ever held."""
    path, damage, sizes = tmp_path / "results.jsonl", Damage(), []
    with path.open("wb") as file:
        file.write(b'{"id": "')
        file.truncate(100 << 20)  # NULs, and no blocks on the disk
        file.seek(0, 2)
        file.write(b"\n" + json.dumps(GOOD).encode() + b"\n")
    read_json = ledger.read_json
    monkeypatch.setattr(ledger, "read_json", lambda data: sizes.append(len(data)) or read_json(data))
    assert [record.to_json() for record in read_lines(path, damage)] == [GOOD]
    assert max(sizes) == LONGEST + 1
    assert damage.warnings == [f"{path}: line 1 is damaged and left out: longer than {LONGEST} bytes"]


def test_of_much_damage_the_first_lines_are_named_and_the_others_counted(tmp_path):
    path, damage = tmp_path / "results.jsonl", Damage()
    path.write_text("x\n" * 1000)
    assert list(read_lines(path, damage)) == []
    assert len(damage.warnings) == 11
    assert damage.warnings[-1] == f"{path}: 990 more lines are damaged"


def damaged(out: Path) -> tuple[int, int]:
    """Damage in each of the files of a finished run; how many lines there are that cannot be read."""
    kinds = [data for data, _ in DAMAGED.values()]
    for name in ("results.jsonl", ".intarsia-outputs"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(b"\n".join([*kinds[:2], whole, *kinds[2:5]]) + b"\n")
    (out / "report.json").write_bytes(kinds[0])
    with (out / "results.jsonl").open("ab") as file:
        file.write(b'{"id": "row-1", "status": "ok", "outputs": 5, "contents": 5, "spec_hash": ["x"]}\n')
    return 6, 5


def test_with_damaged_files_a_run_goes_on_and_every_command_says_so(album, tmp_path):
    manifest, out = album.manifest(album.rows(3)), tmp_path / "out"
    batch.run(manifest, out, album.options)
    results, outputs = damaged(out)
    report = batch.report(out)
    assert (report["ok"], report["runs"]) == (3, {})
    assert len(report["warnings"]) == results + 1
    assert report["warnings"][-1] == f"{out / 'report.json'}: the file is damaged and left out: nested too deeply"

    reported = CliRunner().invoke(app, ["batch", "report", str(out)])
    assert reported.exit_code == 0
    assert reported.stdout == "3 rows: 3 ok\n"
    assert reported.stderr.splitlines() == [f"intarsia: {sentence}" for sentence in report["warnings"]]

    (out / "row-2.png").unlink()
    given = ("--out", out, "--backend", "null", "--weights", album.weights, "--json")
    ran = CliRunner().invoke(app, ["batch", "run", *map(str, (manifest, *given))])
    numbers = json.loads(ran.stdout)
    assert (ran.exit_code, numbers["before"], numbers["ok"]) == (0, 2, 1)
    assert len(numbers["warnings"]) == results + outputs
    assert ran.stderr.splitlines() == [f"intarsia: {sentence}" for sentence in numbers["warnings"]]
    assert batch.report(out)["runs"]["report"]["warnings"] == numbers["warnings"]

    done = CliRunner().invoke(app, ["batch", "merge", str(out)])
    assert (done.exit_code, done.stdout) == (0, f"3 rows in {out / 'results.jsonl'}\n")
    assert len(done.stderr.splitlines()) == results
    assert batch.report(out)["warnings"] == []
    assert len(batch.run(manifest, out, album.options).warnings) == outputs


def test_merge_in_a_program_warns_by_its_log(tmp_path, caplog):
    (tmp_path / "results.jsonl").write_text(json.dumps(GOOD) + "\ngarbage\n")
    with caplog.at_level(logging.WARNING, "intarsia"):
        assert batch.merge(tmp_path) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'results.jsonl'}: line 2 is damaged and left out: "
        "not JSON: Expecting value: line 1 column 1 (char 0)"
    ]


@pytest.mark.parametrize(
    "claim",
    [b"[" * 200_000, b'["a"]', b'["a", "a.png", "b"]', b'["a", 5]', b'"ab"', b'{"a": 1, "b": 2}', b"\0", b"\xff"],
)
def test_a_damaged_claim_claims_nothing(tmp_path, claim):
    (tmp_path / ".intarsia-outputs").write_bytes(b'\n["a", "a.png"]\n' + claim)
    (tmp_path / "a.png").write_bytes(b"x")
    with Claims(tmp_path, History(), (1, 1)) as claims:
        assert claims.claim("a", ("a.png",)) == ("a.png",)
        assert len(claims.damage.warnings) == 1
        assert claims.damage.warnings[0].startswith(f"{tmp_path / '.intarsia-outputs'}: line 3 is damaged")


def numbers(**changes: Any) -> str:
    return json.dumps({**RunStats().to_dict(), **changes})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "must be an object"),
        ("{}", "rows cannot be None"),
        (numbers(rows="1"), "rows cannot be '1'"),
        (numbers(seconds=None), "seconds cannot be None"),
        (numbers(seconds=-1), "seconds cannot be -1"),
        (numbers(batch_fill=True), "batch_fill cannot be True"),
        (numbers(stopped=5), "stopped cannot be 5"),
        (numbers(errors=[]), "errors cannot be []"),
        (numbers(errors={"io": "1"}), "errors cannot be {'io': '1'}"),
        (numbers(stages={"write": 5}), "stages cannot be {'write': 5}"),
        (numbers(stages={"write": {"p50": 1.0}}), "stages cannot be"),
        (numbers(warnings="none"), "warnings cannot be 'none'"),
        (numbers(seconds=float("nan")), "seconds cannot be nan"),
    ],
)
def test_numbers_of_a_run_that_are_damaged_are_left_out(tmp_path, text, reason):
    (tmp_path / "results.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "report.json").write_text(text)
    write_report(tmp_path, (1, 2), RunStats().to_dict())
    report = batch.report(tmp_path)
    assert list(report["runs"]) == ["report-1-of-2"]
    [sentence] = report["warnings"]
    assert f"{tmp_path / 'report.json'}: the file is damaged and left out: {reason}" in sentence


def test_numbers_of_an_earlier_version_are_no_damage(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps(GOOD) + "\n")
    stats = RunStats()
    stats.add(Record(id="a", status="ok", outputs=("a.png",)))
    numbers = stats.to_dict() | {"images_per_second_after_warm_up": 2.5}
    earlier = {name.replace("images", "pictures"): value for name, value in numbers.items() if name != "warnings"}
    (tmp_path / "report.json").write_text(json.dumps(earlier))
    (tmp_path / "report-2025.json").write_text("no run's")
    (tmp_path / "report-1-of-2.json").mkdir()
    (tmp_path / "results-1-of-2.jsonl").mkdir()
    report = batch.report(tmp_path)
    assert (list(report["runs"]), report["warnings"], report["rows"]) == (["report"], [], 1)
    assert report["runs"]["report"].items() == {name: numbers[name] for name in numbers if name != "warnings"}.items()
    done = CliRunner().invoke(app, ["batch", "report", str(tmp_path)])
    assert (done.exit_code, "1 image in " in done.stdout, "(2.50 after the first)" in done.stdout) == (0, True, True)


def test_records_without_a_run_are_read_as_ever(tmp_path):
    with Results(tmp_path / "results.jsonl") as results:
        results.add([Record(id="a", status="ok", time="2026-01-02T00:00:00+00:00")])
    history = read_history([tmp_path / "results.jsonl"])
    assert history.last["a"].run is None
    assert history.newest == 1767312000
