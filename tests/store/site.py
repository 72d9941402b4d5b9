"""A store as Jupyter servers use it, in few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import uuid4

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.pool import Access, ComfyServer, Maintenance
from jupyter_comfy_lock.domain.request import Request
from jupyter_comfy_lock.domain.task import Outcome, Task, TaskState
from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import Grant, LockStore, Waiting
from jupyter_comfy_lock.store.machine import Machine
from jupyter_comfy_lock.store.maintenance import MaintenanceStore
from jupyter_comfy_lock.store.nodes import NodeStore
from jupyter_comfy_lock.store.tasks import TaskStore
from tests.domain.things import a_comfy, a_snapshot, a_task

TTL_S = 30.0
SHARED, EXCLUSIVE = Mode.SHARED, Mode.EXCLUSIVE
ONE, TWO, THREE = (a_comfy(f"gpu-{n}", capacity=2) for n in (1, 2, 3))


class TestClock(Clock):
    """Time that passes when a test says so."""

    __test__ = False

    def __init__(self) -> None:
        self.now_s = 100.0
        self.wall = 1_000_000.0

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall += seconds

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return round(self.wall * 1_000_000)

    def wall_s(self) -> float:
        return self.wall


class TestMachine(Machine):
    """A machine on which processes end when a test says so."""

    __test__ = False

    def __init__(self, host: str, pid: int, ended: set[tuple[str, int]]) -> None:
        self.host = host
        self.pid = pid
        self._ended = ended

    def has_ended(self, host: str, pid: int) -> bool:
        return host == self.host and (host, pid) in self._ended


class Site:
    """One database, and the Jupyter servers that use it by one connection."""

    def __init__(self, database: Database, clock: TestClock) -> None:
        self.database = database
        self.clock = clock
        self.locks = LockStore(database)
        self.tasks = TaskStore(database)
        self.maintenance = MaintenanceStore(database)
        #: Processes that have ended.
        self.ended: set[tuple[str, int]] = set()
        self._pids = count(1000)

    async def join(self, ttl_s: float = TTL_S, host: str | None = None) -> Node:
        """Start a Jupyter server, on a machine of its own unless `host` names one."""
        pid = next(self._pids)
        machine = TestMachine(host or f"host-{pid}", pid, self.ended)
        store = NodeStore(self.database, ttl_s=ttl_s, machine=machine)
        return Node(self, store, await store.join(), machine)

    def through(self, database: Database) -> Site:
        """The same site, by another connection."""
        return Site(database, self.clock)

    # -- what there is -----------------------------------------------------------------------

    async def held(self) -> list[tuple[str, str, str]]:
        """Who has what, in the order of fences."""
        return [(x.holder_id, x.comfy_id, x.mode.value) for x in await self.active("held")]

    async def active(self, state: str | None = None) -> list[Lock]:
        locks = (await self.locks.occupancy()).locks
        found = [lock for each in locks.values() for lock in each]
        return sorted((x for x in found if state in (None, x.state)), key=lambda x: x.fence)

    async def in_line(self) -> list[str]:
        """Who waits, in the order of tickets."""
        waiters = (await self.locks.occupancy()).waiters
        return [x.holder_id for x in sorted(waiters, key=lambda x: x.ticket)]

    async def set_access(
        self, comfy: ComfyServer, access: Access, node_id: str = "", why: str = ""
    ) -> list[Lock]:
        decided = Maintenance(access=access, by="op", why=why, since=self.clock.wall)
        return await self.maintenance.set_access(comfy.comfy_id, decided, node_id=node_id)

    async def release(self, holder: str, event: LockEvent = LockEvent.RELEASED) -> Lock | None:
        return await self.locks.release(HolderId(holder), event)

    async def end(self, task: Task, state: TaskState = TaskState.SUCCEEDED) -> bool:
        return await self.tasks.save(task.ended(Outcome(state=state), at=self.clock.wall))


@dataclass
class Node:
    """One Jupyter server."""

    site: Site
    store: NodeStore
    node_id: str
    machine: TestMachine

    def request(
        self,
        holder: str,
        *wants: ComfyServer,
        mode: Mode = SHARED,
        name: str = "",
        request_id: str | None = None,
    ) -> Request:
        return Request(
            lock_id=LockId(request_id or str(uuid4())),
            holder_id=HolderId(holder),
            node_id=self.node_id,
            mode=mode,
            wants=wants,
            name=name,
        )

    async def ask(
        self, holder: str, *wants: ComfyServer, wait: bool = False, **more: Any
    ) -> Grant | Waiting:
        return await self.site.locks.ask(self.request(holder, *wants, **more), wait=wait)

    async def take(self, holder: str, *wants: ComfyServer, **more: Any) -> Lock:
        """Have a lock at once."""
        found = await self.ask(holder, *wants, **more)
        assert isinstance(found, Grant)
        return found.lock

    async def wait(self, holder: str, *wants: ComfyServer, **more: Any) -> LockId:
        """Stand in line."""
        found = await self.ask(holder, *wants, wait=True, **more)
        assert isinstance(found, Waiting)
        return found.waiter.lock_id

    async def task(self, lock: Lock, task_id: str = "t1", **more: Any) -> Task:
        task = task_of(lock, task_id, **more)
        await self.site.tasks.register(task)
        return task

    async def renew(self) -> frozenset[LockId]:
        return await self.store.renew(self.node_id)

    async def expire(self) -> tuple[list[str], list[str]]:
        """The holders whose locks this ends, and the tasks that are this node's now."""
        found = await self.store.expire(self.node_id)
        return [x.holder_id for x in found.locks], [x.task_id for x in found.tasks]

    async def leave(self) -> None:
        await self.store.leave(self.node_id)


def task_of(lock: Lock, task_id: str = "t1", **more: Any) -> Task:
    snapshot = a_snapshot(lock.holder_id, lock.comfy_id, lock.fence)
    return a_task(
        task_id, **{"holder_id": lock.holder_id, "node_id": lock.node_id, "lock": snapshot, **more}
    )


def fences(locks: Sequence[Lock]) -> list[int]:
    return [each.fence for each in locks]


def comfy_ids(*servers: ComfyServer) -> list[ComfyId]:
    return [each.comfy_id for each in servers]
