"""What cleaning up after a kernel does, decided before any of it is done.

A plan names each thing by its id. Whoever carries it out acts on these ids and on nothing else, so
that what was shown and what is done are the same; what has ended by itself meanwhile stays ended.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jupyter_comfy_lock.domain.errors import BadRequest
from jupyter_comfy_lock.domain.line import Waiter
from jupyter_comfy_lock.domain.lock import HolderId, Lock, LockState, kernel_of
from jupyter_comfy_lock.domain.pool_facts import Facts
from jupyter_comfy_lock.domain.task import Task

#: Tables show so much of an id.
_SHORTEST_PART = 8


class Action(StrEnum):
    """What can be done, in the order in which it is done."""

    LEAVE_LINE = "leave_line"  #: stand in line no longer
    RELEASE = "release"  #: let go of a lock
    CANCEL = "cancel"  #: end a task
    REMOVE = "remove"  #: take a prompt of no task off its ComfyServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do."""

    action: Action
    holder_id: HolderId
    #: Where; of a place in line, the ComfyServer that is liked best.
    comfy_id: str
    #: The lock, the request that waits, the task or the prompt.
    subject: str
    #: A phrase for people: "release the shared lock on gpu-1".
    what: str
    #: Seconds since the epoch; None where nobody knows.
    since: float | None = None

    @property
    def step_id(self) -> str:
        """What names this step to whoever wants it, and not others, done."""
        return f"{self.action.value}:{self.subject}"


class Result(StrEnum):
    """What came of a step."""

    PLANNED = "planned"  #: nothing was done
    DONE = "done"
    OVER = "over"  #: it had ended by itself
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step, and what came of it."""

    step: Step
    result: Result
    #: Why it failed.
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as REST shows it."""
        return {
            "step_id": self.step.step_id,
            "action": self.step.action.value,
            "holder_id": self.step.holder_id,
            "comfy_id": self.step.comfy_id,
            "subject": self.step.subject,
            "what": self.step.what,
            "since": self.step.since,
            "result": self.result.value,
            "why": self.why,
        }


def plan(facts: Facts, holders: Collection[HolderId]) -> list[Step]:
    """Return all that cleaning up after `holders` does, in its order."""
    return [
        *_places_in_line(facts, holders),
        *_locks(facts, holders),
        *_tasks(facts, holders),
        *_prompts(facts, holders),
    ]


def _places_in_line(facts: Facts, holders: Collection[HolderId]) -> Iterable[Step]:
    for waiter in facts.occupied.waiters:
        if waiter.holder_id in holders:
            wants = list(waiter.wants)
            yield Step(
                action=Action.LEAVE_LINE,
                holder_id=waiter.holder_id,
                comfy_id=wants[0],
                subject=waiter.lock_id,
                what=f"leave the line for {' or '.join(wants)}",
                since=waiter.since,
            )


def _locks(facts: Facts, holders: Collection[HolderId]) -> Iterable[Step]:
    for locks in facts.occupied.locks.values():
        for lock in locks:
            # One that drains was let go of: its tasks end it.
            if lock.holder_id in holders and lock.state is LockState.HELD:
                yield Step(
                    action=Action.RELEASE,
                    holder_id=lock.holder_id,
                    comfy_id=lock.comfy_id,
                    subject=lock.lock_id,
                    what=f"release the {lock.mode} lock on {lock.comfy_id}",
                    since=lock.granted_at,
                )


def _tasks(facts: Facts, holders: Collection[HolderId]) -> Iterable[Step]:
    for task in sorted(facts.pending, key=lambda each: each.created_at):
        if task.holder_id in holders:
            yield Step(
                action=Action.CANCEL,
                holder_id=task.holder_id,
                comfy_id=task.comfy_id,
                subject=task.task_id,
                what=f"cancel task {task.task_id} on {task.comfy_id}",
                since=task.created_at,
            )


def _prompts(facts: Facts, holders: Collection[HolderId]) -> Iterable[Step]:
    known = {name for task in facts.pending for name in (task.prompt_id, task.task_id)}
    for seen in facts.seen:
        for prompt in seen.prompts:
            of_no_task = not known & {prompt.prompt_id, str(prompt.tag.get("task_id"))}
            theirs = facts.is_ours(prompt) and prompt.tag.get("holder_id") in holders
            if of_no_task and theirs:
                yield Step(
                    action=Action.REMOVE,
                    holder_id=HolderId(str(prompt.tag["holder_id"])),
                    comfy_id=seen.comfy.comfy_id,
                    subject=prompt.prompt_id,
                    what=f"take prompt {prompt.prompt_id} off {seen.comfy.comfy_id}",
                )


def holders_known(facts: Facts, names: Mapping[HolderId, str]) -> dict[HolderId, str]:
    """Return all holders that anything is known of, with what people call them.

    `names`: those that are there now.
    """
    locks = [lock for locks in facts.occupied.locks.values() for lock in locks]
    left: list[Task | Lock | Waiter] = [*facts.pending, *locks, *facts.occupied.waiters]
    tagged = [
        HolderId(str(prompt.tag["holder_id"]))
        for seen in facts.seen
        for prompt in seen.prompts
        if facts.is_ours(prompt) and prompt.tag.get("holder_id")
    ]
    return {
        **dict.fromkeys(tagged, ""),
        **{each.holder_id: each.name for each in left},
        **names,
    }


def holders_of(kernel: str, known: Mapping[HolderId, str]) -> list[HolderId]:
    """Return the lives of the kernel that somebody means.

    By the id of one life or of the kernel, by its notebook, or by the beginning of its id, as
    tables show it.

    Raises:
        BadRequest: nobody is meant, or several kernels are; the message names who there is.
    """
    if HolderId(kernel) in known:
        return [HolderId(kernel)]
    ways = (
        [each for each in known if kernel_of(each) == kernel],
        [each for each, name in known.items() if name == kernel],
        [each for each in known if _begins(each, kernel)],
    )
    found = next(filter(None, ways), [])
    kernels = dict.fromkeys(map(kernel_of, found))
    if len(kernels) == 1:
        return found
    if kernels:
        why = f"means {len(kernels)} kernels: give the id of one, {' or '.join(kernels)}"
        raise BadRequest(field="kernel", why=why)
    named = ", ".join(f"{each} ({name})" if name else each for each, name in known.items())
    why = (
        f"names {kernel!r}, of which nothing is here: no lock, no place in line, no task. "
        f"Kernels that have something: {named or 'none'}"
    )
    raise BadRequest(field="kernel", why=why)


def _begins(holder_id: HolderId, part: str) -> bool:
    part = part.rstrip("….")
    bare = holder_id.removeprefix("attached-")
    return len(part) >= _SHORTEST_PART and (holder_id.startswith(part) or bare.startswith(part))
