"""Waiting for news of a task, on a thread or in an event loop, and asking when none comes."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from jupyter_comfy_lock.domain.errors import NoServerExtension
from jupyter_comfy_lock.domain.last_frame import EndsAtTheCell

#: Seconds between two looks at a task while the event stream is down, and while it is up.
POLL_DOWN_S = 2.0
POLL_UP_S = 15.0
#: Seconds. How often an await lets its event loop see that the user pressed Ctrl-C: ipykernel's
#: interrupt does not wake the loop up.
TICK_S = 0.25
#: Seconds. A wait gives up when the Jupyter server has been away for so long.
PATIENCE_S = 60.0
#: What a timeout has to be.
TIMEOUT = "timeout must be a number of seconds, or None (for ever)"


class WaitTimeoutError(EndsAtTheCell, TimeoutError):
    """The waiting ended; the task goes on."""

    shown_as = TimeoutError


class WaitInterrupted(EndsAtTheCell, KeyboardInterrupt):
    """Ctrl-C ended the waiting; the task goes on."""

    shown_as = KeyboardInterrupt


class AwaitInterruptedError(EndsAtTheCell, asyncio.CancelledError):
    """The awaiting was ended; the task goes on."""

    shown_as = asyncio.CancelledError


class Lookout:
    """Looks at a task when no news of it has come for a while."""

    def __init__(self, refresh: Callable[[], None], is_live: Callable[[], bool]) -> None:
        """`refresh` asks the Jupyter server; `is_live`: whether news comes by itself."""
        self._refresh = refresh
        self._is_live = is_live
        self._looked_at = time.monotonic()

    def heard(self) -> None:
        """Take note of news."""
        self._looked_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time to look."""
        since = time.monotonic() - self._looked_at
        return since >= (POLL_UP_S if self._is_live() else POLL_DOWN_S * 0.9)

    def look(self) -> None:
        """Look, if it is time.

        Raises:
            NoServerExtension: the Jupyter server does not answer.
        """
        if self.is_due():
            self._looked_at = time.monotonic()
            self._refresh()


class Wait:
    """One who waits for news of a task, for `timeout` seconds at most in all; None for ever."""

    def __init__(
        self,
        lookout: Lookout,
        *,
        what: str,
        goes_on: Callable[[], str],
        timeout: float | None = None,
    ) -> None:
        """`what` is waited for; `goes_on` says how it stands, and what can be done."""
        self._lookout = lookout
        self._what = what
        self._goes_on = goes_on
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        #: Since when the Jupyter server has been silent.
        self._silent_since: float | None = None

    def until(self, heard: threading.Event) -> None:
        """Return when `heard` is set.

        Raises:
            WaitTimeoutError: the time is over.
            WaitInterrupted: Ctrl-C was pressed.
            NoServerExtension: the Jupyter server has been silent for PATIENCE_S.
        """
        try:
            while not heard.wait(self._at_most(POLL_DOWN_S)):
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    msg = f"not ended after {self._timeout:g} s. {self._goes_on()}"
                    raise WaitTimeoutError(msg)
                self._look()
        except KeyboardInterrupt:
            msg = f"stopped waiting. {self._goes_on()}"
            raise WaitInterrupted(msg) from None

    async def until_set(self, heard: asyncio.Event) -> None:
        """Return when `heard` is set, without blocking the event loop. Knows no timeout.

        Raises:
            AwaitInterruptedError: the awaiting was cancelled, as Ctrl-C does in a notebook.
            NoServerExtension: as `until`.
        """
        try:
            while not heard.is_set():
                try:
                    # wait_for() swallows a Ctrl-C that comes together with what is waited for.
                    async with asyncio.timeout(TICK_S):
                        await heard.wait()
                except TimeoutError:
                    if self._lookout.is_due():
                        await asyncio.to_thread(self._look)
        except asyncio.CancelledError:
            msg = f"stopped waiting. {self._goes_on()}"
            raise AwaitInterruptedError(msg) from None

    def _look(self) -> None:
        try:
            self._lookout.look()
        except NoServerExtension as error:
            now = time.monotonic()
            self._silent_since = now if self._silent_since is None else self._silent_since
            if now - self._silent_since >= PATIENCE_S:
                msg = f"Cannot tell how {self._what} goes on. {error.message}"
                raise NoServerExtension(msg, **error.details) from error
        else:
            self._silent_since = None

    def _at_most(self, seconds: float) -> float:
        left = seconds if self._deadline is None else self._deadline - time.monotonic()
        return max(0.0, min(seconds, left))


def in_this_loop(wake: Callable[[], None]) -> Callable[[], None]:
    """Return a `wake` for other threads, that calls it in the event loop that runs now."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(wake)

    return call
