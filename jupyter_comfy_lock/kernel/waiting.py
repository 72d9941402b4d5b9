"""Asking for a lock: what may be asked, the waiting in line, and leaving the line."""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from jupyter_comfy_lock.domain.errors import ComfyLockError, NoServerExtension
from jupyter_comfy_lock.domain.last_frame import EndsAtTheCell
from jupyter_comfy_lock.domain.lock import Mode
from jupyter_comfy_lock.kernel.bad_input import WrongType, WrongValue, checked_seconds
from jupyter_comfy_lock.kernel.client import is_silence
from jupyter_comfy_lock.kernel.wire import LockedJson, WaitingJson, WishJson

#: Seconds. How long to leave a server alone whose connection broke.
PAUSE_S = 0.5
#: Seconds. The least that is waited after that, so that the server ends the wait and says why.
LAST_TRY_S = 1.0

#: Told what the user should see of the waiting.
Tell = Callable[[str], None]
#: Asks the Jupyter server for what its first argument gives each time that it is sent; the second
#: value of the answer is whether the lock is new.
Ask = Callable[[Callable[[], WishJson], Callable[[WaitingJson], None]], tuple[LockedJson, bool]]


class LockWaitInterrupted(EndsAtTheCell, KeyboardInterrupt):
    """Ctrl-C ended the waiting for a lock."""

    shown_as = KeyboardInterrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for. `wait` in seconds, None for ever."""

    comfy_id: str | None = None
    mode: str | None = None
    wait: float | None = 0.0
    labels: tuple[str, ...] = ()
    #: By what it is taken back.
    request_id: str = field(default_factory=lambda: str(uuid4()))

    def again(self) -> "Wish":
        """Return the same wish as a new one."""
        return replace(self, request_id=str(uuid4()))

    def to_json(self, left_s: float | None) -> WishJson:
        """Return the wish as it is sent when `left_s` seconds of its time are left."""
        body = WishJson(
            comfy_id=self.comfy_id, mode=self.mode, wait=left_s, request_id=self.request_id
        )
        if self.labels:
            body["labels"] = list(self.labels)
        return body


def checked_wish(comfy_id: object, *, mode: object, wait: object, labels: object) -> Wish:
    """Return the wish, if it makes sense.

    Raises:
        TypeError, ValueError: it does not; the message says what would.
    """
    named, known = checked_id(comfy_id), _checked_labels(labels)
    if known and named is not None:
        msg = f"labels choose a ComfyServer, and {named!r} is chosen already: leave one of both out"
        raise WrongValue(msg)
    return Wish(comfy_id=named, mode=_checked_mode(mode), wait=_checked_wait(wait), labels=known)


def checked_id(comfy_id: object) -> str | None:
    """Return the id of a ComfyServer, or None for none.

    Raises:
        TypeError, ValueError: it is neither.
    """
    if comfy_id is None:
        return None
    if not isinstance(comfy_id, str):
        msg = f"the id of a ComfyServer is text or None, not {type(comfy_id).__name__}"
        raise WrongType(msg)
    if not comfy_id:
        msg = "the id of a ComfyServer is not empty; None stands for no id"
        raise WrongValue(msg)
    return comfy_id


def _checked_mode(mode: Any) -> str | None:
    try:
        return None if mode is None else Mode(mode).value
    except ValueError:
        modes = " or ".join(f'"{each.value}"' for each in Mode)
        msg = f"mode must be {modes}, not {mode!r}"
        raise WrongValue(msg) from None


def _checked_wait(wait: object) -> float | None:
    what = "wait must be a number of seconds (0: do not wait) or None (for ever)"
    return checked_seconds(wait, what)


def _checked_labels(labels: object) -> tuple[str, ...]:
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        msg = f'labels must be a list, such as ["flux"], not {labels!r}'
        raise WrongType(msg)
    known = tuple(labels)
    for label in known:
        if not isinstance(label, str) or not label:
            msg = f"a label is text, not {label!r}"
            raise WrongType(msg)
    return known


@dataclass(slots=True, kw_only=True)
class Asking:
    """One wish on its way: asked, waited for, and taken back when nobody waits any more."""

    wish: Wish
    ask: Ask
    #: Takes the wish of that id back, whatever became of it.
    take_back: Callable[[str], None]
    #: Says how things stand when the wish has been taken back.
    standing: Callable[[], str]
    tell: Tell
    _began_s: float | None = None

    def until_locked(self) -> tuple[LockedJson, bool]:
        """Return the answer. Whatever else ends the waiting ends the place in line too.

        Raises:
            LockWaitInterrupted: Ctrl-C was pressed.
            ComfyLockError: what the Jupyter server answered instead.
        """
        try:
            return self._ask_twice()
        except KeyboardInterrupt:
            self._leave()
            raise LockWaitInterrupted(self._over()) from None
        except BaseException as error:
            # An error that the server told has ended the wish there too.
            if is_silence(error) or not isinstance(error, ComfyLockError):
                self._leave()
            raise

    def _ask_twice(self) -> tuple[LockedJson, bool]:
        try:
            return self.ask(self._body, self._on_waiting)
        except NoServerExtension as error:
            if not is_silence(error):
                raise
        time.sleep(PAUSE_S)
        # Nobody knows what became of the wish. It goes back first: the server takes it out of the
        # line when it sees the closed connection, also from under a second one that waits for it.
        self._leave()
        return self.ask(self._body, self._on_waiting)

    def _body(self) -> WishJson:
        if self._began_s is None:
            self._began_s = time.monotonic()
            return self.wish.to_json(self.wish.wait)
        # A wish that has ended at the server is refused there for ever; a new one is not.
        self.wish = self.wish.again()
        left_s = self.wish.wait
        if left_s:
            left_s = max(LAST_TRY_S, left_s - (time.monotonic() - self._began_s))
        return self.wish.to_json(left_s)

    def _leave(self) -> None:
        # Best effort: the server sees the closed connection too.
        with suppress(ComfyLockError):
            self.take_back(self.wish.request_id)

    def _on_waiting(self, waiting: WaitingJson) -> None:
        self.tell(waiting_sentence(waiting))

    def _over(self) -> str:
        if self.wish.wait == 0:
            return f"stopped before there was an answer; {self.standing()}."
        return f"the waiting ended; you left the line; {self.standing()}."


def waiting_sentence(waiting: WaitingJson) -> str:
    """Say what is waited for, and why."""
    ids, why = waiting["comfy_ids"], waiting.get("why")
    what = " or ".join(ids) if 0 < len(ids) <= 3 else f"one of {len(ids)} ComfyServers"
    return f"Waiting for {what}" + (f": {why}." if why else ".")
