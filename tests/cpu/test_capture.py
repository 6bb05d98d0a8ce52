"""Recording on a device that only pretends: in which order what is asked of it, and who shares memory with whom."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'intarsia[torch]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'intarsia[cpu]'")

from intarsia.backends.driver import CAPTURE_LOCK
from intarsia.backends.onnx import buffer_pool
from intarsia.backends.torch.capture import CudaGraphCapturer, RunAhead


class Stream:
    def __init__(self, device: str | None = None) -> None:
        self.device = device

    def wait_stream(self, other: object) -> None:
        done.append(("wait", self is MAIN, other is MAIN))


class Graph:
    made = 0

    def __init__(self) -> None:
        Graph.made += 1
        self.own, self.given = f"pool {Graph.made}", None

    def pool(self) -> str:
        return self.given or self.own

    def replay(self) -> None:
        done.append(("replay", self.pool()))


MAIN, done = Stream(), []


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the capturer asks torch for; records all of it."""

    @contextmanager
    def selected(_: object) -> Iterator[None]:
        yield

    @contextmanager
    def on(stream: object) -> Iterator[None]:
        assert stream is not MAIN
        done.append("aside")
        yield
        done.append("back")

    @contextmanager
    def graph_capture(
        graph: Any, pool: str | None = None, stream: object = None, capture_error_mode: str = "global"
    ) -> Iterator[None]:
        assert (stream is not MAIN, capture_error_mode) == (True, "thread_local")
        graph.given = pool
        done.append("record")
        yield
        done.append("captured")

    done.clear()
    fakes = {"device": selected, "stream": on, "graph": graph_capture, "Stream": Stream, "CUDAGraph": Graph}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: MAIN)
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: done.append(("current", stream is MAIN)))
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: done.append("clear"), raising=False)


def test_work_is_run_aside_before_it_is_captured():
    replay = CudaGraphCapturer(torch.device("cuda"))(lambda: done.append("work"))
    # the device's other work is waited for, and then goes on after what was run aside
    around = [("wait", False, True), "aside", "work", "back", ("wait", True, False)]
    # what is captured has cuBLAS's workspace in its own memory: the one from before is freed by others, at any time
    assert done == [*around, "clear", "record", "work", "captured", "clear"]
    replay()
    assert done[-1][0] == "replay"


def test_what_is_captured_shares_memory_as_long_as_any_of_it_is_left():
    capturer = CudaGraphCapturer(torch.device("cuda"))
    replays = [capturer(lambda: None) for _ in range(3)]
    pools = {replay.__self__.pool() for replay in replays}
    assert len(pools) == 1
    del replays[0], replays[0]
    gc.collect()
    replays.append(capturer(lambda: None))
    assert replays[-1].__self__.pool() in pools, "the last one left hands it on"
    replays.clear()
    gc.collect()
    assert capturer(lambda: None).__self__.pool() not in pools, "it went with the last of them"
    assert CudaGraphCapturer(torch.device("cuda"))(lambda: None).__self__.pool() not in pools, (
        "another session has its own"
    )


class Broken:
    """Work that cannot be captured, or that fails as it is captured."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls, self.error = 0, error or RuntimeError("operation not permitted when stream is capturing\nmore")

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 2:
            raise self.error


def test_what_cannot_be_captured_is_launched_from_then_on_and_said():
    capturer, broken = CudaGraphCapturer(torch.device("cuda")), Broken()
    capturer(lambda: None)
    assert capturer.refused == ""
    assert capturer(broken) is broken, "launched"
    assert capturer.refused.endswith("capturing failed (operation not permitted when stream is capturing)")
    assert done[-2:] == ["clear", ("current", True)], "torch leaves its capture stream behind"
    count = Graph.made
    assert capturer(work := Broken()) is work
    assert (Graph.made, work.calls) == (count, 0), "nothing is captured any more"


def test_required_capture_raises_and_never_shares_the_pool_again():
    capturer = CudaGraphCapturer(torch.device("cuda"), required=True)
    kept = capturer(lambda: None)
    with pytest.raises(RuntimeError, match="not permitted"):
        capturer(Broken())
    assert capturer.refused == ""
    assert capturer(lambda: None).__self__.given is None, "the allocator may take the old pool for one in use"
    assert kept.__self__.given is None


def test_memory_that_runs_out_in_a_capture_is_raised_for_whoever_can_free_some():
    capturer = CudaGraphCapturer(torch.device("cuda"))
    kept = capturer(lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        capturer(Broken(torch.OutOfMemoryError("CUDA out of memory")))
    assert capturer.refused == "", "the next attempt has more"
    assert capturer(lambda: None).__self__.given is None
    del kept


def test_work_that_fails_by_itself_is_no_failed_capture():
    capturer = CudaGraphCapturer(torch.device("cuda"))

    def fails() -> None:
        raise RuntimeError("a shape that does not fit")

    with pytest.raises(RuntimeError, match="shape"):
        capturer(fails)
    assert capturer.refused == ""


def test_captures_of_all_engines_of_a_process_take_turns():
    """Torch synchronises the device as it begins one, which would invalidate another that is under way."""
    capturers = [CudaGraphCapturer(torch.device("cuda")) for _ in range(2)]
    inside, most = [], []

    def work() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    threads = [threading.Thread(target=capturer, args=(work,)) for capturer in capturers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    assert CAPTURE_LOCK is buffer_pool.CAPTURE_LOCK, "ONNX Runtime's captures too"


def test_the_host_is_two_evaluations_ahead_and_no_more(monkeypatch):
    class Event:
        def __init__(self, blocking: bool) -> None:
            assert blocking, "a waiting thread does not spin"

        def record(self) -> None:
            done.append("mark")

        def synchronize(self) -> None:
            done.append("wait")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    run_ahead = RunAhead()
    for _ in range(4):
        run_ahead.wait()
        run_ahead.mark()
    assert done == ["mark", "mark", "wait", "mark", "wait", "mark"]
