"""Packages that can be imported, with anything in them, and do nothing.

ComfyUI imports torchvision and torchaudio when it starts, for nodes that no test uses.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def stand_in(package: str) -> Callable[[str], Any]:
    """Make everything below `package` importable; returns the package's `__getattr__`."""
    sys.meta_path.append(_Below(package))
    return _attributes_of(package)


def _attributes_of(module: str) -> Callable[[str], Any]:
    def attribute(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            return type(name, (_NotHere,), {"__module__": module})
        return importlib.import_module(f"{module}.{name}")

    return attribute


class _NotHere:
    def __init__(self, *_: object, **__: object) -> None:
        message = f"{type(self).__module__} is only a stand-in here"
        raise RuntimeError(message)


class _Below:
    """Finds and loads every module below one package, each of them empty."""

    def __init__(self, package: str) -> None:
        self._prefix = f"{package}."

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if not name.startswith(self._prefix):
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module will do."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = _attributes_of(module.__name__)  # type: ignore[method-assign]

        def call(*_: object, **__: object) -> None:
            message = f"{module.__name__} is only a stand-in here"
            raise RuntimeError(message)

        # What looks like a function is a module here: calling it must say why it fails.
        module.__class__ = type("StandIn", (ModuleType,), {"__call__": staticmethod(call)})
