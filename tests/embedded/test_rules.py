"""The small rules: which node next, which tick, which file name, which origin."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from jupyter_comfy_lock.embedded.cache import Cached, ResultCache, Signatures
from jupyter_comfy_lock.embedded.files import OutsideFolderError, free_upload_name
from jupyter_comfy_lock.embedded.nodes import BUILT_IN
from jupyter_comfy_lock.embedded.origin import is_refused
from jupyter_comfy_lock.embedded.progress import Throttle
from jupyter_comfy_lock.embedded.schedule import RunGraph, Schedule
from tests.embedded.client import node, picture, save
from tests.embedded_trace_nodes import NODES

ALL = {x.class_type: x for x in (*BUILT_IN, *NODES)}


def order(links, *, outputs, cached=()):
    """Run a graph given as {node: nodes it needs}; return the order."""
    graph = RunGraph(
        {k: {"inputs": {str(i): [x, 0] for i, x in enumerate(v)}} for k, v in links.items()}
    )
    schedule = Schedule(graph, lambda x: x in cached, lambda x: x in outputs)
    for output in outputs:
        schedule.add(output)
    ran = []
    while schedule:
        ran.append(schedule.next())
        schedule.done(ran[-1])
    return ran


def test_a_node_runs_after_what_it_needs_and_only_if_it_is_needed():
    links = {"out": ["b"], "b": ["a"], "a": [], "unused": []}
    assert order(links, outputs=["out"]) == ["a", "b", "out"]


def test_what_is_cached_is_not_run_nor_what_only_it_needs():
    links = {"out": ["b"], "b": ["a"], "a": []}
    assert order(links, outputs=["out"], cached=["b"]) == ["out"]


def test_an_output_that_is_ready_goes_before_longer_branches():
    links = {"long": ["c"], "c": ["b"], "b": ["a"], "a": [], "short": ["d"], "d": []}
    assert order(links, outputs=["long", "short"])[:2] == ["d", "short"]


def test_ticks_that_follow_too_fast_are_left_out():
    now = 0.0
    throttle = Throttle(lambda: now)
    assert throttle.passes(1, 1000, has_picture=False)
    assert not throttle.passes(2, 1000, has_picture=False)
    assert throttle.passes(3, 1000, has_picture=True)
    now = 0.2
    assert not throttle.passes(4, 1000, has_picture=False)  # time enough, but hardly a step
    assert throttle.passes(40, 1000, has_picture=False)
    assert throttle.passes(1000, 1000, has_picture=False)


def signature(folders, prompt, node_id="2"):
    return Signatures(prompt, ALL, folders).of(node_id)


def test_equal_graphs_have_equal_signatures_whatever_their_ids(folders):
    first = signature(folders, {"1": picture(), "2": save("1")})
    assert first == signature(folders, {"x": picture(), "2": save("x")})
    assert first != signature(folders, {"1": picture(color=1), "2": save("1")})


def test_a_node_that_asks_for_its_id_is_told_apart_by_it(folders):
    step = node("TrSteps", steps=1, delay=0, preview=False, seed=0)
    assert signature(folders, {"1": step}, "1") != signature(folders, {"2": step}, "2")


def test_a_changed_file_changes_the_signature(folders):
    prompt = {"1": node("LoadImage", image="a.png"), "2": save("1")}
    (folders.input / "a.png").write_bytes(b"one")
    before = signature(folders, prompt)
    assert before == signature(folders, prompt)
    (folders.input / "a.png").write_bytes(b"two")
    assert before != signature(folders, prompt)


def test_the_cache_forgets_what_was_not_used_longest():
    cache = ResultCache(max_bytes=1000)
    for name in "abc":
        cache.put(name, Cached((np.zeros(100, np.float32),), None))
        cache.get("a")
    assert [x for x in "abc" if cache.get(x)] == ["a", "c"]


def test_numbers_go_on_after_the_highest_of_the_prefix(folders):
    for name in ("x_00002_.png", "x_00007_.png", "xy_00050_.png", "x_.png"):
        (folders.output / name).touch()
    assert folders.save_target("x", "output", 8, 8).filename(0) == "x_00008_.png"
    assert folders.save_target("x", "output", 8, 8).filename(2) == "x_00010_.png"


def test_a_prefix_may_name_a_subfolder_and_values(folders):
    target = folders.save_target("day/%width%x%height%_%batch_num%", "output", 64, 32)
    assert (target.subfolder, target.filename(1)) == ("day", "64x32_1_00002_.png")


@pytest.mark.parametrize("prefix", ["../x", "/etc/x", "a/../../x"])
def test_a_prefix_must_stay_in_its_folder(folders, prefix):
    with pytest.raises(OutsideFolderError):
        folders.save_target(prefix, "output", 8, 8)


def test_an_annotation_says_which_folder(folders):
    assert folders.annotated("a.png [output]") == ("a.png", folders.output)
    assert folders.annotated("a [b].png") == ("a [b].png", None)


def test_an_upload_gets_another_name_only_if_its_bytes_differ(tmp_path):
    assert free_upload_name(tmp_path, "a.png", b"1") == ("a.png", False)
    (tmp_path / "a.png").write_bytes(b"1")
    assert free_upload_name(tmp_path, "a.png", b"1") == ("a.png", True)
    assert free_upload_name(tmp_path, "a.png", b"2") == ("a (1).png", False)
    (tmp_path / "a (1).png").write_bytes(b"2")
    assert free_upload_name(tmp_path, "a.png", b"2") == ("a (1).png", True)


async def here(host):
    return host in ("127.0.0.1", "localhost", "::1")


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", False),
        ("127.0.0.1:8188", "http://127.0.0.1:8888", True),
        ("127.0.0.1:8188", "http://127.0.0.1", False),
        ("127.0.0.1:8188", "http://localhost:8188", True),
        ("127.0.0.1:8188", "null", False),
        ("localhost", "http://localhost:8888", False),
        ("localhost:8188", "https://evil.example", True),
        ("gpu.example:8188", "https://evil.example", False),
        ("[::1]:8188", "http://[::1]:8188", False),
    ],
)
def test_an_origin_must_match_a_loopback_host(host, origin, refused):
    headers = {"Host": host, "Origin": origin}
    assert asyncio.run(is_refused(headers, here)) is refused


def test_a_cross_site_request_is_always_refused():
    headers = {"Host": "gpu.example", "Sec-Fetch-Site": "cross-site"}
    assert asyncio.run(is_refused(headers, here))
