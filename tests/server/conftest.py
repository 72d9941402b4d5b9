"""A Jupyter server in this process, with real HTTP and WebSockets to embedded servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.server.world import Comfy, World

#: Headers of the ComfyUI servers in the pool: secrets that nobody must ever see.
SECRET = "Bearer s3cr3t-of-the-pool"


@pytest.fixture
def comfies(jp_asyncio_loop: asyncio.AbstractEventLoop) -> Iterator[dict[str, Comfy]]:
    """Two ComfyUI servers."""
    made = {each: Comfy(each) for each in ("gpu-1", "gpu-2")}
    for comfy in made.values():
        jp_asyncio_loop.run_until_complete(comfy.start())
    yield made
    for comfy in made.values():
        jp_asyncio_loop.run_until_complete(comfy.stop())


@pytest.fixture
def pool(comfies: dict[str, Comfy]) -> Any:
    """What `c.ComfyLock.pool` is."""
    return [
        {"id": each.comfy_id, "url": each.url, "headers": {"X-Pass": SECRET}}
        for each in comfies.values()
    ]


@pytest.fixture
def settings() -> dict[str, Any]:
    """Further settings of the extension."""
    return {}


@pytest.fixture
def jp_server_config(pool: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "ServerApp": {"jpserver_extensions": {"jupyter_comfy_lock": True}},
        "ComfyLock": {"pool": pool, **settings},
    }


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The health of the pool is looked at often; ask for it before `world`."""
    monkeypatch.setattr("jupyter_comfy_lock.server.app._LOOK_EVERY_S", 0.2)


@pytest.fixture
def world(
    comfies: dict[str, Comfy],
    jp_serverapp: Any,
    jp_asyncio_loop: asyncio.AbstractEventLoop,
    http_server: Any,
    jp_http_port: int,
    jp_base_url: str,
) -> Iterator[World]:
    """The Jupyter server, started."""
    # pytest-jupyter does not run the start hooks of extensions.
    jp_asyncio_loop.run_until_complete(jp_serverapp._post_start())

    async def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())

    made = World(
        base=f"http://127.0.0.1:{jp_http_port}{jp_base_url}",
        token=jp_serverapp.identity_provider.token,
        session=jp_asyncio_loop.run_until_complete(session()),
        comfies=comfies,
        app=jp_serverapp.extension_manager.extension_points["jupyter_comfy_lock"].app,
        listening=[],
    )
    yield made
    jp_asyncio_loop.run_until_complete(made.close())
