"""Records that no rule would have let into the store: what is wrong, for whoever looks for it."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import uuid4

from sqlalchemy import insert, update

from jupyter_comfy_lock.domain.task import TaskState
from jupyter_comfy_lock.store.rows import task_columns
from jupyter_comfy_lock.store.schema import comfy_servers, locks, tasks
from tests.domain.things import a_snapshot, a_task
from tests.server.world import World

#: Below all that the store gives.
_fences = count(1)


async def plant_lock(world: World, holder_id: str, comfy_id: str, **columns: Any) -> str:
    """Add a lock; of this Jupyter server, shared and held, unless it is said otherwise."""
    row = {
        "lock_id": str(uuid4()),
        "holder_id": holder_id,
        "node_id": world.node_id,
        "name": "",
        "mode": "shared",
        "state": "held",
        "ticket": 0,
        "fence": next(_fences),
        "comfy_id": comfy_id,
        "url": _url(world, comfy_id),
        "granted_at": time.time() - 60,
        "requested_at": time.time() - 60,
        # The Jupyter server has heard of it, so that it does nothing about it.
        "rev": 0,
        **columns,
    }
    await world.stores.database.run(lambda c: c.execute(insert(locks), row))
    return str(row["lock_id"])


async def plant_task(world: World, holder_id: str, comfy_id: str, **more: Any) -> str:
    """Add a task that runs, of which the Jupyter server knows no more than its store."""
    snapshot = replace(a_snapshot(holder_id, comfy_id), url=_url(world, comfy_id))
    fields = {"node_id": world.node_id, "state": TaskState.RUNNING, "created_at": time.time() - 30}
    task = a_task(str(uuid4()), holder_id=holder_id, lock=snapshot, **{**fields, **more})
    await world.stores.database.run(lambda c: c.execute(insert(tasks), task_columns(task)))
    return str(task.task_id)


async def called(world: World, task_id: str, prompt_id: str) -> None:
    """Have a task's prompt be called so by its ComfyServer."""
    change = update(tasks).where(tasks.c.task_id == task_id).values(given_id=prompt_id)
    await world.stores.database.run(lambda c: c.execute(change))


async def close(world: World, comfy_id: str) -> None:
    """Have a ComfyServer be closed, though somebody waits for it still."""
    row = {"comfy_id": comfy_id, "access": "draining", "by": "x", "why": "", "since": 1.0}
    await world.stores.database.run(lambda c: c.execute(insert(comfy_servers), row))


def _url(world: World, comfy_id: str) -> str:
    comfy = world.comfies.get(comfy_id)
    return comfy.url if comfy else f"http://{comfy_id}"


async def waits_since(world: World, holder_id: str, at: float) -> None:
    """Have somebody wait for longer."""
    his = (locks.c.holder_id == holder_id, locks.c.state == "waiting")
    change = update(locks).where(*his).values(requested_at=at)
    await world.stores.database.run(lambda c: c.execute(change))


async def dead_node(world: World) -> str:
    """Add a Jupyter server that has stopped."""
    node = str(await world.stores.nodes.join())
    await world.stores.nodes.leave(node)
    return node


def tag_of(world: World, holder_id: str, task_id: str) -> dict[str, Any]:
    """Return what a gateway adds to a prompt."""
    store_id = world.app._keeper.store_id
    return {"store_id": store_id, "holder_id": holder_id, "task_id": task_id, "fence": 1}
