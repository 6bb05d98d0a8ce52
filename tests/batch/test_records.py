"""Records and messages on their way through JSON."""

from __future__ import annotations

import json

import pytest

from intarsia.batch.ledger.error_kinds import is_fatal
from intarsia.batch.ledger.records import Record
from intarsia.batch.ledger.results import Results
from intarsia.batch.ledger.run_stats import WorkerState
from intarsia.batch.running import messages
from intarsia.batch.running.jobs import Job
from intarsia.errors import BackendError, DeviceLost, EngineStopped, OutOfMemory

HEAD = '{"id": "a", "line": 3, "attempts": 1, "time": "2026"'
LINES = [
    HEAD + ', "status": "ok", "outputs": ["a.png"], "sha256": ["0"], "bytes": [1], "seeds": [7], "model_sha256": "1", '
    '"spec_hash": "2", "contents": {"init_image": "3"}, "identities": {"init_image": "4"}, "timings": {"write": 0.5}, '
    '"runtime": ["null", "cpu"], "warnings": ["w"], "nsfw": [true], "worker": 0, "run": 5}',
    HEAD + ', "degraded": ["d"], "status": "error", "error": "io", "text": "t", "nameless": true, "run": 5}',
    HEAD + ', "status": "cancelled", "error": "cancelled", "text": "t", "worker": 1, "run": 5}',
    HEAD + ', "status": "skipped", "text": "t", "identities": {}, "spec_hash": "2", "worker": 0, "run": 5}',
    HEAD + ', "status": "skipped", "error": "cancelled", "text": "t", "nameless": true, "run": 5}',
    '{"id": "a", "line": 0, "status": "retired", "time": "2026", "run": 5}',
]


@pytest.mark.parametrize("line", LINES)
def test_lines_of_every_status_have_their_usual_order(line):
    record = Record.from_json(json.loads(line))
    assert record.key_order == ()
    assert json.dumps(record.to_json()) == line


def test_keys_of_later_versions_and_another_order_survive():
    line = '{"later": null, "status": "ok", "id": "a", "run": 2, "more": {"x": [1]}, "line": 1}'
    record = Record.from_json(json.loads(line))
    assert (record.id, record.unknown) == ("a", {"later": None, "more": {"x": [1]}})
    assert json.dumps(record.to_json()) == line


def test_what_is_added_to_a_line_follows_its_keys(tmp_path):
    record = Record.from_json({"later": 1, "id": "a", "status": "error"})
    with Results(tmp_path / "results.jsonl", run=7) as results:
        results.add([record])
    assert (tmp_path / "results.jsonl").read_text() == '{"later": 1, "id": "a", "status": "error", "run": 7}\n'


STATE = WorkerState(evaluations=1, lane_rows=2, slots=4, memory=5.5, device_memory=6.0)
JOB = Job(number=1, id="é \ud800", outputs=("a.png",), fields={"prompt": "x"}, degraded=("d",), own=("a.png",))
MESSAGES = [
    messages.Start(options={"seed": 1}, out="/out", device="cpu"),
    messages.RunJob(JOB),
    messages.Finish(),
    messages.Cancel(),
    messages.Ready(8),
    messages.EngineRefused("WeightsError", "no model"),
    messages.Dying("CUDA error"),
    messages.RowDone(Record(id="é\n", status="ok", line=1, outputs=("a.png",)), STATE),
    messages.Bye(STATE),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_out_as_they_went_in(message):
    line = messages.encode(message)
    assert line.count(b"\n") == 1
    assert messages.decode(line) == message
    with pytest.raises(ValueError, match=r"Unterminated|Expecting|Invalid"):
        messages.decode(line[:-2])


def test_only_errors_of_the_device_or_the_engine_end_the_process():
    wrapped = BackendError("failed")
    wrapped.__cause__ = DeviceLost("gone")
    for error in (DeviceLost("gone"), EngineStopped("the engine is closed"), wrapped, RuntimeError("CUDA error: x")):
        assert is_fatal(error)
    out_of_memory = DeviceLost("gone")
    out_of_memory.__cause__ = OutOfMemory("full")
    for error in (BackendError("failed"), ValueError("x"), out_of_memory):
        assert not is_fatal(error)
