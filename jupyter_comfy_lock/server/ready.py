"""When an exclusive lock is really exclusive: the ComfyServer has nothing left of older holders."""

import asyncio
import time
from logging import Logger

from jupyter_comfy_lock.domain.comfy import queue_tags
from jupyter_comfy_lock.domain.errors import LockRefused
from jupyter_comfy_lock.domain.lock import Lock
from jupyter_comfy_lock.server.upstream import Upstream

#: Seconds between two looks at the queue.
_LOOK_EVERY_S = 0.2
#: Seconds that prompts have at least to end after they were cancelled.
_AT_LEAST_S = 10.0


async def clear_of_others(
    upstream: Upstream, lock: Lock, store_id: str, *, within_s: float, log: Logger
) -> int:
    """Wait until no prompt of another holder is in the queue; return how many are of strangers.

    The store knows no such prompts any more; what is left are those that were given up as lost.
    They are cancelled. Prompts that did not come through a gateway of this store are nobody's to
    cancel: they are counted.

    Raises:
        LockRefused: they do not end.
        ComfyUnreachable: the ComfyServer does not answer.
    """
    deadline_s = time.monotonic() + max(within_s, _AT_LEAST_S)
    while True:
        tags = queue_tags(await upstream.get("/queue"))
        ours = {task_id: tag for task_id, tag in tags if tag.get("store_id") == store_id}
        others = [x for x, tag in ours.items() if tag.get("holder_id") != lock.holder_id]
        if not others:
            return len(tags) - len(ours)
        if time.monotonic() > deadline_s:
            why = f"{len(others)} prompt(s) of former holders do not end: {', '.join(others[:3])}"
            raise LockRefused(lock.comfy_id, why, ())
        log.warning("Cancelling what former holders left on %s: %s", lock.comfy_id, others)
        # Whatever the gateways let run there was a former holder's: the new one waits for this.
        await upstream.cancel(dict.fromkeys(others, True))
        await asyncio.sleep(_LOOK_EVERY_S)
