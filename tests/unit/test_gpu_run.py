"""The run on a GPU, as far as it needs none: what it makes of kernels' names, and of a run that was cut short."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks need torch: pip install 'inlay[torch]'")

from benchmarks import gpu_run, step_profile
from benchmarks.records import read, write
from benchmarks.step_profile import OTHER, grouped, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("_step", "our step"),
        ("_normalise", "our norms"),
        ("cudnn_generated_fort_native_sdpa_sm90_knob_7_fprop", "attention"),
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x128", "convolution"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NTT", "matrix product"),
        ("void at::native::elementwise_kernel<128, 4, ...gpu_kernel_impl_nocast<at::native::CUDAFunctor_add>>", OTHER),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy_vectorized<...>", "copies and layouts"),
    ],
)
def test_kernels_are_told_by_their_names(name, kind):
    assert kind_of(name) == kind


def test_times_are_those_of_one_step():
    found = grouped([("_step", 100.0, 10), ("cutlass_gemm", 3000.0, 20), ("ampere_gemm", 1000.0, 10)], steps=10)
    assert list(found) == ["matrix product", "our step"]
    assert found["matrix product"] == {"ms": pytest.approx(0.4), "launches": pytest.approx(3.0)}
    assert found["our step"] == {"ms": pytest.approx(0.01), "launches": pytest.approx(1.0)}


def record(case, gpu="A Card"):
    where = {"gpu": gpu, "driver": "1", "cores": 2, "commit": "0" * 9, "packages": {}}
    check = {"passed": True, "reason": "error 1.00 levels", "errors": {}}
    numbers = {"median": {"inlay": 0.08}, "ratio": {"eager": 4.0}}
    return {"case": case, "settings": {}, "environment": where, "check": check, "numbers": numbers, "absent": {}}


def test_records_come_back_as_files(tmp_path, capsys):
    found = {"returned": {"tests": 0, "cases": 1}, "profile": {}, "records": [record("S1"), record("tables", None)]}
    (tmp_path / "gpu_run.json").write_text(json.dumps(found))
    assert gpu_run.unpack(tmp_path / "gpu_run.json", tmp_path / "results") == 0
    assert [each["case"] for each in read(tmp_path / "results")] == ["S1", "tables"]
    assert "2 records in" in capsys.readouterr().out
    assert "tests returned 0\ncases returned 1" in gpu_run.summary(found)
    assert "**4.00×** (≥ 3×)" in gpu_run.summary(found)


@pytest.fixture
def asked(tmp_path):
    def ask(**fields):
        given = {"cases": [], "budget": 1000.0, "peers": None, "skip": "profile,cases"}
        return argparse.Namespace(out=tmp_path / "out", **{**given, **fields})

    return ask


FILES = {
    "good": "def test(): pass",
    "bad": "def test(): assert 0",
    "crash": "import os\ndef test(): os.abort()",
    "skipped": "import pytest\npytest.skip('needs something', allow_module_level=True)",
}


def test_what_fails_or_crashes_takes_nothing_else_with_it(tmp_path, asked, monkeypatch, capsys):
    for name, content in FILES.items():
        (tmp_path / f"test_{name}.py").write_text(content)
    monkeypatch.setattr(gpu_run, "TESTS", tmp_path)
    monkeypatch.setattr(gpu_run, "_TESTS", 500.0)
    (tmp_path / "out" / "records").mkdir(parents=True)
    (tmp_path / "out" / "records" / "gpu_S1.json").write_text("{}")
    assert gpu_run.run(asked(skip="profile", cases=["tables"])) == 1
    found = json.loads((tmp_path / "out" / "gpu_run.json").read_text())
    returned = found["returned"]
    assert returned.pop("test_crash") < 0
    assert returned == {"test_good": 0, "test_bad": 1, "test_skipped": 5, "cases": 0}
    assert [each["case"] for each in found["records"]] == ["tables"], "those of another run are gone"
    assert "1 failed" in (tmp_path / "out" / "test_bad.txt").read_text()
    assert "test_bad returned 1" in capsys.readouterr().out


def test_what_hangs_is_ended_with_what_it_started(tmp_path):
    started = tmp_path / "started"
    write_id = f"open({str(started)!r}, 'w').write(str(p.pid))"
    hang = f"import subprocess; p = subprocess.Popen(['sleep', '600']); {write_id}; p.wait()"
    part = gpu_run.Part("hang", ["timeit", "-n", "1", "-r", "1", "-s", hang], tmp_path / "log")
    part.start()
    while not started.exists() or not started.read_text():
        assert part.process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    assert not part.look(ended=False)
    assert part.look(ended=True)
    assert part.code == 124
    child = Path(f"/proc/{started.read_text()}/stat")
    for _ in range(200):  # a killed process may still be running for a moment on a busy machine
        if _has_ended(child):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there 10 s after the kill: {child.read_text()}")


def _has_ended(stat: Path) -> bool:
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_what_there_is_is_written_while_a_part_is_under_way(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "_WRITE", 0.0)
    report, seen = gpu_run.Report(tmp_path), []
    write(tmp_path / "records" / "gpu_S1.json", record("S1"))
    monkeypatch.setattr(gpu_run.time, "sleep", lambda _: seen.append((tmp_path / "gpu_run.json").is_file()))
    part = gpu_run.Part("cases", ["timeit", "-n", "1", "-r", "1", "pass"], tmp_path / "log")
    report.run([part], 60)
    assert part.code == 0
    assert "loop" in (tmp_path / "log").read_text()
    assert True in seen, "before it ended"
    assert [each["case"] for each in json.loads((tmp_path / "gpu_run.json").read_text())["records"]] == ["S1"]


def test_an_interrupted_run_leaves_no_process(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    report = gpu_run.Report(tmp_path)
    part = gpu_run.Part(
        "hang", ["timeit", "-n", "1", "-r", "1", "-s", "import time", "time.sleep(60)"], tmp_path / "log"
    )
    monkeypatch.setattr(gpu_run.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.run([part], 60)
    assert part.process.poll() is not None


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(gpu_run, "find_spec", lambda name: None if name in ("pydantic", "tomlkit") else name)
    assert gpu_run.main([]) == 4
    assert capsys.readouterr().err == "not installed: pydantic, tomlkit\n"


def test_a_case_that_fails_leaves_the_others_of_the_profile(tmp_path, monkeypatch, capsys):
    def profiled(case, place):
        if case.name == "S2":
            raise RuntimeError("CUDA error: an illegal memory access\nmore")
        pictures = {"encode_ms": 1.0}
        return {"step_ms": 4.5, "recording_seconds": 0.2, "kinds": {}, "slowest": [], "pictures": pictures}

    monkeypatch.setattr(step_profile, "profiled", profiled)
    monkeypatch.setattr(step_profile, "register", lambda: None)
    assert step_profile.main(["--short", "--out", str(tmp_path / "p.json"), "S1", "S2", "S4"]) == 1
    found = json.loads((tmp_path / "p.json").read_text())
    assert list(found) == ["S1", "S2", "S4"]
    assert found["S2"] == {"failed": "RuntimeError: CUDA error: an illegal memory access"}
    assert "S4: step 4.50 ms" in gpu_run.summary({"returned": {}, "profile": found, "records": []})
    assert "S2: RuntimeError" in gpu_run.summary({"returned": {}, "profile": found, "records": []})
    assert step_profile.main(["--short", "--budget", "0", "S1"]) == 1
    assert "S1: no time was left for it" in capsys.readouterr().out


def test_the_profile_is_rehearsed_on_a_cpu(tmp_path):
    assert step_profile.main(["--short", "--out", str(tmp_path / "p.json"), "S1"]) == 0
    found = json.loads((tmp_path / "p.json").read_text())["S1"]
    assert found["step_ms"] > 0
    assert set(found["pictures"]) == {"encode_ms", "encode_recording_seconds", "decode_ms", "decode_recording_seconds"}


def test_without_a_gpu_the_profile_says_so(monkeypatch, capsys):
    monkeypatch.setattr(step_profile.torch.cuda, "is_available", lambda: False)
    assert step_profile.main([]) == 4
    assert "needs a CUDA device" in capsys.readouterr().err
