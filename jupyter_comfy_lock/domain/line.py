"""The line before a ComfyServer: who waits, who is next, and who would wait for ever.

First come, first served for each ComfyServer. One who waits for any of several stands in each of
their lines. One who has a ComfyServer already and wants it exclusively stands before those who
have it not: they wait for it to let go, so behind them it would wait for ever.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jupyter_comfy_lock.domain.lock import (
    ComfyId,
    HolderId,
    Lock,
    LockId,
    LockState,
    Mode,
    refusal,
    who,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """A holder in line for a lock."""

    lock_id: LockId
    holder_id: HolderId
    #: The node that renews its place, as it renews locks.
    node_id: str
    mode: Mode
    #: Lower is earlier.
    ticket: int
    #: The capacity of each ComfyServer that would do, the preferred ones first.
    wants: Mapping[ComfyId, int]
    name: str = ""
    #: Seconds since the epoch, for people.
    since: float = 0.0


#: Active locks by ComfyServer.
Locks = Mapping[ComfyId, Collection[Lock]]


def line(comfy_id: ComfyId, waiters: Iterable[Waiter], locks: Locks) -> list[Waiter]:
    """Return who waits for `comfy_id`, the next one first."""
    return sorted(
        (each for each in waiters if comfy_id in each.wants),
        key=lambda each: (not _has(each, comfy_id, locks), each.ticket),
    )


def ahead(waiter: Waiter, comfy_id: ComfyId, waiters: Iterable[Waiter], locks: Locks) -> int:
    """Return how many wait for `comfy_id` before `waiter`; those after it do not matter."""
    ids = [each.lock_id for each in line(comfy_id, waiters, locks)]
    return ids.index(waiter.lock_id)


def place(waiter: Waiter, waiters: Collection[Waiter], locks: Locks) -> int:
    """Return the place of `waiter` in the shortest of its lines; 1 is the next."""
    return 1 + min(ahead(waiter, each, waiters, locks) for each in waiter.wants)


def next_grant(
    waiters: Collection[Waiter], locks: Locks, closed: Collection[ComfyId] = ()
) -> tuple[Waiter, ComfyId] | None:
    """Return the next waiter whose turn has come, and where; None if nobody's has.

    Nobody overtakes: a waiter that does not fit holds up all who stand behind it in a line of
    its own, whatever they ask for. What is `closed` is given to nobody, and holds up nobody.
    """
    for comfy_id in dict.fromkeys(each for waiter in waiters for each in waiter.wants):
        if comfy_id in closed:
            continue
        first = line(comfy_id, waiters, locks)[0]
        if fits(first, comfy_id, locks) and _prefers(first, comfy_id, waiters, locks, closed):
            return first, comfy_id
    return None


def fits(waiter: Waiter, comfy_id: ComfyId, locks: Locks) -> bool:
    """Whether there is room for `waiter` on `comfy_id`."""
    held = locks.get(comfy_id, ())
    return refusal(waiter.mode, waiter.wants[comfy_id], held, waiter.holder_id) is None


def stuck(waiter: Waiter, waiters: Collection[Waiter], locks: Locks) -> bool:
    """Whether `waiter` would wait for ever: for others who wait, directly or not, for it.

    Whoever waits for nothing will let go some day. From there it spreads: a waiter gets its turn
    if, on one of the ComfyServers it wants, all before it get theirs and there is room beside
    those who never let go.
    """
    waiting = {each.holder_id: each for each in (*waiters, waiter)}
    moving: set[HolderId] = set()

    def gets_its_turn(each: Waiter, comfy_id: ComfyId) -> bool:
        standing = line(comfy_id, waiting.values(), locks)
        before = standing[: standing.index(each)]
        immovable = [
            lock
            for lock in locks.get(comfy_id, ())
            # What drains does so by itself, also if its former holder waits.
            if lock.state is LockState.HELD
            and lock.holder_id in waiting
            and lock.holder_id not in moving
        ]
        return all(other.holder_id in moving for other in before) and fits(
            each, comfy_id, {comfy_id: immovable}
        )

    grown = True
    while grown:
        found = {
            holder_id
            for holder_id, each in waiting.items()
            if holder_id not in moving and any(gets_its_turn(each, want) for want in each.wants)
        }
        moving |= found
        grown = bool(found)
    return waiter.holder_id not in moving


def reason(waiter: Waiter, waiters: Collection[Waiter], locks: Locks) -> str:
    """Say what `waiter` waits for: "held by b.ipynb since 14:02, you are 2nd"."""
    nearest = min(waiter.wants, key=lambda each: ahead(waiter, each, waiters, locks))
    others = [each for each in locks.get(nearest, ()) if each.holder_id != waiter.holder_id]
    held = ", ".join(
        f"{who(each)} since {since(each.granted_at, seen_at=waiter.since)}" for each in others[:3]
    )
    if len(others) > len(others[:3]):
        held += f" and {len(others) - 3} more"
    drains = " (its prompts are leaving)" if _all_drain(others) else ""
    standing = f"you are {ordinal(place(waiter, waiters, locks))}"
    return f"held by {held}{drains}, {standing}" if held else standing


def since(seconds: float, *, seen_at: float) -> str:
    """Return a moment as people write it: the time, and the day unless it is that of `seen_at`.

    Both in seconds since the epoch, shown in local time.
    """
    moment = datetime.fromtimestamp(seconds)
    same_day = moment.date() == datetime.fromtimestamp(seen_at).date()
    return f"{moment:%H:%M}" if same_day else f"{moment:%Y-%m-%d %H:%M}"


def ordinal(number: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, …, 11th, …, 21st."""
    last = number % 10
    if last not in (1, 2, 3) or number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{('st', 'nd', 'rd')[last - 1]}"


def waiter_to_json(waiter: Waiter, waiters: Collection[Waiter], locks: Locks) -> dict[str, Any]:
    """Return a waiter as the pool shows it."""
    return {
        "holder_id": waiter.holder_id,
        "name": waiter.name,
        "mode": waiter.mode.value,
        "since": waiter.since,
        "place": place(waiter, waiters, locks),
    }


def by_comfy(locks: Iterable[Lock]) -> dict[ComfyId, list[Lock]]:
    """Return the locks of each ComfyServer."""
    found: dict[ComfyId, list[Lock]] = {}
    for lock in locks:
        found.setdefault(lock.comfy_id, []).append(lock)
    return found


def _has(waiter: Waiter, comfy_id: ComfyId, locks: Locks) -> bool:
    return any(
        each.holder_id == waiter.holder_id and each.state is LockState.HELD
        for each in locks.get(comfy_id, ())
    )


def _prefers(
    waiter: Waiter,
    comfy_id: ComfyId,
    waiters: Collection[Waiter],
    locks: Locks,
    closed: Collection[ComfyId],
) -> bool:
    """Whether no ComfyServer that `waiter` likes better is to be had as well."""
    for better in waiter.wants:
        if better == comfy_id:
            return True
        first = line(better, waiters, locks)[0] is waiter
        if better not in closed and first and fits(waiter, better, locks):
            return False
    return False


def _all_drain(locks: Collection[Lock]) -> bool:
    return bool(locks) and all(each.state is LockState.DRAINING for each in locks)
