"""What a bad argument raises: Python's own kinds of errors, shown as ending at the user's line."""

import math
from numbers import Real

from jupyter_comfy_lock.domain.last_frame import EndsAtTheCell


class WrongType(EndsAtTheCell, TypeError):
    """An argument is of a kind that makes no sense here."""

    shown_as = TypeError


class WrongValue(EndsAtTheCell, ValueError):
    """An argument is of the right kind, and not possible."""

    shown_as = ValueError


class NoSuchAttribute(EndsAtTheCell, AttributeError):
    """There is nothing of that name."""

    shown_as = AttributeError


class NoSuchItem(EndsAtTheCell, IndexError):
    """There is nothing at that place."""

    shown_as = IndexError


def checked_seconds(given: object, what: str) -> float | None:
    """Return a number of seconds, None for ever; `what` says what it must be.

    Raises:
        WrongType, WrongValue: it is none.
    """
    if given is None:
        return None
    # True is a number to Python, and to nobody else.
    if isinstance(given, bool) or not isinstance(given, Real):
        msg = f"{what}, not {given!r}"
        raise WrongType(msg)
    seconds = float(given)
    if math.isnan(seconds) or seconds < 0:
        msg = f"{what}, not {given!r}"
        raise WrongValue(msg)
    return None if math.isinf(seconds) else seconds
