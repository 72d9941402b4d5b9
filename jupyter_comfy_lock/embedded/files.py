"""The folders of one server and the rules for names in them."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_comfy_lock.embedded.faults import Faults

#: `name.png [output]` means: in the output folder, whatever the request says.
_ANNOTATION = re.compile(r"^(?P<name>.*?)\s?\[(?P<kind>input|output|temp)\]$")

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
)


class OutsideFolderError(ValueError):
    """A name leads out of the folder it should be in."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(f"{name!r} leads out of the folder {folder.name!r}")
        self.folder = folder


@dataclass(frozen=True, slots=True)
class SaveTarget:
    """Where the next picture of a prefix goes."""

    folder: Path
    subfolder: str
    stem: str
    counter: int

    def filename(self, index: int) -> str:
        """Name of picture `index` of a batch, counted from 0."""
        stem = self.stem.replace("%batch_num%", str(index))
        return f"{stem}_{self.counter + index:05}_.png"


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one server, all below `base`."""

    base: Path
    faults: Faults = field(default_factory=Faults)

    @property
    def input(self) -> Path:
        """Uploads and other pictures to load."""
        return self.base / "input"

    @property
    def output(self) -> Path:
        """What SaveImage writes."""
        return self.base / "output"

    @property
    def temp(self) -> Path:
        """What PreviewImage writes; emptied at every start and stop."""
        return self.base / "temp"

    def create(self) -> None:
        """Make the folders, with an empty temp."""
        self.wipe_temp()
        for folder in (self.input, self.output, self.temp):
            folder.mkdir(parents=True, exist_ok=True)

    def wipe_temp(self) -> None:
        """Remove everything in temp."""
        shutil.rmtree(self.temp, ignore_errors=True)

    def of_kind(self, kind: str) -> Path | None:
        """Return the folder called "input", "output" or "temp"; None for another word."""
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(kind)

    def annotated(self, name: str) -> tuple[str, Path | None]:
        """Split `name [kind]` into the name and its folder; None if there is no `[kind]`."""
        found = _ANNOTATION.match(name)
        return (found["name"], self.of_kind(found["kind"])) if found else (name, None)

    def input_file(self, name: str) -> Path | None:
        """Return the file that LoadImage means by `name`, or None if there is none inside."""
        bare, folder = self.annotated(name)
        folder = folder or self.input
        try:
            path = inside(folder, bare)
        except OutsideFolderError:
            return None
        return path if path.is_file() else None

    def input_pictures(self) -> list[str]:
        """Names of the pictures in the input folder, sorted."""
        return sorted(
            x.name
            for x in self.input.iterdir()
            if x.suffix.lower() in IMAGE_SUFFIXES and x.is_file()
        )

    def check_room(self) -> None:
        """Do nothing if something can be written.

        Raises:
            OSError: the disk is full.
        """
        self.faults.check_disk()

    def write(self, path: Path, content: bytes) -> None:
        """Write a file in one of the folders.

        Raises:
            OSError: the disk is full, for example; an empty file is left.
        """
        with path.open("wb") as file:
            self.check_room()
            file.write(content)

    def save_target(self, prefix: str, kind: str, width: int, height: int) -> SaveTarget:
        """Find the folder and the next free number for `prefix`, which may hold `/`.

        Raises:
            OutsideFolderError: the prefix leads out of the folder of that kind.
        """
        root = self.output if kind == "output" else self.temp
        wanted = inside(root, _with_values(prefix, width, height, self.faults.wall_s()))
        folder = wanted.parent
        folder.mkdir(parents=True, exist_ok=True)
        subfolder = folder.relative_to(root.resolve()).as_posix()
        return SaveTarget(
            folder=folder,
            subfolder="" if subfolder == "." else subfolder,
            stem=wanted.name,
            counter=_next_number(folder, wanted.name),
        )


def inside(root: Path, name: str) -> Path:
    """Return `root / name`, absolute.

    Raises:
        OutsideFolderError: the name leads out of `root`.
    """
    root = root.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise OutsideFolderError(name, root)
    return path


def free_upload_name(folder: Path, name: str, content: bytes) -> tuple[str, bool]:
    """Return the name an upload gets and whether those very bytes are there already."""
    stem, dot, suffix = name.rpartition(".")
    if not stem:
        stem, dot, suffix = name, "", ""
    candidate, number = name, 0
    while (path := folder / candidate).exists():
        if path.is_file() and path.read_bytes() == content:
            return candidate, True
        number += 1
        candidate = f"{stem} ({number}){dot}{suffix}"
    return candidate, False


def _with_values(prefix: str, width: int, height: int, now_s: float) -> str:
    now = time.localtime(now_s)
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    return re.sub(r"%(\w+)%", lambda m: values.get(m[1], m[0]), prefix)


def _next_number(folder: Path, stem: str) -> int:
    taken = re.compile(rf"{re.escape(stem)}_(\d+)(?:_.*|\..*)?$")
    found = (taken.match(x.name) for x in folder.iterdir())
    return max((int(x[1]) for x in found if x), default=0) + 1
