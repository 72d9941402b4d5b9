import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain import comfy
from jupyter_comfy_lock.domain.comfy import (
    CachedNodes,
    Executed,
    Executing,
    GraphProgress,
    Over,
    Preview,
    Started,
    Status,
    StepProgress,
    ended_entry,
    history_prompts,
    outcome,
    parse_binary,
    parse_text,
    prompt_of,
    queue_ids,
    queue_prompts,
)
from jupyter_comfy_lock.domain.task import TaskState
from tests.domain.recorded import answers, events, history, prompts, texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def frame(kind, **data):
    return json.dumps({"type": kind, "data": data})


def binary(event, about, image=b"img"):
    head = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack(">II", event, len(head)) + head + image


# -- recorded ------------------------------------------------------------------------------------


def told(number):
    return [each for each in map(parse_text, texts(number)) if each is not None]


def test_a_recorded_run_is_understood_from_its_start_to_its_end():
    (prompt_id,) = prompts("03")
    kinds = [type(each) for each in told("03") if not isinstance(each, Status)]
    assert kinds[:2] == [Started, CachedNodes]
    assert told("03")[-1] == Executing(prompt_id, None)
    assert Over(prompt_id) in told("03")
    (shown,) = [each for each in told("03") if isinstance(each, Executed)]
    assert shown.output["images"][0]["filename"].endswith(".png")


def test_the_first_status_of_a_socket_tells_its_client_id():
    first = told("03")[0]
    assert isinstance(first, Status)
    assert first.sid


@pytest.mark.trap("28-execution-blocked-is-not-terminal")
def test_a_blocked_output_is_not_the_end():
    over = [each for each in told("28") if isinstance(each, Over)]
    errors = [x for x in texts("28") if '"execution_error"' in x]
    successes = [x for x in texts("28") if '"execution_success"' in x]
    assert errors
    assert len(over) == len(successes)


@pytest.mark.trap("18-reconnect-midrun")
def test_after_a_reconnection_comfyui_names_a_node_without_its_prompt_and_that_means_nothing():
    bare = [x for x in texts("18", "A2") + texts("18") if '"executing"' in x]
    bare = [x for x in bare if "prompt_id" not in json.loads(x)["data"]]
    assert [parse_text(each) for each in bare] == [None] * len(bare)


@pytest.mark.parametrize(
    ("number", "at", "state", "cached"),
    [
        ("03", 0, TaskState.SUCCEEDED, False),
        ("04", 1, TaskState.SUCCEEDED, True),
        ("05", 0, TaskState.FAILED, False),
        ("06", 0, TaskState.CANCELLED, False),
        ("28", 0, TaskState.SUCCEEDED, False),
        ("29", 0, TaskState.SUCCEEDED, False),
    ],
)
def test_a_recorded_history_tells_how_the_prompt_ended(number, at, state, cached):
    ended = outcome(history(number, prompts(number)[at]))
    assert (ended.state, ended.cached) == (state, cached)


def test_a_recorded_failure_tells_node_class_reason_and_traceback():
    ended = outcome(history("05", prompts("05")[0]))
    assert ended.error is not None
    assert ended.error["node_class"] == "TrRaise"
    assert ended.error["exception_type"] == "ValueError"
    assert "Traceback" in "".join(ended.error["traceback"]) or ended.error["traceback"]
    assert ended.reason == (f"node {ended.error['node_id']} (TrRaise): {ended.error['message']}")


def test_the_recorded_waiting_list_is_put_in_running_order():
    queue = next(x for x in answers("11", "/queue") if x and len(x["queue_pending"]) > 2)
    assert queue["queue_pending"] != sorted(queue["queue_pending"], key=lambda item: item[0])
    _, waiting = queue_ids(queue)
    assert waiting == [x[1] for x in sorted(queue["queue_pending"], key=lambda item: item[0])]


@pytest.mark.parametrize("number", ["12", "13"])
def test_the_recorded_previews_are_whose_they_say_they_are(number):
    frames = [x for x in events(number) if x["kind"] == "ws_recv_binary"]
    pictures = [x for x in frames if x["event_type"] in (1, 4)]
    assert pictures
    for each in pictures:
        if each["event_type"] == 4:
            preview = parse_binary(binary(4, each["metadata"]))
        else:
            preview = parse_binary(struct.pack(">II", 1, 1) + b"img")
        assert preview is not None
        expected = each.get("metadata", {})
        assert preview.prompt_id == expected.get("prompt_id")
        assert preview.node == expected.get("node_id")


# -- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (frame("execution_start", prompt_id="p"), Started("p")),
        (frame("execution_cached", prompt_id="p", nodes=[1, "2"]), CachedNodes("p", ("1", "2"))),
        (frame("executing", prompt_id="p", node=3), Executing("p", "3")),
        (frame("executing", prompt_id="p", node=None), Executing("p", None)),
        (frame("progress", prompt_id="p", node="3", value=1, max=9), StepProgress("p", "3", 1, 9)),
        (frame("progress", prompt_id="p", node="3"), StepProgress("p", "3", 0, 0)),
        (frame("executed", prompt_id="p", node="3", output=None), Executed("p", "3", {})),
        (frame("execution_success", prompt_id="p"), Over("p")),
        (frame("execution_interrupted", prompt_id="p"), Over("p")),
        (frame("execution_error", prompt_id="p", exception_type="ValueError"), Over("p")),
        (frame("execution_error", prompt_id="p", exception_type="ExecutionBlocked"), None),
        (frame("execution_success"), None),
        (frame("crystools.monitor", prompt_id="p"), None),
        ("[]", None),
        ("no json", None),
        ('{"type": "status", "data": null}', None),
    ],
)
def test_a_text_frame_means_this(text, message):
    assert parse_text(text) == message


def test_numbers_that_a_browser_could_not_read_become_zero():
    text = '{"type":"progress","data":{"prompt_id":"p","node":"1","value":NaN,"max":1e999}}'
    assert parse_text(text) == StepProgress("p", "1", 0.0, 0.0)
    huge = f'{{"type":"progress","data":{{"prompt_id":"p","node":"1","value":{10**400}}}}}'
    assert parse_text(huge) == StepProgress("p", "1", 0.0, 0.0)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000])
def test_a_frame_of_nothing_but_brackets_means_nothing(text):
    assert parse_text(text) is None


@given(st.text() | JSON.map(json.dumps))
def test_no_text_is_too_strange(text):
    parse_text(text)


_TYPES = ["status", "execution_start", "execution_cached", "executing", "progress"]
_TYPES += ["progress_state", "executed", "execution_success", "execution_error"]


@given(
    st.sampled_from(_TYPES),
    st.dictionaries(
        st.sampled_from(["prompt_id", "node", "nodes", "value", "max", "output", "status", "sid"]),
        JSON | st.just("p") | st.dictionaries(st.text(max_size=2), JSON),
    ),
)
def test_no_message_of_a_known_type_is_too_strange(kind, data):
    message = parse_text(frame(kind, **data))
    if isinstance(message, GraphProgress):
        assert all(len(each) == 3 for each in message.nodes.values())


@given(st.binary() | st.builds(binary, st.integers(0, 9), JSON | st.binary()))
def test_no_binary_frame_is_too_strange(data):
    preview = parse_binary(data)
    if preview is not None:
        assert preview.media_type.startswith("image/")
        assert isinstance(preview.prompt_id, str | None)


def test_a_preview_that_says_whose_it_is():
    about = {"prompt_id": "p", "node_id": "3", "image_type": "image/png"}
    assert parse_binary(binary(4, about)) == Preview("p", "3", "image/png", b"img")


@pytest.mark.parametrize("kind", ["text/html", "image/png\r\nX: y", 7, None])
def test_a_preview_is_served_as_nothing_but_a_picture(kind):
    preview = parse_binary(binary(4, {"prompt_id": "p", "image_type": kind}))
    assert preview is not None
    assert preview.media_type == "image/jpeg"


@pytest.mark.parametrize(("number", "media"), [(1, "image/jpeg"), (2, "image/png")])
def test_an_old_preview_says_what_it_is_but_not_whose(number, media):
    old = struct.pack(">II", 1, number) + b"img"
    assert parse_binary(old) == Preview(None, None, media, b"img")
    assert comfy.legacy_preview(Preview("p", "3", media, b"img")) == old


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1", binary(3, b"1", b"text"), binary(4, {})[:9]])
def test_other_binary_frames_are_no_previews(data):
    assert parse_binary(data) is None


def entry(status_str="success", messages=(), outputs=None, wanted=("2",)):
    return {
        "prompt": [0, "p", {}, {}, list(wanted)],
        "outputs": outputs or {},
        "status": {"status_str": status_str, "completed": True, "messages": list(messages)},
    }


def test_an_interrupted_prompt_is_cancelled_although_comfyui_calls_it_an_error():
    ended = outcome(entry("error", [["execution_interrupted", {"prompt_id": "p"}]]))
    assert (ended.state, ended.error) == (TaskState.CANCELLED, None)


@pytest.mark.parametrize(
    ("nodes", "cached"), [(["1", "2"], True), (["2"], True), (["1"], False), ([], False)]
)
def test_a_run_is_cached_when_every_output_was(nodes, cached):
    ended = outcome(entry(messages=[["execution_cached", {"nodes": nodes}]]))
    assert ended.cached is cached


def test_an_error_without_details_is_still_a_failure():
    ended = outcome(entry("error"))
    assert ended.state is TaskState.FAILED
    assert ended.reason == "node ? (?): no reason given"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt": JSON,
            "outputs": JSON,
            "status": JSON
            | st.fixed_dictionaries(
                {},
                optional={
                    "status_str": JSON | st.just("error"),
                    "messages": JSON
                    | st.lists(
                        st.tuples(
                            st.sampled_from(["execution_cached", "execution_error"]) | JSON,
                            JSON | st.fixed_dictionaries({"nodes": JSON, "traceback": JSON}),
                        ).map(list)
                    ),
                },
            ),
        },
    )
)
def test_no_history_is_too_strange_to_end_a_task(strange):
    ended = outcome(strange)
    assert ended.state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED)
    assert isinstance(ended.outputs, dict)


@given(st.dictionaries(st.sampled_from(["queue_running", "queue_pending"]), JSON))
def test_no_queue_is_too_strange(queue):
    running, waiting = queue_ids(queue)
    assert all(isinstance(each, str) for each in running + waiting)


def an_item(prompt_id, task_id, number=0):
    return [number, prompt_id, {}, {"jupyter_comfy_lock": {"task_id": task_id}}, ["1"]]


def test_a_prompt_is_found_by_the_tag_that_it_was_sent_with():
    queue = {"queue_running": [an_item("p1", "t1")], "queue_pending": [an_item("p2", "t2", 1)]}
    assert prompt_of("t1", queue_prompts(queue)) == "p1"
    assert prompt_of("t2", queue_prompts(queue)) == "p2"
    assert prompt_of("p2", queue_prompts(queue)) is None
    history = {"p3": {"prompt": an_item("p3", "t3")}, "p4": {"prompt": [0, "p4", {}, {}]}, "p5": 5}
    assert prompt_of("t3", history_prompts(history)) == "p3"
    assert prompt_of("t4", history_prompts(history)) is None


@given(st.dictionaries(st.text(max_size=3), JSON), st.text(max_size=3))
def test_no_queue_or_history_is_too_strange_to_look_for_a_prompt(strange, task_id):
    items = [*queue_prompts(strange), *history_prompts(strange)]
    assert prompt_of(task_id, items) is None or task_id in repr(strange)


def test_an_entry_of_the_history_is_one_that_has_outputs():
    entry = {"outputs": {}, "status": {"status_str": "success"}}
    assert ended_entry({"p": entry}, "p") == entry
    for strange in ({}, {"outputs": None}, [], "success", None):
        assert ended_entry({"p": strange}, "p") is None
    assert ended_entry({}, "p") is None
