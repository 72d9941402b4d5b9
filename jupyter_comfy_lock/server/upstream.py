"""One connection to one ComfyServer: HTTP, WebSocket, health, version, epoch."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from jupyter_comfy_lock.domain.abilities import (
    MINIMUM_VERSION,
    Abilities,
    Stop,
    abilities,
    how_to_stop,
    version_number,
)
from jupyter_comfy_lock.domain.comfy import (
    FEATURE_FLAGS,
    ended_entry,
    history_prompts,
    items,
    loads,
    mapping,
    number,
    prompt_of,
    queue_ids,
    queue_prompts,
)
from jupyter_comfy_lock.domain.errors import (
    ComfyLockError,
    ComfyUnauthorized,
    ComfyUnreachable,
    ComfyUnsupported,
    NotComfyUI,
    UnknownComfy,
)
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.pool import ComfyServer, ComfyStatus, Health

_QUICK = aiohttp.ClientTimeout(total=10, sock_connect=3)
#: Validating a large graph on a busy ComfyServer takes its time.
_SUBMIT = aiohttp.ClientTimeout(total=60, sock_connect=3)
#: Large results and slow previews take their time; five minutes of silence do not.
_PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=300)
#: Seconds between pings; a socket that answers none is dead.
_HEARTBEAT_S = 10.0


class ResolverWithoutThreads(AbstractResolver):
    """Looks up host names while Python ends, when no thread can be started any more."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`; blocks."""
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Do nothing: it holds nothing."""


def new_session(resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """Return the HTTP client for all ComfyServers.

    It keeps no cookies and decompresses nothing: what it fetches is handed on as it is. It follows
    no redirect, not even of a WebSocket's handshake, where it cannot be told not to by argument.
    """
    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(_refuse_redirect)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        connector=aiohttp.TCPConnector(limit=0, resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        read_bufsize=2**18,
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )


async def _refuse_redirect(*_: object) -> None:
    # The pool's headers may be secrets, and only the pool's addresses may have them (R10).
    msg = "it redirects elsewhere"
    raise aiohttp.ClientConnectionError(msg)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a ComfyServer answered to `POST /prompt`."""

    status: int
    body: Mapping[str, Any]


class Upstream:
    """A ComfyServer of the pool, and what is known of it.

    Nothing here sends a request anywhere but below the ComfyServer's own URL: redirects are not
    followed (R10). No method but `submit`, `cancel` and `post` changes anything there (R11).
    """

    def __init__(self, comfy: ComfyServer, session: aiohttp.ClientSession) -> None:
        self.comfy = comfy
        self.session = session
        self.status = ComfyStatus()
        #: Monotonic seconds of the last look.
        self.looked_s = float("-inf")
        #: Looks that are under way.
        self.looking = 0
        self._last_number = -1.0

    @property
    def can(self) -> Abilities:
        """What this ComfyUI can do, as it was last seen."""
        return abilities(self.status.version)

    async def abilities(self) -> Abilities:
        """Return what this ComfyUI can do; look first if it was never seen.

        Raises:
            ComfyUnreachable, ComfyUnauthorized, NotComfyUI: it cannot be told.
        """
        if self.status.version is None:
            await self.look()
            if self.status.version is None:
                raise self.fault() or ComfyUnreachable(self.comfy.comfy_id, "not looked at yet")
        return self.can

    async def look(self) -> ComfyStatus:
        """Look at the ComfyServer and remember what was seen; never raises."""
        self.looked_s = time.monotonic()
        self.looking += 1
        try:
            self._saw(await self.get("/system_stats"), await self.get("/prompt"))
        except ComfyLockError as error:
            self._saw_fault(error)
        finally:
            self.looking -= 1
        return self.status

    def fault(self) -> ComfyLockError | None:
        """Return why the ComfyServer cannot be used, as it was last seen; None if it can."""
        comfy_id, seen = self.comfy.comfy_id, self.status
        reason = seen.reason or "not looked at yet"
        match seen.health:
            case Health.OK:
                return None
            case Health.UNSUPPORTED:
                minimum = ".".join(map(str, MINIMUM_VERSION))
                return ComfyUnsupported(comfy_id, seen.version or "?", minimum)
            case Health.UNAUTHORIZED:
                return ComfyUnauthorized(comfy_id, HTTPStatus.UNAUTHORIZED)
            case Health.NOT_COMFYUI:
                return NotComfyUI(comfy_id, reason)
        return ComfyUnreachable(comfy_id, reason)

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return the JSON object of `GET path`.

        Raises:
            ComfyUnreachable, ComfyUnauthorized, NotComfyUI: there is no such JSON.
        """
        async with self.open("GET", path, timeout=_QUICK, params=params) as response:
            self.refuse_other_than(response, HTTPStatus.OK)
            answer = loads(await response.read())
            if not isinstance(answer, dict):
                raise NotComfyUI(self.comfy.comfy_id, f"GET {path} gave no JSON object")
            return answer

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Send `body` as JSON to `path`; the answer does not matter but for its status."""
        async with self.open("POST", path, timeout=_QUICK, json=body) as response:
            self.refuse_other_than(response, HTTPStatus.OK)

    async def submit(self, body: Mapping[str, Any]) -> Answer:
        """Send a prompt and return the answer, also a refusal.

        Raises:
            ComfyUnreachable: no answer came. ComfyUI may have the prompt all the same.
        """
        async with self.open("POST", "/prompt", timeout=_SUBMIT, json=body) as response:
            text = await response.read()
            answer = loads(text)
            if not isinstance(answer, dict):
                answer = {"error": {"message": text.decode(errors="replace")[:500]}}
        self._note_number(answer.get("number"))
        return Answer(response.status, answer)

    async def queue(self) -> tuple[list[str], list[str]]:
        """Return the ids of the prompts that run and of those that wait, in running order."""
        queue = await self.get("/queue")
        running, waiting = queue_ids(queue)
        self.status = replace(self.status, queue_remaining=len(running) + len(waiting))
        return running, waiting

    async def history(self, prompt_id: str) -> Mapping[str, Any] | None:
        """Return the history entry of an ended prompt; None if ComfyUI has none (yet)."""
        return ended_entry(await self.get(f"/history/{prompt_id}"), prompt_id)

    async def find(self, task_id: str) -> str | None:
        """Return what the prompt of a task is called, if it has arrived; None if it has not."""
        if (await self.abilities()).takes_ids:
            running, waiting = await self.queue()
            arrived = task_id in running or task_id in waiting
            return task_id if arrived or await self.history(task_id) is not None else None
        # Queue first, then history: a prompt moves from one to the other in one step.
        found = prompt_of(task_id, queue_prompts(await self.get("/queue")))
        if found is None:
            found = prompt_of(task_id, history_prompts(await self.get("/history")))
        return found

    async def cancel(self, prompts: Mapping[str, bool]) -> list[str]:
        """Take these prompts off the ComfyServer, and no others; return those that run on.

        A prompt that runs stops at its next step or node; one whose last node runs may end well.

        Args:
            prompts: their ids, and whether the holder of each has the ComfyServer to itself.
        """
        ids, can = list(prompts), await self.abilities()
        if can.cancels_jobs:
            await self.post("/api/jobs/cancel", {"job_ids": ids})
            return []
        await self.post("/queue", {"delete": ids})
        running, _ = await self.queue()
        left = []
        for prompt_id in set(ids) & set(running):
            match how_to_stop(can, alone=prompts[prompt_id]):
                case Stop.BY_ID:
                    await self.post("/interrupt", {"prompt_id": prompt_id})
                case Stop.WHAT_RUNS:
                    await self.post("/interrupt", {})
                case Stop.NEVER:
                    left.append(prompt_id)
        return left

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the ComfyServer's WebSocket as `client_id`, and close it in the end."""
        try:
            async with self.session.ws_connect(
                f"{self.comfy.url}/ws",
                params={"clientId": client_id},
                headers=self.comfy.headers,
                heartbeat=_HEARTBEAT_S,
                max_msg_size=0,
            ) as socket:
                await socket.send_str(FEATURE_FLAGS)
                yield socket
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ComfyUnreachable(self.comfy.comfy_id, _why(error)) from error

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = _PATIENT,
        **options: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a request, whose answer can be read within the block.

        `path` is sent as it is, below the ComfyServer's URL; the pool's headers go with `headers`
        and before them.

        Raises:
            ComfyUnreachable: no answer came, or it broke off.
        """
        try:
            async with self.session.request(
                method,
                URL(self.comfy.url + path, encoded=True),
                headers={**(headers or {}), **self.comfy.headers},
                allow_redirects=False,
                timeout=timeout,
                **options,
            ) as response:
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise ComfyUnreachable(self.comfy.comfy_id, _why(error), sent=sent) from error

    def refuse_other_than(self, response: aiohttp.ClientResponse, *wanted: HTTPStatus) -> None:
        """Raise what is wrong with a ComfyServer that answers so.

        Raises:
            ComfyUnreachable, ComfyUnauthorized, NotComfyUI: by the status.
        """
        if response.status in wanted:
            return
        comfy_id = self.comfy.comfy_id
        if response.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ComfyUnauthorized(comfy_id, response.status)
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            why = f"it answered HTTP {response.status} to {response.method} {response.url.path}"
            raise ComfyUnreachable(comfy_id, why)
        why = f"HTTP {response.status} to {response.method} {response.url.path}"
        raise NotComfyUI(comfy_id, why)

    def _saw(self, stats: Mapping[str, Any], prompt: Mapping[str, Any]) -> None:
        version = mapping(stats.get("system")).get("comfyui_version")
        remaining = mapping(prompt.get("exec_info")).get("queue_remaining")
        if not isinstance(version, str) or not isinstance(remaining, int):
            error = NotComfyUI(self.comfy.comfy_id, "its system_stats are not ComfyUI's")
            self._saw_fault(error)
            return
        device = mapping(next(iter(items(stats.get("devices"))), None))
        name = device.get("name")
        restarted = self.status.health is Health.UNREACHABLE and self.status.version is not None
        old = version_number(version) < MINIMUM_VERSION
        self.status = ComfyStatus(
            health=Health.UNSUPPORTED if old else Health.OK,
            reason=f"ComfyUI {version} is too old" if old else None,
            version=version,
            device=name if isinstance(name, str) else None,
            memory_free=int(number(device["vram_free"])) if "vram_free" in device else None,
            queue_remaining=remaining,
            epoch=self.status.epoch + restarted,
        )

    def _saw_fault(self, error: ComfyLockError) -> None:
        match error:
            case ComfyUnauthorized():
                health = Health.UNAUTHORIZED
            case NotComfyUI():
                health = Health.NOT_COMFYUI
            case _:
                health = Health.UNREACHABLE
        reason = str(error.details.get("why", error.message))
        self.status = replace(self.status, health=health, reason=reason, queue_remaining=None)

    def _note_number(self, given: object) -> None:
        # ComfyUI numbers prompts from 0 in each life.
        if not isinstance(given, int) or given < 0:
            return
        if given <= self._last_number:
            self.status = replace(self.status, epoch=self.status.epoch + 1)
        self._last_number = given


def find_upstream(upstreams: Mapping[ComfyId, Upstream], comfy_id: ComfyId) -> Upstream:
    """Return the ComfyServer with that id.

    Raises:
        UnknownComfy: names those that there are.
    """
    try:
        return upstreams[comfy_id]
    except KeyError:
        raise UnknownComfy(comfy_id, upstreams) from None


async def look_at_all(upstreams: Iterable[Upstream]) -> None:
    """Look at all ComfyServers at once; a dead one delays nobody beyond its time-out."""
    await asyncio.gather(*(each.look() for each in upstreams))


async def look_if_old(
    upstreams: Iterable[Upstream], *, older_than_s: float, within_s: float
) -> None:
    """Look at those that were not looked at for so long; wait no longer than that for the slow."""
    now_s = time.monotonic()
    looks = [
        asyncio.ensure_future(each.look())
        for each in upstreams
        if now_s - each.looked_s > older_than_s
    ]
    if looks:
        await asyncio.wait(looks, timeout=within_s)


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        refused = isinstance(error.os_error, ConnectionRefusedError)
        return "connection refused" if refused else str(error.os_error)
    return str(error) or type(error).__name__
