"""The open streams of all holders, one each, and who listens to them."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from logging import Logger

from jupyter_comfy_lock.domain.lock import HolderId
from jupyter_comfy_lock.server.stream import Frame, HolderStream
from jupyter_comfy_lock.server.upstream import Upstream

#: Hears frames; None when its holder has let go of the ComfyServer.
Listener = Callable[[Frame | None], None]


class HolderStreams:
    """Opens a stream when a holder locks a ComfyServer and closes it when it lets go.

    Any number of local listeners hear the one socket of their holder.
    """

    def __init__(self, on_frame: Callable[[HolderId, Frame], None], log: Logger) -> None:
        self._on_frame = on_frame
        self._log = log
        self._streams: dict[HolderId, HolderStream] = {}
        self._listeners: dict[HolderId, set[Listener]] = defaultdict(set)
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, holder_id: HolderId) -> HolderStream | None:
        """Return the holder's stream."""
        return self._streams.get(holder_id)

    def open(self, holder_id: HolderId, upstream: Upstream) -> None:
        """Have the holder hear `upstream`, and nothing else from now on."""
        current = self._streams.get(holder_id)
        if current is not None and current.upstream is upstream:
            return
        self.close(holder_id)
        self._streams[holder_id] = HolderStream(
            upstream, lambda frame: self._heard(holder_id, frame), self._log
        )

    def close(self, holder_id: HolderId) -> None:
        """Close the holder's socket to its ComfyServer."""
        stream = self._streams.pop(holder_id, None)
        if stream is not None:
            task = asyncio.create_task(stream.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            for listener in tuple(self._listeners.get(holder_id, ())):
                listener(None)

    def listen(self, holder_id: HolderId, listener: Listener) -> Callable[[], None]:
        """Hand each frame of the holder to `listener`; return what ends that."""
        self._listeners[holder_id].add(listener)

        def stop() -> None:
            self._listeners[holder_id].discard(listener)
            if not self._listeners[holder_id]:
                del self._listeners[holder_id]

        return stop

    def listeners(self, holder_id: HolderId) -> int:
        """Return how many local listeners a holder has."""
        return len(self._listeners.get(holder_id, ()))

    def say(self, holder_id: HolderId, frame: Frame) -> None:
        """Tell the local listeners something that their ComfyServer has not said."""
        for listener in tuple(self._listeners.get(holder_id, ())):
            listener(frame)

    async def stop(self) -> None:
        """Close all sockets and wait for it."""
        for holder_id in list(self._streams):
            self.close(holder_id)
        await asyncio.gather(*self._closing)

    def _heard(self, holder_id: HolderId, frame: Frame) -> None:
        self._on_frame(holder_id, frame)
        self.say(holder_id, frame)
