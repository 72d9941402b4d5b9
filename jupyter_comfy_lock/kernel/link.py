"""The link to the Jupyter server: saying hello, and calling in this kernel's name."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import httpx
from httpx_sse import ServerSentEvent

from jupyter_comfy_lock.domain.errors import ComfyLockError, UnknownHolder, WrongCredential
from jupyter_comfy_lock.kernel.client import ComfyClient
from jupyter_comfy_lock.kernel.connection import Place, own_name
from jupyter_comfy_lock.kernel.lease import LeaseThread
from jupyter_comfy_lock.kernel.wire import HelloJson

T = TypeVar("T")


class Link:
    """This process's standing at one Jupyter server. Thread-safe.

    Nothing is sent before the first call. Every call can raise NoServerExtension and
    WrongCredential.
    """

    def __init__(
        self,
        place: Place,
        *,
        transport: httpx.BaseTransport | None,
        on_hello: Callable[[], None],
        on_forgotten: Callable[[], None],
    ) -> None:
        """`on_hello` is called after each hello, `on_forgotten` before one that is a second one."""
        self.place = place
        self.client = ComfyClient(place, transport=transport)
        self._transport = transport
        self._on_hello = on_hello
        self._on_forgotten = on_forgotten
        self._pid = os.getpid()
        self._instance = str(uuid.uuid4())
        self._attached_id = f"attached-{uuid.uuid4()}"
        self._greeting = threading.Lock()
        self._hello: HelloJson | None = None
        self._lease = LeaseThread(self._renew)

    @property
    def kernel(self) -> str:
        """What to call this kernel in a message."""
        if self._hello is None:
            return self.place.kernel_id or self._attached_id
        holder = self._hello["holder"]
        return holder["name"] or holder["holder_id"]

    def is_mine(self) -> bool:
        """Whether this process has said hello itself; a fork has not."""
        return self._pid == os.getpid()

    def call(self, request: Callable[[str], T]) -> T:
        """Do `request` with this kernel's credential.

        A refused credential means that nothing was done, so every request may be repeated once.
        """
        if not self.is_mine():
            msg = (
                f"This belongs to process {self._pid}, of which this process is a fork. Use the "
                "module's functions here; they make this process a holder of its own."
            )
            raise ComfyLockError(msg)
        credential = self.hello()["credential"]
        try:
            return request(credential)
        except UnknownHolder:
            return request(self.hello(refused=credential)["credential"])

    def call_if_known(self, request: Callable[[str], T]) -> T | None:
        """Do `request` if hello was said; else there is nothing to do, and nothing is sent."""
        return None if self._hello is None else request(self._hello["credential"])

    def hello(self, *, refused: str | None = None) -> HelloJson:
        """Return the answer to our hello; say it if it was not said, or if `refused` came of it."""
        with self._greeting:
            if self._hello is None or self._hello["credential"] == refused:
                if refused is not None:
                    self._on_forgotten()
                self._hello = self._say_hello()
                self._on_hello()
                lease = self._hello.get("lease")
                if lease is not None and self.place.kind == "attached":
                    self._lease.keep(lease["renew_every_s"])
            return self._hello

    @contextmanager
    def events(self) -> Iterator[Iterator[ServerSentEvent]]:
        """Open the event stream."""
        credential = self.hello()["credential"]
        try:
            with self.client.events(credential) as events:
                yield events
        except UnknownHolder:
            self.hello(refused=credential)
            raise

    def leave(self) -> None:
        """Leave, if attached. A managed kernel's end is seen by its server."""
        self._lease.stop()
        if self.place.kind == "attached" and self.is_mine():
            with suppress(ComfyLockError):
                self.call_if_known(self.client.leave)

    def _renew(self) -> None:
        hello = self._hello
        if hello is not None and "lease" in hello:
            self.client.renew(hello["credential"], max(1.0, hello["lease"]["renew_every_s"]))

    def _say_hello(self) -> HelloJson:
        try:
            return self._hello_to(self.client)
        except (UnknownHolder, WrongCredential):
            # Started inside the Jupyter server but not by its kernel manager, as nbconvert
            # does there: the server does not know the kernel, but its user does.
            if self.place.kernel_id is None or not self.place.token:
                raise
            client = ComfyClient(self.place.attached(), transport=self._transport)
            hello = self._hello_to(client)
            self.client, self.place = client, client.place
            return hello

    def _hello_to(self, client: ComfyClient) -> HelloJson:
        return client.hello(
            self._instance,
            kernel_id=client.place.kernel_id or self._attached_id,
            name=own_name(),
        )
