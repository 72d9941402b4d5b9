"""Who calls the REST API, and how it is answered when something is wrong."""

import json
from http import HTTPStatus
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.identity import User
from jupyter_server.base.handlers import APIHandler
from tornado import web

from jupyter_comfy_lock.domain.errors import (
    BadRequest,
    ComfyLockError,
    NotYours,
    WrongCredential,
)
from jupyter_comfy_lock.domain.lock import HolderId, Lock
from jupyter_comfy_lock.domain.task import Task
from jupyter_comfy_lock.server.fields import json_object
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.services import CONFIG_ERROR, SERVICES, STARTED, Services

_KERNEL = "ComfyKernel "
#: How a kernel's proof begins in the Authorization header.
PROOF = "ComfyKernelProof "


class ComfyLockHandler(APIHandler):
    """Knows who calls: a holder by its credential, or the Jupyter user as everywhere in Jupyter."""

    auth_resource = "comfy_lock"
    holder: Holder | None = None
    #: Whether a kernel's proof will do here; everywhere else it needs the credential it got for it.
    takes_proof = False

    @property
    def services(self) -> Services:
        """What the extension is made of."""
        services: Services = self.settings[SERVICES]
        return services

    @property
    def holder_id(self) -> HolderId | None:
        """The holder that calls; None for the Jupyter user, who sees everybody's."""
        return self.holder.holder_id if self.holder else None

    async def prepare(self) -> None:  # type: ignore[override]
        """Find out who calls.

        A browser never sends our own scheme by itself, so a request that carries it needs none of
        the checks against forged requests that the base class makes.
        """
        # The Jupyter server answers already while its extensions start.
        await self.settings[STARTED].wait()
        said = self.request.headers.get("Authorization", "")
        if said.startswith(_KERNEL):
            self.current_user = User(username="kernel")
            self.holder = self.services.holders.by_credential(said.removeprefix(_KERNEL))
        elif said.startswith(PROOF):
            if not self.takes_proof:
                # Without a holder the call would count as the Jupyter user's.
                msg = "A proof is for saying hello; call with the credential that hello gives."
                raise WrongCredential(msg)
            self.current_user = User(username="kernel")
        else:
            await super().prepare()
            if self.current_user is None:
                # Jupyter leaves this to `web.authenticated`, which our verbs cannot carry: they
                # are for kernels too.
                raise web.HTTPError(HTTPStatus.FORBIDDEN)
            await self._authorize()
        if error := self.settings.get(CONFIG_ERROR):
            # One object for all calls: without this its traceback would grow with each.
            raise error.with_traceback(None)

    async def _authorize(self) -> None:
        action = "read" if self.request.method in ("GET", "HEAD") else "write"
        allowed = await ensure_async(
            self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)
        )
        if not allowed:
            raise web.HTTPError(HTTPStatus.FORBIDDEN)

    def the_holder(self) -> Holder:
        """Return the holder that calls.

        Raises:
            NotYours: it is the Jupyter user, who holds nothing.
        """
        if self.holder is None:
            msg = "Only a kernel can do this, with the credential that it got when it said hello."
            raise NotYours(msg)
        return self.holder

    def the_operator(self) -> str:
        """Return what to call the Jupyter user, who may act on all holders.

        Raises:
            NotYours: it is a kernel that calls.
        """
        if self.holder is not None:
            msg = "Only the Jupyter user can do this, not a kernel."
            raise NotYours(msg)
        user = self.current_user
        return str(user.display_name or user.name or user.username)

    def body(self) -> dict[str, Any]:
        """Return the body as a JSON object; {} for none."""
        # Jupyter's own reader breaks on what is not UTF-8, and logs all that is no JSON as a fault.
        return json_object(self.request.body)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Return a part of the path, or an argument of the query, as text."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise BadRequest(field=name or "path", why="must be UTF-8") from None

    def lock_json(self, lock: Lock | None, *, foreign_prompts: int = 0) -> dict[str, Any] | None:
        """Return a lock as REST shows it."""
        return self.services.lock_json(lock, foreign_prompts=foreign_prompts)

    def task_json(self, task: Task) -> dict[str, Any]:
        """Return a task as REST shows it, with its progress where it is followed."""
        return self.services.task_json(task)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer our own errors with their status and code."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if status_code == HTTPStatus.BAD_REQUEST and isinstance(error, web.HTTPError):
            # The form that `Content-Type` announces is read before anybody here is asked.
            error = BadRequest(field="body", why=f"cannot be read: {error.log_message}")
        if not isinstance(error, ComfyLockError):
            if status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self.note_refusal("internal_error", "It failed; the Jupyter server's log says why.")
            super().write_error(status_code, **kwargs)
            return
        self.note_refusal(error.code, error.message)
        self.set_status(error.http_status_hint)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(error.to_json()))

    def note_refusal(self, code: str, message: str) -> None:
        """Remember what the calling holder was refused, for `comfy.debug()`."""
        if self.holder is not None:
            below = self.request.path.partition("/comfy-lock/api/")[2]
            where = f"{self.request.method} {below}"
            self.services.refusals.note(
                self.holder.holder_id, where=where, code=code, message=message
            )

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log expected errors without a stack trace."""
        if isinstance(value, ComfyLockError):
            self.log.info("%s %s: %s", self.request.method, self.request.path, value.message)
        else:
            super().log_exception(typ, value, tb)
