"""Which ComfyServers a wish can be about: the one it names, or those that are well and suit it."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.errors import LockRefused
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.pool import Access, ComfyServer, Occupancy, ranked
from jupyter_comfy_lock.server.upstream import Upstream, find_upstream, look_at_all
from jupyter_comfy_lock.server.wish import Wish

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.locks import LockStore

#: Seconds for which a look at a ComfyServer is good enough to lock it.
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """What may be asked for."""

    usable: list[ComfyServer]
    #: Why each of the others may not.
    unusable: list[str]


async def candidates_of(
    wish: Wish, upstreams: Mapping[ComfyId, Upstream], store: "LockStore"
) -> Candidates:
    """Return what may be asked for.

    Raises:
        UnknownComfy, ComfyUnreachable, ComfyUnauthorized, ComfyUnsupported, NotComfyUI: the one
            that is named cannot be had.
        LockRefused: none of the others can.
    """
    if wish.named is not None:
        upstream = find_upstream(upstreams, wish.named)
        await look_unless_seen(upstream)
        return Candidates(usable=[upstream.comfy], unusable=[])
    await look_at_all(upstreams.values())
    occupied, last_used = await asyncio.gather(store.occupancy(), store.last_used())
    usable = ranked(
        (each.comfy for each in upstreams.values()),
        {comfy_id: each.status for comfy_id, each in upstreams.items()},
        occupied,
        wish.holder_id,
        wish.labels,
        last_used,
    )
    unusable = [
        f"{comfy_id}: {_why_unusable(each, occupied, wish.labels)}"
        for comfy_id, each in upstreams.items()
        if each.comfy not in usable
    ]
    if not usable:
        raise LockRefused(None, "; ".join(unusable), ())
    return Candidates(usable=usable, unusable=unusable)


async def look_unless_seen(upstream: Upstream) -> None:
    """Look at a ComfyServer, unless that was done just now; after a wait it may be dead.

    Raises:
        ComfyUnreachable, ComfyUnauthorized, ComfyUnsupported, NotComfyUI: it cannot be used.
    """
    old = time.monotonic() - upstream.looked_s > _LOOK_AGAIN_S
    if old or upstream.looking or upstream.fault() is not None:
        await upstream.look()
    fault = upstream.fault()
    if fault is not None:
        raise fault


def and_the_others(error: LockRefused, unusable: list[str]) -> LockRefused:
    """Return the same refusal, with why others did not even come into question."""
    comfy_id, why = error.details.get("comfy_id"), error.details.get("why")
    said = f"{comfy_id}: {why}" if comfy_id else str(why)
    return LockRefused(None, "; ".join([said, *unusable]), error.details.get("holders") or ())


def _why_unusable(upstream: Upstream, occupied: Occupancy, labels: frozenset[str]) -> str:
    missing = sorted(labels - upstream.comfy.labels)
    if missing:
        return f"has no label {' or '.join(map(repr, missing))}"
    decided = occupied.of(upstream.comfy.comfy_id)
    if upstream.fault() is None and decided.access is not Access.OPEN:
        return f"{decided.access.value} by {decided.by}" + (decided.why and f" ({decided.why})")
    return upstream.status.reason or upstream.status.health.value
