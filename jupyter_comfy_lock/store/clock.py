"""The store's clocks."""

import sys
import time


class Clock:
    """Time as one process reads it; what decides about locks compares no two machines' clocks."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; by it this process observes for how long others are silent."""
        return time.monotonic()

    def wall_us(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def wall_s(self) -> float:
        """Seconds since the epoch, for people."""
        return time.time()


def awake_or_not_s() -> float:
    """Seconds since some moment, counted also while this machine sleeps.

    A machine that slept must not think that its lease had stood still for the others.
    """
    if sys.platform == "darwin":
        # There it is `time.monotonic` that stands still.
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
