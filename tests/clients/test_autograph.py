"""comfyui-autograph: takes a URL with a path for HTTP, but looks for its socket at `/ws`.

Without one it falls back on polling the history. It can neither interrupt nor clear nor list.
"""

import pytest

from tests.clients import story

PROGRAM = "with_autograph.py"


@pytest.fixture(params=["url", "port"])
def two(request, jp_asyncio_loop, world, door, clients, tmp_path):
    port = request.param == "port"
    making = story.two(world, door, clients, PROGRAM, tmp_path, port=port)
    return jp_asyncio_loop.run_until_complete(making)


async def test_it_gets_its_picture(two: story.Two, request):
    said = await story.gets_its_picture(two)
    if request.node.callspec.params["two"] == "port":
        kinds = [kind for kind, _ in said["events"]]
        assert kinds.count("progress") >= 2
        assert said["events"][-1] == ["completed", None]
    else:
        assert said["events"][-1] == ["completed", "history"]


async def test_it_gets_nothing_of_others(two: story.Two):
    theirs = await two.b.ended(await two.b.prompt(story.picture(prefix="theirs")))
    assert await two.client.does("task", theirs["task_id"]) is None
