"""What a ComfyUI can do, by its version, and how one prompt is stopped with that."""

from dataclasses import dataclass
from enum import Enum, auto

#: The oldest ComfyUI whose behaviour is recorded.
MINIMUM_VERSION = (0, 3, 33)
_TAKES_IDS = (0, 3, 45)
_INTERRUPTS_ONE = (0, 3, 57)
_CANCELS_JOBS = (0, 26, 0)


@dataclass(frozen=True, slots=True)
class Abilities:
    """What matters to us of what older ComfyUIs lack."""

    #: A prompt gets the id that we give it; else ComfyUI makes one, and tells it in its answer.
    takes_ids: bool
    #: `POST /interrupt` stops one prompt by its id; else whatever runs, whoever's it is.
    interrupts_one: bool
    #: `POST /api/jobs/cancel` takes prompts off queued or running, in one step.
    cancels_jobs: bool


def abilities(version: str | None) -> Abilities:
    """Return what that version can do; of an unknown one nothing is expected."""
    number = version_number(version)
    return Abilities(
        takes_ids=number >= _TAKES_IDS,
        interrupts_one=number >= _INTERRUPTS_ONE,
        cancels_jobs=number >= _CANCELS_JOBS,
    )


def version_number(text: str | None) -> tuple[int, ...]:
    """Return "0.3.75" or "v0.3.75-4-gabc" as (0, 3, 75); () for what is no version."""
    number: list[int] = []
    for part in (text or "").removeprefix("v").split("-")[0].split("."):
        # More digits than that are no version, and Python refuses thousands.
        if not part.isdecimal() or len(part) > 6:
            break
        number.append(int(part))
    return tuple(number)


class Stop(Enum):
    """How a prompt that runs is stopped."""

    BY_ID = auto()
    #: What runs is stopped, which is that prompt.
    WHAT_RUNS = auto()
    #: Not at all: it could hit somebody else's.
    NEVER = auto()


def how_to_stop(can: Abilities, *, alone: bool) -> Stop:
    """Return how a prompt that was just seen to run is stopped without hitting another's (R4).

    Args:
        can: what its ComfyServer can do.
        alone: its holder has the ComfyServer exclusively, or it drains after that: whatever the
            gateways let run there, also in the moment after the look, is the holder's.
    """
    if can.interrupts_one:
        return Stop.BY_ID
    return Stop.WHAT_RUNS if alone else Stop.NEVER
