"""Each planted fault is noticed by a test that was written against it."""

import os
from dataclasses import replace

import pytest

from tests.mutations.gate import (
    ALL_PASSED,
    NotThere,
    complaints,
    run_all,
    run_unchanged,
)
from tests.mutations.mutants import MUTANTS

LONG = bool(os.environ.get("COMFY_LOCK_LONG"))
CHOSEN = [each for each in MUTANTS if LONG or not each.postgres]


@pytest.mark.timeout(600)
def test_every_planted_fault_is_noticed():
    assert complaints(run_all(CHOSEN)) == []


def test_without_a_fault_all_these_tests_pass():
    verdict = run_unchanged(CHOSEN)
    assert verdict.code == ALL_PASSED, verdict.told


def test_a_fault_that_no_test_notices_is_complained_of():
    harmless = replace(MUTANTS[0], name="harmless", new=MUTANTS[0].old)
    (complaint,) = complaints(run_all([harmless]))
    assert complaint == "harmless: survived, all its tests passed"


def test_a_fault_that_does_not_fit_the_code_any_more_is_complained_of():
    with pytest.raises(NotThere, match="0 times"):
        run_all([replace(MUTANTS[0], old="what nobody ever wrote")])


def test_names_are_used_once():
    names = [each.name for each in MUTANTS]
    assert len(set(names)) == len(names)
