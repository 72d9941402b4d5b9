"""Which machine and process this is, and which other ones have surely ended."""

import os
import platform
import sys
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE = Path("/proc/self/ns/pid")


class Machine:
    """The place where this process and its process id mean something."""

    def __init__(self) -> None:
        #: Alike for two processes exactly if each can see whether the other one lives.
        self.host = f"{platform.node()}/{boot_id()}/{_namespace()}"
        self.pid = os.getpid()

    def has_ended(self, host: str, pid: int) -> bool:
        """Whether that process has surely ended; False if that cannot be told from here.

        Of a process id that was given to another process meanwhile it cannot be told.
        """
        return host == self.host and not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def boot_id() -> str:
    """Return what tells this boot of the machine from any other."""
    if sys.platform == "linux" and _BOOT_ID.exists():
        return _BOOT_ID.read_text().strip()
    # Whole minutes: the moment of boot is computed and moves a little with the wall clock.
    return str(round(psutil.boot_time() / 60))


def _namespace() -> str:
    """Return which process ids this process sees: containers of one machine share its boot."""
    try:
        return os.readlink(_PID_NAMESPACE)
    except OSError:
        return ""
