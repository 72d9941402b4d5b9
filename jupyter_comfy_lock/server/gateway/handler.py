"""Takes each call to what answers it."""

from http import HTTPStatus

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado import web

from jupyter_comfy_lock.domain.isolation import Route
from jupyter_comfy_lock.domain.lock import Mode
from jupyter_comfy_lock.server.gateway.desk import Desks
from jupyter_comfy_lock.server.gateway.edits import Edits
from jupyter_comfy_lock.server.gateway.files import Files
from jupyter_comfy_lock.server.gateway.page import Page
from jupyter_comfy_lock.server.gateway.views import Views

#: JSON that must be read to be rewritten: ComfyUI's own default limit.
_MAX_JSON = 100 * 2**20
#: Uploads are not kept in memory; this is more than any ComfyUI takes.
_MAX_UPLOAD = 4 * 2**30
#: Seconds for which a browser need not ask again.
_PREFLIGHT_S = 600


@web.stream_request_body
class GatewayHandler(Desks, Edits, Files, Page, Views):
    """Any HTTP call of a ComfyUI client."""

    def prepare(self) -> None:
        """Do as every call does, and say how large a body may be."""
        super().prepare()
        if self.refusal is None:
            self.request.connection.set_max_body_size(_MAX_UPLOAD)  # type: ignore[union-attr]

    def data_received(self, chunk: bytes) -> None:
        """Take in a part of the body."""
        if self.refusal is not None:
            return
        if self.route is Route.UPLOAD:
            self.receive_upload(chunk)
            return
        self.received += chunk
        if len(self.received) > _MAX_JSON:
            self.refusal = web.HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            self.received.clear()

    @allow_unauthenticated
    async def get(self, *_: str) -> None:
        """Answer a call, whatever its method."""
        if self.refusal is not None:
            raise self.refusal
        match self.route:
            case Route.NEVER:
                self.refuse("is not offered through the gateway: it shows what is others'")
            case Route.SUBMIT:
                await self.submit()
            case Route.QUEUE_EDIT | Route.HISTORY_EDIT | Route.INTERRUPT | Route.JOBS_CANCEL:
                await self.edit()
            case Route.VIEW:
                await self.view()
            case Route.UPLOAD:
                await self.upload()
            case Route.QUEUE_LENGTH | Route.QUEUE | Route.HISTORY | Route.JOBS | Route.STATS:
                await self.show()
            case Route.PAGE:
                await self.page()
            case Route.DESK:
                await self.keep()
            case Route.EXCLUSIVE if self.lock().mode is not Mode.EXCLUSIVE:
                self.refuse("concerns everybody on the ComfyServer: it needs an exclusive lock")
            case _:
                await self.pass_on(self.upstream())

    head = post = put = patch = delete = get

    @allow_unauthenticated
    def options(self, *_: str) -> None:
        """Answer a browser that asks, on behalf of ComfyUI's page, what it may send here."""
        if self.refusal is not None:
            raise self.refusal
        self.set_status(HTTPStatus.NO_CONTENT)
        self.set_header("Access-Control-Allow-Methods", "*")
        self.set_header("Access-Control-Allow-Headers", "*")
        self.set_header("Access-Control-Max-Age", str(_PREFLIGHT_S))
