"""`python -m benchmarks.wheels`: the packages that must travel to a GPU machine without a registry, as wheels.

They go into `.whl`, which git ignores, in the versions that are installed here; such a machine is taken to have torch,
triton, transformers and pytest already. `commit.txt` beside them says which commit the tree is of, for the tree may
arrive without `.git`. `python -m benchmarks.gpu_run --packages .whl` takes both from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.commit import commit_of_tree
from benchmarks.tables import ROOT

TRAVELLING = (
    "annotated-types", "diffusers", "httpcore2", "httpx2", "importlib-metadata", "lazy-importer", "platformdirs",
    "pydantic", "pydantic-core", "tomesd", "truststore", "typing-inspection",
)  # fmt: skip
"""Needed by intarsia, diffusers and the benchmarks, and absent where torch's own needs and a usual data stack are."""

COMMIT = "commit.txt"

PYTHON = "3.12"
# pip takes each of them for itself alone
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; pip's answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".whl")
    parser.add_argument("--python", default=PYTHON, help="of the machine with the GPU")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True, exist_ok=True)
    for old in asked.out.glob("*.whl"):  # two versions of one package would not install
        old.unlink()
    code = subprocess.run(download(asked.out, asked.python), check=False).returncode
    commit, changed = commit_of_tree()
    (asked.out / COMMIT).write_text(f"{commit}+{changed}\n" if commit else "")
    print(f"{len(list(asked.out.glob('*.whl')))} of {len(TRAVELLING)} wheels in {asked.out}")
    return code


def download(out: Path, python: str) -> list[str]:
    """pip's command for all of them, without what they need: those are named."""
    platforms = [option for name in _PLATFORMS for option in ("--platform", name)]
    return [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms, "--dest", str(out),
        *(f"{name}=={version(name)}" for name in TRAVELLING),
    ]  # fmt: skip


def install(packages: Path, site: Path) -> str | None:
    """Put the wheels of a folder into another for PYTHONPATH, without a registry; why it cannot be done, if so."""
    wheels = sorted(str(path) for path in packages.glob("*.whl"))
    if not wheels:
        return f"{packages}: no wheels in it; python -m benchmarks.wheels downloads them"
    command = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--target", str(site), *wheels]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    problem = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
    return f"{packages}: {problem}" if done.returncode else None


def commit_beside(packages: Path) -> str:
    """What `commit.txt` in the folder says; nothing where it is not there."""
    path = packages / COMMIT
    return path.read_text().strip() if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
