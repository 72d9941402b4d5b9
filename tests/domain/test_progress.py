import json

from hypothesis import given
from hypothesis import strategies as st

from jupyter_comfy_lock.domain.comfy import (
    CachedNodes,
    Executed,
    Executing,
    GraphProgress,
    Over,
    Started,
    StepProgress,
    parse_text,
)
from jupyter_comfy_lock.domain.progress import Progress, progress_of
from tests.domain.recorded import events, prompts, texts

GRAPH = {
    "1": {"class_type": "A", "inputs": {}},
    "2": {"class_type": "B", "inputs": {"image": ["1", 0], "size": [1, 2, 3]}},
    "3": {"class_type": "C", "inputs": {"image": ["1", 0]}},
    "4": {"class_type": "Unused"},
}


def shown(progress):
    return progress.to_json({"1": "A", "2": "B"})


def test_only_nodes_that_an_output_needs_are_counted():
    assert progress_of(GRAPH, ["2"]).needed == {"1", "2"}
    assert progress_of(GRAPH, ["2", "3"]).needed == {"1", "2", "3"}
    assert progress_of(GRAPH, ["99"]).needed == frozenset()


def test_a_graph_that_loops_is_counted_all_the_same():
    loop = {"1": {"inputs": {"a": ["2", 0]}}, "2": {"inputs": {"a": ["1", 0]}}}
    assert progress_of(loop, ["1"]).needed == {"1", "2"}


def test_cached_and_finished_nodes_are_done():
    progress = progress_of(GRAPH, ["2", "3"])
    progress = progress.after(CachedNodes("p", ("1", "99")))
    assert shown(progress)["nodes_done"] == 1
    states = {"2": ("finished", 1.0, 1.0), "3": ("running", 2.0, 9.0), "2.0.1": ("finished", 1, 1)}
    progress = progress.after(GraphProgress("p", states))
    assert shown(progress) == {
        "nodes_done": 2,
        "nodes_total": 3,
        "node_id": "3",
        "node_class": None,
        "value": 2.0,
        "max": 9.0,
        "preview": 0,
        "preview_node_id": None,
        "done_node_ids": ["1", "2"],
        "cached_node_ids": ["1"],
    }


def test_a_preview_is_of_the_node_that_it_names_or_else_of_the_one_that_runs():
    running = progress_of(GRAPH, ["2", "3"]).after(StepProgress("p", "2", 1, 9))
    assert running.previewed("3").preview_node_id == "3"
    legacy = running.previewed("3").previewed(None)
    assert (legacy.preview, legacy.preview_node_id) == (2, "2")


def test_the_node_that_is_shown_stays_while_it_runs():
    progress = progress_of(GRAPH, ["2", "3"]).after(StepProgress("p", "2", 1, 9))
    both = {"2": ("running", 2.0, 9.0), "3": ("running", 5.0, 6.0)}
    assert progress.after(GraphProgress("p", both)).node_id == "2"


def test_a_new_node_begins_at_nothing():
    progress = Progress().after(StepProgress("p", "1", 9, 9)).after(Executing("p", "2"))
    assert (progress.node_id, progress.value, progress.maximum) == ("2", 0.0, 0.0)


def test_what_succeeded_is_complete():
    done = progress_of(GRAPH, ["2"]).after(StepProgress("p", "1", 1, 9)).complete()
    assert shown(done)["nodes_done"] == shown(done)["nodes_total"] == 2
    assert done.node_id is None


def test_a_recorded_run_is_complete_by_its_own_messages():
    sent = next(x for x in events("03") if x["kind"] == "http_request" and x["path"] == "/prompt")
    prompt = sent["json"]["prompt"]
    progress = progress_of(prompt, [max(prompt)])
    for text in texts("03"):
        if prompts("03")[0] in text and (message := parse_text(text)) is not None:
            progress = progress.after(message)
    assert progress.done == progress.needed == set(prompt)


_IDS = st.sampled_from(["1", "2", "3", "4", "1.0.2", "zz"])
_NUMBERS = st.floats(0, 100)
_MESSAGES = st.one_of(
    st.builds(CachedNodes, st.just("p"), st.lists(_IDS).map(tuple)),
    st.builds(Executing, st.just("p"), _IDS | st.none()),
    st.builds(StepProgress, st.just("p"), _IDS, _NUMBERS, _NUMBERS),
    st.builds(Executed, st.just("p"), _IDS),
    st.just(Started("p")),
    st.just(Over("p")),
    st.builds(
        GraphProgress,
        st.just("p"),
        st.dictionaries(
            _IDS,
            st.tuples(
                st.sampled_from(["running", "finished", "error", "None"]), _NUMBERS, _NUMBERS
            ),
        ),
    ),
)


@given(st.lists(_MESSAGES))
def test_nodes_done_never_fall_and_never_exceed_what_is_needed(messages):
    progress = progress_of(GRAPH, ["2", "3"])
    for message in messages:
        after = progress.after(message)
        assert progress.done <= after.done <= after.needed == progress.needed
        json.dumps(shown(after), allow_nan=False)
        progress = after


def test_without_news_of_each_node_the_one_before_is_done_when_the_next_one_runs():
    progress = progress_of(GRAPH, ["2", "3"])
    for message in (CachedNodes("p", ()), Executing("p", "1"), Executing("p", "1")):
        progress = progress.after(message)
    assert shown(progress)["nodes_done"] == 0
    progress = progress.after(StepProgress("p", "1", 3, 4)).after(Executing("p", "2"))
    assert progress.done == {"1"}
    assert shown(progress)["node_class"] == "B"


def test_with_news_of_each_node_several_may_run_at_once():
    both = {"1": ("running", 0, 1), "2": ("running", 0, 1)}
    progress = progress_of(GRAPH, ["2", "3"]).after(GraphProgress("p", both))
    for node in ("1", "2", "3"):
        progress = progress.after(Executing("p", node))
    assert progress.done == frozenset()
