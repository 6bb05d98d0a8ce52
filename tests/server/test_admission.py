"""Bursts are taken in whole; where more keeps coming than can be taken in, some is refused and the rest stays quick."""

from __future__ import annotations

import asyncio
import threading

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")

from intarsia.server.http.admission import Admission
from intarsia.server.http.error_replies import HttpError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def _settled() -> None:
    """Let every task run until it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_burst_is_taken_in_whole():
    async def burst() -> list[int]:
        admission = Admission()
        return list(await asyncio.gather(*(admission.run(lambda number=number: number) for number in range(200))))

    assert asyncio.run(burst()) == list(range(200))


def test_where_requests_keep_waiting_only_a_few_may_wait():
    async def overloaded() -> tuple[int, int]:
        clock, gate = Clock(), threading.Event()
        admission = Admission(clock)
        first = [asyncio.create_task(admission.run(gate.wait)) for _ in range(8 + 20)]
        await _settled()

        clock.now = 0.4  # not long yet
        first.append(asyncio.create_task(admission.run(gate.wait)))
        await _settled()
        clock.now = 0.6
        refused = 0
        for _ in range(10):
            with pytest.raises(HttpError) as caught:
                await admission.run(gate.wait)
            assert (caught.value.status, caught.value.retry_after) == (429, 5)
            refused += 1

        gate.set()
        return sum(await asyncio.gather(*first)), refused

    assert asyncio.run(overloaded()) == (29, 10)


def test_once_nobody_waits_a_burst_is_taken_in_again():
    async def twice() -> int:
        clock, gate = Clock(), threading.Event()
        admission = Admission(clock)
        first = [asyncio.create_task(admission.run(gate.wait)) for _ in range(20)]
        await _settled()
        clock.now = 10.0
        gate.set()
        await asyncio.gather(*first)

        second = await asyncio.gather(*(admission.run(lambda: True) for _ in range(50)))
        return sum(second)

    assert asyncio.run(twice()) == 50


def test_a_request_whose_client_is_gone_gives_its_place_away():
    async def gone() -> int:
        gate = threading.Event()
        admission = Admission()
        busy = [asyncio.create_task(admission.run(gate.wait)) for _ in range(8)]
        waiting = asyncio.create_task(admission.run(gate.wait))
        await _settled()
        waiting.cancel()
        await _settled()
        gate.set()
        return sum(await asyncio.gather(*busy)) + await admission.run(lambda: 1)

    assert asyncio.run(gone()) == 9


def test_what_fails_is_the_callers_and_frees_the_thread():
    async def failing() -> int:
        admission = Admission()
        for _ in range(20):
            with pytest.raises(ZeroDivisionError):
                await admission.run(lambda: 1 // 0)
        return await admission.run(lambda: 7)

    assert asyncio.run(failing()) == 7
