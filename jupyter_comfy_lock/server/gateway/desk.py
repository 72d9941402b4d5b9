"""What ComfyUI's web interface keeps for a person, answered from the holder's own desk (R4)."""

import json
import mimetypes
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from tornado import web

from jupyter_comfy_lock.domain.comfy import loads
from jupyter_comfy_lock.domain.desk import DeskFile
from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.server.gateway.call import GatewayCall

_NO_ROOM = web.HTTPError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason="Nothing more can be kept")


class Desks(GatewayCall):
    """Settings, files and users as ComfyUI answers them. Nothing of it reaches the ComfyServer."""

    async def keep(self) -> None:
        """Answer a call that reads or changes what is on the holder's desk."""
        self.lock()
        # As ComfyUI does: a slash in a file's name comes encoded, and separates nothing.
        what, *rest = [unquote(part) for part in self.raw_path.removeprefix("api/").split("/")]
        match self.request.method, what, rest:
            case "GET", "users", []:
                self._answer({"storage": "server", "migrated": True})
            case "GET", "settings", []:
                self._answer(await self._settings())
            case "GET", "settings", [key]:
                self._answer((await self._settings()).get(key))
            case "POST", "settings", []:
                self._set(self.body_json())
            case "POST", "settings", [key]:
                self._set({key: loads(bytes(self.received))})
            case "GET", "userdata", []:
                self._list()
            case "GET", "v2", ["userdata"]:
                self._tree()
            case "GET" | "HEAD", "userdata", [name]:
                self._read(name)
            case "POST", "userdata", [name]:
                self._write(name)
            case "DELETE", "userdata", [name]:
                found = self.holder.desk.delete(name)
                self.set_status(HTTPStatus.NO_CONTENT if found else HTTPStatus.NOT_FOUND)
            case "POST", "userdata", [name, "move", to]:
                self._move(name, to)
            case _:
                raise web.HTTPError(HTTPStatus.NOT_FOUND)

    async def _settings(self) -> Mapping[str, Any]:
        """Return what the ComfyServer's own users have set, and above it what was set here."""
        theirs: Mapping[str, Any] = {}
        with suppress(ComfyLockError):
            # One with several users has no settings for somebody that it does not know.
            theirs = await self.upstream().get("/settings")
        return {**theirs, **self.holder.desk.settings}

    def _set(self, settings: Mapping[str, Any]) -> None:
        if not self.holder.desk.set(settings):
            raise _NO_ROOM

    def _list(self) -> None:
        folder = self.get_query_argument("dir", "")
        if not folder:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, reason="Directory not provided")
        files = self.holder.desk.below(folder)
        if not self._is_asked_for("recurse"):
            files = {path: file for path, file in files.items() if "/" not in path}
        if self._is_asked_for("full_info"):
            self._answer([_about(path, file) for path, file in files.items()])
        elif self._is_asked_for("split"):
            self._answer([[path, *path.split("/")] for path in files])
        else:
            self._answer(list(files))

    def _tree(self) -> None:
        folder = self.get_query_argument("path", "").strip("/")
        start = f"{folder}/" if folder else ""
        files = self.holder.desk.below(folder)
        parents = {
            "/".join(path.split("/")[:depth])
            for path in files
            for depth in range(1, path.count("/") + 1)
        }
        folders = [
            {"name": path.rpartition("/")[2], "path": start + path, "type": "directory"}
            for path in sorted(parents)
        ]
        shown = [
            {
                "name": path.rpartition("/")[2],
                "path": start + path,
                "type": "file",
                "size": len(file.content),
                "modified": file.modified,
            }
            for path, file in files.items()
        ]
        self._answer([*folders, *shown])

    def _read(self, name: str) -> None:
        file = self.holder.desk.file(name)
        if file is None:
            raise web.HTTPError(HTTPStatus.NOT_FOUND)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.set_header("Content-Type", kind)
        self.write(file.content)

    def _write(self, name: str) -> None:
        self._refuse_to_overwrite(name)
        if not self.holder.desk.write(name, bytes(self.received), time.time()):
            raise _NO_ROOM
        self._tell_of(name)

    def _move(self, name: str, to: str) -> None:
        if self.holder.desk.file(name) is None:
            raise web.HTTPError(HTTPStatus.NOT_FOUND)
        self._refuse_to_overwrite(to)
        self.holder.desk.move(name, to)
        self._tell_of(to)

    def _refuse_to_overwrite(self, name: str) -> None:
        may = self.get_query_argument("overwrite", "true") != "false"
        if not may and self.holder.desk.file(name) is not None:
            raise web.HTTPError(HTTPStatus.CONFLICT, reason="File already exists")

    def _tell_of(self, name: str) -> None:
        file = self.holder.desk.file(name)
        assert file is not None
        self._answer(_about(name, file) if self._is_asked_for("full_info") else name)

    def _is_asked_for(self, name: str) -> bool:
        return self.get_query_argument(name, "").lower() == "true"

    def _answer(self, answer: Any) -> None:
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.write(json.dumps(answer))


def _about(path: str, file: DeskFile) -> dict[str, Any]:
    return {
        "path": path,
        "size": len(file.content),
        "modified": file.modified,
        "created": file.created,
    }
