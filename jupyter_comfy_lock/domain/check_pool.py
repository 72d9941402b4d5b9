"""What is wrong in the pool: facts in, findings out.

The facts are what the store, the Jupyter server and the ComfyServers say at one moment. They are
not gathered in one step, so who wants to be sure looks twice: what is found both times is so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jupyter_comfy_lock.domain.line import Waiter
from jupyter_comfy_lock.domain.lock import ComfyId, Lock, LockState, Mode, who
from jupyter_comfy_lock.domain.pool import Access, Health
from jupyter_comfy_lock.domain.pool_facts import ComfySeen, Facts, QueuedPrompt
from jupyter_comfy_lock.domain.task import Task

#: Seconds in which a prompt that was cancelled has mostly left its ComfyServer.
_LEAVES_IN_S = 10.0
#: Seconds for which a restart that concerns nobody's lock is worth telling.
_NEWS_FOR_S = 3600.0


class Level(StrEnum):
    """How much a finding matters."""

    TROUBLE = "trouble"  #: somebody should do something
    NOTE = "note"  #: it may be as it should; good to know


class Kind(StrEnum):
    """What can be found."""

    COMFY_DOWN = "comfy_down"  #: a ComfyServer cannot be used
    COMFY_CHANGED = "comfy_changed"  #: it was restarted, or is of another version now
    WORKER_DEAD = "worker_dead"  #: it has prompts and runs none
    OVER_CAPACITY = "over_capacity"  #: more holders than it has places
    NOT_EXCLUSIVE = "not_exclusive"  #: held exclusively, and by others as well
    STALE_LOCK = "stale_lock"  #: its holder is gone
    SLOW_DRAIN = "slow_drain"  #: let go of long ago, and not free yet
    VAIN_WAIT = "vain_wait"  #: somebody waits for what cannot be had now
    TASK_WITHOUT_COMFY = "task_without_comfy"  #: its ComfyServer is not in the pool
    TASK_UNREACHABLE = "task_unreachable"  #: its ComfyServer does not answer
    TASK_WITHOUT_HOLDER = "task_without_holder"  #: its kernel is gone
    TASK_WITHOUT_LOCK = "task_without_lock"  #: its kernel has no lock there
    UNREGISTERED_PROMPT = "unregistered_prompt"  #: sent by us, and of no task
    PROMPT_AFTER_END = "prompt_after_end"  #: its task has ended, and it is there still
    FOREIGN_PROMPTS = "foreign_prompts"  #: came past every gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, or worth knowing."""

    kind: Kind
    level: Level
    #: A sentence without its full stop.
    what: str
    #: What to do next.
    todo: str
    comfy_id: str | None = None
    holder_id: str | None = None
    #: The task, or the prompt where there is no task.
    task_id: str | None = None
    #: Seconds since the epoch, where it is known.
    since: float | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What tells it from others, however it is worded."""
        return (self.kind, self.comfy_id, self.holder_id, self.task_id)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as REST shows it."""
        return {
            "kind": self.kind.value,
            "level": self.level.value,
            "what": self.what,
            "todo": self.todo,
            "comfy_id": self.comfy_id,
            "holder_id": self.holder_id,
            "task_id": self.task_id,
            "since": self.since,
        }


def findings(facts: Facts) -> list[Finding]:
    """Return all that is found, trouble first."""
    found = [
        *_of_comfy_servers(facts),
        *_of_locks(facts),
        *_of_waiters(facts),
        *_of_tasks(facts),
        *_of_prompts(facts),
    ]
    return sorted(found, key=lambda each: each.level is not Level.TROUBLE)


# -- ComfyServers --------------------------------------------------------------------------------


def _of_comfy_servers(facts: Facts) -> Iterator[Finding]:
    for each in facts.seen:
        comfy_id = each.comfy.comfy_id
        if each.status.health is not Health.OK:
            health = each.status.health.value.replace("_", " ")
            reason = f": {each.status.reason}" if each.status.reason else ""
            yield Finding(
                kind=Kind.COMFY_DOWN,
                level=Level.TROUBLE,
                what=f"{comfy_id} is {health}{reason}",
                todo="Start it, or correct its entry in c.ComfyLock.pool; or use another one.",
                comfy_id=comfy_id,
                since=each.since,
            )
        yield from _changes(facts, each)
        if each.stuck_at:
            yield Finding(
                kind=Kind.WORKER_DEAD,
                level=Level.TROUBLE,
                what=f"{comfy_id} has prompts in its queue and runs none: its worker is dead",
                todo=f"Restart {comfy_id}; its tasks end as lost then, and can be sent again.",
                comfy_id=comfy_id,
                task_id=each.stuck_at,
            )


def _changes(facts: Facts, seen: ComfySeen) -> Iterator[Finding]:
    """Tell how a ComfyServer has changed, each way once, if it is news to anybody."""
    comfy_id = seen.comfy.comfy_id
    for newest in {each.what: each for each in seen.changes}.values():
        held_before = [
            lock
            for lock in facts.occupied.locks.get(comfy_id, ())
            if lock.state is LockState.HELD and lock.granted_at < newest.at
        ]
        if not held_before and facts.now - newest.at > _NEWS_FOR_S:
            continue
        concerns = f" while {', '.join(map(who, held_before))} held it" if held_before else ""
        yield Finding(
            kind=Kind.COMFY_CHANGED,
            level=Level.NOTE,
            what=f"{comfy_id} {newest.what}{concerns}",
            todo="Nothing, if that was meant: tasks that it has forgotten end as lost.",
            comfy_id=comfy_id,
            since=newest.at,
        )


# -- locks and the line --------------------------------------------------------------------------


def _of_locks(facts: Facts) -> Iterator[Finding]:
    capacity = {each.comfy.comfy_id: each.comfy.capacity for each in facts.seen}
    for comfy_id, locks in facts.occupied.locks.items():
        names = {lock.holder_id: who(lock) for lock in locks}
        exclusive = [lock for lock in locks if lock.mode is Mode.EXCLUSIVE]
        if exclusive and len(names) > 1:
            alone = exclusive[0]
            others = [name for holder, name in names.items() if holder != alone.holder_id]
            yield _conflict(
                Kind.NOT_EXCLUSIVE,
                comfy_id,
                f"{who(alone)} holds {comfy_id} exclusively, and so do {', '.join(others)}"
                if len(exclusive) > 1
                else f"{who(alone)} holds {comfy_id} exclusively, and {', '.join(others)} as well",
                alone,
            )
        if len(names) > capacity.get(comfy_id, len(names)):
            newest = max(locks, key=lambda lock: lock.fence)
            yield _conflict(
                Kind.OVER_CAPACITY,
                comfy_id,
                f"{len(names)} kernels hold {comfy_id}, which has {capacity[comfy_id]} "
                f"place(s): {', '.join(names.values())}",
                newest,
            )
        for lock in locks:
            yield from _of_lock(facts, lock)


def _conflict(kind: Kind, comfy_id: ComfyId, what: str, lock: Lock) -> Finding:
    return Finding(
        kind=kind,
        level=Level.TROUBLE,
        what=what,
        todo=f"This must not be: please report it. Meanwhile have one let go. {_clean(lock)}",
        comfy_id=comfy_id,
        since=lock.granted_at,
    )


def _of_lock(facts: Facts, lock: Lock) -> Iterator[Finding]:
    gone = facts.why_gone(lock.holder_id, lock.node_id)
    if lock.state is LockState.HELD and gone is not None:
        yield Finding(
            kind=Kind.STALE_LOCK,
            level=Level.TROUBLE,
            what=f"The lock of {who(lock)} on {lock.comfy_id} is stale: {gone}",
            todo=f"It ends by itself with its lease. To end it now: {_clean(lock)}",
            comfy_id=lock.comfy_id,
            holder_id=lock.holder_id,
            since=lock.granted_at,
        )
    if lock.state is LockState.DRAINING and lock.ending is not None:
        waiters = [x.since for x in facts.occupied.waiters if lock.comfy_id in x.wants]
        # Only while somebody waits are its prompts hurried.
        begun = max(lock.ending.at, min(waiters, default=lock.ending.at))
        if facts.now - begun > facts.drain_timeout_s + _LEAVES_IN_S:
            blocks = "and others wait for it" if waiters else "nobody waits for it"
            yield Finding(
                kind=Kind.SLOW_DRAIN,
                level=Level.TROUBLE if waiters else Level.NOTE,
                what=f"{who(lock)} let go of {lock.comfy_id}, but its prompts have not left it; "
                f"{blocks}",
                todo=f"Let them end, or cancel them: {_clean(lock)}",
                comfy_id=lock.comfy_id,
                holder_id=lock.holder_id,
                since=lock.ending.at,
            )


def _of_waiters(facts: Facts) -> Iterator[Finding]:
    for waiter in facts.occupied.waiters:
        reasons = [_why_not(facts, waiter, comfy_id) for comfy_id in waiter.wants]
        if None not in reasons:
            name = waiter.name or f"kernel {waiter.holder_id}"
            yield Finding(
                kind=Kind.VAIN_WAIT,
                level=Level.TROUBLE,
                what=f"{name} waits for {' or '.join(waiter.wants)} in vain: "
                f"{'; '.join(filter(None, reasons))}",
                todo="Bring the ComfyServer back, or have the kernel lock another one.",
                comfy_id=next(iter(waiter.wants)),
                holder_id=waiter.holder_id,
                since=waiter.since,
            )


def _why_not(facts: Facts, waiter: Waiter, comfy_id: ComfyId) -> str | None:
    """Why nobody can have a ComfyServer now; None if its turn may come."""
    found = next((each for each in facts.seen if each.comfy.comfy_id == comfy_id), None)
    if found is None:
        # Another Jupyter server may have another pool.
        return f"{comfy_id} is not in the pool" if waiter.node_id == facts.node_id else None
    access = facts.occupied.of(comfy_id).access
    if access is not Access.OPEN:
        return f"{comfy_id} is {access.value}"
    if found.status.health is not Health.OK:
        return f"{comfy_id} is {found.status.health.value.replace('_', ' ')}"
    return None


# -- tasks and prompts ---------------------------------------------------------------------------


def _of_tasks(facts: Facts) -> Iterator[Finding]:
    for task in facts.pending:
        for found in (_lost_home(facts, task), _lost_owner(facts, task)):
            if found is not None:
                yield found


def _lost_home(facts: Facts, task: Task) -> Finding | None:
    """Return what is wrong with the ComfyServer of a task."""
    if task.node_id != facts.node_id and facts.nodes.get(task.node_id, "") is None:
        # Another Jupyter server, which has a pool of its own, looks after it.
        return None
    home = next((each for each in facts.seen if each.comfy.comfy_id == task.comfy_id), None)
    if home is None or home.comfy.url != task.lock.url:
        return _about(
            task,
            Kind.TASK_WITHOUT_COMFY,
            f"runs on {task.comfy_id} at {task.lock.url}, which is not in the pool (any more)",
            "Put that ComfyServer back into c.ComfyLock.pool, or clean up after the kernel: ",
        )
    if home.status.health is Health.UNREACHABLE:
        return _about(
            task,
            Kind.TASK_UNREACHABLE,
            f"runs on {task.comfy_id}, which does not answer",
            f"Start {task.comfy_id}; a task that it does not know any more ends as lost. Or: ",
        )
    return None


def _lost_owner(facts: Facts, task: Task) -> Finding | None:
    """Return what is wrong with the kernel of a task, or with its lock."""
    locks = facts.locks_of(task.holder_id, task.comfy_id)
    gone = facts.why_gone(task.holder_id, task.node_id)
    if gone is not None:
        let_go = max((lock.ending.at for lock in locks if lock.ending), default=0.0)
        if task.cancel_requested and facts.now - let_go <= _LEAVES_IN_S:
            return None
        return _about(
            task,
            Kind.TASK_WITHOUT_HOLDER,
            f"goes on on {task.comfy_id} for nobody: {gone}",
            "Cancel it: ",
        )
    if not locks:
        return _about(
            task,
            Kind.TASK_WITHOUT_LOCK,
            f"is pending on {task.comfy_id}, which its kernel does not hold",
            "This must not be: please report it. Cancel it: ",
        )
    return None


def _about(task: Task, kind: Kind, what: str, todo: str) -> Finding:
    return Finding(
        kind=kind,
        level=Level.TROUBLE,
        what=f"Task {task.task_id} of {task.name or task.holder_id} {what}",
        todo=todo + clean_up_call(task.holder_id),
        comfy_id=task.comfy_id,
        holder_id=task.holder_id,
        task_id=task.task_id,
        since=task.created_at,
    )


def _of_prompts(facts: Facts) -> Iterator[Finding]:
    pending = {each.prompt_id for each in facts.pending} | {each.task_id for each in facts.pending}
    ended = {each.prompt_id: each for each in facts.ended}
    for seen in facts.seen:
        foreign: dict[str, int] = {}
        for prompt in seen.prompts:
            if not facts.is_ours(prompt):
                foreign[prompt.client_id] = foreign.get(prompt.client_id, 0) + 1
            elif prompt.prompt_id not in pending and prompt.tag.get("task_id") not in pending:
                yield _of_no_task(seen, prompt, ended.get(prompt.prompt_id))
        for client_id, number in foreign.items():
            yield _of_foreign(seen.comfy.comfy_id, client_id, number)


def _of_no_task(seen: ComfySeen, prompt: QueuedPrompt, ended: Task | None) -> Finding:
    comfy_id = seen.comfy.comfy_id
    holder_id = str(prompt.tag.get("holder_id") or "")
    if ended is None:
        kind, what = Kind.UNREGISTERED_PROMPT, "came through a gateway and is of no known task"
    else:
        kind, what = Kind.PROMPT_AFTER_END, f"is there still, though its task is {ended.state}"
    return Finding(
        kind=kind,
        level=Level.TROUBLE,
        what=f"Prompt {prompt.prompt_id} in the queue of {comfy_id} {what}",
        todo=f"Take it off the queue: {clean_up_call(holder_id)}",
        comfy_id=comfy_id,
        holder_id=holder_id or None,
        task_id=prompt.prompt_id,
        since=None if ended is None else ended.ended_at,
    )


def _of_foreign(comfy_id: str, client_id: str, number: int) -> Finding:
    # Who knows a whole client id can hear, and be taken for, that client.
    client = f"client {client_id[:8]}…" if client_id else "clients unknown here"
    return Finding(
        kind=Kind.FOREIGN_PROMPTS,
        level=Level.NOTE,
        what=f"{number} prompt(s) in the queue of {comfy_id} came past the gateway, from {client}",
        todo="Nobody keeps these apart from yours; have their sender use a gateway: comfy.url.",
        comfy_id=comfy_id,
        holder_id=client_id[:8] or None,
    )


def _clean(lock: Lock) -> str:
    return clean_up_call(lock.holder_id)


def clean_up_call(holder_id: str) -> str:
    """Return the call that tells what is left of a holder, and who may take it away."""
    return f'comfy.cleanup("{holder_id}", dry_run=True) tells what that would do, and who may.'
