"""The REST API of locks under `comfy-lock/api/locks`."""

import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from tornado.iostream import StreamClosedError

from jupyter_comfy_lock.domain.errors import BadRequest, ComfyLockError
from jupyter_comfy_lock.domain.lock import ComfyId, LockEvent, LockId, LockState, Mode
from jupyter_comfy_lock.domain.task import prompt_id
from jupyter_comfy_lock.server.caller import ComfyLockHandler
from jupyter_comfy_lock.server.fields import text_or_none, texts
from jupyter_comfy_lock.server.holders import Holder
from jupyter_comfy_lock.server.relay import notice_dead_reader, send_at_once
from jupyter_comfy_lock.server.waiting import standing_to_json
from jupyter_comfy_lock.server.wish import Locked, Wish

#: Seconds after which one who waits in line is told again how it stands.
_SIGN_OF_LIFE_S = 10.0
#: Seconds, about thirty years: whoever waits longer waits for ever.
_LONGEST_WAIT_S = 1e9


class LocksHandler(ComfyLockHandler):
    """`locks`."""

    #: The request, while it waits.
    _waiting: asyncio.Task[Locked] | None = None
    #: Whether the journal tells what comes of the request.
    _asked = False

    @allow_unauthenticated
    async def get(self) -> None:
        """List the caller's lock and wait, or everybody's for the Jupyter user."""
        occupied = await self.services.locks.occupancy()
        locks = [
            self.lock_json(lock)
            for held in occupied.locks.values()
            for lock in held
            if self.holder_id is None
            or (self.holder_id == lock.holder_id and lock.state is LockState.HELD)
        ]
        waiting = [
            standing_to_json(each, occupied)
            for each in occupied.waiters
            if self.holder_id in (None, each.holder_id)
        ]
        self.finish({"locks": locks, "waiting": waiting})

    @allow_unauthenticated
    async def post(self) -> None:
        """Lock a ComfyServer; who waits for it is told how it stands, line by line.

        The wait is the request: when the connection closes, the line is left.
        """
        holder = self.the_holder()
        wish = await self._wish(holder)
        moves: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._asked = True
        if not wish.waits:
            locked = await self.services.acquirer.acquire(wish)
            self.set_status(HTTPStatus.OK if locked.had_it else HTTPStatus.CREATED)
            self.finish(self._locked_json(locked))
            return
        acquiring = asyncio.ensure_future(self.services.acquirer.acquire(wish, moves.put_nowait))
        self._waiting = acquiring
        try:
            await self._tell_while_waiting(acquiring, moves)
            self._answer_last(acquiring)
            await self.flush()
        except (StreamClosedError, asyncio.CancelledError):
            await self._nobody_listens(holder, acquiring)

    async def _tell_while_waiting(
        self, acquiring: "asyncio.Task[Locked]", moves: "asyncio.Queue[dict[str, Any]]"
    ) -> None:
        standing: dict[str, Any] | None = None
        while not acquiring.done():
            moved = asyncio.ensure_future(moves.get())
            await asyncio.wait(
                {acquiring, moved}, timeout=_SIGN_OF_LIFE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if moved.done():
                standing = moved.result()
            moved.cancel()
            if standing is not None and not acquiring.done():
                await self._line({"waiting": standing})

    def _answer_last(self, acquiring: "asyncio.Task[Locked]") -> None:
        """Say what came of it: as any request does, if it did not have to wait at all."""
        if not self._headers_written:
            locked = acquiring.result()
            self.set_status(HTTPStatus.OK if locked.had_it else HTTPStatus.CREATED)
            self.finish(self._locked_json(locked))
            return
        try:
            last = self._locked_json(acquiring.result())
        except ComfyLockError as error:
            self.note_refusal(error.code, error.message)
            last = {"error": error.to_json()}
        self.finish(json.dumps(last) + "\n")

    async def _nobody_listens(self, holder: Holder, acquiring: "asyncio.Task[Locked]") -> None:
        """Leave the line; give back a lock of which nobody has heard."""
        acquiring.cancel()
        with suppress(asyncio.CancelledError, ComfyLockError):
            locked = await acquiring
            if not locked.had_it:
                await self.services.locks.withdraw(holder.holder_id, locked.lock.lock_id)

    async def _line(self, payload: dict[str, Any]) -> None:
        if not self._headers_written:
            self.set_status(HTTPStatus.ACCEPTED)
            self.set_header("Content-Type", "application/x-ndjson")
            self.set_header("Cache-Control", "no-cache")
            self.set_header("X-Accel-Buffering", "no")
            send_at_once(self)
            notice_dead_reader(self)
        self.write(json.dumps(payload) + "\n")
        await self.flush()

    def on_connection_close(self) -> None:
        """Leave the line at once."""
        super().on_connection_close()
        if self._waiting is not None:
            self._waiting.cancel()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log what the journal has not told of already."""
        if not (self._asked and isinstance(value, ComfyLockError)):
            super().log_exception(typ, value, tb)

    def _locked_json(self, locked: Locked) -> dict[str, Any]:
        lock = self.lock_json(locked.lock, foreign_prompts=locked.foreign_prompts)
        return {
            "lock": lock,
            "chosen_by": locked.chosen_by,
            "was": locked.was.value if locked.was else None,
        }

    async def _wish(self, holder: Holder) -> Wish:
        body = self.body()
        comfy_id = text_or_none(body, "comfy_id")
        try:
            said = body.get("mode")
            mode = Mode.SHARED if said is None else Mode(said)
        except ValueError:
            raise BadRequest(field="mode", why='must be "shared", "exclusive" or null') from None
        labels = texts(body, "labels")
        if labels and comfy_id:
            why = "choose among ComfyServers, and one is named already"
            raise BadRequest(field="labels", why=why)
        request_id = prompt_id(body.get("request_id"))
        if request_id is None and body.get("request_id") is not None:
            raise BadRequest(field="request_id", why="must be a UUID or null")
        # The notebook may have been renamed since the kernel said hello.
        await self.services.kernels.rename(holder)
        return Wish(
            holder_id=holder.holder_id,
            name=holder.name,
            # Of those with the labels the store refuses what the tasks do not allow.
            comfy_id=ComfyId(comfy_id) if comfy_id else None if labels else self._home(holder),
            pin=None if comfy_id else await self.services.pin_of(holder),
            mode=mode,
            any_mode=said is None,
            wait_s=_wait(body.get("wait", 0)),
            labels=frozenset(labels),
            request_id=LockId(request_id) if request_id else None,
        )

    def _home(self, holder: Holder) -> ComfyId | None:
        """Return where the holder has tasks pending: it can lock no other ComfyServer (R3)."""
        pending = self.services.tasks.pending(holder.holder_id)
        return pending[0].task.comfy_id if pending else None


class LockRequestHandler(ComfyLockHandler):
    """`locks/requests/<id>`."""

    @allow_unauthenticated
    async def delete(self, request_id: str) -> None:
        """Take a request back, whatever became of it."""
        holder_id = self.the_holder().holder_id
        lock = await self.services.locks.withdraw(holder_id, LockId(request_id))
        self.finish({"released": self.lock_json(lock)})


class MyLockHandler(ComfyLockHandler):
    """`locks/mine`."""

    @allow_unauthenticated
    async def delete(self) -> None:
        """Release the caller's lock, if it has one."""
        lock = await self.services.locks.release(self.the_holder().holder_id, LockEvent.RELEASED)
        self.finish({"released": self.lock_json(lock)})


def _wait(value: object) -> float | None:
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # A whole number may be too large to be made a float.
    if not number or not 0 <= value <= _LONGEST_WAIT_S:  # type: ignore[operator]
        why = f"must be a number of seconds from 0 to {_LONGEST_WAIT_S:.0f}, or null for ever"
        raise BadRequest(field="wait", why=why)
    return float(value)  # type: ignore[arg-type]


#: Patterns below the extension's base URL.
LOCK_HANDLERS: list[tuple[str, type[ComfyLockHandler]]] = [
    (r"comfy-lock/api/locks", LocksHandler),
    (r"comfy-lock/api/locks/mine", MyLockHandler),
    (r"comfy-lock/api/locks/requests/([^/]+)", LockRequestHandler),
]
