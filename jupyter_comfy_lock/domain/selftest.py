"""The self-test: the six promises that it tries, and what can come of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from jupyter_comfy_lock.domain.errors import BadRequest

#: Each trial, with what it shows, in the order in which they are done.
TRIALS: Mapping[str, str] = {
    "identity": "each kernel has an id and keys of its own, which end with it",
    "locks": "what one kernel locks and releases changes nothing for another",
    "check": "who has what is seen across kernels, and conflicts are refused and found",
    "tasks": "no kernel sees, cancels or fetches another's tasks",
    "consistency": "with tasks pending, a kernel cannot move to another ComfyServer",
    "cleanup": "cleaning up does what it says, for that kernel alone, and leaves nothing",
}


class Verdict(StrEnum):
    """What came of a trial."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  #: it could not be tried now


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial that was done."""

    name: str
    verdict: Verdict
    #: What was seen, or why it failed or could not be tried.
    why: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as REST shows it."""
        return {
            "name": self.name,
            "shows": TRIALS[self.name],
            "verdict": self.verdict.value,
            "why": self.why,
            "seconds": self.seconds,
        }


def wanted(name: str | None) -> tuple[str, ...]:
    """Return the trials that are meant by a name; all for None.

    Raises:
        BadRequest: there is none of that name; the message has those that there are.
    """
    if name is None:
        return tuple(TRIALS)
    if name not in TRIALS:
        raise BadRequest(field="name", why=f"must be one of {', '.join(TRIALS)}, or null for all")
    return (name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A ComfyServer on which there is room."""

    comfy_id: str
    #: How many more may share it.
    free: int
    #: Prompts in its queue.
    queue: int
