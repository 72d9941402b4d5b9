"""Does again what a recording did, and notes every difference in what comes back.

The recorder paused where it had to; this waits for what it waited for: each step comes when
every socket has heard as much as it had in the recording, and a question whose recorded
answer shows a finished prompt is asked again until the prompt has finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from tests.conformance.compare import differences, type_differences
from tests.conformance.story import Story, branching_prompts

DEADLINE_S = 20.0
RECORDED_HOST = "127.0.0.1:8188"
TERMINAL = ("completed", "failed", "cancelled")
#: Sleeps without steps in between only have to last until what follows was sent.
LONGEST_SLEEP_S = 0.8
#: How long ComfyUI may take to free its memory.
FREE_S = 2.0
MIB = 1024 * 1024

#: Answers that describe the machine or the installation: same keys and types, other values.
DESCRIBES_THE_SERVER = re.compile(
    r"^(/api)?/(system_stats|features|models|embeddings|extensions|assets|users)$"
)


@dataclass
class Socket:
    """One WebSocket, what it heard, and what it should have heard by now."""

    ws: aiohttp.ClientWebSocketResponse
    live: Story
    recorded: Story
    pongs: int = 0
    close_code: int | None = None
    reader: asyncio.Task[None] | None = None


@dataclass
class Replay:
    """One recording against one server."""

    session: aiohttp.ClientSession
    url: str
    events: list[dict[str, Any]]
    #: Says why the answer to a method and path cannot be as recorded; None: it can.
    missing: Callable[[str, str], str | None] = lambda method, path: None
    problems: list[str] = field(default_factory=list)
    sockets: dict[str, Socket] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    _aliases: dict[str, str] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """Replay everything, then compare what the sockets heard."""
        self._branching = branching_prompts(self.events)
        await self._connect("control", "/ws?clientId=conformance-control", {})
        for index, event in enumerate(self.events):
            await self._step(event, index)
        await self._settle()
        for name, socket in self.sockets.items():
            if name != "control":
                self._compare_stories(name, socket)
        for socket in self.sockets.values():
            await self._close(socket)

    async def _step(self, event: dict[str, Any], index: int) -> None:
        kind = event["kind"]
        if kind == "http_request":
            await self._caught_up()
            answer = next(x for x in self.events[index:] if x["kind"] == "http_response")
            await self._exchange(event, answer)
        elif kind == "ws_connect":
            await self._caught_up()
            await self._wait_for_recorded_queue(event["sock"], index)
            headers = {k: self._here(v) for k, v in event.get("headers", {}).items()}
            await self._connect(event["sock"], event["path"], headers)
        elif kind == "ws_connect_failed":
            refused = self._refused.pop(event["sock"], None)
            if refused != event["status"]:
                self.problems.append(f"socket {event['sock']}: {event['status']}, live {refused}")
        elif kind == "ws_send":
            # A server may close before it has read all that is too much for it.
            with contextlib.suppress(ConnectionError):
                await self.sockets[event["sock"]].ws.send_str(_sent_text(event))
        elif kind in ("ws_recv", "ws_recv_binary"):
            self.sockets[event["sock"]].recorded.add(event)
        elif kind == "ws_closed":
            await self._closed(event)

    _refused: dict[str, int] = field(default_factory=dict)

    async def _connect(self, name: str, path: str, headers: dict[str, str]) -> None:
        try:
            ws = await self.session.ws_connect(
                self.url + path, headers=headers, max_msg_size=0, autoping=False
            )
        except aiohttp.WSServerHandshakeError as error:
            self._refused[name] = error.status
            return
        live, recorded = (Story(self._branching) for _ in range(2))
        live.aliases = self._aliases
        socket = Socket(ws, live, recorded)
        socket.reader = asyncio.create_task(self._read(socket))
        self.sockets[name] = socket
        # The first status is the proof that the server knows of the socket.
        await self._until(lambda: socket.live.statuses, f"first status of {name}")

    async def _read(self, socket: Socket) -> None:
        async for message in socket.ws:
            if message.type is aiohttp.WSMsgType.PONG:
                socket.pongs += 1
            elif message.type is aiohttp.WSMsgType.TEXT:
                socket.live.add({"kind": "ws_recv", "msg": json.loads(message.data)})
            elif message.type is aiohttp.WSMsgType.BINARY:
                socket.live.add(decoded(message.data))
            async with self._changed:
                self._changed.notify_all()
        socket.close_code = socket.ws.close_code
        async with self._changed:
            self._changed.notify_all()

    async def _caught_up(self) -> None:
        """Wait until every socket has heard as much as in the recording."""
        for name, socket in self.sockets.items():
            expected = len(socket.recorded.tokens)
            await self._until(
                lambda s=socket, n=expected: len(s.live.tokens) >= n or s.ws.closed,
                f"{expected} events on {name}: {socket.recorded.tokens[-1:]}",
            )

    async def _until(self, condition: Any, what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            heard = {k: x.live.tokens[-4:] for k, x in self.sockets.items()}
            self.problems.append(f"waited in vain for {what}; last heard: {heard}")

    async def _exchange(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        if reason := self.missing(request["method"], request["path"]):
            self.left_out.add(reason)
            return
        status, headers, body = await self._ask(request)
        async with asyncio.timeout(DEADLINE_S):
            while _waits_for(answer["body"], body, request):
                await asyncio.sleep(0.02)  # polling is the only way to learn of it without events
                status, headers, body = await self._ask(request)
        if request["path"] == "/free":
            # ComfyUI's worker does it between two prompts, and tells nobody when it has.
            await asyncio.sleep(FREE_S)
        where = f"{request['method']} {request['path']} ({request.get('note', '')})"
        found = self._answer_differences(request, answer, status, headers, body)
        self.problems += [f"{where}: {x}" for x in found]

    def _answer_differences(
        self, request: dict[str, Any], answer: dict[str, Any], status: int, headers: Any, body: Any
    ) -> list[str]:
        if status != answer["status"]:
            return [f"status {answer['status']} recorded, {status} live: {body!r:.300}"]
        found = []
        for name in ("Content-Type", "Content-Disposition", "Accept-Ranges", "Allow"):
            recorded = self._renamed(answer["headers"].get(name))
            # Without a body the type says nothing; aiohttp changed it between versions.
            if recorded is not None and (body or name != "Content-Type"):
                live = headers.get(name)
                if recorded != live:
                    found.append(f"{name} {recorded!r} recorded, {live!r} live")
        if ("Etag" in answer["headers"]) != ("Etag" in headers):
            found.append("one has an Etag, the other has not")
        recorded_body = answer["body"]
        if not isinstance(recorded_body, dict | list):
            same = recorded_body is None or recorded_body == body
            return found if same else [*found, f"body {recorded_body!r}, live {body!r}"]
        if isinstance(recorded_body, dict) and isinstance(body, dict) and "prompt_id" in body:
            self._aliases[body["prompt_id"]] = recorded_body.get("prompt_id", "")
        body = json.loads(self._recorded_ids(json.dumps(body)))
        self._learn_names(recorded_body, body)
        path = urlsplit(request["path"]).path
        compare = type_differences if DESCRIBES_THE_SERVER.match(path) else differences
        return found + compare(recorded_body, body)

    async def _ask(self, request: dict[str, Any]) -> tuple[int, Any, Any]:
        path = self._live_ids(self._renamed(request["path"]))
        headers = {k: self._here(v) for k, v in request.get("headers", {}).items()}
        content: dict[str, Any] = {}
        if request.get("form"):
            content["data"] = _form(request["form"])
        elif "raw" in request:
            content["data"] = (
                _big_body(request["raw"]) if request.get("generated") else request["raw"]
            )
        elif "json" in request:
            content["json"] = request["json"]
        async with self.session.request(
            request["method"], self.url + path, headers=headers, **content
        ) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json" and raw
            text = raw.decode(errors="replace")
            return response.status, response.headers, json.loads(raw) if is_json else text

    async def _wait_for_recorded_queue(self, name: str, index: int) -> None:
        """Wait until as many prompts are left as the recorded first status says."""
        for event in self.events[index:]:
            if event["kind"] == "ws_recv" and event["sock"] == name:
                left = event["msg"]["data"]["status"]["exec_info"]
                answer = {"body": {"exec_info": left}, "status": 200, "headers": {}}
                await self._exchange({"method": "GET", "path": "/prompt"}, answer)
                return

    async def _closed(self, event: dict[str, Any]) -> None:
        socket = self.sockets[event["sock"]]
        await self._caught_up()
        if event["code"] is None:
            # The recorder closed it. Whoever looks for more than was recorded needs it open.
            last_step = event is self.events[-1] or all(
                x["kind"] in ("ws_closed", "note") for x in self.events[self.events.index(event) :]
            )
            if not last_step:
                await self._heard_all({event["sock"]: socket})
                await self._close(socket)
            return
        await self._until(lambda: socket.close_code is not None, f"close of {event['sock']}")
        # A reset can overtake the close frame, while we are still writing.
        if socket.close_code not in (event["code"], aiohttp.WSCloseCode.ABNORMAL_CLOSURE):
            self.problems.append(f"{event['sock']}: closed with {socket.close_code}")

    async def _settle(self) -> None:
        """Wait until nothing runs and every socket has heard all there is to hear."""
        await self._caught_up()
        idle = {"body": {"exec_info": {"queue_remaining": 0}}, "status": 200, "headers": {}}
        await self._exchange({"method": "GET", "path": "/prompt"}, idle)
        # Clearing an empty queue makes one more status. Messages keep their order, so when it
        # is here, all that came before it was sent to every socket.
        control = self.sockets["control"]
        seen = len(control.live.statuses)
        await self._ask({"method": "POST", "path": "/queue", "json": {"clear": True}})
        await self._until(lambda: len(control.live.statuses) > seen, "the last status")
        await self._heard_all(self.sockets)

    async def _heard_all(self, sockets: dict[str, Socket]) -> None:
        for name, socket in sockets.items():
            if socket.ws.closed:
                continue
            pongs = socket.pongs
            with contextlib.suppress(ConnectionError):
                await socket.ws.ping()
            await self._until(
                lambda s=socket, n=pongs: s.pongs > n or s.ws.closed, f"a pong on {name}"
            )

    async def _close(self, socket: Socket) -> None:
        await socket.ws.close()
        if socket.reader:
            await socket.reader

    def _compare_stories(self, name: str, socket: Socket) -> None:
        recorded, live = socket.recorded.told(), socket.live.told()
        if recorded != live:
            first = next(
                (i for i, (a, b) in enumerate(zip(recorded, live, strict=False)) if a != b),
                min(len(recorded), len(live)),
            )
            self.problems.append(
                f"socket {name}, event {first} of {len(recorded)}:\n"
                f"  recorded {recorded[first : first + 4]}\n  live     {live[first : first + 4]}"
            )

    def _learn_names(self, recorded: Any, live: Any) -> None:
        """Remember which file here stands for which in the recording."""
        if isinstance(recorded, dict) and isinstance(live, dict):
            if isinstance(recorded.get("filename"), str) and "filename" in live:
                self._names[recorded["filename"]] = live["filename"]
            for key in recorded.keys() & live.keys():
                self._learn_names(recorded[key], live[key])
        elif isinstance(recorded, list) and isinstance(live, list):
            for a, b in zip(recorded, live, strict=False):
                self._learn_names(a, b)

    def _renamed(self, text: str | None) -> Any:
        for recorded, live in self._names.items():
            text = text.replace(recorded, live) if text else text
        return text

    def _recorded_ids(self, text: str) -> str:
        for live, recorded in self._aliases.items():
            text = text.replace(live, recorded)
        return text

    def _live_ids(self, text: str) -> str:
        for live, recorded in self._aliases.items():
            text = text.replace(recorded, live)
        return text

    def _here(self, header: str) -> str:
        host = urlsplit(self.url)
        return header.replace(RECORDED_HOST, host.netloc).replace(":8188", f":{host.port}")


def decoded(message: bytes) -> dict[str, Any]:
    """Return a binary message in the form of the recordings."""
    (number,) = struct.unpack(">I", message[:4])
    event: dict[str, Any] = {"kind": "ws_recv_binary", "event_type": number}
    (second,) = struct.unpack(">I", message[4:8])
    if number == 1:
        event["image_type"] = {1: "jpeg", 2: "png"}[second]
    elif number == 3:
        event["node_id"] = message[8 : 8 + second].decode()
        event["text"] = message[8 + second :].decode()
    elif number == 4:
        event["metadata"] = json.loads(message[8 : 8 + second])
    return event


def _waits_for(recorded: Any, live: Any, request: dict[str, Any]) -> bool:
    """Whether the recorder had waited longer before it asked this."""
    if request["method"] != "GET" or not isinstance(recorded, dict):
        return False
    path = urlsplit(request["path"]).path.removeprefix("/api")
    if path == "/prompt":
        return bool(recorded != live)
    if path.startswith("/history/"):
        return bool(recorded) and not live
    if path.startswith("/jobs/"):
        return recorded.get("status") in TERMINAL and live.get("status") not in TERMINAL
    return False


def shortened(value: Any) -> Any:
    """Return a recording with all long sleeps cut, in what was sent and in what came back."""
    if isinstance(value, list):
        return [shortened(x) for x in value]
    if not isinstance(value, dict):
        return value
    return {
        k: LONGEST_SLEEP_S
        if k in ("seconds", "delay") and isinstance(v, int | float) and v > LONGEST_SLEEP_S
        else shortened(v)
        for k, v in value.items()
    }


def _sent_text(event: dict[str, Any]) -> str:
    if "msg" in event:
        return json.dumps(event["msg"])
    sizes = {"4 MiB+": 4 * MIB + 10, "3 MiB": 3 * MIB}
    raw: str = event["raw"]
    return "x" * sizes[raw] if raw in sizes else raw


def _big_body(what: str) -> bytes:
    size = 100 * MIB + 32 if what == "huge prompt" else 20 * MIB
    return b'{"prompt": {}, "padding": "' + b"x" * size + b'"}'


def _form(form: dict[str, Any]) -> aiohttp.FormData:
    """Build an upload. The recorder kept no bodies; these do what its notes say."""
    data = aiohttp.FormData()
    for name, value in form["fields"].items():
        data.add_field(name, value)
    if form["filename"]:
        contents = {"huge": b"x" * (100 * MIB + 32)}
        content = contents.get(form["content"], _picture(form["content"]))
        data.add_field("image", content, filename=form["filename"], content_type="image/png")
    return data


def _picture(seed: str) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (ord(seed[0]), 40, 90)).save(buffer, "PNG")
    return buffer.getvalue()
