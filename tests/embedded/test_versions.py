"""The embedded server in the place of older ComfyUIs, as those were recorded."""

from __future__ import annotations

from uuid import uuid4

import pytest
import pytest_asyncio

from jupyter_comfy_lock.embedded import EmbeddedComfy
from tests.embedded.client import picture, save, steps
from tests.embedded_trace_nodes import NODES

pytestmark = pytest.mark.asyncio
OLDEST = "0.3.33"


@pytest.fixture
def version():
    return OLDEST


@pytest_asyncio.fixture
async def comfy(tmp_path, version):
    old = EmbeddedComfy("old", base_directory=tmp_path, nodes=NODES, version=version)
    async with old as server:
        yield server


async def test_0_3_33_tells_of_a_prompt_as_recorded(client):
    mine = str(uuid4())
    prompt = {"1": picture(), "2": save("1")}
    before = len(client.heard)
    prompt_id = await client.submit(prompt, prompt_id=mine)
    assert prompt_id != mine
    await client.until("executing", node=None, prompt_id=prompt_id)
    heard = [x["type"] for x in client.heard[before:] if x["type"] != "status"]
    assert heard == [
        "execution_start",
        "execution_cached",
        "executing",
        "executing",
        "executed",
        "execution_success",
        "executing",
    ]
    assert await client.get(f"/history/{mine}") == (200, {})


@pytest.mark.parametrize(
    ("version", "status"), [(OLDEST, 404), ("0.5.9", 404), ("0.6.0", 200), ("0.33.0", 200)]
)
async def test_jobs_are_listed_since_0_6_0(client, status):
    assert (await client.get("/api/jobs"))[0] == status


@pytest.mark.parametrize(("version", "status"), [("0.25.0", 405), ("0.26.0", 200)])
async def test_jobs_are_cancelled_since_0_26_0(client, status):
    assert (await client.post("/api/jobs/cancel", {"job_ids": []}))[0] == status


@pytest.mark.parametrize(("version", "status"), [(OLDEST, 404), ("0.3.45", 200)])
async def test_features_are_told_since_0_3_45(client, status):
    assert (await client.get("/features"))[0] == status


@pytest.mark.parametrize(("version", "status"), [("0.24.0", 200), ("0.25.0", 400)])
async def test_a_prompt_id_must_be_a_uuid_since_0_25_0(client, status):
    body = {"prompt": {"1": picture(), "2": save("1")}, "prompt_id": "mine"}
    assert (await client.post("/prompt", body))[0] == status


@pytest.mark.parametrize(("version", "stops"), [("0.3.56", True), ("0.3.57", False)])
async def test_before_0_3_57_an_interrupt_stops_whatever_runs(client, stops):
    prompt_id = await client.submit({"1": steps(30, delay=0.02), "2": save("1")})
    await client.until("executing", node="1")
    assert (await client.post("/interrupt", {"prompt_id": str(uuid4())}))[0] == 200
    await client.until("executing", node=None, prompt_id=prompt_id)
    assert ("execution_interrupted" in {x["type"] for x in client.heard}) is stops
