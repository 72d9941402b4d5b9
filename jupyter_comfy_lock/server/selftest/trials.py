"""The six trials. Each takes shared places only where they are free, and looks at the answers."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from uuid import uuid4

from jupyter_comfy_lock.domain.check_pool import Kind, Level, findings
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, LockId, Mode
from jupyter_comfy_lock.domain.pool_facts import Facts
from jupyter_comfy_lock.server.check import check
from jupyter_comfy_lock.server.cleanup import Order, cleanup
from jupyter_comfy_lock.server.selftest.actor import Actor, Answer, Broken, CannotTry
from jupyter_comfy_lock.server.selftest.stage import Stage

#: Who cleans up, in the trial of that.
_BY = "the self-test"


def tiny(size: int = 16) -> dict[str, Any]:
    """Return a prompt that any ComfyUI runs: no model, no file that is kept.

    Of a colour that it has not painted before, so that it does not have the result already.
    """
    color = secrets.randbelow(2**24)
    image = {"width": size, "height": size, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def must(true: bool, otherwise: str) -> None:
    """Raise Broken with what was seen, unless it is as promised."""
    if not true:
        raise Broken(otherwise)


def must_refuse(answer: Answer, code: str, what: str) -> None:
    """Raise Broken unless a call was refused for that reason."""
    must(answer.code == code, f"{what} was not refused with {code}: {answer}")


async def identity(stage: Stage) -> str:
    """R10: ids and keys of its own, which end with it."""
    a, b = await stage.actor("A"), await stage.actor("B")
    for what in ("holder_id", "credential", "gateway_key"):
        same = getattr(a.holder, what) == getattr(b.holder, what)
        must(not same, f"two kernels have the same {what}")
    for actor in (a, b):
        answer = await actor.call("GET", "holders/me/debug")
        known = answer.body["holder"]["holder_id"] if answer.status == 200 else str(answer)
        must(
            known == actor.holder.holder_id,
            f"the Jupyter server takes {actor.holder.holder_id} for {known}",
        )
    answer = await b.call("GET", f"holders/{a.holder.holder_id}/debug")
    must_refuse(answer, "not_yours", "to look into another kernel")
    gone = a.holder
    await a.leave()
    must_refuse(await a.call("GET", "locks"), "unknown_holder", "the key of a kernel that ended")
    hello = stage.services.kernels.hello_attached
    again, _ = await hello(gone.kernel_id, instance=str(uuid4()), name=gone.name)
    try:
        must(again.holder_id != gone.holder_id, "a restarted kernel is taken for its former life")
        must(again.credential != gone.credential, "a restarted kernel has its former key")
    finally:
        await stage.services.kernels.end(again, "the self-test is over")
    return "ids and keys differ, and end with their kernel"


async def locks(stage: Stage) -> str:
    """R1, R2: a lock is its own kernel's business."""
    first, second = await stage.two()
    a, b = await stage.actor("A"), await stage.actor("B")
    mine = await a.lock(first)
    must(await b.locks() == [], f"{b.name} has locked nothing, and is told that it holds something")
    refused = await b.call("POST", "tasks", {"prompt": tiny()})
    must_refuse(refused, "no_lock", "a prompt of a kernel without a lock")
    must_refuse(await b.comfy("GET", "queue"), "no_lock", "the gateway of a kernel without a lock")
    if second is not None:
        theirs = await b.lock(second)
        must(theirs["fence"] != mine["fence"], "two locks have the same fence")
        must(await b.locks() == [theirs], f"{b.name} is told another lock than it took")
    await _still(a, mine, "another kernel locked")
    released = await b.call("DELETE", "locks/mine")
    told = released.body.get("released") if released.status == 200 else None
    where = told and told["comfy_id"]
    must(where == second, f"{b.name} released {where}, and held {second}")
    await _still(a, mine, "another kernel released")
    must(await b.locks() == [], f"{b.name} has released, and is told that it holds something")
    if second is None:
        return f"on {first} alone, which has one free place: the second kernel had no lock"
    return f"two kernels on {_both(first, second)}"


async def cross_check(stage: Stage) -> str:
    """R3, R6: the same word for all on who has what."""
    first, second = await stage.two()
    a, b = await stage.actor("A"), await stage.actor("B")
    await a.lock(first)
    refused = await b.ask(first, "exclusive")
    must_refuse(refused, "lock_refused", f"an exclusive lock on {first}, which is shared,")
    named = [each["holder_id"] for each in refused.body["details"]["holders"]]
    must(a.holder.holder_id in named, f"the refusal does not name who holds {first}")
    if second is not None:
        await b.lock(second)
    for actor in (a, b):
        pool = (await actor.call("GET", "pool")).body["servers"]
        holders = {x["comfy_id"]: {h["holder_id"] for h in x["holders"]} for x in pool}
        must(
            a.holder.holder_id in holders[first],
            f"{actor.name} is not told that {a.name} holds {first}",
        )
    seen = await check(stage.services, None)
    ours = {a.holder.holder_id, b.holder.holder_id}
    wrong = [x.what for x in seen.findings if x.holder_id in ours and x.level is Level.TROUBLE]
    must(not wrong, f"trouble is found where there is none: {'; '.join(wrong)}")
    planted = findings(_with_a_conflict(seen.facts, ComfyId(first)))
    must(
        any(x.kind is Kind.NOT_EXCLUSIVE and x.comfy_id == first for x in planted),
        "an exclusive lock beside others, made up for the check alone, is not found",
    )
    return f"both kernels and the check agree on who has {_both(first, second)}"


def _with_a_conflict(facts: Facts, comfy_id: ComfyId) -> Facts:
    """Return facts in which somebody has a ComfyServer exclusively that others share."""
    held = tuple(facts.occupied.locks[comfy_id])
    alone = replace(
        held[0],
        lock_id=LockId(str(uuid4())),
        holder_id=HolderId("attached-nobody.1"),
        mode=Mode.EXCLUSIVE,
    )
    occupied = {**facts.occupied.locks, comfy_id: (*held, alone)}
    return replace(facts, occupied=replace(facts.occupied, locks=occupied))


async def tasks(stage: Stage) -> str:
    """R4, R5: a task is its own kernel's business."""
    first, second = await stage.two(for_prompts=True)
    a, b = await stage.actor("A"), await stage.actor("B")
    await a.lock(first)
    if second is not None:
        await b.lock(second)
    mine = await a.submit(tiny())
    theirs = await b.submit(tiny()) if second is not None else None
    for what in ("", "/cancel", "/files/0", "/preview"):
        answer = await b.call("POST" if what == "/cancel" else "GET", f"tasks/{mine}{what}")
        must_refuse(answer, "unknown_task", f"tasks/…{what} of another kernel")
    task = await a.ended(mine)
    must(
        task["state"] == "succeeded",
        f"a tiny prompt {task['state']} on {first}: {task['reason']}",
    )
    must(task["lock"]["comfy_id"] == first, "a task does not name the ComfyServer it was sent to")
    must(bool(task["files"]), "a task has not left the picture that it made")
    answer = await b.call("GET", f"tasks/{mine}/files/0")
    must_refuse(answer, "unknown_task", "another kernel's picture")
    listed = [x["task_id"] for x in (await b.call("GET", "tasks")).body["tasks"]]
    must(listed == ([theirs] if theirs else []), f"{b.name} is told of others' tasks: {listed}")
    if second is not None and theirs is not None:
        await _sees_its_own(b, theirs, mine, task["files"][0])
        return f"a prompt each on {_both(first, second)}"
    return f"one prompt on {first}, which has one free place: the second kernel sent none"


async def _sees_its_own(actor: Actor, mine: str, theirs: str, file: Mapping[str, str]) -> None:
    """Look through the gateway of a kernel for a task that is another's."""
    ended = await actor.ended(mine)
    must(ended["state"] == "succeeded", f"a tiny prompt {ended['state']}: {ended['reason']}")
    history = (await actor.comfy("GET", "history")).body
    must(set(history) == {mine}, f"its history has {sorted(history)}, and its own is {mine}")
    one = (await actor.comfy("GET", f"history/{theirs}")).body
    must(one == {}, "the history of another kernel's prompt is shown")
    query = "&".join(f"{key}={file[key]}" for key in ("filename", "subfolder", "type"))
    seen = await actor.comfy("GET", f"view?{query}")
    own = {(x["filename"], x["subfolder"], x["type"]) for x in ended["files"]}
    if (file["filename"], file["subfolder"], file["type"]) not in own:
        must(seen.status in (403, 404), f"another kernel's picture is shown: {seen}")


async def consistency(stage: Stage) -> str:
    """R3: with tasks pending, nobody moves."""
    first, second = await stage.two(for_prompts=True)
    elsewhere = second if second != first else None
    a = await stage.actor("A")
    mine = await a.lock(first)
    must_refuse(await a.ask("no-such-server"), "unknown_comfy", "a ComfyServer that there is not")
    await _still(a, mine, "a ComfyServer was asked for that there is not")
    if elsewhere is None:
        others = [x for x in stage.services.upstreams if x != first]
        elsewhere = next(iter(others), None)
    if elsewhere is None:
        return (
            f"{first} is the only ComfyServer: that nothing else is taken instead was seen, "
            "moving with tasks pending could not be tried"
        )
    # A fast ComfyServer may be done before it is asked: then with more to do.
    for size in (64, 256, 512, 1024):
        if await _stays(a, elsewhere, size):
            await _still(a, mine, "it was asked to move with tasks pending")
            return f"with tasks pending on {first}, {elsewhere} was refused"
        if [each["comfy_id"] for each in await a.locks()] != [first]:
            mine = await a.lock(first)
    msg = f"{first} has done each prompt before the next call: no task was pending"
    raise CannotTry(msg)


async def _stays(a: Actor, elsewhere: str, size: int) -> bool:
    """Ask to move with tasks pending; whether it was refused. False: none was pending by then."""
    sent = await asyncio.gather(*(a.submit(tiny(size)) for _ in range(4)))
    answer = await a.ask(elsewhere)
    answered_at = time.time()
    if answer.code == "server_consistency":
        for task_id in sent:
            await a.call("POST", f"tasks/{task_id}/cancel")
        return True
    ended = [await a.ended(task_id) for task_id in sent]
    if answer.status not in (200, 201):
        return False
    pending = [task["task_id"] for task in ended if task["ended_at"] > answered_at]
    must(not pending, f"it moved to {elsewhere} with {len(pending)} task(s) pending")
    return False


async def clean(stage: Stage) -> str:
    """S7: what it says is what it does."""
    first, second = await stage.two(for_prompts=True)
    a, b = await stage.actor("A"), await stage.actor("B")
    lock = await a.lock(first)
    theirs = await b.lock(second) if second is not None else None
    refused = await b.call("POST", "cleanup", {"kernel": a.holder.holder_id})
    must_refuse(refused, "not_yours", "to clean up after another kernel")
    order = Order(by=_BY, kernel=a.holder.holder_id, dry_run=True, why="it is a test")
    dry = await cleanup(stage.services, order)
    planned = [step["action"] for step in dry["steps"]]
    must(planned == ["release"], f"it would {planned}, and there is one lock to release")
    await _still(a, lock, "it was only asked what cleaning up would do")
    done = await cleanup(stage.services, replace(order, dry_run=False))
    same = [x["step_id"] for x in done["steps"]] == [x["step_id"] for x in dry["steps"]]
    must(same, "it did something else than it had said")
    results = [x["result"] for x in done["steps"]]
    must(results == ["done"], f"releasing a lock {results}")
    must(await a.locks() == [], "the lock is held still after it was cleaned up")
    told = await a.call("POST", "tasks", {"prompt": tiny()})
    must_refuse(told, "stale_lock", "a prompt under a lock that was cleaned up")
    must(_BY in str(told), f"the kernel is not told who has cleaned up: {told}")
    if theirs is not None:
        await _still(b, theirs, "another kernel was cleaned up")
    await a.lock(first)
    await a.submit(tiny())
    left = await a.leave()
    must(left is None, f"a kernel that ended has left {left}")
    if theirs is not None:
        await _still(b, theirs, "another kernel ended")
    return f"did on {first} what it had said, and no more"


async def _still(actor: Actor, lock: Mapping[str, Any], when: str) -> None:
    """Look whether a kernel has the lock still that it had."""
    held = await actor.locks()
    fences = [each["fence"] for each in held]
    must(
        fences == [lock["fence"]],
        f"when {when}, {actor.name} had lost its lock on {lock['comfy_id']}"
        if not held
        else f"when {when}, {actor.name} had another lock",
    )
    through = await actor.comfy("GET", "queue")
    must(through.status == 200, f"when {when}, the gateway of {actor.name} said {through}")


def _both(first: str, second: str | None) -> str:
    return first if second in (None, first) else f"{first} and {second}"


#: By the names that the self-test gives them.
DO: Mapping[str, Callable[[Stage], Awaitable[str]]] = {
    "identity": identity,
    "locks": locks,
    "check": cross_check,
    "tasks": tasks,
    "consistency": consistency,
    "cleanup": clean,
}
