"""Engines and processes: forks of one that uses an engine, and its exit with requests in flight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import BEGIN

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def python(code: str, *arguments: str, weights: Path, timeout: int = 120) -> subprocess.CompletedProcess[str]:
    """A script that begins with ``BEGIN``, in an interpreter of its own."""
    environment = {**os.environ, "INTARSIA_WEIGHTS": str(weights)}
    command = [sys.executable, "-c", BEGIN + textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


FORK = """
import threading
engine, unused = intarsia.Engine("null"), intarsia.Engine("null")
done = engine.submit(request())
done.result()
slow = threading.Event()
NullSession.advance = lambda self, steps: slow.wait(60)
running = engine.submit(request())
next_event = running.progress()

locked, release = threading.Event(), threading.Event()
def hold():
    with engine._thread._lock:
        locked.set()
        release.wait(60)
threading.Thread(target=hold, daemon=True).start()
assert locked.wait(60)
parent = os.getpid()
read, write = os.pipe()
child = os.fork()
if not child:
    said = []
    def refused(wait):
        try:
            said.append(repr(wait()))
        except intarsia.BackendError as exc:
            said.append(str(exc).replace(str(parent), "N"))
    for wait in (
        lambda: engine.run(request()), lambda: engine.submit(request()), lambda: next(engine.stream(request())),
        lambda: running.result(timeout=60), lambda: running.exception(), lambda: next(next_event),
        lambda: running.add_done_callback(print),
    ):
        refused(wait)
    said.append(engine.reply({}, "community")["status"])
    said += [running.cancel(), done.result().seeds == (1,), len(list(done.progress())), engine.counters.evaluations > 0]
    engine.close(cancel=True)
    del engine
    NullSession.advance = lambda self, steps: None
    said.append(unused.run(request()).seeds == (1,))
    with intarsia.Engine("null") as own:
        said.append(own.run(request()).seeds == (1,))
    os.write(write, json.dumps(said).encode())
    os._exit(5)
os.close(write)
with os.fdopen(read) as pipe:
    print(pipe.read())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
release.set()
slow.set()
assert running.result(timeout=60).images and not running.cancel_asked, "the parent's is untouched"
engine.close()
unused.close()
"""


def test_a_forked_process_is_refused_at_once_and_may_open_its_own(empty_registry):
    done = python(FORK, weights=empty_registry)
    assert done.returncode == 0, done.stderr
    run = "the engine runs in process N, from which this one was forked; open an engine here"
    wait = "the request runs in process N, from which this one was forked; it cannot be waited for"
    assert json.loads(done.stdout) == [*[run] * 3, *[wait] * 4, "error", False, True, 4, True, True, True]


POOL = """
import multiprocessing
engine = intarsia.Engine("null")
engine.run(request())

def inherited(seed):
    try:
        return engine.run(request(seed))
    except intarsia.BackendError as exc:
        return "forked" in str(exc)

def own(seed):
    with intarsia.Engine("null") as opened:
        return opened.run(request(seed)).seeds[0]

with multiprocessing.get_context("fork").Pool(2) as pool:
    print(json.dumps([pool.map(inherited, range(4)), pool.map(own, range(4))]))
assert engine.run(request()).images
engine.close()
"""


def test_a_pool_of_forked_processes(empty_registry):
    done = python(POOL, weights=empty_registry)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[True] * 4, [0, 1, 2, 3]]


LOCK = """
import threading
from intarsia.threads import lock_across_forks
lock, held = lock_across_forks(), threading.Event()
def hold():
    with lock:
        held.set()
        threading.Event().wait(0.2)
threading.Thread(target=hold).start()
held.wait(60)
child = os.fork()
if not child:
    os._exit(5 if lock.acquire(timeout=10) else 6)
assert lock.acquire(timeout=10)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_lock_that_another_thread_holds_is_free_in_a_forked_process(empty_registry):
    done = python(LOCK, weights=empty_registry)
    assert done.returncode == 5, done.stderr


EXIT = """
import atexit, threading
running, reached = set(), threading.Event()
def advance(self, steps):
    running.add(id(self))
    if len(running) == 2:  # each engine has a session to release
        reached.set()
    threading.Event().wait(0.02)
NullSession.advance = advance
NullSession.decode = lambda self, states: print("decoded")
NullSession.close = lambda self: print("released\\n", end="")  # in one piece, whatever other threads print
engines = [intarsia.Engine("null"), intarsia.Engine("null")]
atexit.register(print, "the script's own hook")
tickets = [engine.submit(request(steps=150)) for engine in engines for _ in range(4)]
assert reached.wait(60)
"""

ENDS = {
    "sys.exit(7)": (7, ""),
    "raise ValueError('of the script')": (1, "ValueError: of the script"),
    "pass": (0, ""),
    "threading.Thread(target=sys.exit, args=(9,)).start(); sys.exit(7)": (7, ""),
}


@pytest.mark.every(2)
@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_with_requests_in_flight_keeps_its_exit_code(empty_registry, end):
    code, sentence = ENDS[end]
    done = python(EXIT + end, weights=empty_registry)
    assert done.returncode == code
    assert done.stderr.strip().endswith(sentence)
    assert bool(sentence) == bool(done.stderr)
    assert sorted(done.stdout.split("\n")) == ["", "released", "released", "the script's own hook"]


def test_threads_that_wait_for_requests_have_them_before_the_process_ends(empty_registry):
    waiting = "threading.Thread(target=lambda: print(len(tickets[0].result().images))).start()"
    fast = "NullSession.decode = original_decode\n"
    done = python("original_decode = NullSession.decode\n" + EXIT + fast + waiting, weights=empty_registry)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "1"


def test_an_exit_does_not_wait_for_ever(empty_registry):
    stuck = """
    NullSession.advance = lambda self, steps: reached.set() or threading.Event().wait()
    import intarsia.engine.thread
    intarsia.engine.thread._EXIT_SECONDS = 0.1
    intarsia.Engine("null").submit(request())
    assert reached.wait(60)
    sys.exit(7)
    """
    done = python("import threading\nreached = threading.Event()\n" + textwrap.dedent(stuck), weights=empty_registry)
    assert done.returncode == 7
    assert "an evaluation is still running" in done.stderr
