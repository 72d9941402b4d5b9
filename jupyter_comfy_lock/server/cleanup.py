"""`comfy.cleanup()`: release and cancel what a kernel has, and nothing else."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.cleanup import (
    Action,
    Done,
    Result,
    Step,
    holders_known,
    holders_of,
    plan,
)
from jupyter_comfy_lock.domain.errors import ComfyLockError, NotYours
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, LockEvent, LockId, kernel_of
from jupyter_comfy_lock.server.facts import gather
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.services import Services

_ONLY_THE_USER = (
    "Only the Jupyter user can clean up after another kernel; this kernel's credential acts for "
    "this kernel alone. As the user: POST comfy-lock/api/cleanup with the Jupyter server's token "
    'and {"kernel": "…", "dry_run": true}. A process that was started elsewhere and attached '
    "with the user's token may, by comfy.cleanup(…)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody wants to be cleaned up."""

    #: Who wants it: a holder, or what to call the Jupyter user.
    by: Holder | str
    #: The kernel, by any of its names; None for the caller's own.
    kernel: str | None = None
    dry_run: bool = False
    #: The steps that are wanted, by their ids; None for all.
    only: Collection[str] | None = None
    why: str = ""


async def cleanup(services: Services, order: Order) -> dict[str, Any]:
    """Plan, and unless it is a dry run do just that; return what came of each step.

    Raises:
        NotYours: a kernel means another kernel than itself.
        BadRequest: nobody is meant, or several are.
        StoreUnavailable: what there is cannot be read now; nothing was done.
    """
    holders, steps = await _plan(services, order)
    if order.only is not None:
        steps = [step for step in steps if step.step_id in order.only]
    done = [
        Done(step=step, result=Result.PLANNED)
        if order.dry_run
        else await _do(services, step, order)
        for step in steps
    ]
    return {
        "kernel": kernel_of(holders[0]),
        "holders": holders,
        "dry_run": order.dry_run,
        "by": order.by if isinstance(order.by, str) else order.by.name or order.by.holder_id,
        "steps": [each.to_json() for each in done],
    }


async def _plan(services: Services, order: Order) -> tuple[list[HolderId], list[Step]]:
    mine = order.by if isinstance(order.by, Holder) else None
    if mine is not None and order.kernel not in (None, mine.holder_id, mine.kernel_id, mine.name):
        raise NotYours(_ONLY_THE_USER)
    facts = await gather(services)
    names = {each.holder_id: each.name for each in services.holders.all()}
    known = holders_known(facts, names)
    if mine is not None:
        # Also former lives of the same kernel: nobody else is left to let go of what they had.
        holders = [x for x in known if kernel_of(x) == mine.kernel_id]
    else:
        holders = holders_of(order.kernel or "", known)
    return holders, plan(facts, holders)


async def _do(services: Services, step: Step, order: Order) -> Done:
    try:
        done = await _DO[step.action](services, step, order)
    except ComfyLockError as error:
        return Done(step=step, result=Result.FAILED, why=error.message)
    return Done(step=step, result=Result.DONE if done else Result.OVER)


async def _leave_line(services: Services, step: Step, order: Order) -> bool:
    by = order.by if isinstance(order.by, str) else ""
    return await services.locks.leave_line(LockId(step.subject), by=by, why=order.why)


async def _release(services: Services, step: Step, order: Order) -> bool:
    lock_id = LockId(step.subject)
    if isinstance(order.by, Holder) and order.by.holder_id == step.holder_id:
        released = await services.locks.release(step.holder_id, LockEvent.RELEASED, only=lock_id)
    else:
        by = order.by if isinstance(order.by, str) else "a later life of the same kernel"
        released = await services.locks.force(step.holder_id, by=by, why=order.why, only=lock_id)
    return released is not None


async def _cancel(services: Services, step: Step, order: Order) -> bool:
    live = services.tasks.live(step.subject)
    if live is None:
        # Of another Jupyter server, which finds out how it ended; or of none, until this one
        # takes it over.
        (task,) = await services.tasks.known([step.subject])
        if task.pending:
            upstream = services.locks.upstream(task.comfy_id)
            await upstream.cancel({task.prompt_id: False})
        return task.pending
    if not live.task.pending:
        return False
    by = f"by {order.by}" if isinstance(order.by, str) else "by its kernel"
    why = f": {order.why}" if order.why else ""
    if not live.task.cancel_requested:
        await services.tasks.cancel(live, f"cleaned up {by}{why}")
    return True


async def _remove(services: Services, step: Step, _: Order) -> bool:
    upstream = services.locks.upstream(ComfyId(step.comfy_id))
    running, waiting = await upstream.queue()
    if step.subject not in (*running, *waiting):
        return False
    left = await upstream.cancel({step.subject: False})
    return not left


_DO = {
    Action.LEAVE_LINE: _leave_line,
    Action.RELEASE: _release,
    Action.CANCEL: _cancel,
    Action.REMOVE: _remove,
}
