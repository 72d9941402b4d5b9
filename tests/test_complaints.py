"""Each complaint about other tools has its check, and each trap of ComfyUI its test.

The complaints are numbered as in the list of them; `@pytest.mark.complaint(7)` stands before each
test that proves a part of the check, `@pytest.mark.trap("29-interrupt-in-last-node")` before one
that shows that we do not fall into what that recording of a real ComfyUI shows.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

COMPLAINTS = {
    1: "to cancel ends jobs of others",
    2: "merely to open or look interrupts others",
    3: "to cancel all cancels everybody's, and nobody is told a place in the queue",
    4: "results come from the wrong one of several servers",
    5: "who reconnects under the same client id hears nothing",
    6: "ids are used again, so that one hears of another's jobs",
    7: "a socket that is silent is waited for",
    8: "a prompt that is cached hangs or returns nothing",
    9: "a job that ended well is told to have failed, or to have left nothing",
    10: "a job on a server that was restarted is done, or waited for for ever",
    11: "a kernel that was killed keeps what it held",
    12: "a kernel that was restarted is taken for the one before",
    13: "what was left behind is seen and cleaned up by nobody",
    14: "after a restart of Jupyter nothing is known any more, or something wrong",
    15: "others see and fetch what is mine",
    16: "a page that is loaded again has lost the progress",
    17: "output of a job lands in the wrong cell",
    18: "this event loop is already running",
    19: "workflows are not accepted, and errors are swallowed",
    20: "a job whose answer was lost runs twice, or never",
}

#: What of a check cannot be proved yet, because the product has no such part.
NOT_YET = {
    13: "a list of all that is stale, and a clean-up on request that says first what it would do",
    14: "the sidebar of JupyterLab; a kernel in another environment, which is told what to install",
    16: "the sidebar of JupyterLab",
}

TRAPS = {
    "16-two-clients",
    "17-foreign-client-id",
    "18-reconnect-midrun",
    "19-reconnect-after-end",
    "20-two-sockets-same-client-id",
    "25-interrupt-race-at-start",
    "26-global-interrupt-hits-any-client",
    "28-execution-blocked-is-not-terminal",
    "29-interrupt-in-last-node",
    "31-history-race",
    "32-stalled-reader-stalls-everyone",
    "41-server-death-and-restart",
    "98-duplicate-id-and-number-500-but-queued",
    "99-duplicate-id-and-number-kills-worker",
}


def marks(name: str) -> Iterator[tuple[object, str]]:
    """What each mark of that name was given, and the test that has it."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for given in node.decorator_list:
                if isinstance(given, ast.Call) and ast.unparse(given.func) in (
                    name,
                    f"pytest.mark.{name}",
                ):
                    assert node.name.startswith("test_"), f"{node.name} is no test"
                    (argument,) = given.args
                    yield ast.literal_eval(argument), f"{path.relative_to(TESTS)}::{node.name}"


def marked(name: str) -> dict[object, list[str]]:
    found = defaultdict(list)
    for what, test in marks(name):
        found[what].append(test)
    return found


@pytest.fixture(scope="module")
def proofs() -> dict[object, list[str]]:
    return marked("complaint")


@pytest.mark.parametrize("number", COMPLAINTS)
def test_each_complaint_has_a_check(number: int, proofs: dict[object, list[str]]) -> None:
    assert proofs.get(number), f"no test proves that not: {COMPLAINTS[number]}"


def test_no_mark_names_a_complaint_that_is_none(proofs: dict[object, list[str]]) -> None:
    assert set(proofs) == set(COMPLAINTS)
    assert set(NOT_YET) <= set(COMPLAINTS)


def test_each_trap_has_a_test_and_no_mark_names_another() -> None:
    recorded = {path.stem for path in (TESTS / "conformance" / "traces").glob("*.json")}
    named = set(marked("trap"))
    assert named >= TRAPS
    assert named - TRAPS <= recorded
