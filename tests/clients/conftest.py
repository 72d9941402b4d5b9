"""Clients of ComfyUI, each as a process of its own, with the gateway as its ComfyUI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.install import Clients, installed_clients
from tests.clients.story import HOLDS, Door
from tests.embedded_trace_nodes import NODES
from tests.server.conftest import jp_server_config, settings, world
from tests.server.world import Comfy

__all__ = ["jp_server_config", "settings", "world"]


@pytest.fixture(scope="session")
def clients() -> Clients:
    """What runs the clients."""
    return installed_clients()


@pytest.fixture
def door() -> Iterator[Door]:
    """Keeps prompts from ending until the test opens it."""
    door = Door()
    yield door
    door.open()


@pytest.fixture
def comfies(jp_asyncio_loop: asyncio.AbstractEventLoop, door: Door) -> Iterator[dict[str, Comfy]]:
    """One ComfyUI server, which two kernels share."""
    comfy = Comfy("gpu-1", nodes=[*NODES, door.node(HOLDS)])
    jp_asyncio_loop.run_until_complete(comfy.start())
    yield {"gpu-1": comfy}
    door.open()
    jp_asyncio_loop.run_until_complete(comfy.stop())


@pytest.fixture
def pool(comfies: dict[str, Comfy]) -> Any:
    """What `c.ComfyLock.pool` is."""
    return [{"id": "gpu-1", "url": comfies["gpu-1"].url, "capacity": 2}]
