"""The store's clocks."""

import sys
import time
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """Time as the processes of one machine share it."""

    def monotonic_us(self) -> int:
        """Microseconds since some moment of this boot; leases are counted by it.

        It takes no part in corrections of the wall clock, and stands still while a laptop
        sleeps, so that nobody's lease runs out meanwhile.
        """
        return time.monotonic_ns() // 1000

    def wall_us(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def wall_s(self) -> float:
        """Seconds since the epoch, for people."""
        return time.time()

    def boot_id(self) -> str:
        """Return what tells this boot of the machine from any other."""
        if sys.platform == "linux" and _BOOT_ID.exists():
            return _BOOT_ID.read_text().strip()
        # Whole minutes: the moment of boot is computed and moves a little with the wall clock.
        return str(round(psutil.boot_time() / 60))
