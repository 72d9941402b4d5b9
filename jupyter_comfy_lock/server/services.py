"""What the handlers and the gateway work with, put together by `app`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.server.acquire import Acquirer
from jupyter_comfy_lock.server.events import EventHub
from jupyter_comfy_lock.server.files import FileService
from jupyter_comfy_lock.server.holders import Holder, HolderRegistry
from jupyter_comfy_lock.server.kernels import KernelWatcher
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.ports import GatewayPorts
from jupyter_comfy_lock.server.streams import HolderStreams
from jupyter_comfy_lock.server.submit import Submitter
from jupyter_comfy_lock.server.tasks import TaskService
from jupyter_comfy_lock.server.upstream import Upstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that a request may need."""

    upstreams: dict[ComfyId, Upstream]
    holders: HolderRegistry
    kernels: KernelWatcher
    acquirer: Acquirer
    locks: LockService
    tasks: TaskService
    submitter: Submitter
    files: FileService
    streams: HolderStreams
    ports: GatewayPorts
    events: EventHub
    #: The ComfyServer that the holder's notebook is pinned to.
    pin_of: Callable[[Holder], Awaitable[ComfyId | None]]
    policy: LeasePolicy


#: Key of the Services in tornado's settings.
SERVICES = "comfy_lock_services"
#: Key of the asyncio.Event in tornado's settings that is set when the Services are there.
STARTED = "comfy_lock_started"
#: Key of the ConfigError in tornado's settings, when the configuration is wrong.
CONFIG_ERROR = "comfy_lock_config_error"
