"""What every client must be able to do, and must not be able to do (R4), told once for all."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import threading
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from PIL import Image

from jupyter_comfy_lock.embedded.nodes.spec import Input, NodeContext, NodeResult, NodeSpec
from tests.clients.install import Clients
from tests.server import graphs
from tests.server.world import Kernel, World, eventually

PROGRAMS = Path(__file__).parent / "programs"
#: Seconds for a client to start, do one thing and end; the machine may be busy.
CLIENT_S = 60.0
#: The class of the node that waits for the door.
HOLDS = "HoldsTheDoor"


class Door:
    """Closed, it keeps prompts running that have its node."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def node(self, name: str) -> NodeSpec:
        inputs = (Input("seed", "INT", {"default": 0}),)
        return NodeSpec(name, self._hold, inputs=inputs, output_node=True)

    def _hold(self, context: NodeContext, seed: int) -> NodeResult:
        while not self._opened.wait(0.02):
            # Where a running prompt hears that it is to stop.
            context.progress(1, 2)
        return NodeResult(ui={"text": ["the door is open"]})


def held() -> dict[str, Any]:
    """A prompt that runs until the door is opened, or until it is interrupted."""
    return {"1": {"class_type": HOLDS, "inputs": {"seed": next(graphs.fresh)}}}


def picture(color: int = 0x336699, prefix: str = "client") -> dict[str, Any]:
    """A small picture that takes long enough to be followed on its way."""
    image = {"width": 8, "height": 8, "batch_size": 1, "color": color}
    steps = {"steps": 4, "delay": 0.1, "preview": False, "seed": next(graphs.fresh)}
    save = {"images": ["2", 0], "filename_prefix": prefix}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image, "_meta": {"title": "Image"}},
        "2": {
            "class_type": "TrSteps",
            "inputs": {**steps, "image": ["1", 0]},
            "_meta": {"title": "Steps"},
        },
        "3": {"class_type": "SaveImage", "inputs": save, "_meta": {"title": "Save"}},
    }


@dataclass(frozen=True, kw_only=True)
class Client:
    """A client that was given the gateway of a kernel as the address of its ComfyUI."""

    command: Sequence[Path | str]
    url: str
    #: What it keeps in its home, it keeps here.
    home: Path

    async def does(self, verb: str, *arguments: Any) -> Any:
        """Have the client do something, in a process of its own; return what it says of it."""
        inherited = ("PATH", "LANG", "SYSTEMROOT")
        process = await asyncio.create_subprocess_exec(
            *map(str, self.command),
            self.url,
            verb,
            *map(json.dumps, arguments),
            cwd=self.home,
            env={
                **{name: os.environ[name] for name in inherited if name in os.environ},
                "HOME": str(self.home),
                "DO_NOT_TRACK": "1",
            },
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said, complained = await asyncio.wait_for(process.communicate(), CLIENT_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode == 0, (said + complained).decode()
        return json.loads(said.splitlines()[-1])


@dataclass(frozen=True, kw_only=True)
class Two:
    """Two kernels that share gpu-1; A uses the client, B does not know of it."""

    world: World
    a: Kernel
    b: Kernel
    client: Client
    door: Door


async def two(
    world: World, door: Door, clients: Clients, program: str, home: Path, *, port: bool = False
) -> Two:
    """Lock gpu-1 for both, and give A's client its address: `comfy.url`, or `comfy.listen()`."""
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    for kernel in (a, b):
        await kernel.lock("gpu-1")
    path = PROGRAMS / program
    if path.suffix == ".mjs":
        # Node looks for packages from where a program is.
        copy = home / program
        copy.write_text(path.read_text())
        (home / "node_modules").symlink_to(clients.node_folder / "node_modules")
        command = [clients.node, copy]
    else:
        command = [clients.python, path]
    url = await port_of(a) if port else world.base + a.gateway_path
    client = Client(command=command, url=url, home=home)
    return Two(world=world, a=a, b=b, client=client, door=door)


async def port_of(kernel: Kernel) -> str:
    """Do what `comfy.listen()` does; return the URL."""
    opened = await kernel.call("PUT", "holders/me/port", json={})
    return f"http://127.0.0.1:{opened.json()['port']}"


async def gets_its_picture(two: Two) -> dict[str, Any]:
    """Have the client submit a prompt, follow it and fetch its picture; return what it says.

    The task is in A's list, with its true end and the same picture.
    """
    said = await two.client.does("picture", picture())
    task = await two.a.ended(said["prompt_id"])
    assert task["state"] == "succeeded"
    assert [each["task_id"] for each in (await two.a.get("tasks"))["tasks"]] == [task["task_id"]]
    assert (await two.b.get("tasks"))["tasks"] == []
    (file,) = task["files"]
    ours = (await two.a.raw("GET", file["path"])).body
    assert pixels(base64.b64decode(said["picture"])) == pixels(ours)
    return dict(said)


def pixels(file: bytes) -> bytes:
    """The pixels of a picture file."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    assert picture.size == (8, 8)
    return picture.tobytes()


@asynccontextmanager
async def b_runs_a_waits(two: Two):
    """B's prompt runs until the door is opened, A's wait behind it."""
    others = await two.b.prompt(held())
    await eventually(two.world.runs, others)
    waiting = [await two.a.prompt(graphs.picture()) for _ in range(2)]
    yield others, waiting
    assert await two.world.runs(others)
    two.door.open()
    assert (await two.b.ended(others))["state"] == "succeeded"
    nobody_was_hurt(two.world)


@asynccontextmanager
async def a_runs_b_waits(two: Two):
    """A's prompt runs until it is interrupted; B's waits behind it, and A's next behind that."""
    running = await two.a.prompt(held())
    await eventually(two.world.runs, running)
    others = await two.b.prompt(graphs.picture())
    waiting = await two.a.prompt(graphs.picture())
    yield running, others, waiting
    assert (await two.b.ended(others))["state"] == "succeeded"
    nobody_was_hurt(two.world)


def nobody_was_hurt(world: World) -> None:
    """Check that nothing reached ComfyUI that concerns anybody's prompts but those it names."""
    calls = world.gpu.calls
    assert all(body.get("prompt_id") for body in calls.bodies("/interrupt"))
    assert all("clear" not in (call.body or {}) for call in calls)
    assert {path for _, path in calls.writes()} <= {"/prompt", "/api/jobs/cancel"}


async def interrupts_its_own(two: Two, *verb: Any) -> None:
    """Have the client interrupt what runs: first B's prompt does, then A's own."""
    async with b_runs_a_waits(two) as (_, waiting):
        await two.client.does(*(verb or ("interrupt",)))
        states = [(await two.a.get(f"tasks/{each}"))["state"] for each in waiting]
        assert states == ["queued", "queued"]
    for each in waiting:
        assert (await two.a.ended(each))["state"] == "succeeded"


async def stops_what_runs_for_it(two: Two, *verb: Any) -> None:
    """Have the client interrupt its own running prompt; those that wait are run."""
    async with a_runs_b_waits(two) as (running, _, waiting):
        await two.client.does(*(verb or ("interrupt",)))
        assert (await two.a.ended(running))["state"] == "cancelled"
        assert (await two.a.ended(waiting))["state"] == "succeeded"


async def clears_its_own(two: Two, *verb: Any) -> None:
    """Have the client clear the queue: A's two prompts that wait are gone, B's runs on."""
    async with b_runs_a_waits(two) as (_, waiting):
        await two.client.does(*(verb or ("clear",)))
        for each in waiting:
            assert (await two.a.ended(each))["state"] == "cancelled"


async def uploads_its_own(two: Two) -> None:
    """Have the client upload a picture, overwriting if it can, whose name B's has already."""
    theirs, mine = _png("red"), _png("blue")
    form = aiohttp.FormData()
    form.add_field("image", theirs, filename="cat.png")
    assert (await two.b.comfy("POST", "upload/image", data=form)).json()["name"] == "cat.png"
    (two.client.home / "cat.png").write_bytes(mine)
    name = await two.client.does("upload", "cat.png")
    assert name != "cat.png"
    asked = f"view?type=input&filename={quote(name)}"
    assert (await two.a.comfy("GET", asked)).body == mine
    assert (await two.b.comfy("GET", asked)).status == 404
    assert (await two.b.comfy("GET", "view?type=input&filename=cat.png")).body == theirs


def _png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "png")
    return file.getvalue()


async def sees_its_own(two: Two) -> None:
    """Have the client list the queue, and ask for B's picture by its name."""
    theirs = await two.b.ended(await two.b.prompt(picture(prefix="theirs")))
    async with b_runs_a_waits(two) as (_, waiting):
        assert sorted(await two.client.does("queue")) == sorted(waiting)
    (file,) = theirs["files"]
    named = {name: file[name] for name in ("filename", "subfolder", "type")}
    assert await two.client.does("file", named) is None
