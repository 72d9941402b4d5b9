"""The lease of an attached process: one daemon thread that renews it."""

import logging
import threading
from collections.abc import Callable

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel.threads import background

log = logging.getLogger(__name__)

#: Seconds. How soon to try again after a renewal that failed.
AGAIN_S = 1.0


class LeaseThread:
    """Calls `renew` again and again, so that what this process holds stays its own.

    A Jupyter server sees the end of the kernels that it started; of others it sees only that
    they are silent.
    """

    def __init__(self, renew: Callable[[], None]) -> None:
        self._renew = renew
        self._stop = threading.Event()
        self._every_s = AGAIN_S
        self._thread = background(self._run, name="comfy-lock-lease")

    def keep(self, every_s: float) -> None:
        """Renew every `every_s` seconds from now on; start when it is the first time."""
        self._every_s = every_s
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End. Does not wait."""
        self._stop.set()

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._stop.wait(pause_s):
            try:
                self._renew()
            except ComfyLockError as error:
                # One that we are unknown to is greeted anew by whoever asks it something next.
                log.debug("The lease was not renewed: %s", error)
                pause_s = min(AGAIN_S, self._every_s)
            except Exception:  # this thread ends only with the process, or the lease does
                log.exception("The lease was not renewed.")
                pause_s = self._every_s
            else:
                pause_s = self._every_s
