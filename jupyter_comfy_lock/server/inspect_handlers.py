"""The REST API of who looks into what goes on: debug, check, cleanup, self-test."""

import asyncio
import json
from collections.abc import Collection
from contextlib import aclosing, suppress
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.iostream import StreamClosedError

from jupyter_comfy_lock.domain.errors import BadRequest, NotYours
from jupyter_comfy_lock.domain.selftest import wanted
from jupyter_comfy_lock.server.caller import ComfyLockHandler
from jupyter_comfy_lock.server.check import check
from jupyter_comfy_lock.server.cleanup import Order, cleanup
from jupyter_comfy_lock.server.debug import debug
from jupyter_comfy_lock.server.fields import note, text_or_none, texts
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.relay import notice_dead_reader, send_at_once


class DebugHandler(ComfyLockHandler):
    """`holders/<id>/debug`; `me` for the caller."""

    @allow_unauthenticated
    async def get(self, holder_id: str) -> None:
        """Tell all that is known of a holder: the caller's own, or anyone for the Jupyter user."""
        self.finish(await debug(self.services, self._whom(holder_id)))

    def _whom(self, holder_id: str) -> Holder:
        if self.holder is not None and holder_id in ("me", self.holder.holder_id):
            return self.holder
        if self.holder is not None or holder_id == "me":
            msg = "A kernel can look into itself only, and the Jupyter user is none."
            raise NotYours(msg)
        found = self.services.holders.by_id(holder_id)
        if found is None:
            known = ", ".join(each.holder_id for each in self.services.holders.all()) or "none"
            why = f"is no holder of this Jupyter server now; there are: {known}"
            raise BadRequest(field="holder_id", why=why)
        return found


class CheckHandler(ComfyLockHandler):
    """`check`."""

    @allow_unauthenticated
    async def get(self) -> None:
        """Tell what is wrong in the pool, as far as the caller may know it."""
        self.finish((await check(self.services, self.holder_id)).to_json())


class CleanupHandler(ComfyLockHandler):
    """`cleanup`."""

    @allow_unauthenticated
    async def post(self) -> None:
        """Release and cancel what a kernel has, or only say what that would be."""
        body = self.body()
        kernel, dry_run = text_or_none(body, "kernel"), body.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise BadRequest(field="dry_run", why="must be true or false")
        if kernel is None and self.holder is None:
            why = "must name a kernel: the Jupyter user has none of its own"
            raise BadRequest(field="kernel", why=why)
        order = Order(
            by=self.holder or self.the_operator(),
            kernel=kernel,
            dry_run=dry_run,
            only=_only(body),
            why=note(body, "why"),
        )
        self.finish(await cleanup(self.services, order))


def _only(body: dict[str, Any]) -> Collection[str] | None:
    return None if body.get("only") is None else texts(body, "only")


class SelfTestHandler(ComfyLockHandler):
    """`selftest`."""

    _running: asyncio.Task[None] | None = None

    @allow_unauthenticated
    async def post(self) -> None:
        """Try the promises on the running pool; a line for each trial when it is done.

        The test is the request: when the connection closes, it is broken off.
        """
        name = text_or_none(self.body(), "name")
        wanted(name)
        self.set_header("Content-Type", "application/x-ndjson")
        self.set_header("Cache-Control", "no-cache")
        self.set_header("X-Accel-Buffering", "no")
        send_at_once(self)
        notice_dead_reader(self)
        self._running = asyncio.ensure_future(self._tell(name))
        # Broken off, it has made order when it is over.
        await asyncio.wait([self._running])
        with suppress(StreamClosedError, asyncio.CancelledError):
            self._running.result()

    async def _tell(self, name: str | None) -> None:
        async with aclosing(self.services.selftests.run(self.services, name)) as trials:
            async for trial in trials:
                self.write(json.dumps({"trial": trial.to_json()}) + "\n")
                await self.flush()

    def on_connection_close(self) -> None:
        """Break the test off."""
        super().on_connection_close()
        if self._running is not None:
            self._running.cancel()


#: Patterns below the extension's base URL.
INSPECT_HANDLERS: list[tuple[str, type[ComfyLockHandler]]] = [
    (r"comfy-lock/api/holders/([^/]+)/debug", DebugHandler),
    (r"comfy-lock/api/check", CheckHandler),
    (r"comfy-lock/api/cleanup", CleanupHandler),
    (r"comfy-lock/api/selftest", SelfTestHandler),
]
