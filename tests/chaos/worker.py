"""One Jupyter server's lock service, with holders that do random things, in a process of its own.

The stores and services are the real ones, put together by `server.app`; the ComfyServers
are always well and idle. Whoever started it tells it by a pipe what is to go wrong.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import logging
import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection as Pipe
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import Pool

from jupyter_comfy_lock.domain.config import lease_policy
from jupyter_comfy_lock.domain.errors import ComfyLockError, NoLock, StaleLock
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent, LockId, Mode
from jupyter_comfy_lock.domain.outcome import Expired
from jupyter_comfy_lock.domain.pool import ComfyServer, ComfyStatus, Health
from jupyter_comfy_lock.server.acquire import Acquirer
from jupyter_comfy_lock.server.app import ComfyLock
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.keeper import LockKeeper
from jupyter_comfy_lock.server.lease import NodeLease
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.upstream import Upstream
from jupyter_comfy_lock.server.wish import Wish
from jupyter_comfy_lock.store.clock import Clock
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.locks import LockStore
from jupyter_comfy_lock.store.machine import Machine
from jupyter_comfy_lock.store.maintenance import MaintenanceStore
from jupyter_comfy_lock.store.nodes import NodeStore
from jupyter_comfy_lock.store.place import store_place
from jupyter_comfy_lock.store.stores import Stores, backend_at
from jupyter_comfy_lock.store.tasks import TaskStore
from jupyter_comfy_lock.store.uploads import UploadStore
from tests.chaos.history import History, S, now
from tests.chaos.setup import POOL, WIDE, Setup

#: What a worker counts, it tells so often, in seconds.
_TELL_EVERY_S = 0.5


class SteppedClock(Clock):
    """A clock of which somebody sets the wall."""

    offset_s = 0.0

    def wall_us(self) -> int:
        return super().wall_us() + round(self.offset_s * 1e6)

    def wall_s(self) -> float:
        return super().wall_s() + self.offset_s


class OtherMachine(Machine):
    """A machine of its own: nobody else sees its processes."""

    def __init__(self) -> None:
        super().__init__()
        self.host = f"machine of {uuid4()}"


class Counted:
    """A store, whose calls are counted."""

    def __init__(self, store: object, counts: Counter[str]) -> None:
        self._store = store
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def counted(*args: Any, **more: Any) -> Any:
            self._counts[name] += 1
            return await found(*args, **more)

        setattr(self, name, counted)
        return counted


class WatchedNodes(NodeStore):
    """Writes down from when on each lease is counted, so that others can count too."""

    history: History

    async def join(self) -> str:
        before = now()
        node_id = await super().join()
        self.history.write("joined", node=node_id, before=before)
        return node_id

    async def renew(self, node_id: str, known: Collection[Lock] = ()) -> frozenset[LockId]:
        before = now()
        kept = await super().renew(node_id, known)
        self.history.write("renewed", node=node_id, before=before)
        return kept

    async def expire(self, node_id: str) -> Expired:
        before = now()
        expired = await super().expire(node_id)
        self.history.write("looked", node=node_id, before=before)
        return expired


class QuietComfy(Upstream):
    """A ComfyServer that is well and has nothing to do, and takes a moment to say so."""

    def __init__(self, comfy: ComfyServer, dice: random.Random) -> None:
        super().__init__(comfy, None)  # type: ignore[arg-type]
        self.status = ComfyStatus(health=Health.OK, version="0.3.75", queue_remaining=0)
        self._dice = dice

    async def look(self) -> ComfyStatus:
        self.looked_s = time.monotonic()
        await asyncio.sleep(self._dice.choice([0, 0, 0.002]))
        return self.status

    async def get(self, path: str, **params: str) -> dict[str, Any]:
        await asyncio.sleep(self._dice.choice([0, 0.001, 0.01]))
        return {"queue_running": [], "queue_pending": []}


class NoEmitter:
    """Nobody listens to events."""

    def emit(self, *, schema_id: str, data: dict[str, Any]) -> None:
        pass


class BrokenLog(logging.Handler):
    """Writes down the errors that the services only log because nobody can be told."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.ERROR)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            text = logging.Formatter().format(record)
            self._history.write("broken", text=text)


class Trap:
    """Stops or ends this process at a place in a transaction, when it is told to.

    A place is a method of a store, a statement of it, and whether it was done already; so is the
    COMMIT. Listens to every engine of the process.
    """

    def __init__(self, spring: Callable[[str], None]) -> None:
        self._spring = spring
        #: Places at which it does not spring, because that was tried before; None: it is not set.
        self.tried: frozenset[str] | None = None
        #: All that it has come by.
        self.seen: set[str] = set()
        self._work = ""
        self._counts: Counter[str] = Counter()
        self._statement = ""
        event.listen(Engine, "begin", self._begin)
        event.listen(Engine, "before_cursor_execute", self._before)
        event.listen(Engine, "after_cursor_execute", self._after)
        event.listen(Engine, "commit", lambda _: self._reach("before COMMIT"))
        event.listen(Engine, "rollback", lambda _: self._reach("before ROLLBACK"))
        event.listen(Pool, "checkin", lambda *_: self._reach("at the end"))

    def _begin(self, _: Connection) -> None:
        self._work = _work()
        self._counts.clear()
        self._reach("at the beginning")

    def _before(self, _: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        what = _in_short(statement)
        self._counts[what] += 1
        self._statement = f"{what} {min(self._counts[what], 3)}"
        self._reach(f"before {self._statement}")

    def _after(self, *_: Any) -> None:
        self._reach(f"after {self._statement}")

    def _reach(self, where: str) -> None:
        place = f"{self._work} {where}"
        self.seen.add(place)
        if self.tried is not None and place not in self.tried:
            self.tried = None
            self._spring(place)


@cache
def _in_short(statement: str) -> str:
    found = re.search(r"\b(?:FROM|INTO|UPDATE|BEGIN)\s+(\w+)", statement)
    return f"{statement.split(None, 1)[0]} {found[1] if found else ''}"


def _work() -> str:
    """The method of a store whose transaction begins."""
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_once":
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return "open"
    work = frame.f_locals["work"]
    while work.__qualname__.startswith("_"):
        # What may be done twice is within another function.
        work = inspect.getclosurevars(work).nonlocals["work"]
    return str(work.__qualname__).split(".<locals>")[0]


class Node:
    """The lock service, and who uses it."""

    def __init__(self, setup: Setup, pipe: Pipe) -> None:
        self.setup = setup
        self._pipe = pipe
        name = f"{setup.number}-{setup.life}"
        self.history = History(
            setup.folder / f"worker-{name}.jsonl", w=setup.number, pid=os.getpid()
        )
        self.dice = random.Random(f"{setup.seed} {name}")
        self.counts: Counter[str] = Counter()
        self.trap = Trap(self._spring)
        self._how = signal.SIGKILL
        self._stop_in_use = False
        self._calls = 0
        self._stale: dict[HolderId, str] = {}
        self.clock = SteppedClock()
        self.clock.offset_s = setup.clock_offset_s
        self.ending = asyncio.Event()
        self._leaving = asyncio.Event()
        self.here: set[HolderId] = set()
        self._wire()

    def _wire(self) -> None:
        setup = self.setup
        log = logging.getLogger("chaos")
        log.addHandler(BrokenLog(self.history))
        backend = backend_at(store_place(setup.store, setup.folder))
        self.database = Database(backend, self.clock if setup.own_clock else None)
        machine = Machine() if setup.on_this_machine else OtherMachine()
        nodes = WatchedNodes(self.database, ttl_s=setup.ttl_s, machine=machine)
        nodes.history = self.history
        store: Any = Counted(LockStore(self.database), self.counts)
        counted_nodes: Any = Counted(nodes, self.counts)
        maintenance: Any = Counted(MaintenanceStore(self.database), self.counts)
        upstreams = {comfy.comfy_id: QuietComfy(comfy, self.dice) for comfy in POOL}
        app: Any = SimpleNamespace(
            _stores=Stores(
                database=self.database,
                locks=store,
                nodes=counted_nodes,
                tasks=TaskStore(self.database),
                maintenance=maintenance,
                uploads=UploadStore(self.database),
            ),
            _upstreams=upstreams,
            policy=lease_policy(setup.ttl_s),
            log=log,
        )
        ComfyLock._wire_locks(app, NoEmitter())
        self.held: HeldLocks = app._held
        self.lease: NodeLease = self.held._lease
        self.keeper: LockKeeper = app._keeper
        self.acquirer: Acquirer = app._acquirer
        self.locks: LockService = app._locks
        self.acquirer.is_here = self.here.__contains__
        if setup.without_guard:
            guarded = self.held.check
            self.held.check = (  # type: ignore[method-assign]
                lambda holder_id, name: self.held.by(holder_id) or guarded(holder_id, name)
            )
        self.held.on_change = self._changed

    async def run(self) -> None:
        """Do random things until told to end, let go of everything, and leave when told to."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._told)
        await self.keeper.start()
        holders = [Someone(self, number) for number in range(self.setup.holders)]
        using = [asyncio.create_task(each.use_for_ever()) for each in holders]
        telling = asyncio.create_task(self._tell_for_ever())
        await asyncio.gather(*(each.live() for each in holders))
        for task in using:
            task.cancel()
        self._tell("finished")
        await self._leaving.wait()
        telling.cancel()
        await self.keeper.stop()
        await self.database.close()
        self._tell_counts()
        self.history.write("left", places=sorted(self.trap.seen))

    def use(self, holder_id: HolderId) -> bool:
        """Do what the gateway does: check, and forward at once; whether anything went out."""
        began = now()
        # Before the check: what it lets pass goes out a moment after it.
        left_s = self.lease._deadline_s - self.lease._clock_s()
        try:
            lock = self.held.check(holder_id, "")
        except NoLock:
            return False
        except StaleLock as error:
            if self._stale.get(holder_id) != error.message:
                self._stale[holder_id] = error.message
                self.history.write("stale", holder=holder_id, why=error.message)
            return False
        if self._stop_in_use:
            self._stop_in_use = False
            self._stop("in a use")
        self.history.use(
            began,
            holder=holder_id,
            comfy=lock.comfy_id,
            fence=lock.fence,
            mode=lock.mode.value,
            lock=lock.lock_id,
            left=round(left_s, 6),
        )
        return True

    async def called(self, what: str, holder_id: HolderId, work: Awaitable[Lock | None]) -> None:
        """Note a call, and that it returned."""
        call = self.next_call()
        self.history.write("call", call=call, name=what, holder=holder_id)
        answer = "none"
        try:
            lock = await work
            answer = lock.lock_id if lock is not None else "none"
        except ComfyLockError as error:
            answer = error.code
        finally:
            self.history.write("returned", call=call, answer=answer)

    def next_call(self) -> str:
        self._calls += 1
        return f"{os.getpid()}-{self._calls}"

    def _changed(self, holder_id: HolderId, lock: Lock | None, why: str | None) -> None:
        if lock is None and why is not None:
            self.history.write("lost", holder=holder_id, why=why)

    # -- what goes wrong ---------------------------------------------------------------------

    def _told(self) -> None:
        try:
            what, *more = self._pipe.recv()
        except (EOFError, OSError):
            # Whoever started this is gone.
            os._exit(1)
        match what:
            case "trap":
                self._how, tried = more
                self.trap.tried = tried
            case "stop in use":
                self._stop_in_use = True
            case "block":
                time.sleep(more[0])
                self.history.write("hindered", since=now() - round(more[0] * S))
            case "clock":
                self.clock.offset_s = more[0]
            case "end":
                self.ending.set()
            case "leave":
                self._leaving.set()

    def _spring(self, place: str) -> None:
        if self._how is signal.SIGSTOP:
            self._stop(place)
        else:
            self._tell("dies", place)
            os.kill(os.getpid(), signal.SIGKILL)

    def _stop(self, place: str) -> None:
        self.history.write("stop", place=place)
        self._tell("stopped", place)
        os.kill(os.getpid(), signal.SIGSTOP)

    def _tell(self, *message: Any) -> None:
        with suppress(OSError):
            self._pipe.send(message)

    def _tell_counts(self) -> None:
        self.history.write("counts", operations=dict(self.counts))
        self._tell("counts", self.counts.total())

    async def _tell_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            self._tell_counts()


class Someone:
    """A holder that does random things; when it ends, another one comes in its place."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._number = number
        self._dice = random.Random(f"{node.dice.random()} {number}")
        self._lives = 0
        self._request_id = LockId("")
        self._arrive()

    def _arrive(self) -> None:
        setup = self._node.setup
        # Kernels whose Jupyter server was killed are the same ones when it is started again.
        kernel = f"w{setup.number}k{self._number}"
        again = self._number % 2 == 0 and self._lives == 0
        self.holder_id = HolderId(kernel if again else f"{kernel}.{setup.life}.{self._lives}")
        self._lives += 1
        self._node.here.add(self.holder_id)

    async def live(self) -> None:
        """Do random things until all end, then end."""
        while not self._node.ending.is_set():
            has = self._node.held.by(self.holder_id) is not None
            pause_s = self._node.setup.pause_s * (0.2 if has else 1)
            await asyncio.sleep(self._dice.expovariate(1 / pause_s))
            await self._do(self._choose())
        await self._end(come_again=False)

    async def use_for_ever(self) -> None:
        """Forward something again and again, also while something else is going on."""
        went_out = False
        while True:
            every_s = self._node.setup.use_every_s * (1 if went_out else 2)
            await asyncio.sleep(self._dice.expovariate(1 / every_s))
            went_out = self._node.use(self.holder_id)

    def _choose(self) -> str:
        if self._node.held.by(self.holder_id) is None:
            things = {"named": 10, "best": 3, "release": 0.3, "end": 0.3}
        else:
            things = {"nothing": 1, "release": 5, "other mode": 2, "named": 1, "best": 0.5}
            things |= {"end": 0.5, "withdraw": 0.3, "again": 0.3, "force": 0.1}
        return self._dice.choices(list(things), list(things.values()))[0]

    async def _do(self, thing: str) -> None:
        locks, mine = self._node.locks, self.holder_id
        match thing:
            case "named":
                await self._lock(self._dice.choice(POOL).comfy_id, self._any_mode())
            case "best":
                await self._lock(None, self._any_mode())
            case "other mode":
                lock = self._node.held.by(mine)
                if lock is not None:
                    other = {Mode.SHARED: Mode.EXCLUSIVE, Mode.EXCLUSIVE: Mode.SHARED}
                    await self._lock(lock.comfy_id, other[lock.mode])
            case "again":
                lock = self._node.held.by(mine)
                if lock is not None:
                    await self._lock(lock.comfy_id, lock.mode)
            case "release":
                await self._call("release", locks.release(mine, LockEvent.RELEASED))
            case "withdraw":
                await self._call("withdraw", locks.withdraw(mine, self._request_id))
            case "end":
                await self._end()
            case "force":
                await self._force()

    async def _lock(self, comfy_id: ComfyId | None, mode: Mode) -> None:
        """Ask, and wait more or less long; sometimes go away, or end, in the middle."""
        waits: list[float | None] = [0, self._dice.uniform(0.01, 0.4), self._dice.uniform(1, 5)]
        # Who has something and waits for something else has others wait as well.
        has = self._node.held.by(self.holder_id) is not None
        often = [4, 3, 0.3, 0.1] if has else [4, 2, 2, 0.5]
        wait_s = self._dice.choices([*waits, None], often)[0]
        self._request_id = LockId(str(uuid4()))
        wish = Wish(
            holder_id=self.holder_id,
            name=self.holder_id,
            comfy_id=comfy_id,
            mode=mode,
            wait_s=wait_s,
            labels=WIDE if comfy_id is None and self._dice.random() < 0.3 else frozenset(),
            request_id=self._request_id,
        )
        asking = asyncio.create_task(self._ask(wish))
        meanwhile = self._dice.choices(
            ["nothing", "cancel", "withdraw", "end", "release", "other mode", "named"],
            [70, 15, 4, 3, 3, 2, 2],
        )[0]
        if meanwhile != "nothing":
            soon_s = self._dice.choice([0.002, 0.02, 0.2, 1.0])
            await asyncio.wait({asking}, timeout=self._dice.expovariate(1 / soon_s))
            if meanwhile == "cancel":
                asking.cancel()
            else:
                await self._do(meanwhile)
        with suppress(asyncio.CancelledError):
            await asking

    async def _ask(self, wish: Wish) -> None:
        history, call = self._node.history, self._node.next_call()
        wanted = [
            comfy.comfy_id
            for comfy in POOL
            if wish.comfy_id in (None, comfy.comfy_id) and wish.labels <= comfy.labels
        ]
        history.write(
            "ask",
            call=call,
            request=wish.request_id,
            holder=wish.holder_id,
            wants=wanted,
            mode=wish.mode.value,
            wait=wish.wait_s,
        )
        waiting = False

        def moved(_: dict[str, Any]) -> None:
            nonlocal waiting
            if not waiting:
                history.write("waiting", request=wish.request_id)
            waiting = True

        try:
            lock = (await self._node.acquirer.acquire(wish, moved)).lock
        except ComfyLockError as error:
            history.write("refused", call=call, code=error.code, why=error.message)
        except asyncio.CancelledError:
            history.write("refused", call=call, code="cancelled")
            raise
        except BaseException as error:
            history.write("refused", call=call, code="broken")
            history.write("broken", text=f"{type(error).__name__}: {error}")
            raise
        else:
            history.write(
                "granted",
                call=call,
                lock=lock.lock_id,
                holder=lock.holder_id,
                comfy=lock.comfy_id,
                fence=lock.fence,
                mode=lock.mode.value,
                waited=waiting,
            )

    async def _end(self, *, come_again: bool = True) -> None:
        """End as a kernel does; its Jupyter server lets go of what it has (R8)."""
        mine = self.holder_id
        self._node.here.discard(mine)
        if come_again:
            self._arrive()
        await self._node.called("end", mine, self._node.locks.release(mine, LockEvent.HOLDER_GONE))

    async def _force(self) -> None:
        """Take somebody's lock away, as an operator, of whichever worker it is."""
        with suppress(ComfyLockError):
            occupied = await self._node.locks.occupancy()
            everybody = [lock.holder_id for each in occupied.locks.values() for lock in each]
            everybody += [waiter.holder_id for waiter in occupied.waiters]
            if everybody:
                victim = self._dice.choice(everybody)
                forcing = self._node.locks.force(victim, by="operator", why="chaos")
                await self._call("force", forcing)

    async def _call(self, what: str, work: Awaitable[Lock | None]) -> None:
        await self._node.called(what, self.holder_id, work)

    def _any_mode(self) -> Mode:
        return self._dice.choices([Mode.SHARED, Mode.EXCLUSIVE], [2, 1])[0]


def main(setup: Setup, pipe: Pipe) -> None:
    """Be a worker: the target of a process."""
    if sys.platform == "linux":
        # Also while it is stopped, it ends with whoever started it.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    out = os.open(
        setup.folder / f"worker-{setup.number}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND
    )
    os.dup2(out, 2)
    asyncio.run(_main(setup, pipe))


async def _main(setup: Setup, pipe: Pipe) -> None:
    await Node(setup, pipe).run()
