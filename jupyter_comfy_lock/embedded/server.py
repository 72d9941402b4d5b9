"""One embedded server: its parts put together, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import signal
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Middleware

from jupyter_comfy_lock.embedded import routes_about, routes_files, routes_run
from jupyter_comfy_lock.embedded.app_keys import STATE, ServerState
from jupyter_comfy_lock.embedded.executor import Executor
from jupyter_comfy_lock.embedded.faults import Faults
from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.front_end import FrontEnd
from jupyter_comfy_lock.embedded.hub import FEATURES, Hub
from jupyter_comfy_lock.embedded.nodes import BUILT_IN
from jupyter_comfy_lock.embedded.nodes.spec import NodeSpec
from jupyter_comfy_lock.embedded.origin import guard
from jupyter_comfy_lock.embedded.queue import PromptQueue
from jupyter_comfy_lock.embedded.versions import NEWEST, ComfyVersion

MAX_BODY_BYTES = 100 * 1024 * 1024

#: How long `stop` waits for a node that does not look whether it should stop.
STOP_TIMEOUT_S = 5.0


class CannotListen(OSError):
    """The address cannot be listened on; `strerror` says which and why."""


class EmbeddedComfy:
    """A small server that speaks ComfyUI's protocol and runs image nodes on the CPU.

        async with EmbeddedComfy() as comfy:
            ...  # talk to comfy.url

    Any number may run in one process; they share nothing. Without `base_directory` the files
    are in a temporary folder that goes away at the end. `nodes` are added to the built-in
    ones, or replace those of the same class. `middlewares` are aiohttp's, outermost first.
    `version` has it behave as that older ComfyUI does (see `versions`).
    `front_end_root` is a folder with ComfyUI's web interface; without it `/` is a plain page.
    `faults` are what goes wrong with it, and can be changed while it runs.
    """

    def __init__(
        self,
        name: str = "embedded",
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        base_directory: Path | str | None = None,
        nodes: Iterable[NodeSpec] = (),
        middlewares: Sequence[Middleware] = (),
        max_body_bytes: int = MAX_BODY_BYTES,
        version: str = NEWEST,
        front_end_root: Path | str | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.name = name
        self.host = host
        #: The port that is listened on; 0 until the server has started, if it may choose.
        self.port = port
        #: What goes wrong with this server.
        self.faults = faults or Faults()
        self._base_directory = base_directory
        self._nodes = {x.class_type: x for x in (*BUILT_IN, *nodes)}
        self._middlewares = middlewares
        self._max_body_bytes = max_body_bytes
        self._version = ComfyVersion(version)
        self._front_end = FrontEnd(Path(front_end_root)) if front_end_root else None
        self._made_directory: tempfile.TemporaryDirectory[str] | None = None
        self._runner: web.AppRunner | None = None
        self._stack: contextlib.AsyncExitStack | None = None

    @property
    def url(self) -> str:
        """Where the server answers, e.g. `http://127.0.0.1:8188`; no slash at the end."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Answer requests and run prompts.

        Raises:
            CannotListen: the port is taken, for example; nothing was started.
        """
        async with contextlib.AsyncExitStack() as stack:
            folders = Folders(self._base(), self.faults)
            folders.create()
            stack.callback(folders.wipe_temp)
            queue = PromptQueue(lambda: hub.send_status(), self.faults)
            features = {**FEATURES, "max_upload_size": self._max_body_bytes}
            hub = Hub(queue.remaining, features, self._version, self.faults)
            state = ServerState(
                name=self.name,
                nodes=self._nodes,
                folders=folders,
                queue=queue,
                hub=hub,
                features=features,
                version=self._version,
                front_end=self._front_end,
                faults=self.faults,
            )
            hub.start()
            runner = web.AppRunner(self._app(state), access_log=None, shutdown_timeout=1.0)
            stack.push_async_callback(runner.cleanup)
            stack.push_async_callback(hub.stop)
            await runner.setup()
            await self._listen(runner)
            self.port = runner.addresses[0][1]
            worker = threading.Thread(
                target=Executor(self._nodes, folders, hub, queue).work,
                name=f"comfy-{self.name}",
                daemon=True,  # a node that sleeps for an hour must not keep the process
            )
            worker.start()
            stack.push_async_callback(asyncio.to_thread, worker.join, STOP_TIMEOUT_S)
            stack.callback(queue.close)
            self._runner = runner
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Interrupt what runs, close all connections, remove temporary files."""
        await self._end()
        if self._made_directory:
            self._made_directory.cleanup()
            self._made_directory = None

    async def kill(self) -> None:
        """End as a killed process does: nothing more is heard of it, not even a good-bye.

        Queue and history are gone, files stay: when it starts again it is the next life of the
        same server, on the same port.
        """
        if self._runner:
            for site in tuple(self._runner.sites):
                await site.stop()
            assert self._runner.server is not None
            for connection in self._runner.server.connections:
                if connection.transport:
                    connection.transport.abort()
        await self._end()

    async def restart(self) -> None:
        """Be killed and start again. ComfyUI has no id of its own for each life (trace 41)."""
        await self.kill()
        await self.start()

    async def _end(self) -> None:
        if self._stack:
            stack, self._stack, self._runner = self._stack, None, None
            await stack.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            reason = (
                "is taken (address already in use)"
                if taken
                else f"cannot be listened on ({error.strerror})"
            )
            msg = f"Port {self.port} of {self.host} {reason}"
            raise CannotListen(error.errno, msg) from error

    def _base(self) -> Path:
        if self._base_directory is not None:
            return Path(self._base_directory).resolve()
        if self._made_directory is None:
            self._made_directory = tempfile.TemporaryDirectory(
                prefix="comfy-", ignore_cleanup_errors=True
            )
        return Path(self._made_directory.name).resolve()

    def _app(self, state: ServerState) -> web.Application:
        app = web.Application(
            middlewares=[*self._middlewares, self.faults.middleware, guard],
            client_max_size=self._max_body_bytes,
        )
        app.on_response_prepare.append(self.faults.date)
        app[STATE] = state
        routes = [*routes_run.routes(), *routes_files.routes(), *routes_about.routes()]
        app.add_routes(routes)
        app.add_routes([_below_api(x) for x in routes])
        if self._front_end:
            app.router.add_get("/", self._front_end.page)
            app.router.add_get("/{path:.*}", self._front_end.file)
        else:
            app.router.add_get("/", routes_about.page)
            app.router.add_get("/{path:.*}", routes_about.nothing_here)
        return app


def _below_api(route: web.RouteDef) -> web.RouteDef:
    return web.RouteDef(route.method, f"/api{route.path}", route.handler, route.kwargs)


def load_nodes(modules: Iterable[str]) -> list[NodeSpec]:
    """Import modules and return what they list in `NODES`.

    Raises:
        ImportError: a module does not exist or has no `NODES`.
    """
    found: list[NodeSpec] = []
    for name in modules:
        module = importlib.import_module(name)
        if not hasattr(module, "NODES"):
            msg = f"module {name!r} has no NODES"
            raise ImportError(msg)
        found.extend(module.NODES)
    return found


def serve(
    name: str = "comfy",
    host: str = "127.0.0.1",
    port: int = 0,
    base_directory: Path | str | None = None,
    nodes_modules: Sequence[str] = (),
    front_end_root: Path | None = None,
) -> None:
    """Print `NAME http://HOST:PORT`, then serve until SIGINT or SIGTERM.

    Raises:
        ImportError: see `load_nodes`.
        CannotListen: the port is taken, for example.
    """
    comfy = EmbeddedComfy(
        name,
        host=host,
        port=port,
        base_directory=base_directory,
        nodes=load_nodes(nodes_modules),
        front_end_root=front_end_root,
    )
    asyncio.run(_serve(comfy))


async def _serve(comfy: EmbeddedComfy) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows' event loops have no signal handlers; Ctrl+C raises there.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    async with comfy:
        print(f"{comfy.name} {comfy.url}", flush=True)  # noqa: T201 - it is the result
        await stopped.wait()
