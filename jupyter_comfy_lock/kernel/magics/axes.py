"""What a sweep goes through, as it is written on a line: `seed=0..7 cfg=4,7`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from jupyter_comfy_lock.kernel.magics.words import Word, from_json

#: So many values has an axis at most; more are a slip of the finger.
MOST = 10_000

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?:\.\.({_NUMBER}))?")
#: What was meant as a range, whether it is one or not.
_MEANT = re.compile(rf"(?:{_NUMBER})?\.\.|{_NUMBER}\.\.")

GRAMMAR = (
    "FIRST..LAST (whole numbers, both included), FIRST..LAST..STEP, a list VALUE,VALUE,… or a "
    "JSON list '[…]'"
)


def axis(name: str, word: Word) -> Sequence[Any]:
    """Return the values of the axis `name`, in their order.

    `0..7` are the whole numbers from 0 to 7, `0..1..0.25` and `8..2..-2` go by steps, and
    `4,7,ten` are three values: JSON where it is, text otherwise. `[…]` is a JSON list, any other
    JSON one value. So is what a `$name` holds: a list or a range, or else one value.

    Raises:
        ValueError: it has no values or too many, or is no range; the message names the axis.
    """
    found = word.read()
    if found == word:
        found = _written(name, str(word))
    elif isinstance(found, str | Mapping | bytes) or not isinstance(found, Iterable):
        found = [found]
    values = found if isinstance(found, Sequence) else list(found)
    if not values:
        msg = f"the axis {name!r} has no values; it takes {GRAMMAR}"
        raise ValueError(msg)
    if len(values) > MOST:
        raise _too_many(name, len(values))
    return values


def _written(name: str, text: str) -> Sequence[Any]:
    match = _RANGE.fullmatch(text)
    if match:
        return _range(name, text, *match.groups())
    if _MEANT.match(text):
        msg = f"the axis {name!r}: {text!r} is no range; it takes {GRAMMAR}"
        raise ValueError(msg)
    if not text:
        return ()
    parts = text.split(",")
    if not all(parts):
        msg = f'the axis {name!r} has an empty value in {text!r}; quote a text: \'["", "a"]\''
        raise ValueError(msg)
    return [from_json(part.strip()) for part in parts]


def _range(name: str, text: str, first: str, last: str, step: str | None) -> Sequence[Any]:
    whole = not any("." in part for part in (first, last, step or ""))
    if step is None and not whole:
        msg = f"the axis {name!r}: {text!r} needs a step, as in {first}..{last}..0.5"
        raise ValueError(msg)
    start, end = Decimal(first), Decimal(last)
    by = Decimal(step) if step is not None else Decimal(1 if end >= start else -1)
    if by == 0 or (end - start) * by < 0:
        msg = f"the axis {name!r}: {text!r} never gets from {first} to {last} by steps of {by}"
        raise ValueError(msg)
    count = int((end - start) / by) + 1
    if count > MOST:
        raise _too_many(name, count)
    kind = int if whole else float
    return [kind(start + by * index) for index in range(count)]


def _too_many(name: str, count: int) -> ValueError:
    return ValueError(f"the axis {name!r} has {count:,} values; at most {MOST:,} make sense")
