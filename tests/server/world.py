"""A Jupyter server with the extension, ComfyUI servers behind it, and kernels that use it."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
from tenacity import stop_after_delay
from yarl import URL

from jupyter_comfy_lock.embedded import EmbeddedComfy
from tests.embedded_trace_nodes import NODES
from tests.server.described import check_answer, check_event, check_line
from tests.server.recorder import Calls

ENDED = {"succeeded", "failed", "cancelled", "rejected", "lost"}
#: Seconds after which a test gives up on a condition.
DEADLINE_S = 15.0


class Comfy:
    """An embedded server that can be broken, stopped and started again; its calls are kept."""

    def __init__(self, comfy_id: str, **settings: Any) -> None:
        self.comfy_id = comfy_id
        self.calls = Calls()
        settings = {"nodes": NODES, "middlewares": [self.calls.middleware], **settings}
        self._server = EmbeddedComfy(comfy_id, **settings)
        self.faults = self._server.faults
        self.start = self._server.start
        self.kill = self._server.kill
        self.restart = self._server.restart

    @property
    def url(self) -> str:
        return self._server.url

    async def stop(self) -> None:
        # aiohttp would wait for its clients to hang up.
        self.faults.cut_sockets()
        await self._server.stop()


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> tuple[int, str]:
        """The status and our code of an error."""
        return self.status, self.json()["code"]


class Caller:
    """Somebody who calls the Jupyter server, with headers of its own."""

    def __init__(self, base: str, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        self.base = base
        self._session = session
        self._headers = headers

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Call `path` of the REST API."""
        return await self.raw(method, f"comfy-lock/api/{path}", **options)

    async def raw(
        self, method: str, path: str, *, described: bool = True, **options: Any
    ) -> Answer:
        """Call `path`, sent as it is written, below the Jupyter server's base URL.

        Whatever a test is about, an answer of the REST API has to be as the description says,
        unless it is not `described`.
        """
        headers = {**self._headers, **options.pop("headers", {})}
        url = URL(self.base + path, encoded=True)
        async with self._session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if described:
            check_answer(method, path, headers, answer.status, answer.headers, answer.body)
        return answer

    async def get(self, path: str) -> Any:
        """Return the JSON of a path of the REST API."""
        answer = await self.call("GET", path)
        assert answer.status == 200, answer.body
        return answer.json()

    @asynccontextmanager
    async def events(self, events: Events | None = None) -> AsyncIterator[Events]:
        """Listen to the event stream."""
        events = events or Events()
        async with self._session.get(
            URL(f"{self.base}comfy-lock/api/events", encoded=True),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as response:
            assert response.status == 200
            reading = asyncio.create_task(events.read(response))
            try:
                yield events
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading


class Events:
    """What an event stream has said so far."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str, Any]] = []
        self.ended = asyncio.Event()
        self._changed = asyncio.Condition()

    async def read(self, response: aiohttp.ClientResponse) -> None:
        fields: dict[str, str] = {}
        try:
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                if "data" in fields:
                    check_event(fields["event"], fields["data"])
                    event = (int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    async with self._changed:
                        self.all.append(event)
                        self._changed.notify_all()
                fields = {}
        except aiohttp.ClientError:
            pass
        finally:
            self.ended.set()

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait until `true` is so, looking whenever something was said."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            while not (found := true()):
                await self._changed.wait()
            return found

    def of(self, kind: str) -> list[Any]:
        """Return what was said of one kind."""
        return [data for _, each, data in self.all if each == kind]

    def states(self, task_id: str) -> list[str]:
        """Return the states that a task was said to be in."""
        return [each["state"] for each in self.of("task") if each["task_id"] == task_id]


class Kernel(Caller):
    """An attached kernel; its event stream is open for as long as it lives."""

    def __init__(self, base: str, session: aiohttp.ClientSession, said: Any) -> None:
        self.credential: str = said["credential"]
        self.holder_id: str = said["holder"]["holder_id"]
        self.kernel_id: str = said["holder"]["kernel_id"]
        self.gateway_path: str = said["gateway_path"]
        self.gateway_key = self.gateway_path.split("/")[-2]
        super().__init__(base, session, {"Authorization": f"ComfyKernel {self.credential}"})
        self.heard = Events()

    async def lock(
        self, comfy_id: str | None = None, mode: str = "shared", **more: Any
    ) -> dict[str, Any]:
        """Lock at once, or wait for it with `wait=`."""
        answer = await self.ask(comfy_id, mode, **more)
        assert answer.status in (200, 201, 202), answer.body
        # What is waited for is on the last line.
        last = json.loads(answer.body.splitlines()[-1])
        assert "lock" in last, last
        lock: dict[str, Any] = last["lock"]
        return lock

    async def ask(self, comfy_id: str | None = None, mode: str = "shared", **more: Any) -> Answer:
        """Ask for a lock; the whole answer."""
        return await self.call("POST", "locks", json={"comfy_id": comfy_id, "mode": mode, **more})

    @asynccontextmanager
    async def waiting(
        self, comfy_id: str | None = None, mode: str = "shared", **more: Any
    ) -> AsyncIterator[Waiting]:
        """Wait for a lock within the block; the connection is closed at its end."""
        body = {"comfy_id": comfy_id, "mode": mode, "wait": None, **more}
        asking = self._session.post(
            URL(f"{self.base}comfy-lock/api/locks", encoded=True),
            headers=self._headers,
            json=body,
            timeout=aiohttp.ClientTimeout(total=None),
        )
        waiting = Waiting(asking)
        try:
            yield waiting
        finally:
            await waiting.close()

    async def release(self) -> Any:
        return (await self.call("DELETE", "locks/mine")).json()["released"]

    async def submit(self, prompt: dict[str, Any]) -> str:
        answer = await self.call("POST", "tasks", json={"prompt": prompt})
        assert answer.status == 201, answer.body
        return str(answer.json()["task_id"])

    async def comfy(self, method: str, path: str, **options: Any) -> Answer:
        """Call ComfyUI through the gateway; the path is sent as it is written."""
        # The gateway knows its callers by the path alone.
        headers = {**options.pop("headers", {}), "Authorization": ""}
        return await self.raw(method, self.gateway_path + path, headers=headers, **options)

    async def prompt(self, prompt: dict[str, Any], **more: Any) -> str:
        """Submit as a client of ComfyUI does."""
        answer = await self.comfy("POST", "prompt", json={"prompt": prompt, **more})
        assert answer.status == 200, answer.body
        return str(answer.json()["prompt_id"])

    async def cancel(self, task_id: str) -> None:
        answer = await self.call("POST", f"tasks/{task_id}/cancel")
        assert answer.status == 202, answer.body

    async def task_in(self, task_id: str, *states: str) -> dict[str, Any]:
        """Wait until the task has been said to be in one of `states`; return it as it is then."""
        wanted = set(states)

        def found() -> Any:
            told = self.heard.of("task") + [
                each for snapshot in self.heard.of("snapshot") for each in snapshot["tasks"]
            ]
            return next((x for x in told if x["task_id"] == task_id and x["state"] in wanted), None)

        return dict(await self.heard.until(found))

    async def ended(self, task_id: str) -> dict[str, Any]:
        return await self.task_in(task_id, *ENDED)

    @asynccontextmanager
    async def socket(self, query: str = "") -> AsyncIterator[Socket]:
        """Open a WebSocket through the gateway."""
        url = URL(f"{self.base}{self.gateway_path}ws{query}", encoded=True)
        async with self._session.ws_connect(url, max_msg_size=0) as socket:
            yield Socket(socket)


class Waiting:
    """One who waits for a lock, line by line."""

    def __init__(self, asking: Any) -> None:
        self.status = 0
        self.content_type = ""
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(asking))

    async def _read(self, asking: Any) -> None:
        async with asking as response:
            self.status, self.content_type = response.status, response.content_type
            async for line in response.content:
                said = json.loads(line)
                if self.status == 202:
                    check_line(said)
                async with self._changed:
                    self.lines.append(said)
                    self._changed.notify_all()

    async def close(self) -> None:
        """Close the connection."""
        # To leave an answer before its end is to close it.
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading

    @property
    def standings(self) -> list[dict[str, Any]]:
        """What was said of how it stands."""
        return [line["waiting"] for line in self.lines if "waiting" in line]

    async def stands(self, true: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """Wait until it is said to stand so; return how."""

        def found() -> Any:
            return next((each for each in self.standings if true(each)), None)

        return dict(await self._until(found))

    async def standings_last(self) -> dict[str, Any]:
        """Return how it was said to stand last."""
        await self.stands(lambda _: True)
        return self.standings[-1]

    async def at(self, place: int) -> dict[str, Any]:
        """Wait until it is said to be at that place of the line."""
        return await self.stands(lambda each: each["place"] == place)

    async def lock(self) -> dict[str, Any]:
        """Wait for the lock."""
        last = await self.last()
        assert "lock" in last, last
        return dict(last["lock"])

    async def error(self) -> dict[str, Any]:
        """Wait for why there is no lock."""
        last = await self.last()
        assert "error" in last or "code" in last, last
        return dict(last.get("error") or last)

    async def last(self) -> dict[str, Any]:
        """Wait for the last line."""

        def found() -> Any:
            return next((each for each in self.lines if "waiting" not in each), None)

        return dict(await self._until(found))

    async def _until(self, found: Callable[[], Any]) -> Any:
        async with asyncio.timeout(DEADLINE_S), self._changed:
            while not (thing := found()):
                await self._changed.wait()
            return thing


class Socket:
    """A client's end of a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[Any] = []

    async def until(self, true: Callable[[Any], Any]) -> Any:
        """Read until a frame for which `true` holds; return it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self.socket.receive()
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                is_text = message.type is aiohttp.WSMsgType.TEXT
                frame = json.loads(message.data) if is_text else message.data
                self.frames.append(frame)
                if true(frame):
                    return frame

    async def end_of(self, prompt_id: str) -> None:
        """Read until the prompt is said to be over."""
        over = {"node": None, "prompt_id": prompt_id}
        await self.until(
            lambda x: isinstance(x, dict) and x["type"] == "executing" and x["data"] == over
        )

    async def close_code(self) -> int | None:
        """Read until the socket is closed; return the code."""
        async with asyncio.timeout(DEADLINE_S):
            async for message in self.socket:
                self.frames.append(message.data)
        return self.socket.close_code

    def texts(self) -> list[dict[str, Any]]:
        return [each for each in self.frames if isinstance(each, dict)]

    def binaries(self) -> list[bytes]:
        return [each for each in self.frames if isinstance(each, bytes)]


@dataclass
class World:
    """Everything together, on one event loop."""

    base: str
    token: str
    session: aiohttp.ClientSession
    comfies: dict[str, Comfy]
    app: Any
    listening: list[asyncio.Task[None]]

    @property
    def gpu(self) -> Comfy:
        return self.comfies["gpu-1"]

    @property
    def user(self) -> Caller:
        """The Jupyter user."""
        return Caller(self.base, self.session, {"Authorization": f"token {self.token}"})

    @property
    def stranger(self) -> Caller:
        return Caller(self.base, self.session, {})

    async def hello(self, name: str = "", **more: Any) -> Answer:
        body = {"kernel_id": f"attached-{uuid4()}", "instance": str(uuid4())}
        body |= {"name": name, **more}
        return await self.user.call("POST", "holders", json=body)

    async def kernel(self, name: str = "", **more: Any) -> Kernel:
        """Attach a kernel that listens to its event stream."""
        kernel = Kernel(self.base, self.session, (await self.hello(name, **more)).json())
        self.listening.append(asyncio.create_task(self._listen(kernel)))
        await kernel.heard.until(lambda: kernel.heard.all)
        return kernel

    async def _listen(self, kernel: Kernel) -> None:
        async with kernel.events(kernel.heard):
            await kernel.heard.ended.wait()

    # -- what happens by itself in time, or to nobody's doing ------------------------------------

    @property
    def stores(self) -> Any:
        """What the Jupyter server keeps, as another one on the same database would see it."""
        return self.app._stores

    @property
    def node_id(self) -> str:
        """The Jupyter server among those that use its database."""
        return str(self.app._keeper.node_id)

    def held(self) -> tuple[Any, ...]:
        """Return the locks under which the Jupyter server forwards."""
        return tuple(self.app._held.all())

    def holder(self, kernel: Kernel) -> Any:
        """Return a kernel as the Jupyter server knows it."""
        return self.app._registry.by_credential(kernel.credential)

    def renews(self, *kernels: Kernel) -> None:
        """Have kernels show that they live, however short the lease is, as real ones do."""
        for kernel in kernels:
            self.holder(kernel).renewed_s = float("inf")

    async def renew(self) -> None:
        """Renew the lease of the Jupyter server now."""
        await self.app._keeper.renew()

    async def expire(self) -> None:
        """End what other Jupyter servers left that are gone."""
        await self.app._keeper.expire()

    async def settle(self) -> None:
        """Do now what the store was away for."""
        await self.app._keeper.renew()
        await self.app._debts.settle()

    async def lose_the_lease(self) -> None:
        """Have the Jupyter server be given up by the others, without its knowing."""
        await self.stores.nodes.leave(self.node_id)

    @property
    def lease(self) -> Any:
        """The lease of the Jupyter server."""
        return self.app._held._lease

    def forget_tasks(self) -> None:
        """Have the Jupyter server know of ended tasks what its store knows, as after a restart."""
        self.app._tasks._live.clear()

    def let_time_pass(self, seconds: float) -> None:
        """Put the clock forward by which the Jupyter server counts its lease."""
        real = self.lease._clock_s
        self.lease._clock_s = lambda: real() + seconds

    @asynccontextmanager
    async def store_away(self) -> AsyncIterator[None]:
        """Have another program keep the database from everybody within the block."""
        database = self.stores.database
        real = database._when_busy.stop
        # Not for long, or each test would take as long as a user has to wait.
        database._when_busy.stop = stop_after_delay(0.1)
        other = sqlite3.connect(self.app.place.path, isolation_level=None, timeout=10)
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            database._when_busy.stop = real
            other.close()

    async def force(self, kernel: Kernel, why: str = "the GPU is needed") -> Any:
        """Take a kernel's lock away, as the Jupyter user."""
        path = f"holders/{kernel.holder_id}/release"
        answer = await self.user.call("POST", path, json={"why": why})
        assert answer.status == 200, answer.body
        return answer.json()["released"]

    async def set_state(self, comfy_id: str, state: str, why: str = "new GPU") -> Any:
        """Open or close a ComfyServer, as the Jupyter user; return its entry in the pool."""
        body = {"state": state, "why": why}
        answer = await self.user.call("PUT", f"pool/{comfy_id}/state", json=body)
        assert answer.status == 200, answer.body
        return answer.json()

    async def direct(self, prompt: dict[str, Any], tag: dict[str, Any] | None = None) -> str:
        """Send gpu-1 a prompt past the gateway, with the tag that one of ours would have."""
        body = {"prompt": prompt, "extra_data": {"jupyter_comfy_lock": tag} if tag else {}}
        async with self.session.post(f"{self.gpu.url}/prompt", json=body) as response:
            assert response.status == 200
            return str((await response.json())["prompt_id"])

    async def queue(self, comfy_id: str = "gpu-1") -> list[str]:
        """Return the prompts in a ComfyServer's queue, by its own word."""
        async with self.session.get(f"{self.comfies[comfy_id].url}/queue") as response:
            told = await response.json()
        return [item[1] for items in told.values() for item in items]

    async def history(self) -> dict[str, Any]:
        """Return what gpu-1 has run, by its own word."""
        async with self.session.get(f"{self.gpu.url}/history") as response:
            return dict(await response.json())

    async def runs(self, prompt_id: str) -> bool:
        """Whether gpu-1 runs that prompt now."""
        async with self.session.get(f"{self.gpu.url}/queue") as response:
            return prompt_id in [item[1] for item in (await response.json())["queue_running"]]

    async def everybodys_locks(self) -> list[dict[str, Any]]:
        """Return all locks, as the Jupyter user sees them."""
        return list((await self.user.get("locks"))["locks"])

    async def nobody_holds(self) -> bool:
        """Whether there is no lock, draining or not."""
        return not await self.everybodys_locks()

    async def close(self) -> None:
        for each in self.listening:
            each.cancel()
        await asyncio.gather(*self.listening, return_exceptions=True)
        await self.session.close()


class Gate:
    """Stops an `async` method before or after it has done its work, until the test lets it go on.

    What it is called with can be chosen by `only`.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        *,
        after: bool = False,
        only: Callable[..., bool] = lambda *_, **__: True,
    ) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self.real = getattr(owner, name)
        self._after = after
        self._only = only
        setattr(owner, name, self)

    async def __call__(self, *args: Any, **more: Any) -> Any:
        if not self._only(*args, **more):
            return await self.real(*args, **more)
        result = await self.real(*args, **more) if self._after else None
        self.reached.set()
        await self.go.wait()
        return result if self._after else await self.real(*args, **more)

    async def is_reached(self) -> None:
        """Wait until somebody stands before it."""
        await asyncio.wait_for(self.reached.wait(), DEADLINE_S)


async def until(true: Callable[[], Any]) -> Any:
    """Wait until `true` is so; for conditions that nobody announces."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := true()):  # noqa: ASYNC110 - it is for what sets no event
            await asyncio.sleep(0.01)
        return found


async def eventually(true: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Wait until `true` is so, for what has to be asked for."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await true(*args)):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)
        return found
