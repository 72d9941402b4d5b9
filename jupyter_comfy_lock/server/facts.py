"""What is known of the whole pool at one moment. Only looks: nothing is sent but `GET` (R11)."""

import asyncio
import time

from jupyter_comfy_lock.domain.comfy import queue_clients, queue_ids, queue_tags
from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.pool_facts import ComfySeen, Facts, QueuedPrompt
from jupyter_comfy_lock.server.services import Services
from jupyter_comfy_lock.server.upstream import Upstream, look_if_old

#: Seconds that a ComfyServer may take to answer; one that takes longer is shown as last seen.
_WITHIN_S = 3.0


async def gather(services: Services) -> Facts:
    """Return the facts, by the word of the store, of this Jupyter server and each ComfyServer.

    Raises:
        StoreUnavailable: the store has no word now.
    """
    upstreams = tuple(services.upstreams.values())
    await look_if_old(upstreams, older_than_s=1.0, within_s=_WITHIN_S)
    seen = tuple(await asyncio.gather(*map(_see, upstreams)))
    occupied = await services.locks.occupancy()
    pending = await services.tasks.pending_everywhere()
    store_id = services.locks.store_id
    known = {task.task_id for task in pending}
    tagged = (str(prompt.tag.get("task_id")) for each in seen for prompt in each.prompts)
    return Facts(
        now=time.time(),
        store_id=store_id,
        node_id=services.locks.node_id,
        seen=seen,
        occupied=occupied,
        here=services.kernels.standing(),
        nodes=await services.nodes.others(services.locks.node_id),
        pending=tuple(pending),
        ended=tuple(
            task
            for task in await services.tasks.known(x for x in tagged if x not in known)
            if not task.pending
        ),
        drain_timeout_s=services.policy.drain_timeout_s,
    )


async def _see(upstream: Upstream) -> ComfySeen:
    prompts: tuple[QueuedPrompt, ...] = ()
    stuck_at = ""
    try:
        async with asyncio.timeout(_WITHIN_S):
            queue = await upstream.get("/queue")
    except (ComfyLockError, TimeoutError):
        # How it does is told by its status.
        pass
    else:
        running, waiting = queue_ids(queue)
        stuck_at = waiting[0] if waiting and not running else ""
        clients = queue_clients(queue)
        prompts = tuple(
            QueuedPrompt(prompt_id=prompt_id, tag=tag, client_id=clients[prompt_id])
            for prompt_id, tag in queue_tags(queue)
        )
    return ComfySeen(
        comfy=upstream.comfy,
        status=upstream.status,
        since=upstream.since,
        changes=tuple(upstream.changes),
        prompts=prompts,
        stuck_at=stuck_at,
    )
