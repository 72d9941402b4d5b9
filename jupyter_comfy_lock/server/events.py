"""One stream of changes for whoever watches: kernels, the browser, the command line."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from jupyter_comfy_lock.domain.lock import HolderId


class Event(NamedTuple):
    """A change, as the whole new state of one thing."""

    number: int
    kind: str
    payload: dict[str, Any]


class Subscription:
    """What one reader has not read yet.

    Holds the newest state of each thing and not a backlog, so a reader that falls behind costs a
    bounded amount of memory, delays nobody and catches up at once.
    """

    def __init__(self, holder_id: HolderId | None) -> None:
        #: Only this holder's changes, or all of them for None (the Jupyter user).
        self.holder_id = holder_id
        self._waiting: dict[tuple[str, str], Event] = {}
        self._news = asyncio.Event()
        self._closed = False

    def put(self, key: str, event: Event) -> None:
        """Add a change of the thing `key`; it replaces an older unread one."""
        self._waiting.pop((event.kind, key), None)
        self._waiting[event.kind, key] = event
        self._news.set()

    def close(self) -> None:
        """End the iteration once what is waiting has been read."""
        self._closed = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Event | None]:
        """Yield changes in order; None after each silence of 15 s, to keep the line open."""
        while True:
            while self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))
            if self._closed:
                return
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), KEEP_ALIVE_S)
            except TimeoutError:
                yield None


#: Seconds of silence after which a comment line is sent.
KEEP_ALIVE_S = 15.0


class EventHub:
    """Hands each change to those who may see it."""

    def __init__(self) -> None:
        self._number = 0
        self._subscriptions: set[Subscription] = set()

    @contextmanager
    def subscribe(self, holder_id: HolderId | None) -> Iterator[Subscription]:
        """Watch for as long as the block lasts."""
        subscription = Subscription(holder_id)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(
        self, kind: str, key: str, payload: dict[str, Any], *, to: HolderId | None = None
    ) -> None:
        """Tell of a change: to the holder it concerns, or to all for None; always to the user."""
        self._number += 1
        event = Event(self._number, kind, payload)
        for each in self._subscriptions:
            if to is None or each.holder_id in (None, to):
                each.put(key, event)

    def close(self, holder_id: HolderId | None = None) -> None:
        """End the streams of a holder, or all."""
        for each in list(self._subscriptions):
            if holder_id is None or each.holder_id == holder_id:
                each.close()

    async def stop(self) -> None:
        """End all streams."""
        self.close()
