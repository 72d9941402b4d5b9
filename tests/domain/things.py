"""Locks, tasks and ComfyServers to test with."""

from __future__ import annotations

from typing import Any

from jupyter_comfy_lock.domain.line import Waiter
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockId, LockState, Mode
from jupyter_comfy_lock.domain.pool import ComfyServer
from jupyter_comfy_lock.domain.task import LockSnapshot, Task, TaskId, TaskState


def a_lock(holder: str = "k1.1", comfy: str = "gpu-1", **more: Any) -> Lock:
    fields: dict[str, Any] = {
        "lock_id": LockId(f"lock of {holder} on {comfy}"),
        "node_id": "n1",
        "mode": Mode.SHARED,
        "fence": 1,
        "granted_at": 0.0,
    }
    return Lock(comfy_id=ComfyId(comfy), holder_id=HolderId(holder), **{**fields, **more})


def a_draining_lock(holder: str = "k1.1", comfy: str = "gpu-1", **more: Any) -> Lock:
    return a_lock(holder, comfy, state=LockState.DRAINING, **more)


def a_waiter(holder: str, *comfys: str, ticket: int, capacity: int = 2, **more: Any) -> Waiter:
    fields: dict[str, Any] = {"node_id": "n1", "mode": Mode.SHARED}
    return Waiter(
        lock_id=LockId(f"wish {ticket} of {holder}"),
        holder_id=HolderId(holder),
        ticket=ticket,
        wants={ComfyId(each): capacity for each in comfys or ("gpu-1",)},
        **{**fields, **more},
    )


def a_comfy(comfy_id: str = "gpu-1", **more: Any) -> ComfyServer:
    return ComfyServer(comfy_id=ComfyId(comfy_id), url=f"http://{comfy_id}:8188", **more)


def a_snapshot(holder: str = "k1.1", comfy: str = "gpu-1", fence: int = 1) -> LockSnapshot:
    return LockSnapshot(
        comfy_id=ComfyId(comfy),
        url=f"http://{comfy}:8188",
        epoch=1,
        fence=fence,
        mode=Mode.SHARED,
        client_id="c1",
        holder_id=HolderId(holder),
        at=1.5,
    )


def a_task(task_id: str = "t1", **more: Any) -> Task:
    fields: dict[str, Any] = {
        "holder_id": HolderId("k1.1"),
        "node_id": "n1",
        "lock": a_snapshot(),
        "state": TaskState.REGISTERED,
        "created_at": 1.0,
    }
    return Task(task_id=TaskId(task_id), **{**fields, **more})
