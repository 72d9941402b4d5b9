"""Text that names something, or says something to people, in a field of the REST API."""

import re

#: Characters. A database has to find the one by its index, and people have to read the other.
LONGEST_ID = 200
LONGEST_NOTE = 4096
#: Control characters would break lines of the log and move about in a terminal; half of a pair of
#: surrogates, such as Python makes of file names that are not UTF-8, is no character at all.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def is_text(value: object, longest: int) -> bool:
    """Whether it is one line of text of at most `longest` characters."""
    return isinstance(value, str) and len(value) <= longest and not _NOT_TEXT.search(value)


def one_line(said: str) -> str:
    """Return what `said` is as one line of text, for what nobody can be asked to change."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", said)[:LONGEST_NOTE]
