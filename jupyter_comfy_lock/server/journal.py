"""What happens to locks, told to operators: a line in the log and a Jupyter event for each."""

from logging import Logger
from pathlib import Path
from typing import Any, Protocol

from jupyter_comfy_lock.domain.lock import Lock

LOCK_EVENTS = "urn:jupyter_comfy_lock:lock:v1"
SCHEMA = Path(__file__).parent / "event_schemas" / "lock" / "v1.yaml"


class Emitter(Protocol):
    """What of jupyter_events' EventLogger is needed."""

    def emit(self, *, schema_id: str, data: dict[str, Any]) -> Any:
        """Hand an event to those who listen."""


class LockJournal:
    """Tells of each grant, release, expiry, force and refusal, once: where it was decided or heard.

    A grant is told of by the Jupyter server of its holder.
    """

    def __init__(self, log: Logger, emitter: Emitter) -> None:
        self._log = log
        self._emitter = emitter

    def granted(self, lock: Lock, *, waited_s: float = 0.0) -> None:
        """Tell that a holder has a lock."""
        after = f" after {waited_s:.1f} s in line" if waited_s else ""
        self._log.info(
            "%s locked %s (%s, fence %d)%s",
            _label(lock),
            lock.comfy_id,
            lock.mode,
            lock.fence,
            after,
        )
        self._emit("grant", lock)

    def released(self, lock: Lock, why: str) -> None:
        """Tell that a holder let go, or ended."""
        self._log.info("%s released %s (%s)", _label(lock), lock.comfy_id, why)
        self._emit("release", lock, why=why)

    def expired(self, lock: Lock, why: str) -> None:
        """Tell that a lock ended because its node did not renew."""
        self._log.warning("%s lost %s: %s", _label(lock), lock.comfy_id, why)
        self._emit("expire", lock, why=why)

    def forced(self, lock: Lock, *, by: str, why: str) -> None:
        """Tell that an operator took a lock away."""
        self._log.warning(
            "%s lost %s: taken away by %s: %s", _label(lock), lock.comfy_id, by, why or "no reason"
        )
        self._emit("force", lock, by=by, why=why)

    def refused(
        self, *, holder_id: str, name: str, comfy_id: str | None, mode: str, why: str
    ) -> None:
        """Tell that a holder did not get what it asked for."""
        self._log.info("%s was refused %s: %s", _called(name, holder_id), comfy_id or "any", why)
        self._send(
            {
                "action": "refuse",
                "holder_id": holder_id,
                "name": name,
                "comfy_id": comfy_id,
                "mode": mode,
                "fence": None,
                "node_id": "",
                "by": "",
                "why": why,
            }
        )

    def _emit(self, action: str, lock: Lock, *, by: str = "", why: str = "") -> None:
        self._send(
            {
                "action": action,
                "holder_id": lock.holder_id,
                "name": lock.name,
                "comfy_id": lock.comfy_id,
                "mode": lock.mode.value,
                "fence": lock.fence,
                "node_id": lock.node_id,
                "by": by,
                "why": why,
            }
        )

    def _send(self, data: dict[str, Any]) -> None:
        try:
            self._emitter.emit(schema_id=LOCK_EVENTS, data=data)
        except Exception:  # noqa: BLE001 - logged; a listener's fault must not undo a lock
            self._log.exception("Could not tell of %s", data["action"])


def _label(lock: Lock) -> str:
    return _called(lock.name, lock.holder_id)


def _called(name: str, holder_id: str) -> str:
    return f"{name} (kernel {holder_id})" if name else f"kernel {holder_id}"
