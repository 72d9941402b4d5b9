"""The WebSocket clients of one server, and who hears what."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import ClientError, WSCloseCode, WSMsgType, web

from jupyter_comfy_lock.embedded.faults import Faults
from jupyter_comfy_lock.embedded.versions import ComfyVersion

_log = logging.getLogger(__name__)

#: What the server can do, told to clients that ask and at `/features`.
FEATURES: Mapping[str, Any] = {
    "supports_preview_metadata": True,
    "supports_model_type_tags": True,
    "extension": {"manager": {"supports_v4": False}},
    "node_replacements": False,
    "assets": False,
}

#: How long a client may take to answer that it closes too.
_CLOSE_TIMEOUT_S = 1.0


class Hub:
    """Sends events in the order they were made, from any thread.

    Two habits of ComfyUI are kept, because clients have to cope with them: the newest socket
    of a client id gets everything and is forgotten when an *older* one of that id closes; and
    one socket that does not read holds up all others.
    """

    def __init__(
        self,
        queue_remaining: Callable[[], int],
        features: Mapping[str, Any],
        version: ComfyVersion,
        faults: Faults,
    ) -> None:
        self._queue_remaining = queue_remaining
        self._features = features
        self._version = version
        self._faults = faults
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._client_features: dict[str, Mapping[str, Any]] = {}
        self._open: dict[web.WebSocketResponse, web.Request] = {}
        self._outbox: asyncio.Queue[tuple[str | bytes, Any]] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._publisher: asyncio.Task[None] | None = None
        #: The client of the prompt that runs or ran last; None: nobody in particular.
        self.client_id: Any = None
        #: The node that runs, as clients should show it.
        self.last_node: str | None = None

    def start(self) -> None:
        """Begin to send; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._publisher = asyncio.create_task(self._publish())

    async def stop(self) -> None:
        """Close all sockets and send no more."""
        self._loop = None
        await asyncio.gather(*(_end(*x) for x in self._open.items()))
        if self._publisher:
            self._publisher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._publisher

    def begin(self, client_id: Any) -> None:
        """Note whose prompt runs now."""
        # Any JSON may be sent as id. What no socket can have stands for a client that is away.
        self.client_id = client_id if isinstance(client_id, str | None) else ""
        self.last_node = None

    def supports(self, client_id: Any, feature: str) -> bool:
        """Whether that client said, literally `true`, that it supports `feature`."""
        return self._client_features.get(client_id, {}).get(feature) is True

    def send_graph(self, data: Mapping[str, Any]) -> None:
        """Tell the running prompt's client, or everybody, how each of its nodes is."""
        if self._version.tells_of_each_node:
            self.send("progress_state", data, self.client_id)

    def send_status(self) -> None:
        """Tell everybody how many prompts wait or run."""
        self.send("status", self._status(), None)

    def send_to_owner(self, event: str, data: Mapping[str, Any]) -> None:
        """Send to the running prompt's client; to nobody if it has none."""
        if self.client_id is not None:
            self.send(event, data, self.client_id)

    def send(self, event: str, data: Mapping[str, Any], client_id: Any) -> None:
        """Send a JSON event; to everybody if `client_id` is None."""
        self._post(json.dumps({"type": event, "data": data}), client_id)

    def send_bytes(self, message: bytes, client_id: Any) -> None:
        """Send a binary event; to everybody if `client_id` is None."""
        self._post(message, client_id)

    def _post(self, message: str | bytes, client_id: Any) -> None:
        if loop := self._loop:
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile
                loop.call_soon_threadsafe(self._outbox.put_nowait, (message, client_id))

    async def _publish(self) -> None:
        while True:
            message, client_id = await self._outbox.get()
            if client_id is None:
                sockets = list(self._sockets.values())
            else:
                sockets = [self._sockets[client_id]] if client_id in self._sockets else []
            for socket in sockets:
                await self._deliver(socket, message)

    async def _deliver(self, socket: web.WebSocketResponse, message: str | bytes) -> None:
        request = self._open.get(socket)
        if request is None or request.transport is None:
            return
        if self._faults.swallows(request.transport):
            return
        await self._faults.delay(len(message))
        await _send(socket, message)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Answer `GET /ws`: one client, until it goes."""
        socket = web.WebSocketResponse(timeout=_CLOSE_TIMEOUT_S)
        await socket.prepare(request)
        client_id = request.query.get("clientId") or uuid.uuid4().hex
        self._sockets[client_id] = socket
        self._client_features[client_id] = {}
        self._open[socket] = request
        transport = request.transport
        assert transport is not None
        try:
            await self._greet(socket, client_id)
            self._faults.opened(transport)
            await self._listen(socket, client_id)
        finally:
            self._faults.closed(transport)
            self._open.pop(socket, None)
            self._sockets.pop(client_id, None)
            self._client_features.pop(client_id, None)
        return socket

    async def _greet(self, socket: web.WebSocketResponse, client_id: str) -> None:
        greeting = _text("status", {**self._status(), "sid": client_id})
        await self._faults.delay(len(greeting))
        await _send(socket, greeting)
        if self.client_id == client_id and self.last_node is not None:
            await _send(socket, _text("executing", {"node": self.last_node}))

    async def _listen(self, socket: web.WebSocketResponse, client_id: str) -> None:
        """Read until the end; only a first message of feature flags means anything."""
        is_first = True
        async for message in socket:
            deaf = not self._version.tells_of_each_node
            if message.type is not WSMsgType.TEXT or not is_first or deaf:
                continue
            data = _json_object(message.data)
            if data is None:
                continue
            is_first = False
            if data.get("type") == "feature_flags":
                flags = data.get("data")
                self._client_features[client_id] = flags if isinstance(flags, dict) else {}
                await _send(socket, _text("feature_flags", self._features))

    def _status(self) -> dict[str, Any]:
        return {"status": {"exec_info": {"queue_remaining": self._queue_remaining()}}}


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _text(event: str, data: Mapping[str, Any]) -> str:
    return json.dumps({"type": event, "data": data})


async def _end(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Close politely; break the connection if the client does not read even that."""
    try:
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"shutdown")
    except (TimeoutError, ClientError, ConnectionError):
        if request.transport:
            request.transport.abort()


async def _send(socket: web.WebSocketResponse, message: str | bytes) -> None:
    try:
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_str(message)
    except (ClientError, ConnectionError) as error:
        _log.debug("A client went away: %s", error)
