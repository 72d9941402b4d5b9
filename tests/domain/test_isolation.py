import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain import isolation
from jupyter_comfy_lock.domain.inputs import InputFile
from jupyter_comfy_lock.domain.isolation import Route, input_file, my_frame, newest_of, route
from tests.domain.recorded import answers, prompts, texts
from tests.domain.test_comfy import JSON, binary, frame

#: The gateway's table: what a client asks for, and what becomes of it. Each also below `api/`.
TABLE = [
    ("POST", "prompt", Route.SUBMIT),
    ("GET", "prompt", Route.QUEUE_LENGTH),
    ("GET", "queue", Route.QUEUE),
    ("GET", "history", Route.HISTORY),
    ("GET", "history/0b1", Route.HISTORY),
    ("POST", "queue", Route.QUEUE_EDIT),
    ("POST", "history", Route.HISTORY_EDIT),
    ("POST", "interrupt", Route.INTERRUPT),
    ("GET", "view", Route.VIEW),
    ("POST", "upload/image", Route.UPLOAD),
    ("POST", "upload/mask", Route.UPLOAD),
    ("POST", "free", Route.EXCLUSIVE),
    ("POST", "settings", Route.DESK),
    ("POST", "settings/Comfy.x", Route.DESK),
    ("POST", "userdata/a.json", Route.DESK),
    ("DELETE", "userdata/a.json", Route.DESK),
    ("GET", "userdata", Route.DESK),
    ("PUT", "anything", Route.EXCLUSIVE),
    ("PATCH", "anything", Route.EXCLUSIVE),
    ("GET", "manager/reboot", Route.EXCLUSIVE),
    ("GET", "queue/", Route.EXCLUSIVE),
    ("GET", "history/a/b", Route.EXCLUSIVE),
    ("GET", "system_stats", Route.STATS),
    ("GET", "object_info", Route.PASS),
    ("GET", "object_info/SaveImage", Route.PASS),
    ("GET", "models", Route.PASS),
    ("GET", "models/loras", Route.PASS),
    ("GET", "experiment/models/x", Route.PASS),
    ("GET", "embeddings", Route.PASS),
    ("GET", "extensions", Route.PASS),
    ("GET", "features", Route.PASS),
    ("GET", "settings", Route.DESK),
    ("GET", "users", Route.DESK),
    ("POST", "users", Route.DESK),
    ("GET", "v2/userdata", Route.DESK),
    ("POST", "userdata/a.json/move/b.json", Route.DESK),
    ("GET", "i18n", Route.PASS),
    ("GET", "node_replacements", Route.PASS),
    ("GET", "global_subgraphs/x", Route.PASS),
    ("GET", "workflow_templates", Route.PASS),
    ("GET", "view_metadata/loras", Route.PASS),
]


@pytest.mark.parametrize("prefix", ["", "api/"])
@pytest.mark.parametrize(("method", "path", "to"), TABLE)
def test_a_call_goes_this_way_with_and_without_api(method, path, to, prefix):
    assert route(method, prefix + path) is to


@pytest.mark.parametrize(("path", "to"), [(x[1], x[2]) for x in TABLE if x[0] == "GET"])
def test_head_goes_where_get_goes(path, to):
    assert route("HEAD", path) is to


@pytest.mark.parametrize(
    ("method", "path", "to"),
    [
        ("GET", "api/jobs", Route.JOBS),
        ("GET", "api/jobs/0b1", Route.JOBS),
        ("POST", "api/jobs/cancel", Route.JOBS_CANCEL),
        ("POST", "api/jobs/0b1/cancel", Route.JOBS_CANCEL),
        ("GET", "jobs", Route.EXCLUSIVE),
        ("POST", "jobs/cancel", Route.EXCLUSIVE),
    ],
)
def test_jobs_are_below_api_only(method, path, to):
    assert route(method, path) is to


@pytest.mark.parametrize(
    "path",
    ["assets/index-1.js", "scripts/app.js", "favicon.ico", "fonts/a.woff2"],
)
def test_the_files_of_comfyuis_own_page_pass(path):
    assert route("GET", path) is Route.PASS


@pytest.mark.parametrize(
    ("method", "path", "to"),
    [
        ("GET", "", Route.PAGE),
        ("HEAD", "index.html", Route.PAGE),
        ("POST", "", Route.EXCLUSIVE),
        ("GET", "api/", Route.EXCLUSIVE),
        ("GET", "extensions/mine/page.html", Route.PASS),
    ],
)
def test_one_page_may_run_scripts(method, path, to):
    """R10."""
    assert route(method, path) is to
    assert route("POST", path) is not Route.PASS


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "internal/logs",
        "internal/logs/raw",
        "internal",
        "api/internal/folder_paths",
        "api/assets",
        "api/assets/0b1",
        "api/tags",
        "tags",
        "api/api/jobs",
        "api/api/jobs/cancel",
        "api/api/queue",
    ],
)
def test_what_shows_others_business_is_never_offered(method, path):
    assert route(method, path) is Route.NEVER


@pytest.mark.parametrize(
    "path",
    [
        "scripts/../queue",
        "../other/queue",
        "./internal/logs",
        "assets/./../internal/logs",
        "api/../internal/logs",
        "object_info/../history",
        "..",
    ],
)
def test_no_detour_leads_past_the_rules(path):
    assert route("GET", path) is Route.NEVER


@given(st.sampled_from(["GET", "POST", "PUT", "WHAT"]), st.text())
def test_any_call_has_a_way_and_only_reading_passes(method, path):
    found = route(method, path)
    if method != "GET":
        assert found is not Route.PASS


# -- answers -------------------------------------------------------------------------------------


def test_a_recorded_queue_shows_my_prompts_only():
    queue = next(x for x in answers("11", "/queue") if x and len(x["queue_pending"]) > 2)
    mine = {queue["queue_pending"][1][1]}
    shown = isolation.my_queue(queue, mine)
    assert [item[1] for items in shown.values() for item in items] == list(mine)


@given(st.dictionaries(st.sampled_from(["queue_running", "queue_pending"]), st.lists(JSON)))
def test_no_queue_shows_what_is_not_mine(queue):
    shown = isolation.my_queue(queue, {"p"})
    assert all(item[1] == "p" for items in shown.values() for item in items)


def test_history_shows_my_prompts_only():
    assert isolation.my_history({"a": {}, "b": {}}, {"b", "c"}) == {"b": {}}


@pytest.mark.parametrize(
    ("limit", "offset", "ids", "has_more"),
    [(None, 0, "acd", False), (2, 0, "ac", True), (2, 2, "d", False), (0, 0, "", True)],
)
def test_jobs_are_counted_and_paged_as_if_others_did_not_exist(limit, offset, ids, has_more):
    jobs = {"jobs": [{"id": x} for x in "abcd"], "pagination": {"total": 4}}
    shown = isolation.my_jobs(jobs, {"a", "c", "d"}, limit, offset)
    assert [x["id"] for x in shown["jobs"]] == list(ids)
    assert (shown["pagination"]["total"], shown["pagination"]["has_more"]) == (3, has_more)


@given(answer=st.dictionaries(st.sampled_from(["jobs", "queue_running", "system"]), JSON))
def test_no_answer_is_too_strange(answer):
    assert isolation.my_jobs(answer, {"mine"}, None, 0)["jobs"] == []
    assert isolation.my_queue(answer, {"mine"})["queue_running"] == []
    assert isolation.my_stats(answer)["system"]["argv"] == []


def test_system_stats_hide_the_command_line():
    stats = {"system": {"os": "linux", "argv": ["main.py", "--base-directory", "/home/ann"]}}
    shown = isolation.my_stats({**stats, "devices": [1]})
    assert shown == {"system": {"os": "linux", "argv": []}, "devices": [1]}


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [
        ("b.png [output]", ""),
        ("b.png [temp]", ""),
        ("b.png [input]", ""),
        ("x/b.png", ""),
        ("../output/b.png", ""),
        ("x\\b.png", ""),
        ("b.png", "."),
        ("b.png", "./"),
        ("b.png", "s/"),
        ("b.png", "s//t"),
        ("b.png", "s/../t"),
        ("b.png", "/"),
        ("b.png", "s\\t"),
        ("b.png.", ""),
        ("b.png::$DATA", ""),
        ("", ""),
    ],
)
def test_a_name_that_comfyui_may_take_for_another_file_is_none(filename, subfolder):
    assert input_file(filename, subfolder) is None


def test_an_input_is_known_by_folder_and_name_large_or_small():
    large, small = InputFile("S/t", "B.png"), InputFile("s/T", "b.PNG")
    assert input_file("B.png", "S/t") == large
    assert large != small
    assert large.folded == small.folded
    assert input_file("b.png", "") != input_file("b.png", "s")
    assert input_file("pic [1].png", "") == InputFile("", "pic [1].png")


# -- frames --------------------------------------------------------------------------------------


def seen(data, mine=("p",), *, alone=False, metadata=True, pending=2):
    return my_frame(data, set(mine), pending=pending, alone=alone, metadata=metadata)


def test_status_counts_mine_whatever_comfyui_counts():
    text = frame("status", status={"exec_info": {"queue_remaining": 9}}, sid="s")
    assert json.loads(seen(text)) == {
        "type": "status",
        "data": {"status": {"exec_info": {"queue_remaining": 2}}},
    }


def test_my_frames_come_as_they_are_and_foreign_ones_do_not_come():
    mine, foreign = frame("executing", prompt_id="p", node="1"), frame("x", prompt_id="q")
    assert seen(mine) is mine
    assert seen(foreign) is None
    assert seen(foreign, alone=True) is None


def test_a_frame_that_says_not_whose_it_is_comes_only_when_it_can_be_nobody_elses():
    bare = frame("executing", node="1")
    assert seen(bare) is None
    assert seen(bare, alone=True) is bare
    text = struct.pack(">II", 3, 1) + b"1text"
    assert seen(text) is None
    assert seen(text, alone=True) is text


def test_feature_flags_are_the_gateways_own_to_answer():
    assert seen(frame("feature_flags", supports_preview_metadata=True), alone=True) is None


def test_previews_come_in_the_form_that_the_client_knows():
    about = {"prompt_id": "p", "node_id": "1", "image_type": "image/png"}
    new, old = binary(4, about), struct.pack(">II", 1, 2) + b"img"
    assert seen(new) == new
    assert seen(new, metadata=False) == old
    assert seen(binary(4, {**about, "prompt_id": "q"}), alone=True) is None
    assert seen(old, alone=True, metadata=True) == old
    assert seen(old) is None


def test_of_progress_and_previews_the_newest_of_each_node_is_enough():
    step = frame("progress", prompt_id="p", node="1", value=1, max=9)
    later = frame("progress", prompt_id="p", node="1", value=2, max=9)
    assert newest_of(step) == newest_of(later) is not None
    about = {"prompt_id": "p", "node_id": "1"}
    others = [
        frame("progress", prompt_id="p", node="2", value=1, max=9),
        frame("progress", prompt_id="q", node="1", value=1, max=9),
        frame("progress_state", prompt_id="p", nodes={}),
        frame("progress_state", prompt_id="q", nodes={}),
        binary(4, about),
        binary(4, {**about, "node_id": "2"}),
        struct.pack(">II", 1, 2) + b"img",
    ]
    assert len({newest_of(step), *map(newest_of, others)}) == 8
    assert newest_of(binary(4, about) + b"more") == newest_of(binary(4, about))


def test_a_frame_that_is_no_progress_is_never_left_out():
    kinds = {json.loads(text)["type"] for text in texts("16", "A") if newest_of(text)}
    assert kinds <= {"progress", "progress_state"}
    assert newest_of(struct.pack(">II", 3, 1) + b"1text") is None
    assert newest_of("no JSON") is None


def test_of_two_recorded_clients_each_sees_its_own_run_and_none_of_the_others():
    ids = prompts("16")
    everything = texts("16", "A") + texts("16", "B")
    for mine in ids:
        shown = [json.loads(x) for each in everything if (x := seen(each, [mine]))]
        named = {x["data"]["prompt_id"] for x in shown if "prompt_id" in x["data"]}
        assert named <= {mine}


@given(
    st.text()
    | JSON.map(json.dumps)
    | st.builds(lambda data: json.dumps({"type": "x", "data": data}), JSON)
    | st.builds(lambda x: json.dumps({"type": "x", "data": {"prompt_id": x}}), JSON)
    | st.binary()
    | st.builds(binary, st.integers(0, 6), JSON | st.builds(lambda x: {"prompt_id": x}, JSON)),
    st.booleans(),
    st.booleans(),
)
def test_no_frame_is_too_strange(data, alone, metadata):
    seen(data, alone=alone, metadata=metadata)
    newest_of(data)
