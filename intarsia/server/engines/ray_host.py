"""An engine host whose engines are replicas of a Ray Serve deployment, on as many machines as the cluster has."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from typing import Any

from intarsia.engine.result import Progress
from intarsia.server.engines import host_messages as messages
from intarsia.server.engines.host import Listener
from intarsia.server.engines.job_runner import JobRunner, open_engine
from intarsia.server.engines.previews import Preview
from intarsia.server.engines.process_host import model_key
from intarsia.server.settings import EngineSettings
from intarsia.server.store.files import FileStore
from intarsia.server.store.jobs import Ended, Job, Stopped

__all__ = ["EngineReplica", "RayHost"]

log = logging.getLogger("intarsia")


class EngineReplica:
    """One engine, in an actor of Ray Serve; jobs come in as calls, and each call gives messages until its job ends.

    Args:
        files: the store that the ingress keeps inputs in.
    """

    def __init__(self, settings: EngineSettings, files: FileStore) -> None:
        self._calls = _Calls()
        self._runner = JobRunner(open_engine(settings, settings.devices[0]), files, self._calls)

    async def run(self, values: dict[str, Any]) -> AsyncIterator[bytes]:
        """Run a job; a caller that cancels the call, or is gone, cancels the job."""
        job = messages.StartJob(values).as_job
        queue = self._calls.open(job.id)
        self._runner.start(job)
        try:
            while True:
                message = await queue.get()
                yield messages.encode(message)
                if isinstance(message, messages.JobEnded):
                    return
        finally:
            self._calls.close(job.id)
            self._runner.cancel(job.id)

    async def open_models(self, models: list[str]) -> dict[str, str]:
        """See :meth:`intarsia.server.engines.host.EngineHost.open_models`."""
        return await asyncio.to_thread(self._runner.open_models, models)

    def statistics(self) -> dict[str, float]:
        """See :meth:`intarsia.server.engines.host.EngineHost.statistics`."""
        return self._runner.statistics


class _Calls:
    """The listener of a replica's runner: from the engine's threads to the coroutine of the job's call."""

    def __init__(self) -> None:
        self._queues: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[messages.Message]]] = {}

    def open(self, job_id: int) -> asyncio.Queue[messages.Message]:
        queue: asyncio.Queue[messages.Message] = asyncio.Queue()
        self._queues[job_id] = (asyncio.get_running_loop(), queue)
        return queue

    def close(self, job_id: int) -> None:
        self._queues.pop(job_id, None)

    def progressed(self, job_id: int, progress: Progress) -> None:
        self._put(job_id, messages.Stepped(job_id, progress.step, progress.steps))

    def previewed(self, job_id: int, preview: Preview) -> None:
        self._put(job_id, messages.Previewed.of(job_id, preview))

    def ended(self, job_id: int, ended: Ended) -> None:
        self._put(job_id, messages.JobEnded.of(job_id, ended))

    def has_room(self) -> None:
        """Ray counts the calls by itself."""

    def _put(self, job_id: int, message: messages.Message) -> None:
        call = self._queues.get(job_id)
        if call is not None:
            loop, queue = call
            loop.call_soon_threadsafe(queue.put_nowait, message)


class RayHost:
    """An :class:`intarsia.server.engines.host.EngineHost` that calls a deployment of :class:`EngineReplica`.

    Ray Serve chooses the replica: one that has the job's model open where there is one, else the one with the shorter
    queue. A replica that dies fails its calls, whose jobs are reported as lost.

    Args:
        handle: a handle of the deployment.
        capacity: jobs that are given to Ray at once; those that no replica has room for wait there, and their number
            is what the deployment scales by.
    """

    def __init__(self, handle: Any, listener: Listener, capacity: int) -> None:
        self.capacity, self.problem = capacity, ""
        self._handle, self._listener = handle, listener
        self._statistics: dict[str, float] = {}
        self._calls: dict[int, Future[None]] = {}
        self._cancelled: set[int] = set()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="intarsia-ray", daemon=True)
        self._thread.start()

    @property
    def statistics(self) -> dict[str, float]:
        return dict(self._statistics)

    def open_models(self, models: Sequence[str]) -> dict[str, str]:
        if not models:
            return {}
        problems: dict[str, str] = self._handle.open_models.remote(list(models)).result()
        return problems

    def start(self, job: Job) -> None:
        with self._lock:
            self._calls[job.id] = asyncio.run_coroutine_threadsafe(self._run(job), self._loop)

    def cancel(self, job_id: int) -> None:
        with self._lock:
            call = self._calls.get(job_id)
            if call is None:
                return
            self._cancelled.add(job_id)
        call.cancel()

    def close(self) -> None:
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _run(self, job: Job) -> None:
        """One call from its start to its end."""
        ended: Ended = Stopped(lost=True)
        call = self._handle.options(stream=True, multiplexed_model_id=model_key(job))
        response = call.run.remote(dataclasses.asdict(job))
        try:
            async for line in response:
                message = messages.decode(line)
                if isinstance(message, messages.Stepped):
                    self._listener.progressed(message.job_id, message.progress)
                elif isinstance(message, messages.Previewed):
                    self._listener.previewed(message.job_id, message.preview)
                elif isinstance(message, messages.JobEnded):
                    ended = message.ended
        except asyncio.CancelledError:
            response.cancel()
        except Exception as exc:  # noqa: BLE001 - Ray's, where the replica or its machine is gone
            log.error("a replica lost job %d, which is queued again: %s", job.id, type(exc).__name__)
        finally:
            self._end(job.id, ended)

    def _end(self, job_id: int, ended: Ended) -> None:
        with self._lock:
            self._calls.pop(job_id, None)
            was_cancelled = job_id in self._cancelled
            self._cancelled.discard(job_id)
        if was_cancelled and isinstance(ended, Stopped):
            ended = Stopped(lost=False)
        self._listener.ended(job_id, ended)
