"""A real IPython shell with `%comfy`, and a Python API that writes down what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import jupyter_comfy_lock as comfy


@pytest.fixture(scope="module")
def one_shell() -> Iterator[InteractiveShell]:
    # One for all: each shell leaves work for the end of the process.
    made = InteractiveShell.instance()
    made.history_manager.enabled = False
    made.extension_manager.load_extension("jupyter_comfy_lock")
    yield made
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(one_shell: InteractiveShell) -> Iterator[InteractiveShell]:
    """The shell, with no variables but its own."""
    before = dict(one_shell.user_ns)
    one_shell.user_ns["comfy"] = comfy
    yield one_shell
    one_shell.user_ns.clear()
    one_shell.user_ns.update(before)


#: What was called: its name, its arguments, its keywords.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Api:
    """Stands for functions of the Python API; `calls` is what they were asked."""

    def __init__(self, replace: Callable[[str, Any], None]) -> None:
        self._replace = replace
        self.calls: list[Call] = []

    def stand_for(self, *names: str) -> None:
        """Have these functions write down what they are asked and return "<name> answer"."""
        for name in names:
            self._replace(name, self._recorder(name))

    def _recorder(self, name: str) -> Callable[..., str]:
        def record(*arguments: Any, **keywords: Any) -> str:
            self.calls.append((name, arguments, keywords))
            return f"{name} answer"

        return record


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Functions of `comfy` that can be replaced, also ones that are not there."""
    return Api(lambda name, function: monkeypatch.setitem(vars(comfy), name, function))
