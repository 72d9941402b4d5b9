"""Kernels: who they are, and when their life ends (R8).

No single signal sees every end of a kernel, so there are three: the kernel events of the Jupyter
server (shut down, restart), the drop of the kernel's own event stream (fastest for a kernel that
dies), and a look at all holders every two seconds (sees whatever the others miss).
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from logging import Logger
from typing import Any, Literal

from jupyter_core.utils import ensure_async

from jupyter_comfy_lock.domain.errors import BadRequest, WrongCredential
from jupyter_comfy_lock.domain.lock import HolderId
from jupyter_comfy_lock.domain.proof import proof
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.holders import Holder, HolderRegistry

KERNEL_ACTIONS = "https://events.jupyter.org/jupyter_server/kernel_actions/v1"

#: Seconds between two looks at all holders.
_LOOK_EVERY_S = 2.0
#: Seconds in which an attached holder opens its event stream after its hello.
_FIRST_STREAM_S = 10.0
#: Seconds in which an attached holder opens its event stream again when it broke. Its process may
#: be on another machine, so that nothing else tells whether it lives.
_STREAM_AGAIN_S = 3.0
#: Seconds in which a kernel whose stream dropped turns out to be dead, if it is: Python closes its
#: sockets a while before the process ends. Looked at so often meanwhile.
_DYING_S = 1.0
_DYING_LOOK_S = 0.02

OnEnd = Callable[[Holder, str], Awaitable[None]]


class KernelWatcher:
    """Ends holders when their kernels end; `on_end` is called once for each."""

    def __init__(
        self,
        registry: HolderRegistry,
        kernel_manager: Any,
        session_manager: Any,
        log: Logger,
        on_end: OnEnd,
        *,
        ttl_s: float,
    ) -> None:
        self._registry = registry
        self._kernels = kernel_manager
        self._sessions = session_manager
        self._log = log
        self._on_end = on_end
        self._ttl_s = ttl_s
        #: Holders that are being ended: what they held is being released.
        self._ending: dict[HolderId, str] = {}
        self._looking = Background(self._look_for_ever)

    def start(self) -> None:
        """Begin to look after holders."""
        self._looking.start()

    async def stop(self) -> None:
        """End all holders: the Jupyter server stops."""
        await self._looking.stop()
        holders = self._registry.all()
        await asyncio.gather(*(self.end(each, "the Jupyter server stopped") for each in holders))

    # -- hello -------------------------------------------------------------------------------

    async def hello_managed(
        self, kernel_id: str, said: str, *, instance: str
    ) -> tuple[Holder, bool]:
        """Return the holder of a kernel of this Jupyter server, and whether it is new.

        Raises:
            WrongCredential: it is not who it says it is.
        """
        if kernel_id not in self._kernels:
            msg = f"This Jupyter server runs no kernel {kernel_id}."
            raise WrongCredential(msg)
        key = self._kernels.get_kernel(kernel_id).session.key
        if not key:
            msg = "This Jupyter server's kernels have no session key (Session.key), so no proof."
            raise WrongCredential(msg)
        # As bytes: it cannot compare text beyond ASCII, which a header may hold.
        if not hmac.compare_digest(proof(key, kernel_id).encode(), said.encode()):
            msg = f"The proof is not that of kernel {kernel_id}."
            raise WrongCredential(msg)
        process = self._process(kernel_id)
        name = await self._notebook(kernel_id)
        return await self._hello(kernel_id, instance, "managed", name, process)

    async def hello_attached(
        self, kernel_id: str, *, instance: str, name: str
    ) -> tuple[Holder, bool]:
        """Return the holder of a kernel that was started elsewhere, and whether it is new.

        Raises:
            BadRequest: the id is that of a kernel of this Jupyter server, which proves itself.
        """
        if kernel_id in self._kernels or not kernel_id.startswith("attached-"):
            why = 'must begin with "attached-": others are ids of this Jupyter server\'s kernels'
            raise BadRequest(field="kernel_id", why=why)
        return await self._hello(kernel_id, instance, "attached", name, None)

    async def _hello(
        self,
        kernel_id: str,
        instance: str,
        kind: Literal["managed", "attached"],
        name: str,
        process: int | None,
    ) -> tuple[Holder, bool]:
        while (known := self._registry.of_kernel(kernel_id)) is not None:
            # A kernel's child processes share its holder: same process as far as we know.
            same = known.process == process if process else known.instance == instance
            if same:
                return known, False
            await self.end(known, "the kernel was restarted")
        holder = self._registry.add(
            kernel_id, instance=instance, kind=kind, name=name, process=process
        )
        self._log.info("Holder %s (%s, %s) said hello", holder.holder_id, kind, name or "no name")
        return holder, True

    async def rename(self, holder: Holder) -> None:
        """Learn the present path of the holder's notebook."""
        if holder.kind == "managed":
            holder.name = await self._notebook(holder.kernel_id) or holder.name

    async def _notebook(self, kernel_id: str) -> str:
        session = await self._session(kernel_id)
        return str(session.get("path") or session.get("name") or "")

    async def _session(self, kernel_id: str) -> dict[str, Any]:
        for session in await ensure_async(self._sessions.list_sessions()):
            if (session.get("kernel") or {}).get("id") == kernel_id:
                return dict(session)
        return {}

    # -- ends --------------------------------------------------------------------------------

    async def end(self, holder: Holder, why: str) -> None:
        """End a holder: its credential first, then whatever it holds. Once."""
        if self._registry.remove(holder):
            self._log.info("Holder %s (%s) ends: %s", holder.holder_id, holder.name, why)
            self._ending[holder.holder_id] = why
            try:
                await self._on_end(holder, why)
            finally:
                del self._ending[holder.holder_id]

    def standing(self) -> dict[HolderId, str | None]:
        """Return the holders of this Jupyter server, each with why it counts as gone if it does.

        One that is being ended is not gone yet.
        """
        standing: dict[HolderId, str | None] = dict.fromkeys(self._ending)
        for holder in self._registry.all():
            silent_s = time.monotonic() - holder.renewed_s
            silent = holder.kind == "attached" and silent_s > self._ttl_s
            why = f"it has not renewed its lease for {silent_s:.0f} s" if silent else None
            standing[holder.holder_id] = why
        return standing

    # jupyter_events passes these by keyword, and a listener that raises would break the kernel
    # action that it is told of.
    async def on_action(self, logger: object, schema_id: str, data: dict[str, Any]) -> None:
        """Take in a kernel event of the Jupyter server."""
        holder = self._registry.of_kernel(str(data.get("kernel_id")))
        if holder is None or data.get("action") not in ("shutdown", "restart"):
            return
        try:
            # The event of a restart comes when the new process runs; it may have said hello.
            if data["action"] == "shutdown" or self._process(holder.kernel_id) != holder.process:
                await self.end(holder, f"the kernel was told to {data['action']}")
        except Exception:  # noqa: BLE001 - logged; see above
            self._log.exception("Could not end holder %s", holder.holder_id)

    def renewed(self, holder: Holder) -> None:
        """Note that an attached holder runs."""
        holder.renewed_s = time.monotonic()

    def stream_opened(self, holder: Holder) -> None:
        """Note that the holder opened an event stream."""
        holder.streams += 1

    async def stream_dropped(self, holder: Holder) -> None:
        """Note that an event stream of the holder broke: perhaps its process is dead."""
        holder.streams -= 1
        holder.last_stream_s = time.monotonic()
        if self._registry.of_kernel(holder.kernel_id) is not holder:
            # It has ended, and that is why its stream did.
            return
        if holder.kind == "attached":
            await asyncio.sleep(_STREAM_AGAIN_S)
            if holder.streams == 0 and time.monotonic() - holder.last_stream_s >= _STREAM_AGAIN_S:
                await self.end(holder, "it went away")
            return
        deadline_s = time.monotonic() + _DYING_S
        while time.monotonic() < deadline_s:
            if not await self._alive(holder):
                await self.end(holder, "its process is gone")
                return
            await asyncio.sleep(_DYING_LOOK_S)

    async def look(self) -> None:
        """End each holder whose kernel is gone, or is another process by now."""
        # At once: ending one takes as long as its ComfyServer takes to answer.
        await asyncio.gather(*map(self._look_at, self._registry.all()))

    async def _look_at(self, holder: Holder) -> None:
        if holder.kind == "attached":
            silent_s = time.monotonic() - holder.last_stream_s
            if holder.streams == 0 and silent_s > _FIRST_STREAM_S:
                await self.end(holder, "it went away")
            elif time.monotonic() - holder.renewed_s > self._ttl_s:
                # Its connection is open, but it may be stopped, or its machine asleep.
                await self.end(holder, f"it has not renewed its lease for {self._ttl_s:.0f} s")
        elif not await self._alive(holder):
            await self.end(holder, "the kernel is gone")

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - logged; this loop is what nothing escapes
                self._log.exception("Could not look after holders")

    async def _alive(self, holder: Holder) -> bool:
        if holder.kernel_id not in self._kernels:
            return False
        if self._process(holder.kernel_id) != holder.process:
            return False
        manager = self._kernels.get_kernel(holder.kernel_id)
        return bool(await ensure_async(manager.is_alive()))

    def _process(self, kernel_id: str) -> int | None:
        """The kernel's process id, where its provisioner knows one."""
        if kernel_id not in self._kernels:
            return None
        provisioner = getattr(self._kernels.get_kernel(kernel_id), "provisioner", None)
        pid = getattr(provisioner, "pid", None)
        return pid if isinstance(pid, int) else None
