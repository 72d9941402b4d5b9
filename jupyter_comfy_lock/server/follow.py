"""Polling: what makes the tasks' states true whatever becomes of the sockets (R9)."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from logging import Logger

from jupyter_comfy_lock.domain.comfy import outcome
from jupyter_comfy_lock.domain.errors import ComfyLockError, StoreUnavailable
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.task import Outcome, TaskState
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.live import LiveTask
from jupyter_comfy_lock.server.tasks import TaskService
from jupyter_comfy_lock.server.upstream import Upstream

#: Seconds between two looks at a ComfyServer with pending tasks.
_LOOK_EVERY_S = 1.5
#: Seconds between two looks while there are tasks whose end was asked for.
_LOOK_AT_CANCELLED_EVERY_S = 0.3
#: Seconds between two looks when each is asked for by news.
_LOOK_AT_MOST_EVERY_S = 0.2
#: A task in neither queue nor history for this long is lost.
_ABSENT_S = 1.0
#: The tasks of a ComfyServer that does not answer for this long are lost.
_SILENT_S = 60.0


class Follower:
    """Looks at each ComfyServer that has pending tasks, again and again."""

    def __init__(
        self, tasks: TaskService, upstreams: Mapping[ComfyId, Upstream], log: Logger
    ) -> None:
        self._tasks = tasks
        self._upstreams = upstreams
        self._log = log
        self._silent_since_s: dict[ComfyId, float] = {}
        self._following = Background(self._follow_for_ever)

    def start(self) -> None:
        """Begin to look."""
        self._following.start()

    async def stop(self) -> None:
        """Look no more."""
        await self._following.stop()

    async def look(self) -> None:
        """Look once at each ComfyServer that has pending tasks."""
        homes: dict[ComfyId, list[LiveTask]] = {}
        for live in await self._tasks.to_follow():
            # One that is just being sent may be missing without being lost.
            if live.sent:
                homes.setdefault(live.task.comfy_id, []).append(live)
        await asyncio.gather(*(self._look_home(*each) for each in homes.items()))

    async def _follow_for_ever(self) -> None:
        while True:
            # No news comes of the end of a cancelled task when its holder's socket is closed.
            cancelling = any(live.task.cancel_requested for live in self._tasks.pending())
            wait_s = _LOOK_AT_CANCELLED_EVERY_S if cancelling else _LOOK_EVERY_S
            # Not `wait_for`: before Python 3.12 it may swallow the cancellation that ends this.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._tasks.look_now.wait()
            self._tasks.look_now.clear()
            try:
                await self._tasks.settle()
                await self.look()
            except Exception:  # noqa: BLE001 - logged; what follows tasks must not end
                self._log.exception("Could not look after tasks")
            await asyncio.sleep(_LOOK_AT_MOST_EVERY_S)

    async def _look_home(self, comfy_id: ComfyId, lives: list[LiveTask]) -> None:
        upstream = self._upstreams.get(comfy_id)
        at_home = [live for live in lives if upstream and upstream.comfy.url == live.task.lock.url]
        if upstream is not None and at_home:
            await self._look_at(upstream, at_home)
        for live in lives:
            if live not in at_home:
                # Taken over from a Jupyter server that had another pool.
                url = live.task.lock.url
                why = f"ComfyServer {comfy_id!r} at {url} is no longer in the pool"
                await self._tasks.end(live, Outcome(state=TaskState.LOST, reason=why))

    async def _look_at(self, upstream: Upstream, lives: list[LiveTask]) -> None:
        comfy_id = upstream.comfy.comfy_id
        try:
            # Queue first, then history: a prompt moves from one to the other in one step, so
            # that one which ends in between is found in the second.
            await self._name(upstream, lives)
            running, waiting = await upstream.queue()
            for live in lives:
                await self._place(upstream, live, running, waiting)
        except StoreUnavailable as error:
            self._log.warning("Cannot look after tasks on %s: %s", comfy_id, error.message)
        except ComfyLockError as error:
            # Also one that refuses us or is no ComfyUI any more: each wait must have an end.
            await self._silent(comfy_id, lives, error)
        else:
            self._silent_since_s.pop(comfy_id, None)

    async def _name(self, upstream: Upstream, lives: list[LiveTask]) -> None:
        """Find out what the prompts are called whose answers were lost."""
        takes_ids = (await upstream.abilities()).takes_ids
        for live in lives:
            if live.task.given_id is None and not takes_ids:
                found = await upstream.find(live.task.task_id)
                await self._tasks.called(live, found or live.task.task_id)

    async def _place(
        self, upstream: Upstream, live: LiveTask, running: list[str], waiting: list[str]
    ) -> None:
        prompt_id = live.task.prompt_id
        if prompt_id in running or prompt_id in waiting:
            live.absent_since_s = None
            if prompt_id in running:
                self._tasks.move(live, TaskState.RUNNING)
            elif live.task.state is not TaskState.RUNNING:
                self._tasks.move(live, TaskState.QUEUED)
                if not live.task.cancel_requested:
                    await self._count(live, running + waiting)
            if live.task.cancel_requested:
                await self._tasks.insist(live)
            return
        entry = await upstream.history(prompt_id)
        if entry is not None:
            await self._tasks.end(live, outcome(entry))
        elif live.task.pending and not live.finishing:
            await self._absent(upstream, live)

    async def _count(self, live: LiveTask, queue: list[str]) -> None:
        before = queue[: queue.index(live.task.prompt_id)]
        mine = (await self._tasks.belongings(live.task.holder_id)).ids
        ahead = (len(before), sum(each in mine for each in before))
        if ahead != live.ahead:
            live.ahead = ahead
            self._tasks.told(live)

    async def _absent(self, upstream: Upstream, live: LiveTask) -> None:
        if live.task.cancel_requested:
            await self._tasks.end(live, Outcome(state=TaskState.CANCELLED))
            return
        now_s = time.monotonic()
        if live.absent_since_s is None:
            live.absent_since_s = now_s
        if now_s - live.absent_since_s < _ABSENT_S:
            return
        comfy_id = upstream.comfy.comfy_id
        restarted = upstream.status.epoch > live.task.lock.epoch
        why = (
            f"ComfyServer {comfy_id!r} was restarted, which emptied its queue"
            if restarted
            else f"ComfyServer {comfy_id!r} does not know it any more: it was restarted, or "
            "somebody emptied its queue or history"
        )
        await self._tasks.end(live, Outcome(state=TaskState.LOST, reason=why))

    async def _silent(
        self, comfy_id: ComfyId, lives: list[LiveTask], error: ComfyLockError
    ) -> None:
        since_s = self._silent_since_s.setdefault(comfy_id, time.monotonic())
        if time.monotonic() - since_s < _SILENT_S:
            return
        why = f"ComfyServer {comfy_id!r} has not answered for {_SILENT_S:.0f} s: {error.message}"
        for live in lives:
            await self._tasks.end(live, Outcome(state=TaskState.LOST, reason=why))
