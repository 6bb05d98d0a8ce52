"""What stands for CUDA graphs where there is no GPU."""

from __future__ import annotations


class Recorder:
    """Replays by calling, and counts.

    Args:
        failures: exceptions that the next recordings end with, one each.
    """

    def __init__(self, failures=()):
        self.recorded, self.replayed, self.failures = 0, 0, list(failures)

    def __call__(self, work):
        if self.failures:
            raise self.failures.pop(0)
        self.recorded += 1
        work()  # the warm-up
        work()  # the recording

        def replay():
            self.replayed += 1
            work()

        return replay
