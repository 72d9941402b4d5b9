"""A wish for a lock, and why it is not granted."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from jupyter_comfy_lock.domain.errors import ComfyClosed, LockRefused
from jupyter_comfy_lock.domain.line import Waiter, ahead, reason
from jupyter_comfy_lock.domain.lock import HolderId, Lock, LockId, Mode, refusal, who
from jupyter_comfy_lock.domain.pool import Access, ComfyServer, Occupancy, holder_to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A wish for a lock."""

    lock_id: LockId
    holder_id: HolderId
    node_id: str
    mode: Mode
    #: Any of these will do, the first that has room; the preferred ones first.
    wants: Sequence[ComfyServer]
    #: What people call the kernel.
    name: str = ""


def open_ones(
    wanted: Sequence[ComfyServer], scene: Occupancy, held: Lock | None, mode: Mode
) -> list[ComfyServer]:
    """Return those that are open; one's own can be had shared for as long as one has it.

    Raises:
        ComfyClosed: none is.
    """
    usable = []
    closed: ComfyClosed | None = None
    for comfy in wanted:
        decided = scene.of(comfy.comfy_id)
        own = held is not None and held.comfy_id == comfy.comfy_id
        if decided.access is Access.OPEN or (own and mode is Mode.SHARED):
            usable.append(comfy)
        else:
            closed = ComfyClosed(
                comfy.comfy_id,
                decided.access.value,
                by=decided.by,
                why=decided.why,
                since=decided.since or 0.0,
            )
    if closed is not None and not usable:
        raise closed
    return usable


def refuse_other_pools(
    active: Iterable[tuple[Lock, str]], wanted: Sequence[ComfyServer], *, one_machine: bool
) -> None:
    """Refuse what another Jupyter server calls by another name, or means otherwise.

    `active` are locks by id or URL of what is wanted, each with its URL, and `one_machine` says
    whether they are all of one machine. One ComfyServer under two ids would be locked twice.

    Raises:
        LockRefused: names both.
    """
    known = {each.comfy_id: each.url for each in wanted}
    for lock, url in active:
        if known.get(lock.comfy_id) == url:
            continue
        # Loopback addresses of other machines are other places.
        if lock.comfy_id not in known and _is_loopback(url) and not one_machine:
            continue
        why = (
            f"for {who(lock)}, on another Jupyter server, {lock.comfy_id!r} is {url}; the "
            "same ComfyServer needs the same id and url in every c.ComfyLock.pool"
        )
        raise LockRefused(wanted[0].comfy_id, why, [holder_to_json(lock)])


def refused(waiter: Waiter, waiters: Collection[Waiter], scene: Occupancy) -> LockRefused:
    """Return the error that says of each wanted ComfyServer why it is not to be had."""
    reasons = {}
    for comfy_id, capacity in waiter.wants.items():
        held = scene.locks.get(comfy_id, ())
        taken = refusal(waiter.mode, capacity, held, waiter.holder_id)
        before = ahead(waiter, comfy_id, waiters, scene.locks)
        in_line = f"{before} in line for it before you" if before else None
        reasons[comfy_id] = ", ".join(filter(None, (taken, in_line)))
    if len(reasons) == 1:
        ((comfy_id, why),) = reasons.items()
        return LockRefused(comfy_id, why, map(holder_to_json, scene.locks.get(comfy_id, ())))
    why = "; ".join(f"{comfy_id}: {each}" for comfy_id, each in reasons.items())
    return LockRefused(None, why, ())


def would_wait_for_ever(waiter: Waiter, scene: Occupancy) -> LockRefused:
    """Return the error that says why `waiter` is not let into the line."""
    comfy_id = next(iter(waiter.wants))
    standing = reason(waiter, (*scene.waiters, waiter), scene.locks)
    why = (
        f"{standing}, and whoever is before you waits, directly or not, for what you hold: "
        "nobody would ever get on. Release what you hold first (comfy.release()), then wait"
    )
    return LockRefused(comfy_id, why, map(holder_to_json, scene.locks.get(comfy_id, ())))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"
