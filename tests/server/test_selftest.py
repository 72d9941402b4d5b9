"""The self-test passes where all is well, and says what is broken where something is."""

from __future__ import annotations

import json
from typing import Any

from tests.server.world import Answer, Caller, World


async def selftest(caller: Caller, name: str | None = None) -> dict[str, dict[str, Any]]:
    """Run it; return what came of each trial."""
    return trials(await caller.call("POST", "selftest", json={"name": name}))


def trials(answer: Answer) -> dict[str, dict[str, Any]]:
    assert answer.status == 200, answer.body
    told = [json.loads(line)["trial"] for line in answer.body.splitlines()]
    return {each["name"]: each for each in told}


async def test_all_six_pass(world: World):
    told = await selftest(world.user)
    assert {name: each["verdict"] for name, each in told.items()} == dict.fromkeys(
        ("identity", "locks", "check", "tasks", "consistency", "cleanup"), "passed"
    ), told
    print(told)
