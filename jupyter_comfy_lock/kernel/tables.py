"""Tables as notebooks, terminals and rich consoles show them."""

import html
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from jupyter_comfy_lock.kernel.bad_input import NoSuchItem

if TYPE_CHECKING:
    from rich.table import Table as RichTable

T = TypeVar("T")


class Listing(Sequence[T], Generic[T]):
    """A read-only list that shows itself as a table. Subclasses say what a row is."""

    columns: ClassVar[tuple[str, ...]] = ()
    #: What to say when there is nothing to show.
    nothing: ClassVar[str] = "Nothing."

    def __init__(self, items: Sequence[T]) -> None:
        self._items = list(items)

    def row(self, item: T) -> tuple[str, ...]:
        """Return the cells of `item`, one per column."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        try:
            return self._items[index]
        except IndexError:
            msg = f"{type(self).__name__} has {len(self)} items; there is no number {index}"
            raise NoSuchItem(msg) from None

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        if not self._items:
            return self.nothing
        rows = [self.columns, *map(self.row, self._items)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        rows.insert(1, tuple("─" * width for width in widths))
        padded = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
        return "\n".join(line.rstrip() for line in padded)

    def _repr_html_(self) -> str:
        if not self._items:
            return f"<p>{html.escape(self.nothing)}</p>"
        head = "".join(_cell("th", name) for name in self.columns)
        body = "".join(
            f"<tr>{''.join(_cell('td', text) for text in self.row(item))}</tr>"
            for item in self._items
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __rich__(self) -> "RichTable":
        from rich.table import Table  # noqa: PLC0415 - only who prints with rich needs rich
        from rich.text import Text  # noqa: PLC0415

        table = Table(*self.columns)
        for item in self._items:
            # Not as text in rich's markup: an "[Errno 2]" would vanish.
            table.add_row(*map(Text, self.row(item)))
        return table

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Have IPython in a terminal show a table that fits into it."""
        plain = repr(self)
        if self._items and sys.stdout.isatty():
            from rich.console import Console  # noqa: PLC0415 - see `__rich__`

            console = Console()
            with console.capture() as captured:
                console.print(self)
            plain = captured.get().rstrip("\n")
        # In lines, of which each is as wide as it is: a printer breaks none of them.
        printer.text(plain)

    def _ipython_key_completions_(self) -> list[Any]:
        return []


def _cell(tag: str, text: str) -> str:
    # Notebooks align cells right, as numbers want it, and break ids at their hyphens.
    style = "text-align: left; white-space: nowrap"
    return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'
