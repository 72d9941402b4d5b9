"""Whether a value fits an input, and if not, why, in the words of the person who set it."""

import difflib
import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from jupyter_comfy_lock.domain.workflow.nodes import COMBO, DYNAMIC_COMBO, InputSpec

#: ComfyUI's words for what can be wrong with a value.
BAD_LINK = "bad_linked_input"
NO_CHOICE = "value_not_in_list"
TOO_SMALL = "value_smaller_than_min"
TOO_BIG = "value_bigger_than_max"
WRONG_KIND = "invalid_input_type"

#: So many choices are spelled out; of more, the closest.
_LISTED = 12


class Unfit(Exception):
    """A value does not fit an input; `kind` is ComfyUI's word for the reason."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


def is_link(value: object) -> bool:
    """Whether this is `[node id, number of the output]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int)
        and not isinstance(value[1], bool)
    )


def fitted(value: Any, spec: InputSpec | None) -> Any:
    """Return `value` as the prompt has it.

    A number of another kind that is the same number becomes one of the input's kind. Where
    nothing is known of the input, any value is right.

    Raises:
        Unfit: it is of another kind, out of range, or no choice.
    """
    if spec is None or _is_wrapped(value):
        return value
    if spec.type in (COMBO, DYNAMIC_COMBO):
        return _choice(value, spec)
    if spec.type == "INT":
        return _in_range(_whole(value), spec)
    if spec.type == "FLOAT":
        return _in_range(_real(value), spec)
    if spec.type == "STRING":
        if not isinstance(value, str):
            raise _wrong_kind(value, "a text")
        return value
    if spec.type == "BOOLEAN":
        return _truth(value)
    if not spec.is_widget:
        why = f"takes a link to an output of type {spec.type}, not {shown(value)}"
        raise Unfit(BAD_LINK, why)
    return value


def shown(value: object) -> str:
    """Return `value` for a message: not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def close_to(name: str, names: Iterable[str]) -> str:
    """Return a hint at names like `name`: "; did you mean 'seed'?", or nothing."""
    names = list(names)
    lower = {each.lower(): each for each in names}
    found = [lower[x] for x in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.6)]
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _is_wrapped(value: object) -> bool:
    return isinstance(value, Mapping) and "__value__" in value


def _choice(value: Any, spec: InputSpec) -> Any:
    # Files come and go after the list was made, and ComfyUI looks for itself.
    if spec.choices is None or spec.upload or (spec.many and isinstance(value, list)):
        return value
    # 1 and True are the same to Python and not to ComfyUI's nodes.
    if any(type(value) is type(each) and value == each for each in spec.choices):
        return value
    if isinstance(value, int | float) and value in spec.choices:
        return value
    if not spec.choices:
        why = f"{shown(value)} is no choice: this ComfyServer has none to choose from"
        raise Unfit(NO_CHOICE, why)
    choices = [str(each) for each in spec.choices]
    if len(choices) <= _LISTED:
        allowed = f". One of: {', '.join(choices)}"
    else:
        allowed = f" (one of {len(choices)})"
    why = f"{shown(value)} is no choice{close_to(str(value), choices)}{allowed}"
    raise Unfit(NO_CHOICE, why.replace("?.", "?"))


def _whole(value: Any) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
        try:
            real = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _wrong_kind(value, "a whole number") from None
        if real.is_integer() and not isinstance(value, str):
            return int(real)
        if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
            return int(value)
    raise _wrong_kind(value, "a whole number")


def _real(value: Any) -> float | int:
    if isinstance(value, bool):
        raise _wrong_kind(value, "a number")
    if isinstance(value, int):
        return value
    try:
        real = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong_kind(value, "a number") from None
    if not math.isfinite(real):
        raise _wrong_kind(value, "a finite number")
    return real


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    # NumPy's truth values say of themselves that they are.
    if type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    if type(value) is int and value in (0, 1):
        return bool(value)
    raise _wrong_kind(value, "True or False")


def _in_range(value: Any, spec: InputSpec) -> Any:
    least, most = spec.range
    if least is not None and value < least:
        raise Unfit(TOO_SMALL, f"{value} is less than the least, {least}")
    if most is not None and value > most:
        raise Unfit(TOO_BIG, f"{value} is more than the most, {most}")
    return value


def _wrong_kind(value: object, wanted: str) -> Unfit:
    return Unfit(WRONG_KIND, f"must be {wanted}, not {shown(value)}")
