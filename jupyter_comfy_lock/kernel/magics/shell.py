"""`%comfy` and `%%comfy` in IPython."""

# IPython's decorators and hooks have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from collections.abc import Mapping
from typing import Any, cast

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

from jupyter_comfy_lock.kernel.bad_input import WrongType, WrongValue
from jupyter_comfy_lock.kernel.magics.cell import CELL_COMMANDS, Cell
from jupyter_comfy_lock.kernel.magics.commands import COMMANDS
from jupyter_comfy_lock.kernel.magics.completion import offer
from jupyter_comfy_lock.kernel.magics.declared import HELP, Commands, help_text, parse
from jupyter_comfy_lock.kernel.magics.words import Word, split


@magics_class
class ComfyMagics(Magics):
    """The magic; its commands are in `commands` and `cell`."""

    # Words are told apart first and variables put in then, so that values may have spaces.
    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    def comfy(
        self, line: str, cell: str | None = None, *, local_ns: Mapping[str, Any] | None = None
    ) -> Any:
        """Use ComfyServers from this notebook."""
        __tracebackhide__ = True
        shell = cast(InteractiveShell, self.shell)
        words = split(line, {**shell.user_ns, **(local_ns or {})})
        if cell is None:
            return _do(COMMANDS, words or [Word("status", [])])
        first = words[0] if words else ""
        if not first or "=" in first or (first.startswith("-") and first not in HELP):
            words.insert(0, Word("run", []))
        return _do(CELL_COMMANDS, words, Cell(shell, cell))


ComfyMagics.comfy.__doc__ = (
    f"Use ComfyServers from this notebook: one call of the Python API for each command.\n\n"
    f"{COMMANDS!r}\n\n{CELL_COMMANDS!r}\n\n%comfy help COMMAND tells what a command takes."
)


def _do(commands: Commands, words: list[Word], cell: Cell | None = None) -> Any:
    __tracebackhide__ = True
    name, *rest = words
    if name in HELP:
        return commands
    command = commands.find(name)
    if any(word in HELP for word in rest):
        print(help_text(command))  # noqa: T201 - a magic talks to its user
        return None
    args = parse(command, rest)
    try:
        # What is wrong with the line is told before the cell does anything.
        return command(args) if cell is None else command(args, cell.workflow())
    except (WrongType, WrongValue) as error:
        msg = f"{commands.magic} {name}: {error}"
        raise UsageError(msg) from error


def load(shell: InteractiveShell) -> None:
    """Give `shell` the magic, and its Tab key what may follow it."""
    shell.register_magics(ComfyMagics)
    matchers = shell.Completer.custom_matchers
    if offer not in matchers:
        matchers.append(offer)
