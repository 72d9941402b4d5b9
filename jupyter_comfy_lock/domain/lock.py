"""The lock: this kernel uses that ComfyServer. Its record, and its whole life as one table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NewType

ComfyId = NewType("ComfyId", str)
#: `<kernel id>.<incarnation>`: one process life of one kernel.
HolderId = NewType("HolderId", str)
#: Made by whoever asks for the lock, so that asking again finds the same one.
LockId = NewType("LockId", str)


def kernel_of(holder_id: HolderId) -> str:
    """Return the id of the kernel of which a holder is one life."""
    return holder_id.rpartition(".")[0] or holder_id


class Mode(StrEnum):
    """How a lock shares its ComfyServer with others."""

    SHARED = "shared"  #: with as many holders as the ComfyServer has capacity
    EXCLUSIVE = "exclusive"  #: with nobody


class LockState(StrEnum):
    """Whether the holder may send prompts."""

    WAITING = "waiting"  #: in line; not yet
    HELD = "held"  #: it may
    DRAINING = "draining"  #: not any more, but what it sent may still be on the ComfyServer
    ENDED = "ended"  #: nothing of it is left


class LockEvent(StrEnum):
    """What can happen to a lock."""

    GRANTED = "granted"  #: its turn came
    RELEASED = "released"  #: the user let go, or left the line
    HOLDER_GONE = "holder_gone"  #: the kernel was shut down, restarted or died
    EXPIRED = "expired"  #: its node did not renew in time
    FORCED = "forced"  #: an operator took it away
    TIMED_OUT = "timed_out"  #: the user did not want to wait any longer
    REFUSED = "refused"  #: its turn came, and its holder had tasks pending elsewhere (R3)
    REPLACED = "replaced"  #: its holder has another lock on the same ComfyServer instead
    DRAINED = "drained"  #: the ComfyServer has nothing left of it, and its node sends nothing more


class IllegalTransition(ValueError):
    """That cannot happen to a lock in that state; the store never lets it out."""


#: Events by which a holder stops being one, or a waiter.
LETTING_GO = frozenset(LockEvent) - {LockEvent.GRANTED, LockEvent.DRAINED, LockEvent.REPLACED}

#: The whole life of a lock. Letting go of one that was let go of is harmless, because a restart, a
#: release and an expiry do meet in practice. Nothing leads back to HELD.
TRANSITIONS: Mapping[LockState, Mapping[LockEvent, LockState]] = {
    LockState.WAITING: {
        LockEvent.GRANTED: LockState.HELD,
        **dict.fromkeys(LETTING_GO, LockState.ENDED),
    },
    LockState.HELD: {
        **dict.fromkeys(LETTING_GO, LockState.DRAINING),
        LockEvent.REPLACED: LockState.ENDED,
    },
    LockState.DRAINING: {
        **dict.fromkeys(LETTING_GO, LockState.DRAINING),
        LockEvent.REPLACED: LockState.ENDED,
        LockEvent.DRAINED: LockState.ENDED,
    },
    LockState.ENDED: dict.fromkeys(
        LETTING_GO | {LockEvent.REPLACED, LockEvent.DRAINED}, LockState.ENDED
    ),
}

#: States in which a lock takes up room on its ComfyServer.
ACTIVE = (LockState.HELD, LockState.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a lock was let go of, for the one who had it."""

    event: LockEvent
    #: Seconds since the epoch.
    at: float
    #: The operator who took it away, and what for; "" where nobody did.
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """The right of one holder to use one ComfyServer."""

    lock_id: LockId
    comfy_id: ComfyId
    holder_id: HolderId
    #: The node (Jupyter server process) that renews it.
    node_id: str
    mode: Mode
    #: Strictly rising, for each ComfyServer and over all of them, and never reused.
    fence: int
    #: Seconds since the epoch, wall clock: for people only, nothing is decided by it.
    granted_at: float
    #: What people call the kernel: its notebook's path where known, else "".
    name: str = ""
    state: LockState = LockState.HELD
    ending: Ending | None = None


def advance(state: LockState, event: LockEvent) -> LockState:
    """Return the state after `event`.

    Raises:
        IllegalTransition: the event cannot happen in that state.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        msg = f"a lock that is {state} cannot be {event}"
        raise IllegalTransition(msg) from None


def refusal(
    mode: Mode, capacity: int, locks: Iterable[Lock], mine: HolderId | None = None
) -> str | None:
    """Why a lock of `mode` does not fit beside the active `locks`; None if it does.

    `capacity` counts holders. A lock of `mine` among them does not stand in its own way; one that
    drains takes up its room until it has.
    """
    others = tuple(each for each in locks if each.holder_id != mine)
    exclusive = next((each for each in others if each.mode is Mode.EXCLUSIVE), None)
    if exclusive is not None:
        if exclusive.state is LockState.DRAINING:
            return f"{who(exclusive)} has let go of it, but its prompts have not left it yet"
        return f"{who(exclusive)} holds it exclusively"
    if mode is Mode.EXCLUSIVE and others:
        return f"an exclusive lock was asked for and it is held by {_all_of(others)}"
    if len({each.holder_id for each in others}) >= capacity:
        return f"all {capacity} places are held, by {_all_of(others)}"
    return None


def who(lock: Lock) -> str:
    """What to call the holder of `lock` in a sentence."""
    return lock.name or f"kernel {lock.holder_id}"


def _all_of(locks: Iterable[Lock]) -> str:
    # One that came back by another node has two for a while.
    return ", ".join(dict.fromkeys(map(who, locks)))


def lock_to_json(
    lock: Lock,
    *,
    url: str,
    epoch: int,
    restarted_at: float | None = None,
    foreign_prompts: int = 0,
) -> dict[str, Any]:
    """Return the lock as REST and events show it.

    `epoch` and `restarted_at` are of its ComfyServer; a restart before the lock is no news.
    """
    since = restarted_at is not None and restarted_at > lock.granted_at
    return {
        "comfy_id": lock.comfy_id,
        "url": url,
        "holder_id": lock.holder_id,
        "name": lock.name,
        "mode": lock.mode.value,
        "fence": lock.fence,
        "epoch": epoch,
        "restarted_at": restarted_at if since else None,
        "granted_at": lock.granted_at,
        "state": lock.state.value,
        "foreign_prompts": foreign_prompts,
    }
