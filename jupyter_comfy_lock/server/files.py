"""Whose files are whose on a ComfyServer, that all its clients share (R4)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.domain.errors import NotYours
from jupyter_comfy_lock.domain.inputs import InputFile, named_files, not_mine
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, kernel_of
from jupyter_comfy_lock.server.tasks import TaskService

if TYPE_CHECKING:
    from jupyter_comfy_lock.store.uploads import UploadStore


class FileService:
    """What a holder may read: files of its own tasks, and inputs that nobody else uploaded."""

    def __init__(self, store: "UploadStore", tasks: TaskService) -> None:
        self._store = store
        self._tasks = tasks

    async def uploaded(self, comfy_id: ComfyId, file: InputFile, holder_id: HolderId) -> None:
        """Note that a holder's kernel has uploaded a file, also after its restart."""
        await self._store.add(comfy_id, file, kernel_of(holder_id))

    async def may_read_input(self, comfy_id: ComfyId, file: InputFile, holder_id: HolderId) -> bool:
        """Whether an input is the holder's, or nobody's."""
        return not await self._store.others(comfy_id, [file], kernel_of(holder_id))

    async def check(
        self, comfy_id: ComfyId, holder_id: HolderId, prompt: Mapping[str, Any]
    ) -> None:
        """Refuse a prompt that loads what belongs to others.

        Raises:
            NotYours: names node and file.
        """
        files = named_files(prompt)
        if not files:
            return
        mine = (await self._tasks.belongings(holder_id)).files
        inputs = {each.key for each in files if each.type == "input"}
        others = await self._store.others(comfy_id, inputs, kernel_of(holder_id))
        for file in not_mine(files, mine, others):
            what = (
                "was uploaded by another kernel; upload it from this one (the same bytes keep "
                "their name)"
                if file.type == "input"
                else "is no result of a task of this kernel"
            )
            msg = (
                f"Node {file.node_id} loads {file.text!r}, which on ComfyServer {comfy_id!r} "
                f"{what}. Nothing was sent."
            )
            raise NotYours(msg, node_id=file.node_id, file=file.text, comfy_id=comfy_id)
