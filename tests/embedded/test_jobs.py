from __future__ import annotations

import pytest

from jupyter_comfy_lock.embedded import jobs
from jupyter_comfy_lock.embedded.queue import Job, Outcome

PICTURE = {"filename": "a_00001_.png", "subfolder": "", "type": "output"}
PREVIEW = PICTURE | {"type": "temp"}


def job(prompt_id, created=0, workflow_id=None):
    extra = {"create_time": created}
    if workflow_id:
        extra["extra_pnginfo"] = {"workflow": {"id": workflow_id}}
    return Job(1, prompt_id, {}, extra, [])


def ended(prompt_id, event="execution_success", *, outputs=None, took=10, **more):
    messages = [["execution_start", {"timestamp": 100}], [event, {"timestamp": 100 + took}]]
    status = "success" if event == "execution_success" else "error"
    return Outcome(status, messages, outputs or {}, {}).as_history(job(prompt_id, **more))


def ids(query, *, running=(), waiting=(), history=()):
    return [x["id"] for x in jobs.listing(running, waiting, history, query)["jobs"]]


def test_the_newest_job_comes_first():
    waiting = [job("old", 1), job("new", 3), job("mid", 2)]
    assert ids({}, waiting=waiting) == ["new", "mid", "old"]
    assert ids({"sort_order": "ASC"}, waiting=waiting) == ["old", "mid", "new"]


def test_jobs_can_be_sorted_by_how_long_they_ran():
    history = [ended("short", took=1), ended("long", took=99)]
    assert ids({"sort_by": "execution_duration"}, history=history) == ["long", "short"]


def test_jobs_can_be_filtered_by_state_and_workflow():
    everything = {
        "running": [job("r")],
        "waiting": [job("w", workflow_id="wf")],
        "history": [ended("f", "execution_error"), ended("c", "execution_interrupted")],
    }
    assert ids({"status": "failed"}, **everything) == ["f"]
    assert ids({"status": "cancelled, in_progress"}, **everything) == ["r", "c"]
    assert ids({"workflow_id": "wf"}, **everything) == ["w"]


def test_a_page_says_whether_there_is_more():
    waiting = [job(str(i), i) for i in range(5)]
    found = jobs.listing((), waiting, (), {"limit": "2", "offset": "2"})
    assert [x["id"] for x in found["jobs"]] == ["2", "1"]
    assert found["pagination"] == {"offset": 2, "limit": 2, "total": 5, "has_more": True}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": "0"}, "limit must be a positive integer"),
        ({"limit": "x"}, "limit must be an integer"),
        ({"offset": "x"}, "offset must be an integer"),
        ({"sort_by": "x"}, "sort_by must be 'created_at' or 'execution_duration'"),
        ({"sort_order": "x"}, "sort_order must be 'asc' or 'desc'"),
    ],
)
def test_a_senseless_query_is_refused(query, message):
    with pytest.raises(jobs.BadQueryError, match=message):
        jobs.listing((), (), (), query)


def test_a_saved_picture_stands_for_the_job_before_a_preview_and_text():
    outputs = {"1": {"text": ["hi"]}, "2": {"images": [PREVIEW]}, "3": {"images": [PICTURE]}}
    found = jobs.finished_job(ended("x", outputs=outputs))
    assert found["preview_output"] == PICTURE | {"nodeId": "3", "mediaType": "images"}
    assert found["outputs_count"] == 2


def test_long_text_is_cut_in_the_preview():
    found = jobs.finished_job(ended("x", outputs={"1": {"text": ["y" * 2000]}}))
    assert len(found["preview_output"]["content"]) == 1024
    assert found["preview_output"]["truncated"] is True
    assert found["outputs_count"] == 0
