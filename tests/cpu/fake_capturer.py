"""What stands for CUDA graphs where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class FakeCapturer:
    """Replays by calling the function, and counts.

    Args:
        failures: exceptions that the next captures end with, one each.
    """

    def __init__(self, failures: Iterable[Exception] = ()) -> None:
        self.captured, self.replayed, self.failures = 0, 0, list(failures)

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.failures:
            raise self.failures.pop(0)
        self.captured += 1
        work()  # the warm-up
        work()  # the captures

        def replay() -> None:
            self.replayed += 1
            work()

        return replay
