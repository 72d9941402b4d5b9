"""Files through the gateway: results of the holder's tasks, and what it uploads (R4, R5)."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from tornado import web

from jupyter_comfy_lock.domain import isolation
from jupyter_comfy_lock.domain.comfy import loads
from jupyter_comfy_lock.server.gateway.call import GatewayCall
from jupyter_comfy_lock.server.upstream import Upstream

#: What ComfyUI knows of the query of `GET /view`.
_VIEW = ("filename", "subfolder", "type", "preview", "channel")


class Files(GatewayCall):
    """Serves and takes files."""

    _form: FormParser | None = None

    async def view(self) -> None:
        """Serve a file of the holder's own tasks, or an input that nobody else uploaded."""
        asked = {name: self.get_query_argument(name, None) for name in _VIEW}
        filename, subfolder = asked["filename"] or "", asked["subfolder"] or ""
        kind = asked["type"] or "output"
        upstream = await self._home_of(filename, subfolder, kind)
        if upstream is None:
            # Whether it exists is not told.
            self.set_status(HTTPStatus.NOT_FOUND)
            self.finish()
            return
        # Of a name that is given twice ComfyUI takes the first, and we the last.
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        await self.pass_on(upstream, query)

    async def _home_of(self, filename: str, subfolder: str, kind: str) -> Upstream | None:
        """Return where the file is to be had from; None if it is not for this holder to see."""
        mine = await self.services.tasks.belongings(self.holder.holder_id)
        task_id = mine.files.get((filename, subfolder, kind))
        if task_id is not None:
            return await self.home(task_id)
        upstream = self.upstream()
        file = isolation.input_file(filename, subfolder)
        if kind != "input" or file is None:
            return None
        comfy_id, holder_id = upstream.comfy.comfy_id, self.holder.holder_id
        may = await self.services.files.may_read_input(comfy_id, file, holder_id)
        return upstream if may else None

    def receive_upload(self, chunk: bytes) -> None:
        """Take in a part of an upload; a large file goes to a temporary one, not to memory."""
        if self._form is None:
            kind, options = parse_options_header(self.request.headers.get("Content-Type"))
            if kind != b"multipart/form-data" or b"boundary" not in options:
                self.refusal = _no_form()
                return
            self._fields: dict[str, str] = {}
            self._files: dict[str, File] = {}
            self._form = FormParser(
                "multipart/form-data", self._on_field, self._on_file, boundary=options[b"boundary"]
            )
        try:
            self._form.write(chunk)
        except FormParserError:
            self.refusal = _no_form()

    async def upload(self) -> None:
        """Hand an upload on so that it becomes a new file, whatever it is called.

        ComfyUI answers with the name it chose: another one when a different file had it.
        """
        from aiohttp import FormData  # noqa: PLC0415 - see `transport`

        upstream = self.upstream()
        if self._form is None or "image" not in self._files:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="The form has no file 'image'")
        self._form.finalize()
        original = await self._original()
        file = self._files["image"]
        # A large one is in a temporary file, of which aiohttp wants what is inside.
        content: Any = getattr(file.file_object, "file", file.file_object)
        content.seek(0)
        form = FormData()
        name = (file.file_name or b"upload").decode(errors="replace")
        form.add_field("image", content, filename=name)
        form.add_field("type", "input")
        if "subfolder" in self._fields:
            form.add_field("subfolder", self._fields["subfolder"])
        if original is not None:
            form.add_field("original_ref", json.dumps(original))
        async with upstream.open("POST", f"/{self.comfy_path}", data=form) as response:
            body = await response.read()
            answer: Any = await response.json() if response.status == HTTPStatus.OK else None
        if isinstance(answer, dict):
            name, subfolder = str(answer.get("name")), str(answer.get("subfolder") or "")
            if file_there := isolation.input_file(name, subfolder):
                await self.services.files.uploaded(
                    upstream.comfy.comfy_id, file_there, self.holder.holder_id
                )
        self.set_status(response.status)
        self.set_header("Content-Type", response.headers.get("Content-Type", "text/plain"))
        self.finish(body)

    async def _original(self) -> dict[str, str] | None:
        """Return the picture that a mask is for, if one is named.

        ComfyUI gives the mask's owner a copy of that picture, so it must be its own, and here.
        """
        if "original_ref" not in self._fields:
            return None
        said = loads(self._fields["original_ref"])
        said = said if isinstance(said, dict) else {}
        original = {
            "filename": str(said.get("filename") or ""),
            "subfolder": str(said.get("subfolder") or ""),
            "type": str(said.get("type") or "output"),
        }
        home = await self._home_of(original["filename"], original["subfolder"], original["type"])
        if home is not self.upstream():
            raise web.HTTPError(HTTPStatus.NOT_FOUND)
        return original

    def _on_field(self, field: Field) -> None:
        name = (field.field_name or b"").decode(errors="replace")
        self._fields[name] = (field.value or b"").decode(errors="replace")

    def _on_file(self, file: File) -> None:
        self._files[(file.field_name or b"").decode(errors="replace")] = file


def _no_form() -> web.HTTPError:
    return web.HTTPError(HTTPStatus.BAD_REQUEST, reason="Not a multipart form")
