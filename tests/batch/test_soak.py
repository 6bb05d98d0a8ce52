"""A worker of a long batch stays as large as it became in the first rows: memory, descriptors, threads, files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from benchmarks.soak_batch import Curve, manifest
from intarsia import batch

SETTLED = 50

pytestmark = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(),
    reason="no /proc that shows a worker",
)


@pytest.mark.parametrize(("backend", "rows"), [("null", 300), pytest.param("onnx", 300, marks=pytest.mark.slow)])
def test_many_rows_leave_a_worker_as_fifty_did(tmp_path, monkeypatch, backend, rows):
    """What a lane of these sizes holds on ONNX Runtime, kept for 100 rows, would be forty MiB."""
    if backend == "onnx":
        pytest.importorskip("onnxruntime", reason="this backend needs onnxruntime: pip install 'intarsia[cpu]'")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew
    curve = Curve(iter([SETTLED, rows - 10, rows * 10]))
    options = batch.Options(backend=backend, device="cpu", workers=1, threads=2, slots=4)
    stats = batch.run(manifest(tmp_path, rows, (64, 72)), tmp_path / "out", options, curve)
    assert stats.status == {"ok": rows}
    _, early, late = curve.samples
    assert SETTLED <= early.rows < 2 * SETTLED
    assert late.rows >= rows - 10
    assert late.resident - early.resident < 20
    assert late.descriptors <= early.descriptors + 4  # images that are open at the moment
    assert late.threads <= early.threads
    assert late.temporary == early.temporary
