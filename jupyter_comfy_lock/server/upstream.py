"""One connection to one ComfyServer: HTTP, WebSocket, health, version, epoch."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jupyter_comfy_lock.domain.abilities import (
    MINIMUM_VERSION,
    Abilities,
    Stop,
    abilities,
    how_to_stop,
    version_number,
)
from jupyter_comfy_lock.domain.comfy import (
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
from jupyter_comfy_lock.domain.lock import ComfyId, Lock, lock_to_json
from jupyter_comfy_lock.domain.pool import ComfyChange, ComfyServer, ComfyStatus, Health

if TYPE_CHECKING:
    import aiohttp

    from jupyter_comfy_lock.server.transport import Transport

#: Seconds for what ComfyUI answers at once.
_QUICK_S = 10.0
#: Changes of a ComfyServer that are remembered.
_CHANGES = 20
#: Validating a large graph on a busy ComfyServer takes its time.
_SUBMIT_S = 60.0


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

    def __init__(self, comfy: ComfyServer, transport: "Transport") -> None:
        self.comfy = comfy
        self._transport = transport
        self.status = ComfyStatus()
        #: Monotonic seconds of the last look.
        self.looked_s = float("-inf")
        #: Looks that are under way.
        self.looking = 0
        #: Since when its health has been what it is; seconds since the epoch.
        self.since = time.time()
        #: How it changed while it was looked at, the newest last.
        self.changes: deque[ComfyChange] = deque(maxlen=_CHANGES)
        #: Told when the ComfyServer was seen to have been restarted.
        self.on_restart: Callable[[ComfyId], None] = lambda _: None
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

    def lock_json(self, lock: Lock, *, foreign_prompts: int = 0) -> dict[str, Any]:
        """Return a lock of this ComfyServer as REST and events show it."""
        return lock_to_json(
            lock,
            url=self.comfy.url,
            epoch=self.status.epoch,
            restarted_at=self.status.restarted_at,
            foreign_prompts=foreign_prompts,
        )

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        """Return the JSON object of `GET path`.

        Raises:
            ComfyUnreachable, ComfyUnauthorized, NotComfyUI: there is no such JSON.
        """
        async with self.open("GET", path, within_s=_QUICK_S, params=params) as response:
            self.refuse_other_than(response, HTTPStatus.OK)
            answer = loads(await response.read())
            if not isinstance(answer, dict):
                raise NotComfyUI(self.comfy.comfy_id, f"GET {path} gave no JSON object")
            return answer

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        """Send `body` as JSON to `path`; the answer does not matter but for its status."""
        async with self.open("POST", path, within_s=_QUICK_S, json=body) as response:
            self.refuse_other_than(response, HTTPStatus.OK)

    async def submit(self, body: Mapping[str, Any]) -> Answer:
        """Send a prompt and return the answer, also a refusal.

        Raises:
            ComfyUnreachable: no answer came. ComfyUI may have the prompt all the same.
        """
        async with self.open("POST", "/prompt", within_s=_SUBMIT_S, json=body) as response:
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
        # An id that ComfyUI gave itself may be any text.
        path = f"/history/{quote(prompt_id, safe='', errors='replace')}"
        return ended_entry(await self.get(path), prompt_id)

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

    def socket(
        self, client_id: str
    ) -> "AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]":
        """Open the ComfyServer's WebSocket as `client_id`, and close it in the end.

        Raises:
            ComfyUnreachable: it cannot be opened, or it broke.
        """
        return self._transport.socket(self.comfy, client_id)

    def open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        within_s: float | None = None,
        **options: Any,
    ) -> "AbstractAsyncContextManager[aiohttp.ClientResponse]":
        """Open a request, whose answer can be read within the block.

        `path` is sent as it is, below the ComfyServer's URL; the pool's headers go with `headers`
        and before them. Without `within_s` it may take as long as it likes, if it is not silent.

        Raises:
            ComfyUnreachable: no answer came, or it broke off.
        """
        return self._transport.request(
            self.comfy, method, path, headers=headers, within_s=within_s, **options
        )

    def refuse_other_than(self, response: "aiohttp.ClientResponse", *wanted: HTTPStatus) -> None:
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
        self._become(
            ComfyStatus(
                health=Health.UNSUPPORTED if old else Health.OK,
                reason=f"ComfyUI {version} is too old" if old else None,
                version=version,
                device=name if isinstance(name, str) else None,
                memory_free=int(number(device["vram_free"])) if "vram_free" in device else None,
                queue_remaining=remaining,
                epoch=self.status.epoch,
                restarted_at=self.status.restarted_at,
            )
        )
        if restarted:
            self._saw_restart()

    def _saw_fault(self, error: ComfyLockError) -> None:
        match error:
            case ComfyUnauthorized():
                health = Health.UNAUTHORIZED
            case NotComfyUI():
                health = Health.NOT_COMFYUI
            case _:
                health = Health.UNREACHABLE
        reason = str(error.details.get("why", error.message))
        self._become(replace(self.status, health=health, reason=reason, queue_remaining=None))

    def _note_number(self, given: object) -> None:
        # ComfyUI numbers prompts from 0 in each life.
        if not isinstance(given, int) or given < 0:
            return
        if given <= self._last_number:
            self._saw_restart()
        self._last_number = given

    def _saw_restart(self) -> None:
        self._become(self.status.restarted(time.time()))
        self.on_restart(self.comfy.comfy_id)

    def _become(self, status: ComfyStatus) -> None:
        now, before, self.status = time.time(), self.status, status
        if self.status.health is not before.health:
            self.since = now
        if before.version is not None and self.status.version not in (None, before.version):
            what = f"runs ComfyUI {self.status.version} now; it was {before.version}"
            self.changes.append(ComfyChange(at=now, what=what))
        if self.status.epoch != before.epoch:
            self.changes.append(ComfyChange(at=now, what="was restarted"))


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
