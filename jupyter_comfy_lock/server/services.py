"""What the handlers and the gateway work with, put together by `app`."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.lock import ComfyId, Lock, lock_to_json
from jupyter_comfy_lock.domain.task import Task
from jupyter_comfy_lock.server.acquire import Acquirer
from jupyter_comfy_lock.server.events import EventHub
from jupyter_comfy_lock.server.files import FileService
from jupyter_comfy_lock.server.holders import Holder, HolderRegistry
from jupyter_comfy_lock.server.kernels import KernelWatcher
from jupyter_comfy_lock.server.live import task_to_json
from jupyter_comfy_lock.server.locks import LockService
from jupyter_comfy_lock.server.ports import GatewayPorts
from jupyter_comfy_lock.server.refusals import Refusals
from jupyter_comfy_lock.server.streams import HolderStreams
from jupyter_comfy_lock.server.submit import Submitter
from jupyter_comfy_lock.server.tasks import TaskService
from jupyter_comfy_lock.server.upstream import Upstream

if TYPE_CHECKING:
    from jupyter_comfy_lock.server.selftest import SelfTests
    from jupyter_comfy_lock.store.nodes import NodeStore


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
    #: What went wrong lately for each holder.
    refusals: Refusals
    #: The Jupyter servers that share the store.
    nodes: "NodeStore"
    selftests: "SelfTests"

    def lock_json(self, lock: Lock | None, *, foreign_prompts: int = 0) -> dict[str, Any] | None:
        """Return a lock as REST shows it."""
        if lock is None:
            return None
        upstream = self.upstreams.get(lock.comfy_id)
        if upstream is None:
            return lock_to_json(lock, url="", epoch=0, foreign_prompts=foreign_prompts)
        return upstream.lock_json(lock, foreign_prompts=foreign_prompts)

    def task_json(self, task: Task) -> dict[str, Any]:
        """Return a task as REST shows it, with its progress where it is followed."""
        live = self.tasks.live(task.task_id)
        return live.to_json() if live else task_to_json(task)


#: Key of the Services in tornado's settings.
SERVICES = "comfy_lock_services"
#: Key of the asyncio.Event in tornado's settings that is set when the Services are there.
STARTED = "comfy_lock_started"
#: Key of the ConfigError in tornado's settings, when the configuration is wrong.
CONFIG_ERROR = "comfy_lock_config_error"
