"""What a holder does to its ComfyServer's queue: submit, delete, interrupt its own (R2, R4)."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from jupyter_comfy_lock.domain.errors import PromptRejected
from jupyter_comfy_lock.domain.isolation import Route
from jupyter_comfy_lock.domain.task import TaskState, prompt_id
from jupyter_comfy_lock.server.gateway.call import GatewayCall
from jupyter_comfy_lock.server.live import LiveTask

#: What a client may say about a prompt beside the prompt. Not `number` and `front`, which would
#: overtake other holders' prompts.
_OPTIONS = ("partial_execution_targets",)


class Edits(GatewayCall):
    """Carries out what changes the queue, on the holder's own prompts only."""

    async def submit(self) -> None:
        """Register a task for the prompt, then send it; answer as ComfyUI does."""
        body = self.body_json()
        extra_data = body.get("extra_data")
        try:
            live, answer = await self.services.submitter.submit(
                self.holder,
                body.get("prompt"),
                extra_data if isinstance(extra_data, dict) else {},
                {name: body[name] for name in _OPTIONS if name in body},
                prompt_id(body.get("prompt_id")),
            )
        except PromptRejected as error:
            self.set_status(HTTPStatus.BAD_REQUEST)
            self.finish({name: error.details[name] for name in ("error", "node_errors")})
            return
        self.finish({"number": 0, "node_errors": {}, **answer, "prompt_id": live.task.prompt_id})

    async def edit(self) -> None:
        """Delete, clear, cancel or interrupt; ids that are not the holder's are as unknown."""
        self.lock()
        body = self.body_json()
        match self.route:
            case Route.QUEUE_EDIT:
                await self._cancel(self._waiting(body), "deleted from the queue")
                self.finish()
            case Route.INTERRUPT:
                await self._cancel(await self._running(body.get("prompt_id")), "interrupted")
                self.finish()
            case Route.HISTORY_EDIT:
                await self._forget(body)
                self.finish()
            case _:
                cancelled = await self._cancel(self._named_jobs(body), "cancelled")
                self.finish({"cancelled": cancelled})

    async def _cancel(self, tasks: list[LiveTask], reason: str) -> bool:
        await self.services.tasks.cancel_all(tasks, reason)
        return bool(tasks)

    async def _forget(self, body: dict[str, Any]) -> None:
        """Delete entries of the ComfyServer's history. Our own record of the tasks stays."""
        mine = (await self.services.tasks.belongings(self.holder.holder_id)).ids.keys()
        running = {live.task.prompt_id for live in self._pending()}
        ids = mine - running if body.get("clear") else mine & _texts(body.get("delete"))
        if ids:
            await self.upstream().post("/history", {"delete": sorted(ids)})

    def _waiting(self, body: dict[str, Any]) -> list[LiveTask]:
        named = _texts(body.get("delete"))
        return [
            live
            for live in self._pending()
            if live.task.state is not TaskState.RUNNING
            and (body.get("clear") or live.task.prompt_id in named)
        ]

    async def _running(self, prompt_id: object) -> list[LiveTask]:
        pending = [live for live in self._pending() if prompt_id in (None, live.task.prompt_id)]
        running = [x for x in pending if x.task.state is TaskState.RUNNING and not x.ending]
        if running or not pending:
            return running
        # One may have begun that we have not heard of yet, as its client has, which asks but once.
        ids, _ = await self.upstream().queue()
        return [live for live in pending if live.task.prompt_id in ids]

    def _named_jobs(self, body: dict[str, Any]) -> list[LiveTask]:
        parts = self.comfy_path.removeprefix("api/").split("/")
        named = {parts[1]} if len(parts) == len(("jobs", "id", "cancel")) else None
        if named is None:
            named = _texts(body.get("job_ids"))
        return [live for live in self._pending() if live.task.prompt_id in named]

    def _pending(self) -> list[LiveTask]:
        return self.services.tasks.pending(self.holder.holder_id)


def _texts(value: object) -> set[str]:
    # ComfyUI takes a text for a list of its letters, which deletes nothing.
    if not isinstance(value, Iterable) or isinstance(value, str | dict):
        return set()
    return {each for each in value if isinstance(each, str)}
