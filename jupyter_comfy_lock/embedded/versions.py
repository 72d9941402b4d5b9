"""Older ComfyUIs, as far as clients have to cope with them.

From recordings of 0.3.33, 0.3.75, 0.12.3, 0.24.0 and 0.33.0, and from ComfyUI's history for what
lies between. Not followed: the words of errors, and how often progress is told.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The ComfyUI whose behaviour the embedded server follows when it is not told otherwise.
NEWEST = "0.33.0"


@dataclass(frozen=True, slots=True)
class ComfyVersion:
    """A version of ComfyUI, and what it does otherwise than the newest."""

    text: str = NEWEST

    @property
    def takes_ids(self) -> bool:
        """Whether a client may choose a prompt's id."""
        return self._since(0, 3, 45)

    @property
    def checks_ids(self) -> bool:
        """Whether such an id must be a UUID."""
        return self._since(0, 25)

    @property
    def tells_of_each_node(self) -> bool:
        """Whether there are `progress_state`, feature flags and previews with metadata."""
        return self._since(0, 3, 45)

    @property
    def interrupts_one(self) -> bool:
        """Whether `POST /interrupt` heeds a prompt id."""
        return self._since(0, 3, 57)

    @property
    def has_jobs(self) -> bool:
        """Whether there is `GET /api/jobs`."""
        return self._since(0, 6)

    @property
    def cancels_jobs(self) -> bool:
        """Whether jobs can be cancelled there."""
        return self._since(0, 26)

    def _since(self, *number: int) -> bool:
        return tuple(map(int, self.text.split("."))) >= number
