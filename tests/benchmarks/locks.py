"""What locks cost, on each database, beside one committed write in the same database.

    python -m tests.benchmarks.locks [sqlite|postgresql] [COUNT]

Every figure is measured in turn with its baseline, so that noise falls on both: acquire + release
beside one committed write; the same with 1,000 holders, 100 ComfyServers and 10,000 tasks present
beside 10, 2 and 100; the renewal of a node that keeps 10,000 locks beside one that keeps 10;
listing 1,000 locks and 10,000 tasks; what has changed since a revision; 64 clients at once; how
long a waiter takes to hear of its turn; how long others wait when one Jupyter server's event loop
stands still. PostgreSQL is a real one of its own, with fsync.
"""

import asyncio
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Column, Integer, MetaData, Table, insert, update

from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.outcome import Grant
from jupyter_comfy_lock.domain.pool import ComfyServer, ComfyStatus, comfy_to_json
from jupyter_comfy_lock.domain.request import Request
from jupyter_comfy_lock.domain.task import LockSnapshot, Task, TaskId, TaskState
from jupyter_comfy_lock.store import schema
from jupyter_comfy_lock.store.place import store_place
from jupyter_comfy_lock.store.rows import task_columns
from jupyter_comfy_lock.store.stores import Stores, open_stores
from tests.benchmarks.figures import in_turn, percentile
from tests.postgres import Postgres

#: A table of one row: the least that a committed write can be.
BARE = Table(
    "bare_write",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("value", Integer, nullable=False),
)


def comfy(number: int, capacity: int = 1000) -> ComfyServer:
    comfy_id = ComfyId(f"gpu-{number}")
    return ComfyServer(comfy_id=comfy_id, url=f"http://{comfy_id}:8188", capacity=capacity)


class Bench:
    """One node on one database."""

    def __init__(self, setting: str) -> None:
        self.setting = setting
        self.stores = self.open()
        self.node_id = ""

    def open(self) -> Stores:
        place = store_place(self.setting, Path(tempfile.gettempdir()))
        return open_stores(place, ttl_s=3600.0)

    async def start(self) -> None:
        self.node_id = await self.stores.nodes.join()

        def prepare(c):  # type: ignore[no-untyped-def]
            BARE.create(c)
            c.execute(insert(BARE), {"id": 1, "value": 0})

        await self.stores.database.run(prepare)
        self._write = update(BARE).values(value=BARE.c.value + 1)

    async def bare(self) -> None:
        await self.stores.database.run(lambda c: c.execute(self._write))

    async def lock(
        self, holder: str, server: ComfyServer, mode: Mode = Mode.SHARED, *, wait: bool = False
    ) -> object:
        request = Request(
            lock_id=LockId(str(uuid4())),
            holder_id=HolderId(holder),
            node_id=self.node_id,
            mode=mode,
            wants=[server],
            name=f"{holder}.ipynb",
        )
        return await self.stores.locks.ask(request, wait=wait)

    async def release(self, holder: str) -> None:
        await self.stores.locks.release(HolderId(holder), LockEvent.RELEASED)

    async def pair(self) -> None:
        await self.lock("bench.1", comfy(0))
        await self.release("bench.1")

    async def fill(self, *, holders: int, servers: int, tasks: int, node_id: str) -> None:
        """Make rows as they are left by so many holders, quickly."""
        rows = [self._lock_row(number, number % servers, node_id) for number in range(holders)]
        records = [task_columns(self._task(number, servers)) for number in range(tasks)]

        def work(c):  # type: ignore[no-untyped-def]
            if rows:
                c.execute(insert(schema.locks), rows)
            if records:
                c.execute(insert(schema.tasks), records)

        await self.stores.database.run(work)

    def _lock_row(self, number: int, server: int, node_id: str) -> dict[str, object]:
        return {
            "lock_id": str(uuid4()),
            "holder_id": f"{node_id}-{number}.1",
            "node_id": node_id,
            "name": f"{number}.ipynb",
            "mode": "shared",
            "state": "held",
            "ticket": number + 1,
            "fence": self._fence(),
            "comfy_id": f"gpu-{server}",
            "url": f"http://gpu-{server}:8188",
            "granted_at": 1.0,
            "requested_at": 1.0,
            "rev": 1,
        }

    _last_fence = 0

    def _fence(self) -> int:
        Bench._last_fence += 1
        return Bench._last_fence

    def _task(self, number: int, servers: int) -> Task:
        comfy_id, holder = ComfyId(f"gpu-{number % servers}"), HolderId(f"old-{number % 97}.1")
        return Task(
            task_id=TaskId(str(uuid4())),
            holder_id=holder,
            node_id="old",
            lock=LockSnapshot(
                comfy_id=comfy_id,
                url=f"http://{comfy_id}:8188",
                epoch=1,
                fence=number,
                mode=Mode.SHARED,
                client_id="c",
                holder_id=holder,
                at=1.0,
            ),
            state=TaskState.SUCCEEDED,
            created_at=float(number),
            ended_at=float(number) + 1,
        )


def shown(name: str, seconds: list[float], base: list[float] | None = None) -> None:
    p50, p99 = percentile(seconds, 50), percentile(seconds, 99)
    ratio = f"   {p50 / percentile(base, 50):5.2f} x its baseline's p50" if base else ""
    print(f"{name:<58} p50 {p50 * 1000:8.2f} ms   p99 {p99 * 1000:8.2f} ms{ratio}", flush=True)


async def compare_sizes(small: Bench, large: Bench, count: int) -> None:
    written, few, many = await in_turn(count, small.bare, small.pair, large.pair)
    shown("one committed write", written)
    shown("acquire + release; 10 holders, 2 servers, 100 tasks", few, written)
    shown("acquire + release; 1,000 holders, 100 servers, 10,000 tasks", many, few)


async def renewals(small: Bench, large: Bench, count: int) -> None:
    few_locks = await small.stores.nodes.join()
    await small.fill(holders=10, servers=2, tasks=0, node_id=few_locks)
    many_locks = await large.stores.nodes.join()
    await large.fill(holders=10_000, servers=100, tasks=0, node_id=many_locks)
    known = [await kept(small, few_locks), await kept(large, many_locks)]
    ten, ten_thousand = await in_turn(
        count,
        lambda: small.stores.nodes.renew(few_locks, known[0]),
        lambda: large.stores.nodes.renew(many_locks, known[1]),
    )
    shown("renew a node that keeps 10 locks", ten)
    shown("renew a node that keeps 10,000 locks", ten_thousand, ten)


async def kept(bench: Bench, node_id: str) -> list[Lock]:
    occupied = await bench.stores.locks.occupancy()
    locks = [lock for each in occupied.locks.values() for lock in each]
    return [lock for lock in locks if lock.node_id == node_id]


async def lists(large: Bench, count: int) -> None:
    async def everything() -> None:
        occupied = await large.stores.locks.occupancy()
        tasks = await large.stores.tasks.newest(None, limit=10_000)
        servers = [comfy_to_json(comfy(n), ComfyStatus(), occupied, None) for n in range(100)]
        json.dumps([servers, [task.lock.to_json() for task in tasks]])

    (listed,) = await in_turn(max(10, count // 10), everything)
    shown("list 1,000 locks and 10,000 tasks, as JSON", listed)
    rev = (await large.stores.locks.news(large.node_id, 0)).rev
    holders = [f"news-{number}.1" for number in range(99)]
    for holder in holders:
        await large.lock(holder, comfy(3))
    (news,) = await in_turn(count, lambda: large.stores.locks.news(large.node_id, rev))
    shown("what has changed since a revision, 99 locks", news)
    for holder in holders:
        await large.release(holder)


async def many_clients(setting: str, count: int) -> None:
    """64 clients in 4 nodes, each with a ComfyServer of its own, none of them ever resting."""
    nodes = [Bench(setting) for _ in range(4)]
    for node in nodes:
        node.node_id = await node.stores.nodes.join()
    times: list[float] = []

    async def client(number: int) -> None:
        node, server = nodes[number % 4], comfy(1000 + number, 1)
        for _ in range(max(3, count // 20)):
            start = time.perf_counter()
            await node.lock(f"client-{number}.1", server, Mode.EXCLUSIVE)
            await node.release(f"client-{number}.1")
            times.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*map(client, range(64)))
    seconds = time.perf_counter() - start
    shown(f"64 clients at once: {len(times) / seconds:.0f} pairs/s", times)
    for node in nodes:
        await node.stores.database.close()


async def wake(setting: str, count: int) -> None:
    """From the release on one node to the waiter on another one that has heard of its turn."""
    one, other = Bench(setting), Bench(setting)
    for node in (one, other):
        node.node_id = await node.stores.nodes.join()
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    unwatch = other.stores.database.backend.begin_to_watch(
        lambda: loop.call_soon_threadsafe(changed.set)
    )
    server, times = comfy(2000, 1), []
    await changed.wait()
    for _ in range(max(10, count // 4)):
        await one.lock("before.1", server, Mode.EXCLUSIVE)
        asked = await other.lock("after.1", server, Mode.EXCLUSIVE, wait=True)
        assert not isinstance(asked, Grant)
        changed.clear()
        start = time.perf_counter()
        await one.release("before.1")
        while not isinstance(await _mine(other, asked.waiter.lock_id), Lock):  # type: ignore[attr-defined]
            await changed.wait()
            changed.clear()
        times.append(time.perf_counter() - start)
        await other.release("after.1")
    unwatch()
    shown("a waiter on another node hears of its turn", times)
    for node in (one, other):
        await node.stores.database.close()


async def _mine(node: Bench, lock_id: LockId) -> Lock | None:
    outcome = await node.stores.locks.outcome(lock_id)
    return outcome.lock if isinstance(outcome, Grant) else None


async def stalled(setting: str, count: int) -> None:
    """Another node's event loop is blocked again and again, in the middle of its transactions."""
    bench = Bench(setting)
    bench.node_id = await bench.stores.nodes.join()
    stop = threading.Event()

    def blocks() -> None:
        async def work() -> None:
            node = Bench(setting)
            node.node_id = await node.stores.nodes.join()
            while not stop.is_set():
                asking = asyncio.ensure_future(node.lock("stalled.1", comfy(3000)))
                await asyncio.sleep(0)
                time.sleep(0.5)  # noqa: ASYNC251 - this is what is measured
                await asking
                await node.release("stalled.1")
            await node.stores.database.close()

        asyncio.run(work())

    thread = threading.Thread(target=blocks)
    thread.start()
    (times,) = await in_turn(count, bench.pair)
    stop.set()
    await asyncio.to_thread(thread.join)
    shown(f"beside a loop that stalls: worst {max(times) * 1000:.0f} ms", times)
    await bench.stores.database.close()


async def measure(small: str, large: str, count: int) -> None:
    few, many = Bench(small), Bench(large)
    await few.start()
    await many.start()
    await few.fill(holders=10, servers=2, tasks=100, node_id=await few.stores.nodes.join())
    await many.fill(holders=1000, servers=100, tasks=10_000, node_id=await many.stores.nodes.join())
    await compare_sizes(few, many, count)
    await lists(many, count)
    await renewals(few, many, count)
    for bench in (few, many):
        await bench.stores.database.close()
    await many_clients(small, count)
    await wake(small, count)
    await stalled(small, count)


def main() -> None:
    kinds = [each for each in sys.argv[1:] if not each.isdigit()] or ["sqlite", "postgresql"]
    count = next((int(each) for each in sys.argv[1:] if each.isdigit()), 300)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for kind in kinds:
            print(f"{kind}, {count} rounds")
            if kind == "sqlite":
                small, large = f"{folder}/small.sqlite", f"{folder}/large.sqlite"
            else:
                server = stack.enter_context(Postgres(fsync=True))
                small, large = server.fresh_database(), server.fresh_database()
            asyncio.run(measure(small, large, count))


if __name__ == "__main__":
    main()
