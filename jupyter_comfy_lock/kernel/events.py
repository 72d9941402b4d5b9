"""The event stream: one daemon thread that hears what the Jupyter server says about this kernel."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from httpx_sse import ServerSentEvent
from tenacity import Retrying, retry_if_exception_type
from tenacity.stop import stop_when_event_set
from tenacity.wait import wait_random_exponential

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel.threads import background

log = logging.getLogger(__name__)

#: Seconds. How long to leave a server alone that closed the stream at once.
PAUSE_S = 0.2
#: Seconds. The longest wait between two tries to reach the server.
MAX_WAIT_S = 5.0

Open = Callable[[], AbstractContextManager[Iterator[ServerSentEvent]]]
Hear = Callable[[str, Mapping[str, Any]], None]


class EventThread:
    """Keeps one event stream open and hands each event to `hear`, in order, on its thread.

    After a drop the server sends a snapshot first, so nothing is missed for long; who waits for
    something polls while `live` is false.
    """

    def __init__(self, open_stream: Open, hear: Hear) -> None:
        self._open = open_stream
        self._hear = hear
        self._stop = threading.Event()
        self._live = threading.Event()
        self._thread = background(self._run, name="comfy-lock-events")

    @property
    def live(self) -> bool:
        """Whether the stream is open and its snapshot was heard."""
        return self._live.is_set()

    def soon(self, within_s: float) -> bool:
        """Whether it is live, or becomes so within that time: it may be being opened."""
        return self._live.wait(within_s)

    def start(self) -> None:
        """Start; a second start does nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End at the next event. Does not wait."""
        self._stop.set()

    def _run(self) -> None:
        again = Retrying(
            retry=retry_if_exception_type(ComfyLockError),
            stop=stop_when_event_set(self._stop),
            wait=wait_random_exponential(multiplier=0.2, max=MAX_WAIT_S),
            sleep=self._sleep,
            retry_error_callback=lambda _: None,
        )
        # A stream that was open and ended starts with fresh patience.
        while not self._stop.is_set():
            again(self._listen)
            self._sleep(PAUSE_S)

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _listen(self) -> None:
        heard = False
        try:
            with self._open() as events:
                for event in events:
                    if self._stop.is_set():
                        return
                    self._tell(event)
                    heard = True
                    self._live.set()
        except ComfyLockError as error:
            log.debug("The event stream dropped: %s", error)
            if not heard:
                raise
        finally:
            self._live.clear()

    def _tell(self, event: ServerSentEvent) -> None:
        try:
            data = json.loads(event.data)
            self._hear(event.event, data)
        except Exception:  # one bad event must not end the stream
            log.exception("Could not take the event %r in.", event.event)
