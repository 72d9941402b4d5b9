"""How IPython shows an error of ours: the traceback ends at the user's own line.

What happened inside this package says nothing to who wrote the cell. Plain Python shows all of it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, cast

_OURS = __name__.partition(".")[0]
#: Where a user's own code is that is in no module.
_CELL = "__main__"
#: What may stand between the user's line and ours: of the magics, besides the standard library.
_BETWEEN = {"IPython", "decorator"}
#: What of an exception is shown besides its message. To set the cause sets the last one, too.
_TOLD = ("__traceback__", "__cause__", "__context__", "__suppress_context__")


class EndsAtTheCell:
    """An exception whose traceback, as IPython shows it, ends at the user's own line."""

    #: What it is called there; None for its own class.
    shown_as: ClassVar[type[BaseException] | None] = None

    def _render_traceback_(self) -> list[str]:
        # IPython asks for this. It keeps to the mode that was chosen by %xmode.
        return _lines(cast(BaseException, self), self.shown_as or type(self))


def _lines(error: BaseException, kind: type) -> list[str]:
    shell = _shell()
    if shell is None:
        return [f"{kind.__name__}: {error}"]
    with _only_the_users(error):
        shown = shell.InteractiveTB.structured_traceback(kind, error, error.__traceback__)
    return cast("list[str]", shown)


@contextmanager
def _only_the_users(error: BaseException) -> Iterator[None]:
    """Have `error`, and what it came of, be without our frames for a moment.

    What was raised and caught inside this package is left out altogether. IPython reads all of it
    from the exceptions themselves; `%tb` and the debugger's `sys.last_value` keep what there was.
    """
    was: list[tuple[BaseException, tuple[Any, ...]]] = []
    each: BaseException | None = error
    while each is not None and all(each is not known for known, _ in was):
        was.append((each, tuple(getattr(each, name) for name in _TOLD)))
        each.__traceback__ = _users_part(each.__traceback__)
        came_of = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if came_of is not None and _is_inner(came_of):
            each.__cause__, each.__suppress_context__ = None, True
            came_of = None
        each = came_of
    try:
        yield
    finally:
        for known, told in was:
            for name, value in zip(_TOLD, told, strict=True):
                setattr(known, name, value)


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    inside = False
    for each in _each(traceback):
        # A cell's function that was called from inside is the user's again.
        inside = _root(each) == _OURS or (inside and _root(each) != _CELL)
        if not inside:
            kept.append(each)
    if len(kept) == len(list(_each(traceback))):
        return traceback
    # The first one is IPython's own, which it leaves out by itself.
    while len(kept) > 1 and _is_between(_root(kept[-1])):
        kept.pop()
    made = None
    for each in reversed(kept):
        made = TracebackType(made, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return made


def _is_inner(error: BaseException) -> bool:
    first = next(_each(error.__traceback__), None)
    return first is not None and _root(first) == _OURS


def _is_between(root: str) -> bool:
    return root in _BETWEEN or root in sys.stdlib_module_names


def _each(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _root(traceback: TracebackType) -> str:
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None
