"""What this kernel knows of its own lock. The server's word counts; this is for messages."""

import threading
from collections.abc import Callable
from contextlib import suppress

from jupyter_comfy_lock.domain.errors import StaleLock
from jupyter_comfy_lock.kernel.wire import LockJson


class HeldLock:
    """The lock that this kernel knows to have, and how it lost it. Thread-safe.

    A lock that was lost stays here until the user locks or releases: what to do about it is for
    the user to decide (R3).
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: LockJson | None = None
        self._gone_because: str | None = None
        #: The loss that the user has not been told of.
        self._untold: str | None = None
        #: The last lock that was released on purpose.
        self._let_go: tuple[str, int] | None = None
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener` when something was heard of the lock, on that thread; return its undoing.

        It must not block, nor ask anything of this kernel's session.
        """
        self._listeners.append(listener)

        def stop() -> None:
            with suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    @property
    def gone_because(self) -> str | None:
        """How the lock was lost; None if it was not, or the user has done something about it."""
        return self._gone_because if self._held is not None else None

    @property
    def comfy_id(self) -> str | None:
        """The ComfyServer that is, or was until it was lost, this kernel's."""
        held = self._held
        return held["comfy_id"] if held else None

    @property
    def lock(self) -> LockJson | None:
        """The lock, unless it was lost."""
        with self._guard:
            return self._held if self._gone_because is None else None

    def hold(self, lock: LockJson) -> None:
        """Take note of a lock that was got."""
        with self._guard:
            if _which(lock) == _which(self._held):
                self._untold = None  # it is there: the news was of one before it
            self._held, self._gone_because = lock, None
        self._tell()

    def let_go(self, released: LockJson | None) -> None:
        """Take note of a release; None where there was nothing to release."""
        with self._guard:
            self._gone_because = None
            self._let_go = _which(released)
            if released is None or _which(self._held) == self._let_go:
                self._held = None
        self._tell()

    def hear(self, lock: LockJson | None, reason: str | None) -> None:
        """Take note of what the event stream says."""
        # The news of a lock can come when it has been released already.
        if lock and _which(lock) != self._let_go:
            self.hold(lock)
        elif not lock and reason:
            self.lose(reason)

    def lose(self, reason: str) -> None:
        """Take note of a loss."""
        with self._guard:
            self._gone_because = reason
            if self._held is not None:
                self._untold = f"Your lock on {self._held['comfy_id']} is gone: {reason}."
        self._tell()

    def loss(self, held_now: str | None) -> str | None:
        """Return what to tell of a lock that was lost, once; `held_now` by the server's word."""
        with self._guard:
            if held_now is not None and held_now == self.comfy_id:
                return None  # the news was of a lock before this one
            untold, self._untold = self._untold, None
            return untold

    def told(self) -> None:
        """Take note that the user knows of the loss."""
        self._untold = None

    def refuse_to_wander(self) -> None:
        """Raise if a lock was lost.

        Raises:
            StaleLock: it says how.
        """
        with self._guard:
            held = self._held
            if held is None:
                return
            self._untold = None
            why = self._gone_because or "the Jupyter server released it"
        raise StaleLock(held["comfy_id"], held["fence"], f"{why}; this prompt was not sent")


def _which(lock: LockJson | None) -> tuple[str, int] | None:
    return (lock["comfy_id"], lock["fence"]) if lock else None
