"""One call of a ComfyUI client: whose it is, where it may go, how it is refused."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import aiohttp
from tornado import web
from yarl import URL

from jupyter_comfy_lock.domain import isolation
from jupyter_comfy_lock.domain.errors import ComfyLockError, ComfyUnreachable
from jupyter_comfy_lock.domain.isolation import Route
from jupyter_comfy_lock.domain.lock import Lock
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.relay import copy_answer, headers_for
from jupyter_comfy_lock.server.services import SERVICES, Services
from jupyter_comfy_lock.server.upstream import Upstream

#: Large results and slow previews take their time; five minutes of silence do not.
_PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=300)


def mask(handler: web.RequestHandler, credential: str) -> None:
    """Take the credential out of the URL, which goes to the log (R10)."""
    handler.request.uri = (handler.request.uri or "").replace(credential, "***")


class GatewayCall(web.RequestHandler):
    """What each kind of call needs.

    A plain tornado handler with a credential check of its own: half the cost per request of one
    with Jupyter's, which has nothing to say about a holder's credential.
    """

    services: Services
    holder: Holder
    route: Route
    #: Relative to ComfyUI's root, without a slash at its beginning.
    comfy_path: str
    raw_path: str

    def prepare(self) -> None:
        """Find out whose call it is, and what to do with it, before its body is read."""
        credential, self.comfy_path = self.path_args
        # As it came, for handing on; what is decided is decided by the decoded one.
        self.raw_path = self.request.path.partition("/comfy-lock/gateway/")[2].partition("/")[2]
        mask(self, credential)
        self.services = self.settings[SERVICES]
        self.received = bytearray()
        self.holder = self.services.holders.by_credential(unquote(credential))
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
        return self.services.locks.upstream(task.comfy_id)

    def body_json(self) -> dict[str, Any]:
        """Return the body as a JSON object, {} for an empty one; 400 for anything else."""
        try:
            body = json.loads(self.received or b"{}")
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="The body must be a JSON object")
        return body

    async def pass_on(self, upstream: Upstream) -> None:
        """Relay the call as it is."""
        query = f"?{self.request.query}" if self.request.query else ""
        try:
            async with upstream.session.request(
                self.request.method or "GET",
                URL(f"{upstream.comfy.url}/{self.raw_path}{query}", encoded=True),
                headers=headers_for(self.request.headers, upstream.comfy.headers),
                data=bytes(self.received) or None,
                allow_redirects=False,
                timeout=_PATIENT,
            ) as response:
                await copy_answer(response, self)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ComfyUnreachable(upstream.comfy.comfy_id, str(error)) from error

    def refuse(self, why: str) -> None:
        """Answer that the call is not for this holder."""
        self.set_status(HTTPStatus.FORBIDDEN)
        message = f"{self.request.method} /{self.comfy_path} {why}."
        self.finish({"code": "not_yours", "message": message, "details": {}})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer our own errors as ComfyUI clients expect errors, with our code beside it."""
        error = (kwargs.get("exc_info") or (None, None))[1]
        if isinstance(error, ComfyLockError):
            self.set_status(error.http_status_hint)
            about = {"type": error.code, "message": error.message, "details": "", "extra_info": {}}
            self.finish({**error.to_json(), "error": about, "node_errors": {}})
        else:
            super().write_error(status_code, **kwargs)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log expected errors without a stack trace."""
        if not isinstance(value, ComfyLockError):
            super().log_exception(typ, value, tb)

    def check_xsrf_cookie(self) -> None:
        """Do nothing: the credential is in the path, and no browser adds it by itself."""

    def compute_etag(self) -> None:
        """Leave the ETag to the ComfyServer."""
