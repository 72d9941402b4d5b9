"""A small client of one server, for tests."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager

import aiohttp

DEADLINE_S = 20.0


class Client:
    """One session with one WebSocket; `heard` keeps all JSON messages, `frames` all others."""

    def __init__(self, url, session, ws, client_id):
        self.url = url
        self.session = session
        self.ws = ws
        self.client_id = client_id
        self.heard = []
        self.frames = []

    async def get(self, path, **more):
        async with self.session.get(self.url + path, **more) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.read())

    async def post(self, path, body=None, **more):
        more = more or {"json": body}
        async with self.session.post(self.url + path, **more) as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.read())

    async def submit(self, prompt, **more):
        """Queue a prompt for this client and return its id."""
        body = {"prompt": prompt, "client_id": self.client_id, **more}
        status, answer = await self.post("/prompt", body)
        assert status == 200, answer
        return answer["prompt_id"]

    async def until(self, kind, **data):
        """Read messages until one of that kind with that data; return its data."""
        async with asyncio.timeout(DEADLINE_S):
            async for message in self.ws:
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.frames.append(message.data)
                    continue
                event = json.loads(message.data)
                self.heard.append(event)
                if event["type"] == kind and data.items() <= event["data"].items():
                    return event["data"]
        msg = f"the socket closed before {kind} {data}"
        raise AssertionError(msg)

    async def run(self, prompt, **more):
        """Run a prompt to its end; return its history entry and what was heard meanwhile."""
        start = len(self.heard)
        prompt_id = await self.submit(prompt, **more)
        await self.until("executing", node=None, prompt_id=prompt_id)
        _, history = await self.get(f"/history/{prompt_id}")
        return history[prompt_id], self.heard[start:]

    async def file(self, entry, node_id, index=0):
        """The bytes of one picture of a history entry."""
        _, content = await self.get("/view", params=entry["outputs"][node_id]["images"][index])
        return content


@asynccontextmanager
async def client_of(url, client_id=None):
    client_id = client_id or str(uuid.uuid4())
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/ws?clientId={client_id}") as ws,
    ):
        client = Client(url, session, ws, client_id)
        await client.until("status", sid=client_id)
        yield client


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def save(source, prefix="test"):
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def picture(color=0x336699, size=8):
    return node("EmptyImage", width=size, height=size, batch_size=1, color=color)


def steps(count, delay=0.01, *, preview=False, seed=0):
    return node("TrSteps", steps=count, delay=delay, preview=preview, seed=seed)
