"""SIGINT and SIGTERM on the command line: all samples or none, and a sentence that is true."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from intarsia.commands.interrupts import held, interruptible, take_sigterm
from intarsia.errors import Cancelled

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's is to ignore it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_sigterm()
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("sign", SIGNALS)
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "interrupted; nothing was written"),
        (["a.png"], "interrupted; a.png was written"),
        (["a.png", "b.png"], "interrupted; a.png, b.png were written"),
    ],
)
def test_an_interrupt_says_what_was_written(sign, files, sentence):
    def work() -> None:
        with interruptible() as written:
            written += map(Path, files)
            signal.raise_signal(sign)

    with pytest.raises(Cancelled) as caught:
        work()
    assert str(caught.value) == sentence


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_held_interrupt_comes_at_the_blocks_end_and_a_second_one_at_once(sign):
    def work(*signs: signal.Signals) -> None:
        with held():
            done.append("begun")
            for each in signs:
                signal.raise_signal(each)
            done.append("ended")

    done, handlers = [], [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt):
        work(sign)
    assert done == ["begun", "ended"]
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT, sign)
    assert done == ["begun", "ended", "begun"]
    work()
    assert [signal.getsignal(each) for each in SIGNALS] == handlers


def test_what_is_taken_back_is_not_disturbed():
    def work() -> None:
        try:
            with held():
                try:
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)
                finally:
                    signal.raise_signal(signal.SIGINT)
                    back.append(True)
        finally:
            back.append(True)

    back = []
    with pytest.raises(KeyboardInterrupt):
        work()
    assert back == [True, True]


def test_an_error_in_a_held_block_goes_before_the_interrupt():
    def work() -> None:
        with held():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()


def test_signals_that_are_ignored_stay_ignored():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    take_sigterm()
    with held():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_threads_have_nothing_to_hold():
    def use() -> None:
        take_sigterm()
        with held():
            used.append(True)

    used = []
    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert used == [True]


SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import intarsia.images.atomic_files, intarsia.commands.inpaint
from intarsia.backends.null import NullSession
sign, times, where = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)

def then_signal(function, at):
    count = [0]
    def call(*arguments, **more):
        count[0] += 1
        if count[0] == at:
            for _ in range(times):
                signal.raise_signal(sign)
        return function(*arguments, **more)
    return call

if where == "step":
    NullSession.advance = then_signal(NullSession.advance, 2)
elif where == "report":
    intarsia.commands.inpaint._report = then_signal(intarsia.commands.inpaint._report, 1)
else:
    step = "replace" if "--overwrite" in sys.argv else "link"
    setattr(os, step, then_signal(getattr(os, step), 2))
from intarsia.cli import main
main()
"""

WRITTEN = "interrupted; a-1.png, a-2.png, a-3.png were written"
NOTHING = "interrupted; nothing was written"


@pytest.mark.every(6)
@pytest.mark.parametrize(("sign", "overwrite"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
@pytest.mark.parametrize(
    ("where", "times", "sentence"),
    [("step", 1, NOTHING), ("between", 1, WRITTEN), ("between", 3, NOTHING), ("report", 1, WRITTEN)],
)
def test_samples_are_all_there_or_none_and_the_sentence_is_true(
    tmp_path, empty_registry, sign, where, times, sentence, overwrite
):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "mask.png")
    names = ("a-1.png", "a-2.png", "a-3.png")
    for name in names if overwrite else ():
        (tmp_path / name).write_bytes(b"of before")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    command = [
        sys.executable, "-c", SCRIPT, str(int(sign)), str(times), where, "inpaint", "photo.png", "mask.png",
        "--backend", "null", "-o", "a.png", "--samples", "3", "--seed", "1", *(["--overwrite"] if overwrite else []),
    ]  # fmt: skip
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(empty_registry)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (130, f"intarsia: {sentence}\n")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    if sentence == NOTHING:
        assert after == before
    else:
        assert set(after) == {*before, *names}
        assert all(after[name].startswith(b"\x89PNG") for name in names)
