"""Distributions as pip leaves them in a folder: modules, and a ``.dist-info`` with entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EntryPoints = dict[str, dict[str, str]]
"""Group → name → ``module:attribute``."""


def install(folder: Path, distribution: str, entry_points: EntryPoints, **modules: str) -> Path:
    """Install a distribution into a folder, as ``pip install --target`` does; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")

    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    lines = []
    for group, names in entry_points.items():
        lines.append(f"[{group}]")
        lines += [f"{name} = {value}" for name, value in names.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(command: list[str], *folders: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own that sees what is installed in ``folders``."""
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": path, "PATH": binaries}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def cli(*arguments: object, installed: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The ``intarsia`` command with a folder of distributions."""
    program = [sys.executable, "-c", "from intarsia.cli import main; main()"]
    return run([*program, *map(str, arguments)], installed, cwd=cwd)
