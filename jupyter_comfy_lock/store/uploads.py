"""Who uploaded which file to which ComfyServer, over all Jupyter servers."""

from collections.abc import Collection
from contextlib import suppress

from sqlalchemy import Connection, insert, select, tuple_
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
            }
            # It may be there, or come while this is being done.
            with suppress(IntegrityError), c.begin_nested():
                c.execute(insert(uploads), row)

        await self._db.run(work)

    async def others(
        self, comfy_id: ComfyId, files: Collection[InputFile], kernel_id: str
    ) -> set[InputFile]:
        """Return those of `files` that other kernels have uploaded there, and this one has not."""
        if not files:
            return set()
        keys = [(each.subfolder, each.filename) for each in files]
        query = select(uploads.c.subfolder, uploads.c.filename, uploads.c.kernel_id).where(
            uploads.c.comfy_id == comfy_id,
            tuple_(uploads.c.subfolder, uploads.c.filename).in_(keys),
        )

        def work(c: Connection) -> set[InputFile]:
            owners: dict[InputFile, set[str]] = {}
            for row in c.execute(query):
                file = InputFile(row.subfolder, row.filename)
                owners.setdefault(file, set()).add(row.kernel_id)
            return {file for file, kernel_ids in owners.items() if kernel_id not in kernel_ids}

        return await self._db.read(work)
