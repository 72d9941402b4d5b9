"""A holder's one WebSocket to its ComfyServer, shared by all who listen for it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from logging import Logger
from uuid import uuid4

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exponential_jitter

from jupyter_comfy_lock.domain.errors import ComfyUnreachable
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.upstream import Upstream

Frame = str | bytes

#: Frames that came at once, after which others have their turn.
_AT_A_TIME = 10


class HolderStream:
    """What a ComfyServer says to one holder; reconnects for as long as it is open.

    Each connection has a client id of its own: when ComfyUI notices late that an old socket of a
    client id is dead, it drops the new one of the same id too, which then hears nothing for ever.
    Frames are always read at once, since ComfyUI waits for its slowest reader.
    """

    def __init__(self, upstream: Upstream, on_frame: Callable[[Frame], None], log: Logger) -> None:
        self.upstream = upstream
        self.client_id = ""
        self._on_frame = on_frame
        self._log = log
        self._holding = 0
        self._held: list[Frame] = []
        self._connected = asyncio.Event()
        self._reading = Background(self._read_for_ever)
        self._reading.start()

    @property
    def connected(self) -> bool:
        """Whether the socket is open, as far as can be told."""
        return self._connected.is_set()

    async def ready(self, timeout_s: float) -> bool:
        """Wait until the socket is open, but not longer than that; whether it is."""
        if not self.connected:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._connected.wait(), timeout_s)
        return self.connected

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep what comes within the block, and hand it on after it, in its order.

        For while a prompt is sent to a ComfyUI that names it: news of it may overtake the answer.
        """
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
            while self._held and not self._holding:
                self._hand_on(self._held.pop(0))

    async def close(self) -> None:
        """Close the socket for good."""
        await self._reading.stop()

    async def _read_for_ever(self) -> None:
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(ComfyUnreachable),
                wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1),
            )
            async for attempt in retrying:
                with attempt:
                    await self._read()
            # Closed by the other side in an orderly way: not a fault to back off from, but a
            # ComfyServer that closes every socket at once must not be called in a tight loop.
            await asyncio.sleep(0.1)

    async def _read(self) -> None:
        client_id = str(uuid4())
        async with self.upstream.socket(client_id) as socket:
            self.client_id = client_id
            try:
                number = 0
                async for message in socket:
                    # The first frame proves that ComfyUI has registered the client id.
                    self._connected.set()
                    if isinstance(message.data, Frame):
                        self._hand_on(message.data)
                    number += 1
                    if number % _AT_A_TIME == 0:
                        # While there are more, the socket does not wait for anything by itself.
                        await asyncio.sleep(0)
            finally:
                self._connected.clear()

    def _hand_on(self, frame: Frame) -> None:
        if self._holding:
            self._held.append(frame)
            return
        try:
            self._on_frame(frame)
        except Exception:  # noqa: BLE001 - logged
            # One strange frame must not end the stream: polling would have to do all its work.
            self._log.exception("A frame of %s was not understood", self.upstream.comfy.comfy_id)
