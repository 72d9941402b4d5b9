"""Who uploaded which file to which ComfyServer, over all Jupyter servers."""

from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from jupyter_comfy_lock.domain.inputs import InputFile
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.store.database import Database
from jupyter_comfy_lock.store.schema import uploads


class UploadStore:
    """Kept for as long as the store: a ComfyServer deletes no upload."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def add(self, comfy_id: ComfyId, file: InputFile, kernel_id: str) -> None:
        """Record that a kernel has uploaded a file; several may have uploaded the same bytes."""

        def work(c: Connection) -> None:
            row = {
                "comfy_id": comfy_id,
                "subfolder": file.subfolder,
                "filename": file.filename,
                "kernel_id": kernel_id,
                "folded": file.folded,
            }
            # It may be there, or come while this is being done.
            with suppress(IntegrityError), c.begin_nested():
                c.execute(insert(uploads), row)

        await self._db.run(work)

    async def others(
        self, comfy_id: ComfyId, files: Collection[InputFile], kernel_id: str
    ) -> set[InputFile]:
        """Return those of `files` that other kernels have uploaded there, and this one has not.

        "CAT.png" may be another's "cat.png", or may not: it is one's own only as it was uploaded.
        """
        if not files:
            return set()
        query = select(uploads).where(
            uploads.c.comfy_id == comfy_id,
            uploads.c.folded.in_([each.folded for each in files]),
        )

        def work(c: Connection) -> set[InputFile]:
            rows = c.execute(query).all()
            uploaded = {row.folded for row in rows}
            mine = {
                InputFile(row.subfolder, row.filename) for row in rows if row.kernel_id == kernel_id
            }
            return {each for each in files if each.folded in uploaded and each not in mine}

        return await self._db.read(work)
