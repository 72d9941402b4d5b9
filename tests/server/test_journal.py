"""Operators are told of each change of a lock: one Jupyter event and one line in the log."""

import logging
from typing import Any

import pytest

from jupyter_comfy_lock.server.journal import LOCK_EVENTS
from tests.server import graphs
from tests.server.test_takeover import left_behind
from tests.server.world import World, eventually


class Journal:
    """What was told so far."""

    def __init__(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        self.events: list[dict[str, Any]] = []
        self._caplog = caplog
        caplog.set_level(logging.INFO)
        caplog.clear()
        world.app.serverapp.event_logger.add_listener(schema_id=LOCK_EVENTS, listener=self._hear)

    async def _hear(self, logger: Any, schema_id: str, data: dict[str, Any]) -> None:
        self.events.append(data)

    @property
    def lines(self) -> list[str]:
        return [x.getMessage() for x in self._caplog.records if x.module == "journal"]

    async def told(self, *actions: str) -> list[dict[str, Any]]:
        """The events, which are these and each has a line; then forgotten."""

        async def there() -> bool:
            return len(self.events) >= len(actions)

        await eventually(there)
        events, self.events = self.events, []
        assert [x["action"] for x in events] == list(actions)
        assert len(self.lines) == len(actions), self.lines
        self._caplog.clear()
        return events


@pytest.fixture
def journal(world: World, caplog: pytest.LogCaptureFixture) -> Journal:
    return Journal(world, caplog)


async def test_a_grant_and_a_release_are_told_once_each(world: World, journal: Journal):
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    await kernel.lock("gpu-1")
    (event,) = await journal.told("grant")
    assert event == {
        "action": "grant",
        "holder_id": kernel.holder_id,
        "name": "a.ipynb",
        "comfy_id": "gpu-1",
        "mode": "shared",
        "fence": lock["fence"],
        "node_id": world.node_id,
        "by": "",
        "why": "",
    }
    await kernel.release()
    await kernel.release()
    (event,) = await journal.told("release")
    assert (event["fence"], event["why"]) == (lock["fence"], "released")


async def test_the_end_of_a_kernel_is_told_as_the_release_of_its_lock(
    world: World, journal: Journal
):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    await kernel.submit(graphs.steps(400))
    await journal.told("grant")
    await kernel.call("DELETE", "holders/me")
    await eventually(world.nobody_holds)
    (event,) = await journal.told("release")
    assert event["why"] == "holder_gone"


async def test_the_end_of_a_kernel_that_was_written_down_later_is_told_then(
    world: World, journal: Journal
):
    kernel = await world.kernel("a.ipynb")
    await kernel.lock("gpu-1")
    await journal.told("grant")
    async with world.store_away():
        await kernel.call("DELETE", "holders/me")
    await world.settle()
    await journal.told("release")


@pytest.mark.parametrize("waits", [True, False])
async def test_a_move_is_a_grant_and_a_release(world: World, journal: Journal, waits: bool):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1")
    await b.lock("gpu-2", "exclusive")
    await journal.told("grant", "grant")
    if waits:
        async with a.waiting("gpu-2") as waiting:
            await waiting.at(1)
            await b.release()
            await waiting.lock()
        events = await journal.told("release", "release", "grant")
        assert [x["name"] for x in events] == ["b.ipynb", "a.ipynb", "a.ipynb"]
    else:
        await b.release()
        await a.lock("gpu-2")
        events = await journal.told("release", "release", "grant")
    assert events[1]["why"] == "moved to gpu-2"
    assert [x["comfy_id"] for x in events] == ["gpu-2", "gpu-1", "gpu-2"]


async def test_a_refusal_is_told_with_its_reason(world: World, journal: Journal):
    a, b = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    await a.lock("gpu-1", "exclusive")
    await journal.told("grant")
    answer = await b.ask("gpu-1", "exclusive")
    (event,) = await journal.told("refuse")
    assert (event["name"], event["comfy_id"], event["mode"]) == ("b.ipynb", "gpu-1", "exclusive")
    assert (event["fence"], event["why"]) == (None, answer.json()["message"])
    async with b.waiting("gpu-1", wait=0.05) as waiting:
        await waiting.error()
    (event,) = await journal.told("refuse")
    assert "in vain" in event["why"]
    await b.ask("gpu-9")
    await journal.told("refuse")


async def test_what_is_taken_away_is_told_with_who_and_why(world: World, journal: Journal):
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    await journal.told("grant")
    await world.force(kernel, "the GPU is needed")
    await world.app._keeper.hear()
    (event,) = await journal.told("force")
    assert (event["fence"], event["why"]) == (lock["fence"], "the GPU is needed")
    assert event["by"]
    await kernel.lock("gpu-1")
    await journal.told("grant")
    await world.set_state("gpu-1", "disabled", "on fire")
    await world.app._keeper.hear()
    (event,) = await journal.told("force")
    assert event["why"] == "gpu-1 is disabled: on fire"


async def test_what_a_dead_jupyter_server_left_is_told_as_expired(world: World, journal: Journal):
    await left_behind(world)
    await world.expire()
    await world.expire()
    (event,) = await journal.told("expire")
    assert (event["holder_id"], event["name"]) == ("gone.1", "gone.ipynb")


async def test_a_listener_that_fails_undoes_no_lock(world: World, journal: Journal):
    def broken(**_: object) -> None:
        raise ZeroDivisionError

    world.app._acquirer._journal._emitter = type("Broken", (), {"emit": broken})
    kernel = await world.kernel("a.ipynb")
    lock = await kernel.lock("gpu-1")
    assert (await kernel.get("locks"))["locks"] == [lock]


# -- attached kernels ----------------------------------------------------------------------------


async def test_an_attached_kernel_that_renews_goes_on_and_one_that_does_not_is_ended(
    world: World,
):
    """R8: its connection is open, but it may be stopped, or its machine asleep."""
    renews, silent = await world.kernel("a.ipynb"), await world.kernel("b.ipynb")
    for kernel in (renews, silent):
        await kernel.lock("gpu-1")
        world.holder(kernel).renewed_s -= 31
    assert (await renews.call("PUT", "holders/me/lease")).status == 204
    await world.app._kernels.look()
    assert [x["name"] for x in await world.everybodys_locks()] == ["a.ipynb"]
    assert (await renews.comfy("GET", "queue")).status == 200
    assert (await silent.call("PUT", "holders/me/lease")).code == (403, "unknown_holder")
    await silent.heard.ended.wait()
    assert (await world.user.call("PUT", "holders/me/lease")).code == (403, "not_yours")
