"""What the fields of a request may be. Each function names the field that is wrong."""

import json
from collections.abc import Iterable
from typing import Any

from jupyter_comfy_lock.domain.errors import BadRequest
from jupyter_comfy_lock.domain.words import LONGEST_ID, LONGEST_NOTE, is_text, one_line

_MOST_ITEMS = 100
#: Lists and objects in each other. Python's own limit is near a thousand, and each who works
#: through a value meets it at another depth.
_DEEPEST = 200
_ID = f"text of 1 to {LONGEST_ID} characters, without control characters"


def json_object(body: bytes) -> dict[str, Any]:
    """Return the body of a request as a JSON object; {} for none.

    Raises:
        BadRequest: it is something else.
    """
    if not body.strip():
        return {}
    try:
        value = json.loads(body.decode())
    except ValueError as error:
        raise BadRequest(field="body", why=f"must be JSON in UTF-8: {error}") from None
    except RecursionError:
        raise BadRequest(field="body", why="is nested too deep") from None
    if not isinstance(value, dict):
        raise BadRequest(field="body", why="must be a JSON object")
    refuse_deep(value)
    return value


def refuse_deep(body: dict[str, Any]) -> None:
    """Refuse what nobody means, before somebody gets lost in it.

    Raises:
        BadRequest: a field has too many lists and objects in each other.
    """
    for field, value in body.items():
        level, depth = [value], 0
        while level := [inner for each in level for inner in _inside(each)]:
            depth += 1
            if depth > _DEEPEST:
                name = one_line(field)[:LONGEST_ID]
                raise BadRequest(field=name, why=f"is nested deeper than {_DEEPEST} levels")


def text(body: dict[str, Any], field: str) -> str:
    """Return the text in a field that must be there.

    Raises:
        BadRequest: it is something else.
    """
    value = body.get(field)
    if not _is_id(value):
        raise BadRequest(field=field, why=f"must be {_ID}")
    return str(value)


def text_or_none(body: dict[str, Any], field: str) -> str | None:
    """Return the text in a field, None if it is not there.

    Raises:
        BadRequest: it is something else.
    """
    value = body.get(field)
    if value is not None and not _is_id(value):
        raise BadRequest(field=field, why=f"must be {_ID}, or null")
    return value


def note(body: dict[str, Any], field: str) -> str:
    """Return what a field says to people, "" if it is not there.

    Raises:
        BadRequest: it is something else.
    """
    value = body.get(field)
    if value is not None and not is_text(value, LONGEST_NOTE):
        why = f"must be one line of text of at most {LONGEST_NOTE} characters, or null"
        raise BadRequest(field=field, why=why)
    return value or ""


def texts(body: dict[str, Any], field: str) -> list[str]:
    """Return the texts in a field, [] if it is not there.

    Raises:
        BadRequest: it is something else.
    """
    value = body.get(field)
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST_ITEMS or not all(map(_is_id, value)):
        why = f"must be a list of at most {_MOST_ITEMS} texts, each {_ID}; or null"
        raise BadRequest(field=field, why=why)
    return value


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _is_id(value: object) -> bool:
    return bool(value) and is_text(value, LONGEST_ID)
