"""The WebSocket side of the gateway: any number of local sockets on a holder's one stream."""

import asyncio
import json
import logging
from collections.abc import Callable, Hashable
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from jupyter_comfy_lock.domain.comfy import loads
from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.isolation import my_frame, newest_of, status_frame
from jupyter_comfy_lock.domain.lock import Mode
from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.server.gateway.call import mask
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.services import SERVICES, Services
from jupyter_comfy_lock.server.stream import Frame

_log = logging.getLogger(__name__)

#: Close codes from the range left to applications.
LOCK_LOST = 4001
TOO_SLOW = 4002
#: Frames that a local client may be behind.
_BACKLOG = 1000


class _Unsent:
    """What a client was not sent yet.

    One that keeps up gets every frame. Of what tells how far something is, one that is behind gets
    the newest: a flood of it may come faster than anybody can send it on.
    """

    def __init__(self) -> None:
        self._frames: dict[Hashable, Frame] = {}
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> None:
        # Which of them may be left out is looked into only when some wait.
        key = (newest_of(frame) if self._frames else None) or object()
        self._frames.pop(key, None)
        self._frames[key] = frame
        self._news.set()

    async def get(self) -> Frame:
        while not self._frames:
            self._news.clear()
            await self._news.wait()
        return self._frames.pop(next(iter(self._frames)))


class GatewaySocket(WebSocketHandler):
    """One local client's socket.

    The ComfyServer never sees it: it hears the holder's frames that are its own business, and
    what it says goes no further. A client that does not read is closed, not waited for.
    """

    services: Services
    holder: Holder

    def prepare(self) -> None:
        """Find out whose socket it is; it needs a lock like everything else (R2, R7)."""
        key = self.path_args[0]
        mask(self)
        if SERVICES not in self.settings:
            # Credentials are of a former life of this Jupyter server while it starts.
            raise HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)
        self.services = self.settings[SERVICES]
        try:
            self.holder = self.services.holders.by_gateway_key(unquote(key))
            self.services.locks.check(self.holder.holder_id, self.holder.name)
        except ComfyLockError as error:
            raise HTTPError(error.http_status_hint, reason=error.code) from None

    def check_origin(self, origin: str) -> bool:
        """Accept any origin: the key is in the path, and no page of another site has it."""
        return True

    @allow_unauthenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        """Open the socket."""
        await super().get(*args, **kwargs)

    async def open(self, *_: str, **__: str) -> None:
        """Greet as ComfyUI does, and pass on what comes from now on."""
        self._metadata = False
        self._unsent = _Unsent()
        self._mine = await self.services.tasks.belongings(self.holder.holder_id)
        self._sending = asyncio.create_task(self._send())
        sid = self.get_query_argument("clientId", "") or uuid4().hex
        left = self.services.tasks.left(self.holder.holder_id)
        self._unsent.put(status_frame(left, sid))
        self._stop_listening: Callable[[], None] = self.services.streams.listen(
            self.holder.holder_id, self._on_frame
        )
        if self.services.locks.held_by(self.holder.holder_id) is None:
            # Let go of while the socket was opened: nobody would tell us any more.
            self._on_frame(None)

    def on_message(self, message: str | bytes) -> None:
        """Note the client's feature flags; nothing else that it says means anything to ComfyUI."""
        said = loads(message)
        if isinstance(said, dict) and said.get("type") == "feature_flags":
            data = said.get("data")
            self._metadata = (
                isinstance(data, dict) and data.get("supports_preview_metadata") is True
            )
            self._put(json.dumps({"type": "feature_flags", "data": {**_FLAGS}}))

    def on_close(self) -> None:
        """Stop listening."""
        if hasattr(self, "_stop_listening"):
            self._stop_listening()
            self._sending.cancel()

    def _on_frame(self, frame: Frame | None) -> None:
        """Take a frame of the holder's stream; None says that its lock is gone."""
        if frame is None:
            self.close(LOCK_LOST, "lock lost")
            return
        try:
            lock = self.services.locks.check(self.holder.holder_id, self.holder.name)
        except ComfyLockError as error:
            self.close(LOCK_LOST, error.code)
            return
        pending = self.services.tasks.pending(self.holder.holder_id)
        # One that ComfyUI has told the end of runs no more, though its history may not be read yet.
        runs = any(live.task.state is TaskState.RUNNING and not live.over for live in pending)
        shown = my_frame(
            frame,
            self._mine.ids,
            pending=self.services.tasks.left(self.holder.holder_id),
            alone=runs or lock.mode is Mode.EXCLUSIVE,
            metadata=self._metadata,
        )
        if shown is not None:
            self._put(shown)

    def _log(self) -> None:
        # tornado's place for this. ComfyUI's page asks for a socket three times a second, all
        # night long, when its kernel has ended or let go of the lock.
        if self.get_status() in (HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT):
            _log.debug("%d: no socket at %s", self.get_status(), self.request.uri)
        else:
            super()._log()

    def _put(self, frame: Frame) -> None:
        if len(self._unsent) < _BACKLOG:
            self._unsent.put(frame)
        else:
            self.close(TOO_SLOW, "reads too slowly")

    async def _send(self) -> None:
        with suppress(WebSocketClosedError):
            while True:
                frame = await self._unsent.get()
                await self.write_message(frame, binary=isinstance(frame, bytes))


#: What the gateway can do, told to a client that asks.
_FLAGS: dict[str, Any] = {"supports_preview_metadata": True}
