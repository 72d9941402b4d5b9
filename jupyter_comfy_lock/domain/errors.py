"""Every error this package raises on purpose.

* ComfyLockError
  - ConfigError              a setting is wrong; names the key
  - NoServerExtension        no Jupyter server with this extension answers
  - WrongCredential          the Jupyter server does not accept who we say we are
  - UnknownHolder            a kernel's credential is not, or no longer, valid
  - NotYours                 it belongs to another kernel
  - BadRequest               a request that the REST API does not understand
  - EmptyPool                no ComfyServer is configured
  - UnknownComfy             no ComfyServer has that id
  - ComfyUnreachable         the ComfyServer does not answer
  - ComfyUnauthorized        the ComfyServer refuses our headers
  - NotComfyUI               what answers there is not ComfyUI
  - ComfyUnsupported         it is ComfyUI, but too old
  - NoLock                   a task needs a lock, and there is none (R2)
  - LockRefused              the ComfyServer is taken (R6)
  - LockTimeout              it was waited for, and it is still taken
  - ComfyClosed              an operator lets nobody have the ComfyServer now
  - ServerConsistencyError   tasks are pending on another ComfyServer (R3)
  - OtherLock                what was to be done is for another ComfyServer than the locked one (R3)
  - StaleLock                the lock was lost (R7)
  - InvalidWorkflow          not a workflow that ComfyUI could run
  - PromptRejected           ComfyUI refused the prompt
  - UnknownTask, UnknownFile
  - CannotInterrupt          its ComfyUI is too old to stop that task without stopping others'
  - TaskFailed, TaskCancelled, TaskLost   how a task ended, for whoever waits for it
  - StoreUnavailable         locks and tasks cannot be read or written now

A `code` never changes, a message may. `details` carry what a program needs to act.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar

from jupyter_comfy_lock.domain.last_frame import EndsAtTheCell


class ComfyLockError(EndsAtTheCell, Exception):
    """Base class; catch this to catch them all."""

    #: Stable name, sent to clients as `code`.
    code: ClassVar[str] = "comfy_lock_error"
    #: The status that a REST handler answers with.
    http_status_hint: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def to_json(self) -> dict[str, Any]:
        """Return `{"code", "message", "details"}`, as it crosses every border."""
        return {"code": self.code, "message": self.message, "details": self.details}


def error_from_json(payload: Mapping[str, Any]) -> ComfyLockError:
    """Rebuild the error that `to_json` described; an unknown code gives the base class."""
    cls = _BY_CODE.get(str(payload.get("code")), ComfyLockError)
    error = cls.__new__(cls)
    details = payload.get("details")
    ComfyLockError.__init__(
        error,
        str(payload.get("message") or "The Jupyter server gave no reason."),
        **{str(key): value for key, value in (details or {}).items()},
    )
    return error


class ConfigError(ComfyLockError):
    """A setting is wrong. `key` names it, as in `pool[1].url`."""

    code = "config_error"

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"c.ComfyLock.{key}: {why}", key=key)


class NoServerExtension(ComfyLockError):
    """No Jupyter server with this extension enabled answers."""

    code = "no_server_extension"
    http_status_hint = 404


class WrongCredential(ComfyLockError):
    """The Jupyter server does not accept who the caller says it is."""

    code = "wrong_credential"
    http_status_hint = 403


class UnknownHolder(ComfyLockError):
    """The credential belongs to no kernel that this Jupyter server knows."""

    code = "unknown_holder"
    http_status_hint = 403

    def __init__(self) -> None:
        super().__init__(
            "This kernel's credential is not, or no longer, valid: the kernel or the Jupyter "
            "server was restarted, or the kernel was away too long. What it held is released; "
            "say hello again and take a new lock."
        )


class NotYours(ComfyLockError):
    """What was asked for belongs to another kernel, or to the Jupyter user alone."""

    code = "not_yours"
    http_status_hint = 403


class BadRequest(ComfyLockError):
    """A request that is not as the REST API wants it. `field` names the first wrong one."""

    code = "bad_request"
    http_status_hint = 400

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f'"{field}" {why}', field=field)


class TakenId(BadRequest):
    """A prompt was to have the id of an earlier one; `field` is what the caller calls that id."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is the id of an earlier prompt; leave it out")


class EmptyPool(ComfyLockError):
    """There is no ComfyServer to lock."""

    code = "empty_pool"
    http_status_hint = 409

    def __init__(self) -> None:
        super().__init__(
            "No ComfyServer is configured. Set c.ComfyLock.pool = [{'id': 'gpu-1', 'url': "
            "'http://…:8188'}] in jupyter_server_config.py and restart the Jupyter server, or "
            "try `jupyter comfy-lock demo`, which brings its own."
        )


class UnknownComfy(ComfyLockError):
    """No ComfyServer of the pool has that id."""

    code = "unknown_comfy"
    http_status_hint = 404

    def __init__(self, comfy_id: str, known: Iterable[str]) -> None:
        ids = list(known)
        super().__init__(
            f"There is no ComfyServer {comfy_id!r} in the pool. Known: {', '.join(ids) or 'none'}.",
            comfy_id=comfy_id,
            known=ids,
        )


class ComfyUnreachable(ComfyLockError):
    """The ComfyServer does not answer."""

    code = "comfy_unreachable"
    http_status_hint = 502

    def __init__(self, comfy_id: str, why: str, *, sent: bool = True) -> None:
        super().__init__(
            f"ComfyServer {comfy_id!r} does not answer ({why}). Start it, or lock another one: "
            "comfy.servers() lists them.",
            comfy_id=comfy_id,
            why=why,
        )
        #: False if the request surely never reached it.
        self.sent = sent


class ComfyUnauthorized(ComfyLockError):
    """The ComfyServer, or what stands before it, refuses the pool's headers."""

    code = "comfy_unauthorized"
    http_status_hint = 502

    def __init__(self, comfy_id: str, status: int) -> None:
        super().__init__(
            f"ComfyServer {comfy_id!r} refuses us (HTTP {status}). Check the `headers` of its "
            "entry in c.ComfyLock.pool.",
            comfy_id=comfy_id,
            status=status,
        )


class NotComfyUI(ComfyLockError):
    """Something answers at the URL, but it is not ComfyUI."""

    code = "not_comfyui"
    http_status_hint = 502

    def __init__(self, comfy_id: str, why: str) -> None:
        super().__init__(
            f"What answers at the URL of {comfy_id!r} is not ComfyUI ({why}). Check the `url` of "
            "its entry in c.ComfyLock.pool.",
            comfy_id=comfy_id,
            why=why,
        )


class ComfyUnsupported(ComfyLockError):
    """The ComfyUI there is too old to keep kernels apart."""

    code = "comfy_unsupported"
    http_status_hint = 502

    def __init__(self, comfy_id: str, version: str, minimum: str) -> None:
        super().__init__(
            f"ComfyServer {comfy_id!r} runs ComfyUI {version}; {minimum} is the oldest that can "
            "stop one prompt without stopping everybody's. Update it.",
            comfy_id=comfy_id,
            version=version,
        )


class NoLock(ComfyLockError):
    """R2: the kernel holds no lock, so nothing was sent."""

    code = "no_lock"
    http_status_hint = 409

    def __init__(self, holder: str, *, prompt: str | None = None) -> None:
        sent = f"Prompt {prompt} of {holder} was not" if prompt else f"Nothing of {holder} was"
        super().__init__(
            f"{sent} sent: the kernel holds no lock. Take one first: "
            'comfy.lock("…") or comfy.lock() for the best free ComfyServer.',
            holder=holder,
            prompt=prompt,
        )


class LockRefused(ComfyLockError):
    """The ComfyServer (all of them for None) has no room. `holders`: who has it, since when."""

    code = "lock_refused"
    http_status_hint = 409

    def __init__(
        self, comfy_id: str | None, why: str, holders: Iterable[Mapping[str, Any]]
    ) -> None:
        known = [dict(each) for each in holders]
        since = "; ".join(
            f"{each.get('name') or each.get('holder_id')} since "
            f"{datetime.fromtimestamp(each['since']):%Y-%m-%d %H:%M}"
            for each in known
        )
        since = f" ({since})" if since else ""
        super().__init__(
            f"No ComfyServer can be locked now: {why}. Wait, or ask who holds one to release it."
            if comfy_id is None
            else f"ComfyServer {comfy_id!r} cannot be locked: {why}{since}. Nothing else was taken "
            "instead; wait, ask its holder, or lock another one: comfy.servers() lists them.",
            comfy_id=comfy_id,
            why=why,
            holders=known,
        )


class LockTimeout(ComfyLockError, TimeoutError):
    """The turn did not come in the time that the caller was willing to wait."""

    code = "lock_timeout"
    http_status_hint = 409

    def __init__(self, wait_s: float, why: str, comfy_ids: Iterable[str]) -> None:
        ids = list(comfy_ids)
        super().__init__(
            f"Waited {wait_s:g} s for {' or '.join(ids)} in vain: {why}. You are out of the line "
            "and nothing is locked that was not before. Wait longer (wait=None: for ever), ask "
            "its holder, or lock another one: comfy.servers() lists them.",
            comfy_ids=ids,
            wait_s=wait_s,
        )


class ComfyClosed(ComfyLockError):
    """An operator lets nobody have the ComfyServer now."""

    code = "comfy_closed"
    http_status_hint = 409

    def __init__(self, comfy_id: str, state: str, *, by: str, why: str, since: float) -> None:
        moment = f"{datetime.fromtimestamp(since):%Y-%m-%d %H:%M}"
        because = f": {why}" if why else ""
        super().__init__(
            f"ComfyServer {comfy_id!r} is {state} by {by} since {moment}{because}. It takes no "
            "new locks until it is opened again; lock another one: comfy.servers() lists them.",
            comfy_id=comfy_id,
            state=state,
            by=by,
            why=why,
            since=since,
        )


class ServerConsistencyError(ComfyLockError):
    """R3: tasks are pending on the locked ComfyServer, so the kernel cannot move."""

    code = "server_consistency"
    http_status_hint = 409

    def __init__(
        self, holder: str, operation: str, *, asked: str, locked: str, pending: Iterable[str]
    ) -> None:
        ids = list(pending)
        shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        super().__init__(
            f"Kernel {holder}: {operation} asked for {asked!r}, but {len(ids)} task(s) are pending "
            f"on {locked!r} ({shown}). Wait for them or cancel them, then move.",
            holder=holder,
            operation=operation,
            asked=asked,
            locked=locked,
            pending=ids,
        )


class OtherLock(ComfyLockError):
    """R3: what was to be sent is for one ComfyServer, and the kernel has locked another."""

    code = "other_lock"
    http_status_hint = 409

    def __init__(self, holder: str, *, wanted: str, locked: str) -> None:
        super().__init__(
            f"Nothing was sent: this is for ComfyServer {wanted!r}, and kernel {holder} has "
            f"locked {locked!r}.",
            holder=holder,
            wanted=wanted,
            locked=locked,
        )


class StaleLock(ComfyLockError):
    """R7: the lock was held and is not any more; nothing was forwarded."""

    code = "stale_lock"
    http_status_hint = 409

    def __init__(self, comfy_id: str, fence: int, why: str) -> None:
        super().__init__(
            f"The lock on ComfyServer {comfy_id!r} (fence {fence}) is gone: {why}. Prompts that "
            "were accepted before may still run there. Take a new lock before sending more.",
            comfy_id=comfy_id,
            fence=fence,
        )


class InvalidWorkflow(ComfyLockError):
    """Not a workflow that any ComfyUI could run; nothing was sent."""

    code = "invalid_workflow"
    http_status_hint = 400


class PromptRejected(ComfyLockError):
    """ComfyUI refused the prompt. The message names each node, input and reason."""

    code = "prompt_rejected"
    http_status_hint = 400


class UnknownTask(ComfyLockError):
    """No such task, or none of this kernel's; or several, `fit`, whose ids begin like that."""

    code = "unknown_task"
    http_status_hint = 404

    def __init__(self, task_id: str, fit: Iterable[str] = ()) -> None:
        fitting = list(fit)
        msg = f"This kernel has no task {task_id!r}."
        if fitting:
            listed = "".join(f"\n  {each}" for each in fitting)
            msg = f"{task_id!r} is the beginning of {len(fitting)} tasks' ids; write more:{listed}"
        super().__init__(msg, task_id=task_id)


class CannotInterrupt(ComfyLockError):
    """A task that runs cannot be stopped without stopping what may be another kernel's (R4)."""

    code = "cannot_interrupt"
    http_status_hint = 409

    def __init__(self, comfy_id: str, version: str, task_ids: Iterable[str]) -> None:
        named = sorted(task_ids)
        what, it = ("Task", "it") if len(named) == 1 else ("Tasks", "they")
        super().__init__(
            f"{what} {', '.join(named)} cannot be stopped: ComfyUI {version} on ComfyServer "
            f"{comfy_id!r} can only stop whatever runs, and that may be another kernel's a moment "
            f"from now; {it} will run to the end. To stop what runs there, lock {comfy_id!r} "
            "exclusively before sending, or upgrade its ComfyUI to 0.3.57 or newer.",
            comfy_id=comfy_id,
            version=version,
            task_ids=named,
        )


class UnknownFile(ComfyLockError):
    """The task has no such file, or its ComfyServer has it no more."""

    code = "unknown_file"
    http_status_hint = 404


class TaskFailed(ComfyLockError):
    """A node of the task raised. The message carries the ComfyServer's traceback."""

    code = "task_failed"


class TaskCancelled(ComfyLockError):
    """The task was cancelled before its end."""

    code = "task_cancelled"


class TaskLost(ComfyLockError):
    """The ComfyServer does not know the task any more: it was restarted, or its queue emptied."""

    code = "task_lost"


class StoreUnavailable(ComfyLockError):
    """Locks and tasks cannot be read or written now."""

    code = "store_unavailable"
    http_status_hint = 503


_BY_CODE: dict[str, type[ComfyLockError]] = {
    cls.code: cls for cls in ComfyLockError.__subclasses__()
}
