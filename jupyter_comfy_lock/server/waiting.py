"""Those of this Jupyter server's holders who stand in line."""

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

from jupyter_comfy_lock.domain.errors import ComfyLockError, LockRefused, StoreUnavailable
from jupyter_comfy_lock.domain.line import Waiter, place, reason
from jupyter_comfy_lock.domain.lock import Ending, HolderId, Lock, LockEvent, LockId
from jupyter_comfy_lock.domain.pool import Occupancy, holder_to_json

#: Told how a waiter stands, as REST shows it, whenever that has changed.
OnMove = Callable[[dict[str, Any]], None]


class InLine:
    """One who waits."""

    def __init__(self, holder_id: HolderId, on_move: OnMove) -> None:
        self.holder_id = holder_id
        self.turn: asyncio.Future[Lock] = asyncio.get_running_loop().create_future()
        #: Whether the store has it in line.
        self.stands_there = False
        self._on_move = on_move
        self._told: dict[str, Any] | None = None

    def close(self) -> None:
        """Say that nobody asks any more what became of it."""
        if not self.turn.cancel() and not self.turn.cancelled():
            self.turn.exception()

    def stands(self, waiter: Waiter, occupied: Occupancy) -> None:
        """Tell how it stands, if that is new."""
        now = standing_to_json(waiter, occupied)
        if now != self._told:
            self._told = now
            self._on_move(now)


class Line:
    """Hands each waiter of this Jupyter server what the store decides about it."""

    def __init__(self, watch: Callable[[Callable[[], None]], Callable[[], None]]) -> None:
        #: Has a callback called, from any thread, when something changes in the store.
        self._watch = watch
        self._unwatch: Callable[[], None] | None = None
        self._in_line: dict[LockId, InLine] = {}
        #: Set when the store is to be asked for news without waiting for the next round.
        self.wake = asyncio.Event()

    def __contains__(self, lock_id: LockId) -> bool:
        """Whether that request waits here."""
        return lock_id in self._in_line

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._in_line)

    def add(self, lock_id: LockId, holder_id: HolderId, on_move: OnMove) -> InLine:
        """Add one who waits; the store is watched for as long as there is anybody."""
        made = self._in_line[lock_id] = InLine(holder_id, on_move)
        if self._unwatch is None:
            loop = asyncio.get_running_loop()

            def changed() -> None:
                # The loop may be closed: this is another thread.
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self.wake.set)

            self._unwatch = self._watch(changed)
        self.wake.set()
        return made

    def remove(self, lock_id: LockId) -> None:
        """Forget one who waits no longer."""
        self._in_line.pop(lock_id, None)
        if not self._in_line and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def granted(self, lock: Lock) -> bool:
        """Hand over a lock; whether somebody here waits for it."""
        found = self._in_line.get(lock.lock_id)
        if found is not None and not found.turn.done():
            found.turn.set_result(lock)
        return found is not None

    def over(self, lock_id: LockId, ending: Ending) -> bool:
        """Tell a waiter that it stands in line no longer; whether it waited here."""
        found = self._in_line.get(lock_id)
        if found is not None and not found.turn.done():
            found.turn.set_exception(_why_over(ending))
        return found is not None

    def all_over(self, ending: Ending) -> None:
        """Tell all those whom the store had in line."""
        for lock_id, each in tuple(self._in_line.items()):
            if each.stands_there:
                self.over(lock_id, ending)

    def end(self, holder_id: HolderId, error: ComfyLockError) -> None:
        """End the waits of one holder."""
        for each in self._in_line.values():
            if each.holder_id == holder_id and not each.turn.done():
                each.turn.set_exception(error)

    def tell(self, occupied: Occupancy) -> None:
        """Tell each waiter how it stands now."""
        for waiter in occupied.waiters:
            if waiter.lock_id in self._in_line:
                self._in_line[waiter.lock_id].stands(waiter, occupied)


def standing_to_json(waiter: Waiter, occupied: Occupancy) -> dict[str, Any]:
    """Return how a waiter stands, as REST shows it."""
    return {
        "request_id": waiter.lock_id,
        "holder_id": waiter.holder_id,
        "name": waiter.name,
        "mode": waiter.mode.value,
        "comfy_ids": list(waiter.wants),
        "since": waiter.since,
        "place": place(waiter, occupied.waiters, occupied.locks),
        "holders": _holders(waiter.wants, occupied),
        "why": reason(waiter, occupied.waiters, occupied.locks),
    }


def taken_away(ending: Ending) -> str:
    """Say that an operator took a lock or a place in line away: who, when, why."""
    why = f": {ending.why}" if ending.why else ""
    return f"taken away by {ending.by} at {datetime.fromtimestamp(ending.at):%Y-%m-%d %H:%M}{why}"


def _holders(comfy_ids: Collection[Any], occupied: Occupancy) -> list[dict[str, Any]]:
    return [
        holder_to_json(lock) for comfy_id in comfy_ids for lock in occupied.locks.get(comfy_id, ())
    ]


def _why_over(ending: Ending) -> ComfyLockError:
    match ending.event:
        case LockEvent.FORCED:
            return LockRefused(None, f"your place in the line was {taken_away(ending)}", ())
        case LockEvent.REFUSED:
            why = "its turn came while tasks of this kernel were pending on another ComfyServer"
            return LockRefused(None, why, ())
        case LockEvent.EXPIRED:
            return StoreUnavailable(
                "This Jupyter server was away for too long to keep your place in the line; lock "
                "again."
            )
    return LockRefused(None, "another request of this kernel took the place of this one", ())
