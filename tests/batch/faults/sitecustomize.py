from collections.abc import Sequence
from typing import Any

"""Python reads this at its start where this folder is in PYTHONPATH: the null backend becomes slow, or fails.

Worker processes are new interpreters, which no fixture reaches; this does. A prompt may say ``crash`` (the process dies
of a SIGKILL), ``crash once`` (only the first time), ``cuda`` (every call fails from then on), ``memory`` (batched
with others), ``nan`` or ``broken``. ``INTARSIA_TEST_FAULTS`` is the seconds that an evaluation takes,
``INTARSIA_TEST_CLOCK`` those by which the clock is ahead.
"""

import os
import signal
import time
from pathlib import Path

if "INTARSIA_TEST_CLOCK" in os.environ:
    AHEAD, right = float(os.environ["INTARSIA_TEST_CLOCK"]), time.time
    time.time = lambda: right() + AHEAD

if "INTARSIA_TEST_FAULTS" in os.environ:
    from intarsia.backends import null
    from intarsia.errors import DeviceLost, NotFinite, OutOfMemory

    DELAY = float(os.environ["INTARSIA_TEST_FAULTS"])
    MARKS = Path(os.environ.get("INTARSIA_TEST_MARKS", "."))
    start, decode = null.NullSession.start, null.NullSession.decode
    broken = []

    def faulty_start(self: Any, conditioning: Any, table: Any, noise: Any) -> Any:
        prompt = conditioning.prompt
        if "crash once" in prompt:
            mark = MARKS / f"{prompt}.mark"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        elif "crash" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if "cuda" in prompt or broken:
            broken.append(prompt)
            raise DeviceLost("torch failed to evaluate the network: CUDA error: an illegal memory access")
        if "broken" in prompt:
            raise ZeroDivisionError("a defect of ours")
        return start(self, conditioning, table, noise)

    def slow_advance(self: Any, steps: Sequence[Any]) -> None:
        if len(steps) > 1 and any("memory" in step.state.inputs.prompt for step in steps):
            raise OutOfMemory("out of memory on the device")
        time.sleep(DELAY)

    def faulty_decode(self: Any, states: Sequence[Any]) -> Any:
        if "nan" in states[0].inputs.prompt:
            raise NotFinite("the decoded image has values that are not finite")
        return decode(self, states)

    null.NullSession.start = faulty_start
    null.NullSession.advance = slow_advance
    null.NullSession.decode = faulty_decode
