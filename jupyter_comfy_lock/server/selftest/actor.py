"""A throw-away holder: says, asks and hears by HTTP what a kernel does."""

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from yarl import URL

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.task import ENDED
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.services import Services

if TYPE_CHECKING:
    import aiohttp

#: Seconds between two looks at a task.
_LOOK_EVERY_S = 0.05
#: Seconds for its prompts to leave their ComfyServer when it goes.
_LEAVES_IN_S = 5.0


class Broken(Exception):
    """A promise is broken; the message says what was seen."""


class CannotTry(Exception):
    """A trial cannot be done now; the message says why."""


class Answer:
    """What was answered."""

    def __init__(self, status: int, body: Any) -> None:
        self.status = status
        self.body = body

    @property
    def code(self) -> str:
        """The code of an error; the status where it has none."""
        known = isinstance(self.body, dict) and self.body.get("code")
        return str(known or self.status)

    def __str__(self) -> str:
        message = self.body.get("message") if isinstance(self.body, dict) else None
        return f"HTTP {self.status}" + (f" {self.code}: {message}" if message else "")


class Actor:
    """One of the self-test's holders; gone for good after `leave`."""

    def __init__(
        self, services: Services, holder: Holder, http: "aiohttp.ClientSession", base: str
    ) -> None:
        self.holder = holder
        self._services = services
        self._http = http
        self._base = base
        #: Where it has sent what.
        self._tasks: dict[str, ComfyId] = {}
        self._lives = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._renew()),
        ]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.holder.name

    # -- what kernels do -------------------------------------------------------------------------

    async def call(self, method: str, path: str, body: Any = None) -> Answer:
        """Call the REST API with this holder's credential."""
        url = f"{self._base}comfy-lock/api/{path}"
        headers = {"Authorization": f"ComfyKernel {self.holder.credential}"}
        return await self._send(method, url, headers, body)

    async def comfy(self, method: str, path: str, body: Any = None) -> Answer:
        """Call ComfyUI through this holder's gateway."""
        url = f"{self._base}comfy-lock/gateway/{self.holder.gateway_key}/{path}"
        return await self._send(method, url, {}, body)

    async def ask(self, comfy_id: str, mode: str = "shared") -> Answer:
        """Ask for a lock, without waiting for it."""
        return await self.call("POST", "locks", {"comfy_id": comfy_id, "mode": mode, "wait": 0})

    async def lock(self, comfy_id: str) -> dict[str, Any]:
        """Take a place that was free a moment ago.

        Raises:
            CannotTry: somebody else has it by now.
            Broken: it is refused for another reason, or something else was taken.
        """
        answer = await self.ask(comfy_id)
        if answer.code in ("lock_refused", "comfy_closed"):
            msg = f"{comfy_id} was free, and is not any more"
            raise CannotTry(msg)
        if answer.status != 201:
            msg = f"{self.name} asked for {comfy_id}, which is free, and was answered {answer}"
            raise Broken(msg)
        lock: dict[str, Any] = answer.body["lock"]
        if (lock["comfy_id"], lock["holder_id"]) != (comfy_id, self.holder.holder_id):
            msg = (
                f"{self.name} asked for {comfy_id} and was given the lock of {lock['holder_id']} "
                f"on {lock['comfy_id']}"
            )
            raise Broken(msg)
        return lock

    async def locks(self) -> list[dict[str, Any]]:
        """Return what this holder is told that it holds."""
        answer = await self.call("GET", "locks")
        return list(answer.body["locks"])

    async def submit(self, prompt: dict[str, Any]) -> str:
        """Send a prompt; return the id of its task."""
        answer = await self.call("POST", "tasks", {"prompt": prompt})
        if answer.status != 201:
            msg = f"A tiny prompt of {self.name} was refused: {answer}"
            raise Broken(msg)
        task_id = str(answer.body["task_id"])
        self._tasks[task_id] = ComfyId(answer.body["comfy_id"])
        return task_id

    async def task(self, task_id: str) -> dict[str, Any]:
        """Return one of this holder's tasks."""
        answer = await self.call("GET", f"tasks/{task_id}")
        if answer.status != 200:
            msg = f"{self.name} is not told of its own task: {answer}"
            raise Broken(msg)
        return dict(answer.body)

    async def ended(self, task_id: str) -> dict[str, Any]:
        """Return a task when it has ended."""
        while (task := await self.task(task_id))["state"] not in ENDED:  # noqa: ASYNC110
            # Its events are not read: what a kernel is told when it asks is what is tried.
            await asyncio.sleep(_LOOK_EVERY_S)
        return task

    # -- the end ---------------------------------------------------------------------------------

    async def leave(self) -> str | None:
        """Leave as a kernel that ends does; return what is left of it, None for nothing."""
        for each in self._lives:
            each.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)
        await self._services.kernels.end(self.holder, "the self-test is over")
        left: list[str] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_LEAVES_IN_S):
                while left := await self._left():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_LOOK_EVERY_S)
        await self._forget_history()
        return ", ".join(left) or None

    async def _forget_history(self) -> None:
        """Take its prompts, which have ended, out of the histories of their ComfyServers."""
        while self._tasks:
            task_id, comfy_id = self._tasks.popitem()
            live = self._services.tasks.live(task_id)
            # An older ComfyUI gives it an id of its own.
            prompt_id = live.task.prompt_id if live else task_id
            with suppress(ComfyLockError):
                upstream = self._services.locks.upstream(comfy_id)
                await upstream.post("/history", {"delete": [prompt_id]})

    async def _left(self) -> list[str]:
        holder_id = self.holder.holder_id
        occupied = await self._services.locks.occupancy()
        tasks = await self._services.tasks.pending_everywhere()
        return [
            *(
                f"a lock on {lock.comfy_id}"
                for locks in occupied.locks.values()
                for lock in locks
                if lock.holder_id == holder_id
            ),
            *("a place in line" for x in occupied.waiters if x.holder_id == holder_id),
            *(f"task {x.task_id}" for x in tasks if x.holder_id == holder_id),
        ]

    # -- its life --------------------------------------------------------------------------------

    async def _send(self, method: str, url: str, headers: dict[str, str], body: Any) -> Answer:
        # As it is: a JupyterHub user's part of it may have characters that are quoted.
        where = URL(url, encoded=True)
        async with self._http.request(method, where, headers=headers, json=body) as response:
            read = await response.read()
            try:
                return Answer(response.status, json.loads(read))
            except ValueError:
                return Answer(response.status, read)

    async def _listen(self) -> None:
        """Keep its event stream open: without it an attached holder counts as gone."""
        url = f"{self._base}comfy-lock/api/events"
        headers = {"Authorization": f"ComfyKernel {self.holder.credential}"}
        async with self._http.get(URL(url, encoded=True), headers=headers) as response:
            async for _ in response.content.iter_any():
                pass

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._services.policy.renew_every_s)
            await self.call("PUT", "holders/me/lease")


async def new_actor(
    services: Services, http: "aiohttp.ClientSession", base: str, name: str
) -> Actor:
    """Return a new holder."""
    holder, _ = await services.kernels.hello_attached(
        f"attached-{uuid4()}", instance=str(uuid4()), name=name
    )
    return Actor(services, holder, http, base)
