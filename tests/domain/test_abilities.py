"""What a ComfyUI of each version can do (facts-comfyui: which release brought what)."""

import pytest

from jupyter_comfy_lock.domain.abilities import (
    Abilities,
    Stop,
    abilities,
    how_to_stop,
    version_number,
)

OLD = Abilities(takes_ids=False, interrupts_one=False, cancels_jobs=False)
NEW = Abilities(takes_ids=True, interrupts_one=True, cancels_jobs=True)


@pytest.mark.parametrize(
    ("version", "takes_ids", "interrupts_one", "cancels_jobs"),
    [
        (None, False, False, False),
        ("nightly", False, False, False),
        ("0.3.33", False, False, False),
        ("0.3.44", False, False, False),
        ("0.3.45", True, False, False),
        ("0.3.56", True, False, False),
        ("0.3.57", True, True, False),
        ("0.12.3", True, True, False),
        ("0.25.9", True, True, False),
        ("0.26.0", True, True, True),
        ("v0.33.0-3-gabc", True, True, True),
        ("1.0", True, True, True),
    ],
)
def test_each_version_can_what_its_release_brought(
    version, takes_ids, interrupts_one, cancels_jobs
):
    assert abilities(version) == Abilities(takes_ids, interrupts_one, cancels_jobs)


@pytest.mark.parametrize("alone", [True, False])
def test_a_prompt_is_stopped_by_its_id_where_that_can_be(alone):
    assert how_to_stop(NEW, alone=alone) is Stop.BY_ID


def test_r4_what_runs_is_stopped_only_for_who_is_alone():
    assert how_to_stop(OLD, alone=True) is Stop.WHAT_RUNS
    assert how_to_stop(OLD, alone=False) is Stop.NEVER


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.33.0", (0, 33, 0)),
        ("v0.3.75-4-gabc", (0, 3, 75)),
        ("0.3.57", (0, 3, 57)),
        ("0.4.x", (0, 4)),
        ("nightly", ()),
        ("0.\N{SUPERSCRIPT TWO}", (0,)),
        ("1." + "9" * 5000, (1,)),
        ("", ()),
        (None, ()),
    ],
)
def test_a_version_is_a_row_of_numbers(text, number):
    assert version_number(text) == number
