"""The last few things that went wrong for each holder, for who looks into it."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.lock import HolderId

#: So many are kept of each holder.
_LAST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What was refused, or lost."""

    #: Seconds since the epoch.
    at: float
    #: The call: its method and path, without secrets.
    where: str
    code: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """Return it as REST shows it."""
        return {"at": self.at, "where": self.where, "code": self.code, "message": self.message}


class Refusals:
    """In memory only, and forgotten with the holder."""

    def __init__(self) -> None:
        self._of: dict[HolderId, deque[Refusal]] = {}

    def note(self, holder_id: HolderId, *, where: str, code: str, message: str) -> None:
        """Remember one."""
        kept = self._of.setdefault(holder_id, deque(maxlen=_LAST))
        kept.append(Refusal(at=time.time(), where=where, code=code, message=message))

    def of(self, holder_id: HolderId) -> tuple[Refusal, ...]:
        """Return the last ones of a holder, the newest last."""
        return tuple(self._of.get(holder_id, ()))

    def forget(self, holder_id: HolderId) -> None:
        """Forget a holder that is gone."""
        self._of.pop(holder_id, None)
