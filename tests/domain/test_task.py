import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.task import (
    ENDED,
    PENDING,
    TRANSITIONS,
    LockSnapshot,
    Outcome,
    TaskState,
    may_move,
    output_files,
)
from tests.domain.things import a_snapshot, a_task

S = TaskState
MAY = {
    (S.REGISTERED, S.QUEUED),
    (S.REGISTERED, S.RUNNING),
    (S.REGISTERED, S.SUCCEEDED),
    (S.REGISTERED, S.FAILED),
    (S.REGISTERED, S.CANCELLED),
    (S.REGISTERED, S.REJECTED),
    (S.REGISTERED, S.LOST),
    (S.QUEUED, S.RUNNING),
    (S.QUEUED, S.SUCCEEDED),
    (S.QUEUED, S.FAILED),
    (S.QUEUED, S.CANCELLED),
    (S.QUEUED, S.LOST),
    (S.RUNNING, S.SUCCEEDED),
    (S.RUNNING, S.FAILED),
    (S.RUNNING, S.CANCELLED),
    (S.RUNNING, S.LOST),
}


@pytest.mark.parametrize("state", TaskState)
@pytest.mark.parametrize("to", TaskState)
def test_a_task_moves_forward_only(state, to):
    assert may_move(state, to) == ((state, to) in MAY)


def test_there_are_five_ends_and_nothing_follows_them():
    assert {S.SUCCEEDED, S.FAILED, S.CANCELLED, S.REJECTED, S.LOST} == ENDED
    assert frozenset(TaskState) == ENDED | PENDING
    assert all(not TRANSITIONS[end] for end in ENDED)


def test_only_what_was_never_accepted_can_be_rejected():
    assert [state for state in TaskState if may_move(state, S.REJECTED)] == [S.REGISTERED]


@given(st.lists(st.sampled_from(sorted(TaskState))))
def test_a_task_ends_exactly_once_in_whatever_order_news_come(news):
    task, ends = a_task(), []
    for number, state in enumerate(news):
        after = task.ended(Outcome(state=state, reason=str(number)), at=float(number))
        if after is not task and after.state in ENDED:
            ends.append(after)
        task = after
    assert len(ends) <= 1
    if any(each in ENDED - {S.REJECTED} for each in news):
        assert len(ends) == 1
    if ends:
        assert task is ends[0]
        assert not task.pending


def test_an_end_says_when_why_and_what_is_left():
    outcome = Outcome(state=S.FAILED, reason="boom", outputs={"1": {}}, error={"node_id": "2"})
    task = a_task(state=S.RUNNING).ended(outcome, at=9.0)
    assert (task.state, task.reason, task.ended_at) == (S.FAILED, "boom", 9.0)
    assert (task.outputs, task.error) == ({"1": {}}, {"node_id": "2"})


def test_a_task_ends_no_earlier_than_it_began_whatever_the_clock_says():
    outcome = Outcome(state=S.SUCCEEDED)
    assert a_task(created_at=5.0).ended(Outcome(state=S.LOST), at=2.0).ended_at == 5.0
    running = a_task(created_at=5.0, started_at=7.0, state=S.RUNNING)
    assert running.ended(outcome, at=2.0).ended_at == 7.0
    assert running.ended(outcome, at=8.0).ended_at == 8.0


def test_the_snapshot_survives_the_store():
    snapshot = a_snapshot()
    assert LockSnapshot.from_json(snapshot.to_json()) == snapshot
    assert a_task(lock=snapshot).comfy_id == "gpu-1"


def test_files_are_what_has_a_file_name():
    outputs = {
        "1": {"images": [{"filename": "a.png", "subfolder": "s", "type": "temp"}, "x", None]},
        "2": {"text": ["hi"], "animated": [True], "3d": {"filename": "not in a list"}},
        "3": {"audio": [{"filename": "b.flac"}, {"filename": 7}]},
        "4": None,
    }
    assert [
        (x.node_id, x.kind, x.filename, x.subfolder, x.type) for x in output_files(outputs)
    ] == [
        ("1", "images", "a.png", "s", "temp"),
        ("3", "audio", "b.flac", "", "output"),
    ]
