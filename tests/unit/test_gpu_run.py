"""The run on a GPU, as far as it needs none: what it makes of kernels' names, and of a run that was cut short."""

from __future__ import annotations

import argparse
import json

import pytest

pytest.importorskip("torch", reason="the benchmarks need torch: pip install 'inlay[torch]'")

from benchmarks import gpu_run, step_profile
from benchmarks.records import read
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
    assert "tests returned 0, cases returned 1" in gpu_run.summary(found)
    assert "**4.00×** (≥ 3×)" in gpu_run.summary(found)


def test_what_takes_too_long_is_ended_and_the_rest_is_kept(tmp_path, monkeypatch, capsys):
    modules = []

    def pretend(module, log, seconds):
        modules.append(module[0])
        log.write_text("some output")
        return 124 if module[0] == "pytest" else 0

    monkeypatch.setattr(gpu_run, "_run", pretend)
    asked = argparse.Namespace(cases=["S1"], out=tmp_path / "out", budget=100.0, peers="eager", skip="profile")
    assert gpu_run.run(asked) == 1
    assert modules == ["pytest", "benchmarks.run"]
    found = json.loads((tmp_path / "out" / "gpu_run.json").read_text())
    assert found["returned"] == {"tests": 124, "cases": 0}
    assert "tests returned 124" in capsys.readouterr().out


def test_a_part_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_run, "_RESERVE", 0.0)
    assert (
        gpu_run._run(["timeit", "-n", "1", "-r", "1", "-s", "import time", "time.sleep(60)"], tmp_path / "log", 1)
        == 124
    )
    assert gpu_run._run(["timeit", "-n", "1", "-r", "1", "pass"], tmp_path / "log", 60) == 0
    assert "loop" in (tmp_path / "log").read_text()


def test_without_a_gpu_the_profile_says_so(monkeypatch, capsys):
    monkeypatch.setattr(step_profile.torch.cuda, "is_available", lambda: False)
    assert step_profile.main([]) == 4
    assert "needs a CUDA device" in capsys.readouterr().err
