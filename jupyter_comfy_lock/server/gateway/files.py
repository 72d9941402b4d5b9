"""Files through the gateway: results of the holder's tasks, and what it uploads (R4, R5)."""

from http import HTTPStatus
from typing import Any

import aiohttp
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from tornado import web

from jupyter_comfy_lock.domain.errors import ComfyUnreachable
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId
from jupyter_comfy_lock.server.gateway.call import GatewayCall

#: `upload/mask` names the picture that it belongs to; those fields pass too.
_FIELDS = ("subfolder", "original_ref")

#: Who uploaded which input of which ComfyServer.
Uploads = dict[tuple[ComfyId, str, str], HolderId]
#: Key of the Uploads in tornado's settings.
UPLOADS = "comfy_lock_uploads"


class Files(GatewayCall):
    """Serves and takes files."""

    _form: FormParser | None = None

    async def view(self) -> None:
        """Serve a file of the holder's own tasks, or an input that nobody else uploaded."""
        filename = self.get_query_argument("filename", "")
        subfolder = self.get_query_argument("subfolder", "")
        kind = self.get_query_argument("type", "output")
        mine = await self.services.tasks.belongings(self.holder.holder_id)
        task_id = mine.files.get((filename, subfolder, kind))
        if task_id is not None:
            await self.pass_on(await self.home(task_id))
            return
        upstream = self.upstream()
        owner = self._uploads().get((upstream.comfy.comfy_id, subfolder, filename))
        if kind == "input" and owner in (None, self.holder.holder_id):
            await self.pass_on(upstream)
            return
        # Whether it exists is not told.
        self.set_status(HTTPStatus.NOT_FOUND)
        self.finish()

    def receive_upload(self, chunk: bytes) -> None:
        """Take in a part of an upload; a large file goes to a temporary one, not to memory."""
        if self._form is None:
            kind, options = parse_options_header(self.request.headers.get("Content-Type"))
            if kind != b"multipart/form-data" or b"boundary" not in options:
                raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="Not a multipart form")
            self._fields: dict[str, str] = {}
            self._files: dict[str, File] = {}
            self._form = FormParser(
                "multipart/form-data", self._on_field, self._on_file, boundary=options[b"boundary"]
            )
        self._form.write(chunk)

    async def upload(self) -> None:
        """Hand an upload on so that it becomes a new file, whatever it is called.

        ComfyUI answers with the name it chose: another one when a different file had it.
        """
        upstream = self.upstream()
        if self._form is None or "image" not in self._files:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="The form has no file 'image'")
        self._form.finalize()
        file = self._files["image"]
        file.file_object.seek(0)
        form = aiohttp.FormData()
        name = (file.file_name or b"upload").decode(errors="replace")
        form.add_field("image", file.file_object, filename=name)
        form.add_field("type", "input")
        for each in _FIELDS:
            if each in self._fields:
                form.add_field(each, self._fields[each])
        try:
            async with upstream.session.post(
                f"{upstream.comfy.url}/{self.comfy_path}",
                data=form,
                headers=upstream.comfy.headers,
                allow_redirects=False,
            ) as response:
                body = await response.read()
                answer: Any = await response.json() if response.status == HTTPStatus.OK else None
        except aiohttp.ClientError as error:
            raise ComfyUnreachable(upstream.comfy.comfy_id, str(error)) from error
        if isinstance(answer, dict):
            key = (upstream.comfy.comfy_id, str(answer.get("subfolder")), str(answer.get("name")))
            # The same bytes under the same name are not stored anew: they stay whose they were.
            self._uploads().setdefault(key, self.holder.holder_id)
        self.set_status(response.status)
        self.set_header("Content-Type", response.headers.get("Content-Type", "text/plain"))
        self.finish(body)

    def _uploads(self) -> Uploads:
        uploads: Uploads = self.settings.setdefault(UPLOADS, {})
        return uploads

    def _on_field(self, field: Field) -> None:
        name = (field.field_name or b"").decode(errors="replace")
        self._fields[name] = (field.value or b"").decode(errors="replace")

    def _on_file(self, file: File) -> None:
        self._files[(file.field_name or b"").decode(errors="replace")] = file
