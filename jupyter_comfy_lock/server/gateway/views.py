"""What a holder sees of its ComfyServer's queue, history and jobs: its own part (R4)."""

from collections.abc import Mapping
from http import HTTPStatus

from jupyter_comfy_lock.domain import isolation
from jupyter_comfy_lock.domain.comfy import loads, mapping
from jupyter_comfy_lock.domain.isolation import Route
from jupyter_comfy_lock.domain.task import TaskId
from jupyter_comfy_lock.server.gateway.call import GatewayCall
from jupyter_comfy_lock.server.relay import copy_answer
from jupyter_comfy_lock.server.upstream import Upstream


class Views(GatewayCall):
    """Answers questions about what runs, waits and has run."""

    async def show(self) -> None:
        """Answer with the holder's own part."""
        tasks = self.services.tasks
        mine = (await tasks.belongings(self.holder.holder_id)).ids
        match self.route:
            case Route.QUEUE_LENGTH:
                self.lock()
                left = tasks.left(self.holder.holder_id)
                self.finish({"exec_info": {"queue_remaining": left}})
            case Route.QUEUE:
                self.finish(isolation.my_queue(await self.upstream().get("/queue"), mine))
            case Route.STATS:
                self.finish(isolation.my_stats(await self.upstream().get("/system_stats")))
            case Route.HISTORY:
                await self._history(mine)
            case _:
                await self._jobs(mine)

    async def _history(self, mine: Mapping[str, TaskId]) -> None:
        prompt_id = self._id_in_path()
        if prompt_id:
            # ComfyUI answers {} for what it does not know.
            answer = (
                await (await self.home(mine[prompt_id])).get(f"/history/{prompt_id}")
                if prompt_id in mine
                else {}
            )
            history = isolation.my_history(answer, mine)
            await self.services.tasks.found(self.holder.holder_id, history)
            self.finish(history)
            return
        history = isolation.my_history(await self.upstream().get("/history"), mine)
        await self.services.tasks.found(self.holder.holder_id, history)
        limit, offset = self._number("max_items"), self._number("offset")
        if offset is None:
            # The newest ones, where no offset is asked for.
            offset = 0 if limit is None else max(0, len(history) - limit)
        self.finish(dict(isolation.page(list(history.items()), limit, offset)))

    async def _jobs(self, mine: Mapping[str, TaskId]) -> None:
        job_id = self._id_in_path()
        if job_id and job_id not in mine:
            self.set_status(HTTPStatus.NOT_FOUND)
            self.finish({"error": "Job not found"})
        elif job_id:
            await self.pass_on(await self.home(mine[job_id]))
        else:
            await self._job_list(self.upstream(), mine)

    async def _job_list(self, upstream: Upstream, mine: Mapping[str, TaskId]) -> None:
        asked = {
            name: self.get_query_argument(name)
            for name in ("status", "workflow_id", "sort_by", "sort_order")
            if name in self.request.query_arguments
        }
        async with upstream.open("GET", "/api/jobs", params=asked) as response:
            if response.status != HTTPStatus.OK:
                await copy_answer(response, self)
                return
            jobs = mapping(loads(await response.read()))
        limit, offset = self._number("limit"), self._number("offset") or 0
        self.finish(isolation.my_jobs(jobs, mine, limit, offset))

    def _id_in_path(self) -> str:
        return self.comfy_path.removeprefix("api/").partition("/")[2]

    def _number(self, name: str) -> int | None:
        text = self.get_query_argument(name, "")
        return int(text) if text.isdecimal() else None
