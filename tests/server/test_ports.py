"""A port of one's own: the gateway without a path, for clients that take none (R4, R10)."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from yarl import URL

from jupyter_comfy_lock.server import ports
from tests.server import graphs
from tests.server.world import Kernel, World


async def opened(kernel: Kernel, number: int = 0) -> str:
    """Open a port for the kernel; its URL, with a slash."""
    answer = await kernel.call("PUT", "holders/me/port", json={"port": number})
    assert answer.status == 200, answer.body
    return f"http://127.0.0.1:{answer.json()['port']}/"


async def two(world: World) -> tuple[Kernel, Kernel]:
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-1")
    return a, b


async def status(world: World, url: str, method: str = "GET", **options) -> int:
    async with world.session.request(method, URL(url, encoded=True), **options) as response:
        await response.read()
        return response.status


async def ids(world: World, url: str) -> set[str]:
    async with world.session.get(f"{url}queue") as response:
        return {item[1] for items in (await response.json()).values() for item in items}


async def test_a_port_shows_and_changes_what_the_gateway_does(world: World):
    a, b = await two(world)
    url_a, url_b = await opened(a), await opened(b)
    async with world.session.ws_connect(f"{url_a}ws?clientId=x") as hears:
        assert (await hears.receive_json())["data"]["sid"] == "x"
        async with world.session.post(
            f"{url_a}prompt", json={"prompt": graphs.steps(400)}
        ) as answer:
            mine = (await answer.json())["prompt_id"]
        await a.task_in(mine, "running")
        theirs = await b.prompt(graphs.picture())
        assert await ids(world, url_a) == {mine}
        assert await ids(world, url_b) == {theirs}
        assert await status(world, f"{url_a}api/interrupt", "POST") == 200
        assert (await a.ended(mine))["state"] == "cancelled"
    assert (await b.ended(theirs))["state"] == "succeeded"


@pytest.mark.parametrize(
    "path",
    [
        "comfy-lock/gateway/KEY/queue",
        "../KEY/queue",
        "%2e%2e/KEY/queue",
        "/../../api/contents",
        "../../../api/contents",
        "a%40b/api/contents",
    ],
)
async def test_no_path_leads_out_of_the_gateway(world: World, path: str):
    a, b = await two(world)
    url = await opened(a)
    theirs = await b.prompt(graphs.steps(400))
    path = path.replace("KEY", b.gateway_path.split("/")[-2])
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(url).port)
    lines = [f"GET /{path} HTTP/1.1", f"Host: {URL(url).authority}", "Connection: close"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.split()[1] in (b"403", b"404")
    assert theirs.encode() not in answer
    await b.cancel(theirs)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:PORT", "Origin": "http://evil.example:PORT"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:PORT"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_page_of_another_site_is_refused(world: World, headers):
    a, _ = await two(world)
    url = await opened(a)
    headers = {name: text.replace("PORT", str(URL(url).port)) for name, text in headers.items()}
    assert await status(world, f"{url}prompt", "POST", headers=headers, data=b"{}") == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with world.session.ws_connect(f"{url}ws", headers=headers):
            pass
    assert refused.value.status == 403
    own = {"Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert await status(world, f"{url}queue", headers=own) == 200


async def test_there_is_one_port_and_it_may_be_chosen(world: World):
    a, b = await two(world)
    first = await opened(a)
    assert await opened(a) == first
    number = URL(first).port
    taken = await b.call("PUT", "holders/me/port", json={"port": number})
    assert taken.code == (400, "bad_request")
    assert f"{number} is in use" in taken.json()["message"]
    assert (await a.call("DELETE", "holders/me/port")).status == 204
    assert await opened(b, number) == first
    for wrong in (-1, 2**16, "8188", True, None):
        answer = await a.call("PUT", "holders/me/port", json={"port": wrong})
        assert answer.code == (400, "bad_request")


@pytest.mark.parametrize("how", ["closed", "left"])
async def test_a_port_ends_with_its_holder(world: World, how: str):
    a, _ = await two(world)
    url = await opened(a)
    assert await status(world, f"{url}queue") == 200
    await a.call("DELETE", "holders/me/port" if how == "closed" else "holders/me")
    # Also for a connection that was open already.
    with pytest.raises(aiohttp.ClientConnectionError):
        await status(world, f"{url}queue")


async def test_other_users_of_the_machine_are_not_let_in(world: World, monkeypatch):
    a, _ = await two(world)
    url = await opened(a)
    monkeypatch.setattr(ports, "is_own", lambda there, here: False)
    with pytest.raises(aiohttp.ClientConnectionError):
        await status(world, f"{url}queue")


def test_the_system_tells_whose_a_connection_is():
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()
        with socket.create_connection(here) as client:
            there = client.getsockname()
            assert ports.is_own(there, here)
        free = ("127.0.0.1", 1)
        assert not (ports._CONNECTIONS[0].exists() and ports.is_own(free, here))


def test_the_owner_of_a_connection_is_read_from_the_systems_table():
    lines = [
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid",
        "   0: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000",
        "   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1001",
        "   0: 0000000000000000FFFF00000100007F:9C41 0000000000000000FFFF00000100007F:1F90 01 "
        "00000000:00000000 00:00000000 00000000  1002",
    ]
    here, there = ("127.0.0.1", 0x1F90), ("127.0.0.1", 0x9C40)
    assert ports.owner_of(there, here, lines) == 1000
    assert ports.owner_of(here, there, lines) == 1001
    assert ports.owner_of(("127.0.0.1", 0x9C41), here, lines) == 1002
    assert ports.owner_of(("127.0.0.2", 0x9C40), here, lines) is None
