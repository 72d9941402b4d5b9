"""Threads that work behind the user's back."""

import threading
from collections.abc import Callable


def background(run: Callable[[], None], *, name: str) -> threading.Thread:
    """Return a thread for `run`, not started, that neither a debugger nor an exit waits for."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    # A debugger stops all threads at a breakpoint. While the user looks around there, a lease
    # must be renewed and events heard, or the lock is lost; ipykernel marks its own threads so.
    thread.pydev_do_not_trace = True  # type: ignore[attr-defined]
    thread.is_pydev_daemon_thread = True  # type: ignore[attr-defined]
    return thread
