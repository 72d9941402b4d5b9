"""`comfy.debug()`: all that is known here of one kernel. Secrets stay out (R10)."""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from jupyter_comfy_lock import __version__
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.services import Services
from jupyter_comfy_lock.server.waiting import standing_to_json

#: Ended tasks that are shown.
_LAST_TASKS = 3
_PACKAGES = ("jupyter_server", "tornado", "aiohttp", "SQLAlchemy")


async def debug(services: Services, holder: Holder) -> dict[str, Any]:
    """Return how a holder stands, as REST shows it.

    Raises:
        StoreUnavailable: its tasks and its place in line cannot be read now.
    """
    holder_id = holder.holder_id
    occupied = await services.locks.occupancy()
    tasks = await services.tasks.newest(holder_id, 200)
    ended = [task for task in tasks if not task.pending]
    pending = [live.task for live in services.tasks.pending(holder_id)]
    return {
        "at": time.time(),
        "holder": holder.to_json(),
        "process": holder.process,
        "pin": holder.pin or None,
        "port": services.ports.of(holder_id),
        "lock": services.lock_json(services.locks.held_by(holder_id)),
        "comfy": _comfy(services, holder),
        "lost": _lost(services, holder),
        "waiting": [
            standing_to_json(each, occupied)
            for each in occupied.waiters
            if each.holder_id == holder_id
        ],
        "lease": _lease(services, holder),
        "tasks": {
            "pending": [services.task_json(task) for task in pending],
            "last": [services.task_json(task) for task in ended[:_LAST_TASKS]],
        },
        "sockets": _sockets(services, holder),
        "events": {
            "streams": holder.streams,
            "last_ended_s": None if holder.streams else time.monotonic() - holder.last_stream_s,
        },
        "errors": [each.to_json() for each in services.refusals.of(holder_id)],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return what runs in the Jupyter server."""
    known = {"jupyter_comfy_lock": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            known[name] = "?"
    return known


def _lost(services: Services, holder: Holder) -> dict[str, Any] | None:
    lost = services.locks.lost_by(holder.holder_id)
    return lost and {"comfy_id": lost[0].comfy_id, "fence": lost[0].fence, "why": lost[1]}


def _lease(services: Services, holder: Holder) -> dict[str, Any]:
    """Return for how long what the holder has may be used, if nothing is renewed from now on."""
    attached = holder.kind == "attached"
    return {
        "left_s": services.locks.lease_left_s,
        "ttl_s": services.policy.ttl_s,
        "renew_every_s": services.policy.renew_every_s,
        "renewed_s_ago": time.monotonic() - holder.renewed_s if attached else None,
    }


def _sockets(services: Services, holder: Holder) -> dict[str, Any]:
    stream = services.streams.of(holder.holder_id)
    upstream = "closed" if stream is None else "open" if stream.connected else "connecting"
    return {
        "gateway": services.streams.listeners(holder.holder_id),
        "upstream": upstream,
        "client_id": (stream.client_id or None) if stream else None,
    }


def _comfy(services: Services, holder: Holder) -> dict[str, Any] | None:
    lock = services.locks.held_by(holder.holder_id)
    upstream = services.upstreams.get(lock.comfy_id) if lock else None
    if upstream is None:
        return None
    return {
        "comfy_id": upstream.comfy.comfy_id,
        "health": upstream.status.health.value,
        "reason": upstream.status.reason,
        "version": upstream.status.version,
        "epoch": upstream.status.epoch,
    }
