"""Recording on a device that only pretends: in which order what is asked of it, and who shares memory with whom."""

from __future__ import annotations

import gc
from contextlib import contextmanager

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'inlay[torch]'")

from inlay.backends.torch.capture import CudaRecorder, Pace


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        done.append(("wait", self is MAIN, other is MAIN))


class Graph:
    made = 0

    def __init__(self):
        Graph.made += 1
        self.own, self.given = f"pool {Graph.made}", None

    def pool(self):
        return self.given or self.own

    def replay(self):
        done.append(("replay", self.pool()))


MAIN, done = Stream(), []


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """What the recorder asks torch for; records all of it."""

    @contextmanager
    def selected(_):
        yield

    @contextmanager
    def on(stream):
        assert stream is not MAIN
        done.append("aside")
        yield
        done.append("back")

    @contextmanager
    def recording(graph, pool=None, stream=None, capture_error_mode="global"):
        assert (stream is not MAIN, capture_error_mode) == (True, "thread_local")
        graph.given = pool
        done.append("record")
        yield
        done.append("recorded")

    done.clear()
    fakes = {"device": selected, "stream": on, "graph": recording, "Stream": Stream, "CUDAGraph": Graph}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: MAIN)


def test_work_is_run_aside_before_it_is_recorded():
    replay = CudaRecorder(torch.device("cuda"))(lambda: done.append("work"))
    # the device's other work is waited for, and then goes on after what was run aside
    around = [("wait", False, True), "aside", "work", "back", ("wait", True, False)]
    assert done == [*around, "record", "work", "recorded"]
    replay()
    assert done[-1][0] == "replay"


def test_what_is_recorded_shares_memory_as_long_as_any_of_it_is_left():
    recorder = CudaRecorder(torch.device("cuda"))
    replays = [recorder(lambda: None) for _ in range(3)]
    pools = {replay.__self__.pool() for replay in replays}
    assert len(pools) == 1
    del replays[0], replays[0]
    gc.collect()
    replays.append(recorder(lambda: None))
    assert replays[-1].__self__.pool() in pools, "the last one left hands it on"
    replays.clear()
    gc.collect()
    assert recorder(lambda: None).__self__.pool() not in pools, "it went with the last of them"
    assert CudaRecorder(torch.device("cuda"))(lambda: None).__self__.pool() not in pools, "another session has its own"


def test_what_could_not_be_recorded_is_not_shared_with():
    recorder, calls = CudaRecorder(torch.device("cuda")), []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        recorder(fails)
    gc.collect()
    assert recorder(lambda: None).__self__.given is None


def test_the_host_is_two_evaluations_ahead_and_no_more(monkeypatch):
    class Event:
        def __init__(self, blocking):
            assert blocking, "a waiting thread does not spin"

        def record(self):
            done.append("mark")

        def synchronize(self):
            done.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = Pace()
    for _ in range(4):
        pace.wait()
        pace.mark()
    assert done == ["mark", "mark", "wait", "mark", "wait", "mark"]
