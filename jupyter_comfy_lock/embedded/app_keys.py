"""What the routes of one server share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from jupyter_comfy_lock.embedded.faults import Faults
from jupyter_comfy_lock.embedded.files import Folders
from jupyter_comfy_lock.embedded.front_end import FrontEnd
from jupyter_comfy_lock.embedded.hub import Hub
from jupyter_comfy_lock.embedded.nodes.spec import NodeSpec
from jupyter_comfy_lock.embedded.queue import PromptQueue
from jupyter_comfy_lock.embedded.versions import ComfyVersion


@dataclass(slots=True)
class ServerState:
    """One server's parts, and the little that is its own."""

    name: str
    nodes: Mapping[str, NodeSpec]
    folders: Folders
    queue: PromptQueue
    hub: Hub
    features: Mapping[str, Any]
    version: ComfyVersion
    front_end: FrontEnd | None
    faults: Faults
    settings: dict[str, Any] = field(default_factory=dict)
    _number: int = 0

    def next_number(self, body: Mapping[str, Any]) -> int | float:
        """Return the place in the queue that a `POST /prompt` asks for, or the next one."""
        if "number" in body:
            return float(body["number"])
        number = self._number
        self._number += 1
        return -number if body.get("front") else number


STATE: web.AppKey[ServerState] = web.AppKey("state", ServerState)
