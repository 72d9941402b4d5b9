"""The words of a `%comfy` line: split as a shell does, with this notebook's variables put in."""

import json
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError
from IPython.utils.text import DollarFormatter

#: A quoted part, an {expression}, an escaped character or any other: a word is a row of these.
#: A quote that nobody closes takes the rest of the line.
_QUOTED = r"""'[^']*(?:'|$)|"[^"]*(?:"|$)"""
_QUOTED_WITH_ESCAPES = r"""'[^']*(?:'|$)|"(?:\\.|[^"\\])*(?:"|$)"""
_WINDOWS = re.compile(rf"(?:{_QUOTED}|\{{[^{{}}]*\}}|\S)+")
_ELSEWHERE = re.compile(rf"(?:{_QUOTED_WITH_ESCAPES}|\{{[^{{}}]*\}}|\\.|\S)+")

#: Stands for the first value that was put in; the next characters stand for the next ones. They
#: are of those that Unicode leaves to private use.
_FIRST_MARK = 0xE000


class Word(str):
    """One word. Its text has the values of its `$names` and `{expressions}` put in."""

    __slots__ = ("_marked", "_values")
    _marked: str
    _values: list[Any]

    def __new__(cls, marked: str, values: list[Any]) -> "Word":
        """Return the word that `marked` is when `values` stand in place of its marks."""
        made = super().__new__(cls, _filled(marked, values))
        made._marked, made._values = marked, values
        return made

    @property
    def value(self) -> Any:
        """The object itself where the word is one `$name` and nothing else; else the text."""
        return _whole(self._marked, self._values, default=str(self))

    def split_at_equals(self) -> "tuple[str, Word] | None":
        """Return the name and the word after the first `=`, None where it is no `NAME=VALUE`."""
        name, equals, rest = self._marked.partition("=")
        if not equals or not name:
            return None
        return _filled(name, self._values), Word(rest, self._values)

    def read(self) -> Any:
        """Return what is meant: the object of a `$name`, what JSON says, or else the text."""
        value = _whole(self._marked, self._values, default=self)
        return from_json(self) if value is self else value


def from_json(text: str) -> Any:
    """Return what `text` says as JSON, or the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return str(text)


def split(
    line: str, names: Mapping[str, Any] | None = None, *, windows: bool = os.name == "nt"
) -> list[Word]:
    r"""Return the words of `line`.

    Quotes keep spaces together, and so does a backslash, which on Windows is an ordinary character
    as paths have it. `$name`, `$name.attribute` and `{expression}` become what `names` make of
    them, as in any IPython magic, but word by word: a value with spaces stays one word, and a word
    in which one of them means nothing stays as it is.

    Raises:
        UsageError: a quote is not closed, or the line ends in a backslash.
    """
    return [_word(raw, names or {}, windows=windows) for raw in raw_words(line, windows=windows)]


def raw_words(line: str, *, windows: bool = os.name == "nt") -> list[str]:
    """Return the words of `line` as they are written."""
    return (_WINDOWS if windows else _ELSEWHERE).findall(line)


def _word(raw: str, names: Mapping[str, Any], *, windows: bool) -> Word:
    marking = _Marking()
    try:
        marked = marking.vformat(raw, (), names)
    except Exception:  # noqa: BLE001 - as IPython does: any code may stand between the braces
        marked, marking = raw, _Marking()
    return Word(_unquoted(marked, windows=windows), marking.values)


class _Marking(DollarFormatter):
    """Keeps the values of a text's fields and leaves a mark in place of each.

    So quotes and spaces in a value are not taken for those of the line.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []

    def format_field(self, value: Any, format_spec: str) -> str:
        """Return the mark for `value`."""
        self.values.append(value)
        return chr(_FIRST_MARK + len(self.values) - 1)


def _unquoted(word: str, *, windows: bool) -> str:
    reader = shlex.shlex(word, posix=True, punctuation_chars=False)
    reader.whitespace_split = True
    reader.whitespace = ""
    reader.commenters = ""
    if windows:
        reader.escape = ""
    try:
        return "".join(reader)
    except ValueError as error:
        msg = f"{str(error).lower()} in {word}"
        raise UsageError(msg) from None


def _filled(marked: str, values: list[Any]) -> str:
    marks = {_FIRST_MARK + index: str(value) for index, value in enumerate(values)}
    return marked.translate(marks) if marks else marked


def _whole(marked: str, values: list[Any], *, default: Any) -> Any:
    index = ord(marked) - _FIRST_MARK if len(marked) == 1 else -1
    return values[index] if 0 <= index < len(values) else default
