"""The server extension: settings, wiring, start and stop. The one module that knows all others."""

import asyncio
import atexit
import contextlib
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_core.paths import jupyter_data_dir
from jupyter_core.utils import ensure_async
from jupyter_server.extension.application import ExtensionApp
from tornado.web import RequestHandler
from traitlets import Any as AnyTrait
from traitlets import Float, Unicode
from yarl import URL

from jupyter_comfy_lock.domain.config import LeasePolicy, lease_policy, parse_pool
from jupyter_comfy_lock.domain.errors import ComfyLockError, ConfigError, StoreUnavailable
from jupyter_comfy_lock.domain.isolation import status_frame
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId, Lock, LockEvent
from jupyter_comfy_lock.domain.pool import ComfyServer, comfy_to_json
from jupyter_comfy_lock.server.acquire import Acquirer
from jupyter_comfy_lock.server.background import Background
from jupyter_comfy_lock.server.debts import Debts
from jupyter_comfy_lock.server.events import EventHub
from jupyter_comfy_lock.server.files import FileService
from jupyter_comfy_lock.server.follow import Follower
from jupyter_comfy_lock.server.gateway.handler import GatewayHandler
from jupyter_comfy_lock.server.gateway.socket import GatewaySocket
from jupyter_comfy_lock.server.handlers import HANDLERS
from jupyter_comfy_lock.server.held import HeldLocks
from jupyter_comfy_lock.server.holders import Holder, HolderRegistry
from jupyter_comfy_lock.server.journal import SCHEMA, LockJournal
from jupyter_comfy_lock.server.keeper import LockKeeper
from jupyter_comfy_lock.server.kernels import KERNEL_ACTIONS, KernelWatcher
from jupyter_comfy_lock.server.lease import NodeLease
from jupyter_comfy_lock.server.live import LiveTask
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.ports import Doors, GatewayPorts
from jupyter_comfy_lock.server.refusals import Refusals
from jupyter_comfy_lock.server.selftest import SelfTests
from jupyter_comfy_lock.server.services import CONFIG_ERROR, SERVICES, STARTED, Services
from jupyter_comfy_lock.server.streams import HolderStreams
from jupyter_comfy_lock.server.submit import Submitter
from jupyter_comfy_lock.server.tasks import TaskService
from jupyter_comfy_lock.server.upstream import Upstream, look_at_all
from jupyter_comfy_lock.server.waiting import Line
from jupyter_comfy_lock.store.place import Place, store_place

if TYPE_CHECKING:
    from jupyter_comfy_lock.server.transport import Transport
    from jupyter_comfy_lock.store.stores import Stores

_TRANSPORT = "jupyter_comfy_lock.server.transport"
#: Seconds between two looks at the health of the pool.
_LOOK_EVERY_S = 5.0
#: Clients join a base URL and a path in either way: one slash or two.
_GATEWAY: list[tuple[str, type[RequestHandler]]] = [
    (r"comfy-lock/gateway/([^/]+)/+(?:api/)?ws", GatewaySocket),
    (r"comfy-lock/gateway/([^/]+)(?:/+(.*))?", GatewayHandler),
]
#: Seconds that the end of a holder waits for its ComfyServer to take its prompts off the queue.
_CANCEL_WAIT_S = 3.0


class ComfyLock(ExtensionApp):
    """Gives each notebook kernel a ComfyServer of its own."""

    name = "jupyter_comfy_lock"
    load_other_extensions = True

    pool = AnyTrait(
        [],
        help="The ComfyServers: [{'id': 'gpu-1', 'url': 'http://…:8188', 'headers': {…}, "
        "'labels': […], 'capacity': 4}, …]; only id and url are needed.",
    ).tag(config=True)
    lease_ttl_s = Float(
        30.0, help="Seconds after which the locks of a Jupyter server that was killed end."
    ).tag(config=True)

    drain_timeout_s = Float(
        60.0,
        help="Seconds for which a kernel that waits for a ComfyServer lets the prompts of one that "
        "has let go of it run on; then they are cancelled.",
    ).tag(config=True)
    store = Unicode(
        "",
        help="Where locks and tasks are kept: the path of a SQLite file on a local disk (left out: "
        "in Jupyter's data directory), or for many machines 'postgresql://user:password@host/db'.",
    ).tag(config=True)

    #: None until the extension has started.
    _services: Services | None = None

    def initialize_settings(self) -> None:
        """Check the configuration; a wrong one is told to every caller, and in the log."""
        self.settings[STARTED] = asyncio.Event()
        self.comfy_servers: tuple[ComfyServer, ...] = ()
        self.policy = LeasePolicy()
        self.place: Place = store_place("", Path(jupyter_data_dir()))
        try:
            self.comfy_servers = parse_pool(self.pool)
            self.policy = lease_policy(self.lease_ttl_s, self.drain_timeout_s)
            self.place = store_place(self.store, Path(jupyter_data_dir()))
        except ConfigError as error:
            self.log.critical("%s", error.message)
            self.settings[CONFIG_ERROR] = error
        assert self.serverapp is not None
        assert self.serverapp.event_logger is not None
        self.serverapp.event_logger.register_event_schema(SCHEMA)
        self.serverapp.event_logger.add_listener(
            schema_id=KERNEL_ACTIONS, listener=self._on_kernel_action
        )

    def initialize_handlers(self) -> None:
        """Add the REST API and the gateway."""
        self.handlers.extend(HANDLERS)
        self.handlers.extend(_GATEWAY)
        assert self.serverapp is not None
        # Many clients write "@" where JupyterHub, for a user of that name, writes "%40".
        as_clients_write = URL(self.serverapp.base_url).raw_path
        if as_clients_write != self.serverapp.base_url:
            web_app: Any = self.serverapp.web_app
            web_app.add_handlers(
                ".*$", [(re.escape(as_clients_write) + path, to) for path, to in _GATEWAY]
            )

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        # aiohttp and SQLAlchemy take a while to import, and Jupyter should not wait for it.
        transport = await asyncio.to_thread(import_module, _TRANSPORT)
        self._transport: Transport = transport.Transport()
        self._upstreams = {
            comfy.comfy_id: Upstream(comfy, self._transport) for comfy in self.comfy_servers
        }
        self._events = EventHub()
        self._registry = HolderRegistry()
        self._refusals = Refusals()
        self._stores = await asyncio.to_thread(_open_stores, self.place, self.policy.ttl_s)
        self._wire_locks(serverapp.event_logger)
        self._tasks = TaskService(self._stores.tasks, self._locks, self.log, self._tell_task)
        files = FileService(self._stores.uploads, self._tasks)
        self._streams = HolderStreams(self._tasks.on_frame, self.log)
        self._ports = GatewayPorts(serverapp.web_app, serverapp.base_url)
        self._follower = Follower(self._tasks, self._upstreams, self.log)
        self._kernels = KernelWatcher(
            self._registry,
            serverapp.kernel_manager,
            serverapp.session_manager,
            self.log,
            self._end_holder,
            ttl_s=self.policy.ttl_s,
        )
        self._held.on_change = self._lock_changed
        for upstream in self._upstreams.values():
            upstream.on_restart = self._comfy_restarted
        self._keeper.adopt = self._tasks.adopt
        self._keeper.cancel = self._tasks.cancel_of
        self._acquirer.is_here = self._registry.has
        # The web application took its copy of `self.settings` before the loop ran.
        serverapp.web_app.settings[SERVICES] = self._services = Services(
            upstreams=self._upstreams,
            holders=self._registry,
            kernels=self._kernels,
            acquirer=self._acquirer,
            locks=self._locks,
            tasks=self._tasks,
            submitter=Submitter(self._tasks, self._locks, files, self._streams.of, self.log),
            files=files,
            streams=self._streams,
            ports=self._ports,
            events=self._events,
            pin_of=self._pin_of,
            policy=self.policy,
            refusals=self._refusals,
            nodes=self._stores.nodes,
            selftests=SelfTests(Doors(serverapp.web_app, serverapp.base_url), self.log),
        )
        await self._keeper.start()
        # Not before what a former life left has been ended: it would be shown as if it were held.
        serverapp.web_app.settings[STARTED].set()
        with contextlib.suppress(StoreUnavailable):
            # Another start does it as well.
            await self._stores.tasks.tidy()
        self._follower.start()
        self._kernels.start()
        self._health = Background(self._watch_health)
        self._health.start()
        # Ctrl-C without a terminal leaves the event loop without calling stop_extension.
        atexit.register(self._stop_without_loop)

    def _wire_locks(self, event_logger: Any) -> None:
        stores = self._stores
        journal = LockJournal(self.log, event_logger)
        backend = stores.database.backend
        lease = NodeLease(stores.nodes, self.policy, self.log, backend.lease_clock())
        self._line = line = Line(backend.begin_to_watch)
        self._held = HeldLocks(lease)
        self._debts = debts = Debts(stores.locks, self._held, journal, self.log)
        self._keeper = LockKeeper(
            stores.locks, lease, self._held, line, debts, self.policy, journal, self.log
        )
        self._acquirer = Acquirer(
            stores.locks,
            lease,
            self._held,
            line,
            debts,
            self._keeper,
            self._upstreams,
            self.policy,
            journal,
            self.log,
        )
        self._locks = LockService(
            stores.locks,
            stores.maintenance,
            self._held,
            line,
            debts,
            self._keeper,
            self._upstreams,
            journal,
        )

    async def stop_extension(self) -> None:
        """Let go of everything: the Jupyter server stops."""
        if self._services is None:
            return
        self._services = None
        atexit.unregister(self._stop_without_loop)
        for stop in (
            self._health.stop,
            self._ports.stop,
            self._kernels.stop,
            self._follower.stop,
            # What was just cancelled has mostly ended by now; one more look writes that down.
            self._follower.look,
            self._events.stop,
            self._streams.stop,
            self._tasks.stop,
            self._keeper.stop,
            self._stores.database.close,
            self._transport.aclose,
        ):
            try:
                await stop()
            except Exception:
                # The rest must stop all the same, and Jupyter with it.
                self.log.exception("%s failed", stop.__qualname__)

    def _stop_without_loop(self) -> None:
        """Let go of what can be let go of when the event loop is gone: leave, and cancel."""
        with contextlib.suppress(ComfyLockError):
            self._stores.database.transact(self._keeper.leave_now)
        homes: dict[ComfyId, list[str]] = {}
        for live in self._tasks.pending():
            if live.task.comfy_id in self._upstreams:
                homes.setdefault(live.task.comfy_id, []).append(live.task.prompt_id)
        if homes:
            asyncio.run(self._cancel_afresh(homes))

    async def _cancel_afresh(self, homes: dict[ComfyId, list[str]]) -> None:
        transport = self._transport.without_threads()

        async def cancel(comfy_id: ComfyId, prompt_ids: list[str]) -> None:
            known = self._upstreams[comfy_id]
            upstream = Upstream(known.comfy, transport)
            upstream.status = known.status
            with contextlib.suppress(ComfyLockError):
                # Who has it to himself only the store knows, which is closed.
                await upstream.cancel(dict.fromkeys(prompt_ids, False))

        async with contextlib.aclosing(transport):
            cancelling = asyncio.gather(*(cancel(*each) for each in homes.items()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(cancelling, _CANCEL_WAIT_S)

    # jupyter_events passes these by keyword.
    async def _on_kernel_action(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        if self._services is not None:
            await self._kernels.on_action(logger=logger, schema_id=schema_id, data=data)

    async def _end_holder(self, holder: Holder, why: str) -> None:
        """Release everything a holder held, its prompts first (R8)."""
        self._ports.close(holder.holder_id)
        try:
            await self._cancel_all_of(holder, why)
        finally:
            await self._locks.release(holder.holder_id, LockEvent.HOLDER_GONE)
            # One that was being recorded while the others were cancelled; from here on none comes.
            for live in self._tasks.pending(holder.holder_id):
                if not (live.task.cancel_requested or live.cannot_stop):
                    self._tasks.in_background(self._tasks.cancel(live, f"its kernel ended: {why}"))
            self._streams.close(holder.holder_id)
            self._events.close(holder.holder_id)
            self._tasks.forget_holder(holder.holder_id)
            self._refusals.forget(holder.holder_id)

    async def _cancel_all_of(self, holder: Holder, why: str) -> None:
        pending = self._tasks.pending(holder.holder_id)
        try:
            cancelling = self._tasks.cancel_all(pending, f"its kernel ended: {why}")
            await asyncio.wait_for(cancelling, _CANCEL_WAIT_S)
        except (TimeoutError, ComfyLockError) as error:
            self.log.warning("Prompts of %s may run on: %s", holder.holder_id, error)

    def _lock_changed(self, holder_id: HolderId, lock: Lock | None, why: str | None) -> None:
        upstream = self._upstreams[lock.comfy_id] if lock else None
        shown = None
        if lock is not None and upstream is not None:
            self._streams.open(holder_id, upstream)
            shown = upstream.lock_json(lock)
        else:
            self._streams.close(holder_id)
            if why is not None and self._registry.has(holder_id):
                # Not of its own doing.
                self._refusals.note(holder_id, where="lock", code="lock_lost", message=why)
        self._events.publish("lock", holder_id, {"lock": shown, "reason": why}, to=holder_id)

    def _comfy_restarted(self, comfy_id: ComfyId) -> None:
        self.log.warning("%s was restarted: its queue and its history are new.", comfy_id)
        for lock in self._held.on(comfy_id):
            shown = self._upstreams[comfy_id].lock_json(lock)
            told = {"lock": shown, "reason": f"{comfy_id} was restarted"}
            self._events.publish("lock", lock.holder_id, told, to=lock.holder_id)

    def _tell_task(self, live: LiveTask) -> None:
        holder_id = live.task.holder_id
        self._events.publish("task", live.task.task_id, live.to_json(), to=holder_id)
        if not live.task.pending and not live.ending:
            # ComfyUI has said nothing of its end: clients still count it.
            self._streams.say(holder_id, status_frame(self._tasks.left(holder_id)))

    async def _watch_health(self) -> None:
        told: list[dict[str, Any]] = []
        while True:
            try:
                await look_at_all(self._upstreams.values())
                occupied = await self._locks.occupancy()
                servers = [
                    comfy_to_json(each.comfy, each.status, occupied, None)
                    for each in self._upstreams.values()
                ]
                if servers != told:
                    told = servers
                    self._events.publish("pool", "", {"servers": servers})
            except ComfyLockError as error:
                self.log.warning("%s", error.message)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _pin_of(self, holder: Holder) -> ComfyId | None:
        """Return the ComfyServer named in the metadata of the holder's notebook."""
        assert self.serverapp is not None
        if holder.pin is not None:
            return holder.pin or None
        if holder.kind != "managed" or not holder.name.endswith(".ipynb"):
            return None
        try:
            contents: Any = self.serverapp.contents_manager
            model = await ensure_async(contents.get(holder.name))
            pin = model["content"]["metadata"].get("comfy_lock", {}).get("pin")
        except Exception:
            # A notebook that cannot be read, for whatever reason, has no pin.
            self.log.debug("No pin in %s", holder.name, exc_info=True)
            return None
        return ComfyId(pin) if isinstance(pin, str) else None


def _open_stores(place: Place, ttl_s: float) -> "Stores":
    from jupyter_comfy_lock.store.stores import open_stores  # noqa: PLC0415 - see the caller

    return open_stores(place, ttl_s=ttl_s)
