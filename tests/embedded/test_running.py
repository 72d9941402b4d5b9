"""Prompts that really run, on a server in this process."""

from __future__ import annotations

import asyncio
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from jupyter_comfy_lock.embedded import EmbeddedComfy
from jupyter_comfy_lock.embedded.nodes.spec import NodeResult, NodeSpec
from tests.conformance.replay import decoded
from tests.embedded.client import client_of, node, picture, save, steps

pytestmark = pytest.mark.asyncio


def kinds(heard):
    return [x["type"] for x in heard if x["type"] != "status"]


def sampler(count=3, **more):
    inputs = {"width": 64, "height": 48, "delay": 0.0, "seed": 1, "prompt": "a lake"}
    return node("DemoSampler", steps=count, **(inputs | more))


async def test_a_picture_file_carries_prompt_and_workflow(client):
    prompt = {"1": picture(0x336699), "2": save("1")}
    extra = {"extra_pnginfo": {"workflow": {"id": "wf"}, "note": [1]}}
    entry, _ = await client.run(prompt, extra_data=extra)
    with Image.open(io.BytesIO(await client.file(entry, "2"))) as image:
        assert image.getpixel((0, 0)) == (0x33, 0x66, 0x99)
        assert json.loads(image.text["prompt"]) == prompt
        assert json.loads(image.text["workflow"]) == {"id": "wf"}
        assert json.loads(image.text["note"]) == [1]


async def test_a_batch_makes_one_file_for_each_picture(client):
    prompt = {"1": picture(), "2": save("1", "sub/batch")}
    prompt["1"]["inputs"]["batch_size"] = 3
    entry, _ = await client.run(prompt)
    names = [x["filename"] for x in entry["outputs"]["2"]["images"]]
    assert names == [f"batch_{i:05}_.png" for i in (1, 2, 3)]
    assert {x["subfolder"] for x in entry["outputs"]["2"]["images"]} == {"sub"}


async def test_the_demo_sampler_shows_every_step(client):
    entry, heard = await client.run({"1": sampler(), "2": save("1")})
    assert [x["data"]["value"] for x in heard if x["type"] == "progress"] == [1, 2, 3]
    assert [decoded(x)["image_type"] for x in client.frames] == ["jpeg"] * 3
    with Image.open(io.BytesIO(client.frames[-1][8:])) as preview:
        assert preview.size == (64, 48)
    assert len(await client.file(entry, "2")) > 1000


async def test_the_same_words_and_seed_make_the_same_picture(client):
    first, _ = await client.run({"1": sampler(), "2": save("1")})
    await client.post("/free", {"free_memory": True})
    again, heard = await client.run({"1": sampler(), "2": save("1")})
    other, _ = await client.run({"1": sampler(seed=2), "2": save("1")})
    assert "executing" in kinds(heard)
    pixels = [
        np.asarray(Image.open(io.BytesIO(await client.file(x, "2")))) for x in (first, again, other)
    ]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


async def test_a_preview_is_at_most_512_pixels_wide(client):
    await client.run({"1": sampler(1, width=1024, height=256), "2": save("1")})
    with Image.open(io.BytesIO(client.frames[0][8:])) as preview:
        assert preview.size == (512, 128)


async def test_a_changed_part_runs_and_the_rest_comes_from_the_cache(client):
    prompt = {"1": picture(1), "2": node("ImageInvert", image=["1", 0]), "3": save("2")}
    await client.run(prompt)
    prompt["3"]["inputs"]["filename_prefix"] = "other"
    _, heard = await client.run(prompt)
    (cached,) = (x["data"]["nodes"] for x in heard if x["type"] == "execution_cached")
    assert sorted(cached) == ["1", "2"]
    assert [x["data"]["node"] for x in heard if x["type"] == "executing"] == ["3", None]


async def test_a_new_file_of_the_same_name_is_not_taken_from_the_cache(client, comfy, tmp_path):
    prompt = {"1": node("LoadImage", image="a.png"), "2": save("1")}
    seen = []
    for colour in ((9, 9, 9), (80, 80, 80)):
        Image.new("RGB", (4, 4), colour).save(tmp_path / "input" / "a.png")
        entry, _ = await client.run(prompt)
        with Image.open(io.BytesIO(await client.file(entry, "2"))) as image:
            seen.append(image.getpixel((0, 0)))
    assert seen == [(9, 9, 9), (80, 80, 80)]


async def test_a_node_that_raises_ends_its_prompt_alone(client):
    broken = {"1": node("TrRaise", message="boom", seed=1), "2": save("1")}
    entry, heard = await client.run(broken)
    assert entry["status"]["status_str"] == "error"
    (error,) = (x["data"] for x in heard if x["type"] == "execution_error")
    assert (error["node_id"], error["exception_type"]) == ("1", "ValueError")
    assert any("raise ValueError" in x for x in error["traceback"])
    entry, _ = await client.run({"1": picture(2), "2": save("1")})
    assert entry["status"]["completed"]


async def test_an_interrupt_takes_effect_at_the_next_step(client):
    prompt_id = await client.submit({"1": steps(1000, 0.02), "2": save("1")})
    await client.until("progress", prompt_id=prompt_id)
    await client.post("/interrupt", {"prompt_id": prompt_id})
    ended = await client.until("execution_interrupted", prompt_id=prompt_id)
    assert ended["node_id"] == "1"
    await client.until("executing", node=None)
    _, job = await client.get(f"/api/jobs/{prompt_id}")
    assert job["status"] == "cancelled"


async def test_everybody_hears_of_an_interruption_that_concerns_nobody_in_particular(client):
    _, answer = await client.post("/prompt", {"prompt": {"1": steps(1000, 0.02), "2": save("1")}})
    await client.until("progress", prompt_id=answer["prompt_id"])
    await client.post("/interrupt")
    await client.until("execution_interrupted", prompt_id=answer["prompt_id"])
    assert not {"execution_start", "executing"} & set(kinds(client.heard))


async def test_only_a_literal_true_turns_previews_with_metadata_on(comfy):
    seen = []
    for value in (1, "true", True):
        async with client_of(comfy.url) as client:
            flags = {"supports_preview_metadata": value}
            await client.ws.send_json({"type": "feature_flags", "data": flags})
            await client.until("feature_flags")
            await client.run({"1": steps(1, 0, preview=True, seed=len(seen)), "2": save("1")})
            seen.append(decoded(client.frames[0])["event_type"])
    assert seen == [1, 1, 4]


async def test_the_server_answers_while_a_node_blocks(client):
    prompt = {"1": node("TrBlockSleep", seconds=0.5, seed=1), "2": save("1")}
    prompt_id = await client.submit(prompt)
    await client.until("executing", node="1")
    for _ in range(20):
        status, _ = await client.get("/prompt")
        assert status == 200
    _, job = await client.get(f"/api/jobs/{prompt_id}")
    assert job["status"] == "in_progress"
    await client.until("executing", node=None)


async def test_secrets_in_extra_data_are_not_shown(client):
    extra = {"auth_token_comfy_org": "s3cret", "api_key_comfy_org": "s3cret", "mine": 1}
    entry, _ = await client.run({"1": picture(3), "2": save("1")}, extra_data=extra)
    assert entry["prompt"][3]["mine"] == 1
    assert "s3cret" not in json.dumps(entry)


async def test_an_id_that_no_socket_can_have_loses_only_the_events(client):
    prompt = {"prompt": {"1": picture(4), "2": save("1")}, "client_id": ["odd"]}
    await client.post("/prompt", prompt)
    entry, _ = await client.run({"1": picture(5), "2": save("1")})
    assert entry["status"]["completed"]


async def test_nodes_of_ones_own_can_be_added(tmp_path):
    ran = threading.Event()

    def note(context):
        ran.set()
        return NodeResult(ui={"text": [context.node_id]})

    mine = NodeSpec("Mine", note, output_node=True)
    async with EmbeddedComfy(nodes=[mine]) as comfy, client_of(comfy.url) as client:
        entry, _ = await client.run({"n": node("Mine")})
    assert ran.is_set()
    assert entry["outputs"] == {"n": {"text": ["n"]}}


async def test_an_expanded_node_that_fails_is_blamed_on_the_node_that_was_sent(tmp_path):
    def expand(context):
        graph = context.subgraph()
        inner = graph.add("Fails")
        return NodeResult((inner,), expand=graph.nodes)

    def fail(context):
        msg = "inside"
        raise RuntimeError(msg)

    mine = [NodeSpec("Outer", expand, outputs=("IMAGE",)), NodeSpec("Fails", fail, (), ("IMAGE",))]
    async with EmbeddedComfy(nodes=mine) as comfy, client_of(comfy.url) as client:
        _, heard = await client.run({"1": node("Outer"), "2": save("1")})
    (error,) = (x["data"] for x in heard if x["type"] == "execution_error")
    assert (error["node_id"], error["node_type"]) == ("1", "Outer")
    assert "1.0.0.1" in [x["data"].get("node") for x in heard]


async def test_two_servers_in_one_process_share_nothing(tmp_path):
    prompt = {"1": picture(6), "2": save("1")}
    async with (
        EmbeddedComfy("a", base_directory=tmp_path / "a") as a,
        EmbeddedComfy("b", base_directory=tmp_path / "b") as b,
        client_of(a.url, "same") as on_a,
        client_of(b.url, "same") as on_b,
    ):
        first, second = await asyncio.gather(on_a.run(prompt), on_b.run(prompt))
        assert {x["prompt_id"] for x in on_a_prompts(first)} == {first[0]["prompt"][1]}
        assert first[0]["prompt"][1] != second[0]["prompt"][1]
        assert (await on_a.get("/history"))[1].keys() == {first[0]["prompt"][1]}
    assert [x.name for x in (tmp_path / "a" / "output").iterdir()] == ["test_00001_.png"]


def on_a_prompts(run):
    return [x["data"] for x in run[1] if "prompt_id" in x["data"]]
