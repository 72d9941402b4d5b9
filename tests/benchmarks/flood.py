"""A program that plays ComfyUI: it runs one prompt for ever and tells of its progress in a flood.

`PUT /flood` with {"rate": 5000} has it send so many messages a second to the prompt's client, in
equal parts `progress` and `progress_state`, as ComfyUI does for each step. {"listen": URL} has it
be a client of a gateway, that listens there. It answers how many it has sent and heard so far.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import aiohttp
from aiohttp import web

#: Seconds between two looks at how many messages are due.
_TICK_S = 0.001


class Flood:
    def __init__(self) -> None:
        self.prompt_id = ""
        self.client_id = ""
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.rate = 0
        self.sent = 0
        self.heard = 0
        self.listening: asyncio.Task[None] | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/system_stats", self.stats)
        app.router.add_get("/prompt", self.remaining)
        app.router.add_post("/prompt", self.prompt)
        app.router.add_get("/queue", self.queue)
        app.router.add_get("/history/{id}", self.history)
        app.router.add_post("/api/jobs/cancel", self.cancel)
        app.router.add_get("/ws", self.socket)
        app.router.add_put("/flood", self.control)
        app.on_startup.append(self._start)
        app.on_cleanup.append(self._stop)
        return app

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "0.33.0"}, "devices": []})

    async def remaining(self, _: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": 1 if self.prompt_id else 0}})

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.prompt_id, self.client_id = body["prompt_id"], body["client_id"]
        await self._say("execution_start", {})
        return web.json_response({"prompt_id": self.prompt_id, "number": 0, "node_errors": {}})

    async def queue(self, _: web.Request) -> web.Response:
        running = [[0, self.prompt_id, {}, {}, []]] if self.prompt_id else []
        return web.json_response({"queue_running": running, "queue_pending": []})

    async def history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        if prompt_id == self.prompt_id:
            return web.json_response({})
        said = [["execution_interrupted", {"prompt_id": prompt_id}]]
        status = {"status_str": "error", "completed": False, "messages": said}
        return web.json_response({prompt_id: {"outputs": {}, "status": status}})

    async def cancel(self, _: web.Request) -> web.Response:
        self.prompt_id = ""
        return web.json_response({})

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets[request.query["clientId"]] = socket
        await socket.send_json({"type": "status", "data": {"sid": request.query["clientId"]}})
        async for _ in socket:
            pass
        return socket

    async def control(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.rate = asked.get("rate", self.rate)
        if "listen" in asked:
            await self._listen_to(asked["listen"])
        return web.json_response({"sent": self.sent, "heard": self.heard})

    async def _listen_to(self, url: str | None) -> None:
        if self.listening is not None:
            self.listening.cancel()
            with suppress(asyncio.CancelledError):
                await self.listening
        self.listening = asyncio.create_task(self._listen(url)) if url else None

    async def _listen(self, url: str) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            async for _ in socket:
                self.heard += 1

    async def _start(self, _: web.Application) -> None:
        self._flooding = asyncio.create_task(self._flood())

    async def _stop(self, _: web.Application) -> None:
        self._flooding.cancel()

    async def _flood(self) -> None:
        loop = asyncio.get_running_loop()
        due, last_s = 0.0, loop.time()
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = loop.time()
            # What a slow reader kept from being sent is not made up for: it is no burst.
            due = min(due + self.rate * (now_s - last_s), self.rate * 0.05)
            last_s = now_s
            while due >= 1:
                due -= 1
                await self._tell_progress()

    async def _tell_progress(self) -> None:
        step = {"value": self.sent % 1000, "max": 1000, "prompt_id": self.prompt_id}
        if self.sent % 2:
            node = {"node_id": "1", "display_node_id": "1", "real_node_id": "1", "state": "running"}
            about = {"prompt_id": self.prompt_id, "nodes": {"1": {**step, **node}}}
            await self._say("progress_state", about)
        else:
            await self._say("progress", {**step, "node": "1"})
        self.sent += 1

    async def _say(self, kind: str, data: dict[str, object]) -> None:
        socket = self.sockets.get(self.client_id)
        if socket is not None and not socket.closed:
            said = {"type": kind, "data": {"prompt_id": self.prompt_id, **data}}
            await socket.send_str(json.dumps(said))


async def main() -> None:
    runner = web.AppRunner(Flood().app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print("http://{}:{}".format(*runner.addresses[0]), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
