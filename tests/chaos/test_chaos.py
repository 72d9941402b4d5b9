"""Short runs: on each database with everything that goes wrong, and one that must fail."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.run import Result, run

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no process can be stopped there"),
    # It ends sooner; but what starts sixteen processes may take a while.
    pytest.mark.timeout(300),
]


def shown(result: Result) -> str:
    """What to read when it fails."""
    return "\n".join(f"{each.kind}: {each.text}" for each in result.report.violations[:20])


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_no_rule_is_broken_while_processes_and_the_database_fail(
    store: str, tmp_path: Path
) -> None:
    result = run(store, tmp_path, seconds=20.0)
    assert result.report.violations == [], shown(result)
    # Else it has shown nothing.
    assert result.operations["ask"] > 30
    assert result.events["granted"] > 10
    assert result.events["use"] > 30
    assert result.events["kill"] > 0
    assert result.events["stop"] > 0


def test_without_the_guard_of_the_deadline_locks_are_used_beside_later_ones(
    tmp_path: Path,
) -> None:
    found = Counter[str]()
    for seed in (1, 2, 3):
        result = run("sqlite", tmp_path / f"{seed}", seconds=12.0, seed=seed, without_guard=True)
        found += result.report.by_kind
        if found["conflict"]:
            break
    assert found["late"] > 0
    assert found["conflict"] > 0
