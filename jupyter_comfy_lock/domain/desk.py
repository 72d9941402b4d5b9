"""What ComfyUI's web interface keeps for a person: settings, and files such as saved workflows.

ComfyUI has one desk for everybody who comes to it. Through the gateway each holder has its own:
what one saves or sets changes nothing for others (R4).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: A person's workflows and settings are some hundred kB.
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class DeskFile:
    """One file."""

    content: bytes
    #: Seconds since the epoch.
    created: float
    modified: float


class Desk:
    """One holder's settings and files, in memory: they are gone with the holder.

    A file's name is a path with slashes, below no folder in particular.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._settings: dict[str, Any] = {}
        self._files: dict[str, DeskFile] = {}
        self._max_bytes = max_bytes

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was set here."""
        return self._settings

    def set(self, settings: Mapping[str, Any]) -> bool:
        """Change some settings; False if there is no room for them, and nothing was changed."""
        changed = {**self._settings, **settings}
        if _size(changed) + self._files_size() > self._max_bytes:
            return False
        self._settings = changed
        return True

    def file(self, name: str) -> DeskFile | None:
        """Return a file, if there is one of that name."""
        return self._files.get(name)

    def write(self, name: str, content: bytes, now: float) -> bool:
        """Write a file, new or anew; False if there is no room for it, and nothing was changed."""
        old = self._files.get(name)
        more = len(content) - len(old.content) if old else len(content) + len(name)
        if _size(self._settings) + self._files_size() + more > self._max_bytes:
            return False
        self._files[name] = DeskFile(content, old.created if old else now, now)
        return True

    def move(self, name: str, to: str) -> None:
        """Give a file, which must be there, another name; what had that name is gone."""
        self._files[to] = self._files.pop(name)

    def delete(self, name: str) -> bool:
        """Delete a file; False if there is none of that name."""
        return self._files.pop(name, None) is not None

    def below(self, folder: str) -> dict[str, DeskFile]:
        """Return the files in a folder and its subfolders, by their path from there."""
        start = f"{folder.strip('/')}/" if folder.strip("/") else ""
        return {
            name.removeprefix(start): file
            for name, file in sorted(self._files.items())
            if name.startswith(start)
        }

    def _files_size(self) -> int:
        return sum(len(name) + len(file.content) for name, file in self._files.items())


def _size(settings: Mapping[str, Any]) -> int:
    return len(json.dumps(settings))
