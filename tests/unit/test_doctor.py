"""``intarsia doctor``: what it says is what choosing a backend does, and what the metadata have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from intarsia.backends import choose as choosing
from intarsia.commands import doctor as command
from intarsia.commands.doctor import PACKAGES, automatic_choice
from intarsia.errors import BackendError
from intarsia.execution import Execution

NO_GPU = {"count": 0, "usable": False, "names": [], "problem": ""}


def doctor(*arguments: str, weights: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom intarsia.cli import main\ntry:\n    main()\nfinally:\n"
        "    print({'torch', 'onnxruntime', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "INTARSIA_WEIGHTS"}
    if weights is not None:
        environment["INTARSIA_WEIGHTS"] = str(weights)
    return subprocess.run(
        [sys.executable, "-c", code, "doctor", *arguments], env=environment, capture_output=True, text=True
    )


def test_json_has_versions_devices_the_choice_and_the_model():
    done = doctor("--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["schema"], found["version"]) == (0, 2, version("intarsia"))
    assert found["packages"]["base"]["numpy"] == version("numpy")
    assert found["model"]["id"] == "intarsia-tiny"
    assert found["model"]["problem"] == ""
    if not found["gpus"]["count"]:
        assert done.stderr.strip().endswith("set()"), "nothing heavy is imported"


def test_text_names_the_same_and_a_model_that_is_not_there_is_code_three(empty_registry):
    text = doctor().stdout
    assert f"base: numpy {version('numpy')}, " in text
    assert "default model: intarsia-tiny, its files are as the registry has them" in text
    done = doctor(weights=empty_registry)
    assert done.returncode == 3
    *_, last = done.stdout.strip().splitlines()
    assert last.startswith("default model: ")
    assert f"{empty_registry.with_name('nothing')}/unet/diffusion_pytorch_model.safetensors: no such file" in last
    assert done.stderr.splitlines()[0] == f"intarsia: {last.removeprefix('default model: ')}"


@pytest.mark.parametrize("has_torch", [False, True])
@pytest.mark.parametrize("has_onnx", [False, True])
@pytest.mark.parametrize("usable", [False, True])
def test_the_choice_is_the_one_that_auto_makes(monkeypatch, has_torch, has_onnx, usable):
    installed = {"torch": has_torch, "onnxruntime": has_onnx}
    monkeypatch.setattr(choosing, "find_spec", lambda name: installed[name] or None)
    monkeypatch.setattr(choosing, "_torch_has_gpu", lambda: usable)
    monkeypatch.setattr(choosing, "_load", lambda name: lambda device, execution: name)
    monkeypatch.setattr(choosing, "CpuBackend", lambda onnx, execution: onnx)
    said = automatic_choice(has_torch, has_onnx, NO_GPU | {"usable": usable and has_torch})
    assert said["reason"]
    if not has_torch and not has_onnx:
        with pytest.raises(BackendError) as caught:
            choosing.choose("auto", "auto", Execution())
        assert said == {"backend": "", "reason": str(caught.value)}
        return
    chosen: Any = choosing.choose("auto", "auto", Execution())
    assert said["backend"] == chosen


def test_torch_is_asked_in_a_process_of_its_own_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr("intarsia.backends.driver.gpu_count", lambda: 1)
    monkeypatch.setattr(command, "find_spec", lambda name: True)
    answer = {"usable": True, "build": "12.8", "names": ["A card"]}
    for script, expected in (
        (f"print({json.dumps(json.dumps(answer))})", {"usable": True, "names": ["A card"], "problem": ""}),
        (f"print({json.dumps(json.dumps(answer | {'usable': False}))})", {"problem": "torch is built for CUDA 12.8"}),
        ("raise OSError", {"usable": False, "problem": "torch cannot be asked: CalledProcessError"}),
    ):
        monkeypatch.setattr(command, "_TORCH", script)
        found = command._gpus()
        assert {name: found[name] for name in expected} == expected


def test_every_package_is_one_that_the_project_declares():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[^A-Za-z0-9-]", line)[0].lower() for line in lines}
    assert {name for names in PACKAGES.values() for name in names} <= declared


def test_every_extra_but_those_of_developers_is_listed():
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert set(PACKAGES) - {"base"} == set(project["optional-dependencies"]) - {"oracle", "tools", "dev"}
