"""The command line in processes of its own, each forked from one that has imported it already.

Starting an interpreter and importing the command line takes a second, a fork some milliseconds. Each process has its
own directory, environment, streams and exit code, as if it had been started. What is about start-up itself (modules
loaded, encodings of streams) starts an interpreter instead.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import multiprocessing
import os
import pkgutil
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from intarsia import commands

# What most calls load sooner or later; torch and ONNX Runtime start threads, which do not survive a fork.
MODULES = (
    "intarsia.cli",
    *(f"intarsia.commands.{module.name}" for module in pkgutil.iter_modules(commands.__path__)),
    "intarsia.engine.engine",
    "intarsia.backends.null",
    "intarsia.images.save",
    "numpy.random",
    "platformdirs",
    "rich.progress",
)


def run_intarsia(
    arguments: Sequence[object], *, cwd: Path, environment: Mapping[str, str], stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """What ``intarsia ARGUMENTS`` gives: exit code, stdout and stderr.

    Args:
        arguments: bytes as they are, everything else as its text.
        stdin: what is read from standard input; nothing where it is None.
    """
    given = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]

    with tempfile.TemporaryDirectory() as folder:
        streams = {name: Path(folder, name) for name in ("stdin", "stdout", "stderr")}
        streams["stdin"].write_text(stdin or "", encoding="utf-8")
        call = {"arguments": given, "cwd": str(cwd), "environment": dict(environment)}
        code = _template().run({**call, "streams": {name: str(path) for name, path in streams.items()}})
        stdout, stderr = (streams[name].read_text(encoding="utf-8") for name in ("stdout", "stderr"))

    return subprocess.CompletedProcess(["intarsia", *given], code, stdout, stderr)


class Template:
    """The process that has imported the command line and runs nothing itself."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.command_line"]
        tree = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            command, cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
        )
        atexit.register(self.close)

    def run(self, call: Mapping[str, object]) -> int:
        """The exit code of one call; negative where a signal ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@functools.cache
def _template() -> Template:
    return Template()


def _serve() -> None:
    """Fork for each line of standard input, and answer with the exit code."""
    for name in MODULES:
        importlib.import_module(name)
    Image.init()

    for line in iter(sys.stdin.readline, ""):
        # ends as soon as its threads have ended: taking an interpreter apart takes longer than most calls
        process = multiprocessing.get_context("fork").Process(target=_become, args=(json.loads(line),))
        process.start()
        process.join()
        print(process.exitcode, flush=True)


def _become(call: dict[str, object]) -> None:
    """Take on a call's streams, directory and environment, and run the command line to its end."""
    streams = call["streams"]
    assert isinstance(streams, dict)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        opened = os.open(streams[name], os.O_RDONLY if name == "stdin" else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    # the template's own text streams have read and may have written before
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1, errors="backslashreplace")

    os.chdir(str(call["cwd"]))
    environment = call["environment"]
    arguments = call["arguments"]
    assert isinstance(environment, dict)
    assert isinstance(arguments, list)
    os.environ.clear()
    os.environ.update(environment)

    sys.argv = ["intarsia", *arguments]
    runpy.run_module("intarsia", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
