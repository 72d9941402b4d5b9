"""What runs have found, each as a story that shows it every time."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from jupyter_comfy_lock.domain.errors import ComfyLockError, LockTimeout, NoLock, StaleLock
from jupyter_comfy_lock.domain.lock import HolderId, LockEvent, Mode
from jupyter_comfy_lock.server.wish import Wish
from tests.chaos.setup import POOL, Setup
from tests.chaos.worker import Node

WIDE = POOL[2].comfy_id
A, B = HolderId("a"), HolderId("b")


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A lock service that has joined; it renews and hears only when it is told to."""
    ours, theirs = multiprocessing.Pipe()
    store = str(tmp_path / "store.sqlite")
    setup = Setup(number=0, life=0, store=store, folder=tmp_path, seed=1, ttl_s=30.0)
    made = Node(setup, theirs)
    made.here |= {A, B}
    await made.lease.join()
    yield made
    await made.database.close()
    ours.close()
    theirs.close()


def hold_back_answer(node: Node, method: str) -> Callable[[], Any]:
    """Have the store do what is asked next by `method`, and answer only when that is called."""
    store: Any = node.acquirer._store
    do, go = getattr(store, method), asyncio.Event()

    async def late(*args: Any, **more: Any) -> Any:
        setattr(store, method, do)
        answer = await do(*args, **more)
        await go.wait()
        return answer

    setattr(store, method, late)
    return go.set


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


def wish(holder: HolderId, mode: Mode, wait_s: float | None = 0.0) -> Wish:
    return Wish(holder_id=holder, name="", comfy_id=WIDE, mode=mode, wait_s=wait_s)


async def stored(node: Node, held: list[tuple[str, str]]) -> bool:
    """Whether that is who has something in the store, and how."""
    locks = (await node.locks.occupancy()).locks.values()
    return [(lock.holder_id, lock.mode.value) for each in locks for lock in each] == held


async def anybody_waits(node: Node) -> bool:
    return bool((await node.locks.occupancy()).waiters)


@pytest.mark.asyncio
@pytest.mark.parametrize("had", [False, True])
async def test_what_is_granted_while_its_holder_lets_go_is_not_used(node: Node, had: bool) -> None:
    if had:
        await node.acquirer.acquire(wish(A, Mode.SHARED))
    answer = hold_back_answer(node, "ask")
    asking = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.EXCLUSIVE)))
    await until(lambda: stored(node, [(A, "exclusive")]))
    done = hold_back_answer(node, "release")
    releasing = asyncio.create_task(node.locks.release(A, LockEvent.RELEASED))
    await until(lambda: stored(node, []))
    # Others may have it from here on, before either of the two has been told.
    answer()
    with pytest.raises(ComfyLockError):
        await asking
    with pytest.raises(ComfyLockError):
        node.held.check(A, "")
    done()
    assert await releasing is not None
    with pytest.raises(NoLock):
        node.held.check(A, "")


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["cancelled", "taken back"])
async def test_nothing_goes_out_under_what_was_replaced_when_others_get_it(
    node: Node, how: str
) -> None:
    await node.acquirer.acquire(wish(A, Mode.SHARED))
    await node.acquirer.acquire(wish(B, Mode.SHARED))
    waiting = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.EXCLUSIVE, None)))
    await until(lambda: anybody_waits(node))
    # Its turn comes, and nobody has heard of that yet.
    await node.locks.release(B, LockEvent.RELEASED)
    assert await stored(node, [(A, "exclusive")])
    store: Any = node.acquirer._store
    withdraw = store.withdraw
    used: list[bool] = []

    async def watched(*args: Any) -> Any:
        used.append(node.held.by(A) is not None)
        return await withdraw(*args)

    store.withdraw = watched
    if how == "cancelled":
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        ((request_id, _),) = node.held.asking.items()
        await node.locks.withdraw(A, request_id)
        with pytest.raises(ComfyLockError):
            await waiting
    assert used
    assert not any(used)
    assert await stored(node, [])
    assert node.held.by(A) is None


@pytest.mark.asyncio
async def test_of_two_requests_of_a_holder_the_one_that_the_store_did_last_is_used(
    node: Node,
) -> None:
    answer = hold_back_answer(node, "ask")
    older = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.SHARED)))
    await until(lambda: stored(node, [(A, "shared")]))
    newer = await node.acquirer.acquire(wish(A, Mode.EXCLUSIVE))
    answer()
    with pytest.raises(ComfyLockError):
        await older
    assert node.held.check(A, "").lock_id == newer.lock.lock_id
    assert await stored(node, [(A, "exclusive")])


@pytest.mark.asyncio
async def test_what_another_request_has_made_shared_is_not_used_exclusively(node: Node) -> None:
    exclusive = hold_back_answer(node, "ask")
    older = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.EXCLUSIVE)))
    await until(lambda: stored(node, [(A, "exclusive")]))
    shared = hold_back_answer(node, "ask")
    newer = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.SHARED)))
    await until(lambda: stored(node, [(A, "shared")]))
    exclusive()
    await older
    # Others may share it already.
    assert node.held.check(A, "").mode is Mode.SHARED
    shared()
    assert (await newer).lock == node.held.check(A, "")


@pytest.mark.asyncio
async def test_a_request_that_nobody_waits_for_counts_until_it_is_taken_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.acquirer.acquire(wish(A, Mode.EXCLUSIVE))
    is_late, go = asyncio.Event(), asyncio.Event()

    async def say_how_it_stands(*_: object) -> LockTimeout:
        is_late.set()
        await go.wait()
        return LockTimeout(0.0, "", [])

    monkeypatch.setattr(node.acquirer, "_timed_out", say_how_it_stands)
    hold_back_answer(node, "ask")
    asking = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.SHARED, 0.01)))
    await is_late.wait()
    await until(lambda: stored(node, [(A, "shared")]))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    # Others may share it already, and it is not taken back yet.
    assert node.held.check(A, "").mode is Mode.SHARED
    go.set()
    await until(lambda: stored(node, []))
    with pytest.raises(ComfyLockError):
        node.held.check(A, "")
    assert not node.held.asking


@pytest.mark.asyncio
@pytest.mark.parametrize("begins", ["before", "meanwhile"])
async def test_what_is_being_given_back_is_no_answer_to_another_request(
    node: Node, begins: str
) -> None:
    first = await node.acquirer.acquire(wish(A, Mode.EXCLUSIVE))
    # Nobody uses it: its request was cancelled, say, when the store was away.
    node.held.drop(A)
    store: Any = node.acquirer._store
    withdraw, is_reached, go = store.withdraw, asyncio.Event(), asyncio.Event()

    async def late(*args: Any) -> Any:
        is_reached.set()
        await go.wait()
        return await withdraw(*args)

    store.withdraw = late
    if begins == "before":
        answer = hold_back_answer(node, "ask")
        asking = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.EXCLUSIVE)))
        await until(lambda: is_asking(node))
        taking = asyncio.create_task(
            node.acquirer._debts.take_back(first.lock.lock_id, LockEvent.RELEASED)
        )
        await is_reached.wait()
        answer()
    else:
        taking = asyncio.create_task(
            node.acquirer._debts.take_back(first.lock.lock_id, LockEvent.RELEASED)
        )
        await is_reached.wait()
        asking = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.EXCLUSIVE)))
    with pytest.raises(StaleLock, match="taken back"):
        await asking
    with pytest.raises(NoLock):
        node.held.check(A, "")
    go.set()
    await taking
    assert await stored(node, [])
    assert (await node.acquirer.acquire(wish(A, Mode.SHARED))).lock.mode is Mode.SHARED


async def is_asking(node: Node) -> bool:
    return bool(node.held.asking)


@pytest.mark.asyncio
async def test_whatever_fails_while_a_lock_is_given_back_it_is_given_back(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = hold_back_answer(node, "ask")
    asking = asyncio.create_task(node.acquirer.acquire(wish(A, Mode.SHARED)))
    await until(lambda: stored(node, [(A, "shared")]))
    node.here.discard(A)
    monkeypatch.setattr(node.acquirer._debts, "lose_for", once(unexpected, monkeypatch))
    granted()
    with pytest.raises(ZeroDivisionError):
        await asking
    await until(lambda: stored(node, []))
    assert not node.held.asking


@pytest.mark.asyncio
async def test_whatever_fails_when_a_wait_times_out_the_line_is_left(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.acquirer.acquire(wish(B, Mode.EXCLUSIVE))
    with monkeypatch.context() as broken:
        broken.setattr("jupyter_comfy_lock.server.acquire.reason", unexpected)
        with pytest.raises(ZeroDivisionError):
            await node.acquirer.acquire(wish(A, Mode.SHARED, wait_s=0.05))
    assert not await anybody_waits(node)
    assert not node.held.asking


def once(fails: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What fails the first time; after it all is as it was."""

    def failing(*arguments: Any) -> Any:
        monkeypatch.undo()
        return fails(*arguments)

    return failing


def unexpected(*_: Any) -> Any:
    return 1 / 0
