"""Cells in a real IPython shell, and the tracebacks that they show."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell

import jupyter_comfy_lock as comfy

PACKAGE = str(Path(comfy.__file__).parent)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ARROW = re.compile(r"^-+> +\d+ (.*)$")


class Cells:
    """A shell as notebooks have it; `comfy` is imported."""

    def __init__(self) -> None:
        self.shell = InteractiveShell.instance(user_module=ModuleType("__main__"))
        self.shell.history_manager.enabled = False
        self.shell.user_ns["comfy"] = comfy
        self._shown: list[str] = []
        self.shell._showtraceback = self._show

    def _show(self, etype: type, value: BaseException, lines: list[str]) -> None:
        self._shown.append(_ANSI.sub("", self.shell.InteractiveTB.stb2text(lines)))

    def close(self) -> None:
        InteractiveShell.clear_instance()

    def run(self, code: str) -> None:
        """Run a cell that must succeed."""
        self.shell.run_cell(code).raise_error()

    def traceback(self, code: str, *, numbered: bool = False) -> str:
        """Run a cell that raises, with a number of its own or without; what it shows."""
        self._shown.clear()
        result = self.shell.run_cell(code, store_history=numbered)
        assert not result.success, "the cell did not raise"
        [shown] = self._shown
        return shown


def shown_lines(traceback: str) -> list[str]:
    """The lines to which the arrows of a traceback point, from the outermost in."""
    return [found[1] for line in traceback.splitlines() if (found := _ARROW.match(line))]


@pytest.fixture
def cells():
    made = Cells()
    yield made
    made.close()
