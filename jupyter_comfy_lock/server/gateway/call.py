"""One call of a ComfyUI client: whose it is, where it may go, how it is refused."""

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from tornado import web

from jupyter_comfy_lock.domain import isolation
from jupyter_comfy_lock.domain.comfy import loads
from jupyter_comfy_lock.domain.errors import ComfyLockError, UnknownHolder
from jupyter_comfy_lock.domain.isolation import Route
from jupyter_comfy_lock.domain.lock import Lock
from jupyter_comfy_lock.server.fields import refuse_deep
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.relay import copy_answer, harmless
from jupyter_comfy_lock.server.services import SERVICES, Services
from jupyter_comfy_lock.server.upstream import Upstream

_CREDENTIAL = re.compile(r"(comfy-lock/gateway/)[^/?#]+")


def mask(handler: web.RequestHandler) -> None:
    """Take the key out of what goes to the log: the URL, and the page it came from (R10)."""
    request = handler.request
    request.uri = _CREDENTIAL.sub(r"\1***", request.uri or "")
    if "Referer" in request.headers:
        request.headers["Referer"] = _CREDENTIAL.sub(r"\1***", request.headers["Referer"])


class GatewayCall(web.RequestHandler):
    """What each kind of call needs.

    A plain tornado handler with a check of its own: half the cost per request of one
    with Jupyter's, which has nothing to say about a holder's key.
    """

    services: Services
    holder: Holder
    route: Route
    #: Relative to ComfyUI's root, without a slash at its beginning.
    comfy_path: str
    raw_path: str
    #: Why the call is refused before its body is there. Answered after it: a client that is still
    #: sending when the line is cut never reads the answer.
    refusal: web.HTTPError | ComfyLockError | None = None

    def set_default_headers(self) -> None:
        """Say what a browser may do with any answer, errors included.

        The gateway key is in the URL, and no other site is told the URL. What comes back is no page
        of the Jupyter server's. ComfyUI's own page runs with no origin at all (see `page`), so a
        browser lets it read answers only when they say so; no cookie plays a part in it. A caller
        that does not know the key is told nothing.
        """
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", "sandbox")
        if hasattr(self, "holder"):
            self.set_header("Vary", "Origin")
            if self.request.headers.get("Origin") == "null":
                self.set_header("Access-Control-Allow-Origin", "null")

    def prepare(self) -> None:
        """Find out whose call it is, and what to do with it, before its body is read."""
        self.route = Route.NEVER
        self.received = bytearray()
        key, self.comfy_path = self.path_args[0], self.path_args[1] or ""
        # As it came, for handing on; what is decided is decided by the decoded one.
        self.raw_path = self.request.path.partition("/comfy-lock/gateway/")[2]
        self.raw_path = self.raw_path.partition("/")[2].lstrip("/")
        mask(self)
        if SERVICES not in self.settings:
            # Credentials are of a former life of this Jupyter server while it starts.
            raise web.HTTPError(HTTPStatus.SERVICE_UNAVAILABLE)
        self.services = self.settings[SERVICES]
        try:
            self.holder = self.services.holders.by_gateway_key(unquote(key))
        except UnknownHolder as error:
            self.refusal = error
            return
        self.set_default_headers()
        self.route = isolation.route(self.request.method or "", self.comfy_path)

    def lock(self) -> Lock:
        """Return the lock that this call rests on (R2, R7)."""
        return self.services.locks.check(self.holder.holder_id, self.holder.name)

    def upstream(self) -> Upstream:
        """Return the ComfyServer that this call goes to: the locked one, whatever is asked for."""
        return self.services.locks.upstream(self.lock().comfy_id)

    async def home(self, task_id: str) -> Upstream:
        """Return the ComfyServer that a task of the holder ran on (R5).

        Raises:
            UnknownTask: it is none of this holder's.
        """
        task = await self.services.tasks.find(task_id, self.holder.holder_id)
        return self.services.tasks.home(task)

    def body_json(self) -> dict[str, Any]:
        """Return the body as a JSON object, {} for an empty one; 400 for anything else."""
        body = loads(bytes(self.received) or b"{}")
        if not isinstance(body, dict):
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="The body must be a JSON object")
        refuse_deep(body)
        return body

    async def pass_on(self, upstream: Upstream, query: str | None = None) -> None:
        """Relay the call as it is, or with another query."""
        query = self.request.query if query is None else query
        # A fragment never reaches a server; the rules have seen it as a part of the path.
        path = self.raw_path.replace("#", "%23") + (f"?{query}" if query else "")
        async with upstream.open(
            self.request.method or "GET",
            f"/{path}",
            headers=harmless(self.request.headers),
            data=bytes(self.received) or None,
        ) as response:
            await copy_answer(response, self)

    def refuse(self, why: str) -> None:
        """Answer that the call is not for this holder."""
        self.set_status(HTTPStatus.FORBIDDEN)
        message = f"{self.request.method} /{self.comfy_path} {why}."
        self._note("not_yours", message)
        self.finish({"code": "not_yours", "message": message, "details": {}})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer our own errors as ComfyUI clients expect errors, with our code beside it."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if isinstance(error, ComfyLockError):
            self._note(error.code, error.message)
            self.set_status(error.http_status_hint)
            about = {"type": error.code, "message": error.message, "details": "", "extra_info": {}}
            self.finish({**error.to_json(), "error": about, "node_errors": {}})
        else:
            super().write_error(status_code, **kwargs)

    def _note(self, code: str, message: str) -> None:
        """Remember what the holder was refused, for `comfy.debug()`."""
        if hasattr(self, "holder"):
            where = f"{self.request.method} gateway /{self.comfy_path}"
            self.services.refusals.note(
                self.holder.holder_id, where=where, code=code, message=message
            )

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log expected errors without a stack trace."""
        if not isinstance(value, ComfyLockError):
            super().log_exception(typ, value, tb)

    def check_xsrf_cookie(self) -> None:
        """Do nothing: the key is in the path, and no browser adds it by itself."""

    def compute_etag(self) -> None:
        """Leave the ETag to the ComfyServer."""
