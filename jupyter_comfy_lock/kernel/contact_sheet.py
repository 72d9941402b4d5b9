"""The contact sheet of a sweep: one picture of all cells, with the values of the axes."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.sweep import Block

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    from jupyter_comfy_lock.kernel.sweep import Sweep
    from jupyter_comfy_lock.kernel.sweep_cells import Cell

#: Pixels. The longer side of a picture on the sheet.
PICTURE = 192
#: Pixels. What a reason needs.
_LEAST = 96
_GAP, _MARGIN = 8, 16
#: The widest column of row labels.
_ROW_LABELS = 150
_TEXT, _SMALL = 15, 12
_LINES = 3
#: Neutral, so that no picture looks other than it is; readable beside light and dark pages.
_GROUND, _BOX, _INK, _QUIET, _BAD = "#26282b", "#34373b", "#f1f1f1", "#a9adb3", "#ff9b8f"
_NAME = "comfy_sweep"


class NotWritten(ComfyLockError):
    """The sheet could not be written."""

    code = "not_written"


class ContactSheet:
    """Draws a sweep. What it has fetched of a task it keeps, small."""

    def __init__(self, sweep: "Sweep") -> None:
        self._sweep = sweep
        #: By task id; None where a task made no picture.
        self._thumbnails: dict[str, Image | None] = {}

    def draw(self) -> "Image":
        """Return the sheet as the sweep is now."""
        pictures = {cell.number: self._thumbnail(cell) for cell in self._sweep.cells}
        layout = self._sweep.layout
        page = _Page(
            # As high as the pictures are: most workflows make all alike.
            box=(PICTURE, max([_LEAST, *(x.height for x in pictures.values() if x)]))
        )
        blocks = [_Measured.of(block, layout.row_axis, page) for block in layout.blocks]
        sheet = page.new(blocks)
        top = _MARGIN
        for measured in blocks:
            self._draw_block(sheet, page, measured, top, pictures)
            top += measured.height + _MARGIN
        return sheet.image

    def save(self, path: Path) -> Path:
        """Write the sheet as PNG, with the values and the workflow in it.

        Raises:
            NotWritten: it cannot be written there.
        """
        from PIL.PngImagePlugin import PngInfo  # noqa: PLC0415 - see Task.images

        if path.suffix.lower() != ".png":
            msg = f"A sheet is written as PNG: give a name that ends in .png, not {path.name!r}."
            raise NotWritten(msg, path=str(path))
        about = PngInfo()
        about.add_itxt(_NAME, self.described())
        # Under ComfyUI's own name, so that its editor and Workflow.load() find the workflow.
        about.add_itxt("prompt", json.dumps(self._sweep.prompt))
        picture = self.draw()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, "PNG", pnginfo=about)
        except OSError as error:
            msg = f"Cannot write the sheet to {str(path)!r}: {error.strerror or error}."
            raise NotWritten(msg, path=str(path)) from error
        return path

    def described(self) -> str:
        """Return the values and the end of each cell as JSON, as a saved sheet carries them."""
        sweep = self._sweep
        axes = {axis.name: list(axis.labels) for axis in sweep.axes}
        cells = [{**cell.record(), **cell.labels} for cell in sweep.cells]
        return json.dumps({"axes": axes, "cells": cells}, ensure_ascii=False)

    def _thumbnail(self, cell: "Cell") -> "Image | None":
        task = cell.task
        if task is None or cell.state != "succeeded":
            return None
        if task.id not in self._thumbnails:
            self._thumbnails[task.id] = _fetched(task.files)
        return self._thumbnails[task.id]

    def _draw_block(
        self,
        sheet: "_Sheet",
        page: "_Page",
        measured: "_Measured",
        top: int,
        pictures: dict[int, "Image | None"],
    ) -> None:
        block, layout = measured.block, self._sweep.layout
        if block.title:
            sheet.text((_MARGIN, top), page.wrapped(block.title, measured.width, 2), _INK)
        names = top + measured.title
        sheet.text((measured.left, names), [layout.column_axis], _QUIET)
        if layout.row_axis:
            sheet.text((_MARGIN, names), page.wrapped(layout.row_axis, _ROW_LABELS, 1), _QUIET)
        head = names + page.line
        for at, lines in enumerate(measured.columns):
            sheet.text((measured.left + at * (page.box[0] + _GAP), head), lines, _INK)
        grid = head + measured.head
        for row, numbers in enumerate(block.cells):
            y = grid + row * (page.box[1] + _GAP)
            if block.rows:
                sheet.text((_MARGIN, y), measured.rows[row], _INK)
            for at, number in enumerate(numbers):
                x = measured.left + at * (page.box[0] + _GAP)
                cell = self._sweep.cells[number]
                sheet.cell((x, y), cell, pictures[number])


class _Page:
    """Sizes that all blocks have in common, and the measuring of text."""

    def __init__(self, box: tuple[int, int]) -> None:
        from PIL import ImageFont  # noqa: PLC0415 - see Task.images

        self.box = box
        self.font = ImageFont.load_default(_TEXT)
        self.small = ImageFont.load_default(_SMALL)
        self.line = _TEXT + 5

    def new(self, blocks: Sequence["_Measured"]) -> "_Sheet":
        """Return an empty sheet that is large enough for `blocks`."""
        width = max(each.left + each.width for each in blocks) + _MARGIN
        height = sum(each.height + _MARGIN for each in blocks) + _MARGIN
        return _Sheet(self, (width, height))

    def wrapped(self, text: str, width: int, lines: int, *, small: bool = False) -> list[str]:
        """Return `text` in at most so many lines of `width` pixels; what is too much is cut off."""
        font = self.small if small else self.font
        found, words = [""], text.split(" ")
        while words:
            word = words.pop(0)
            longer = f"{found[-1]} {word}".strip()
            if font.getlength(longer) <= width:
                found[-1] = longer
            elif not found[-1]:
                # A word that is too long by itself is broken where it has to be.
                fits = _fitting(word, width, font)
                found[-1] = word[:fits]
                words.insert(0, word[fits:])
                found.append("")
            else:
                words.insert(0, word)
                found.append("")
            if len(found) > lines:
                last = found[lines - 1]
                return [*found[: lines - 1], last[: _fitting(last, width - 12, font)] + "…"]
        return [each for each in found if each] or [""]


@dataclass(frozen=True, slots=True)
class _Measured:
    """A block with its labels broken into lines, and how large it is, in pixels."""

    block: Block
    columns: list[list[str]]
    rows: list[list[str]]
    #: Where the first picture begins.
    left: int
    width: int
    #: Heights: of the title, of the head, of all.
    title: int
    head: int
    height: int

    @classmethod
    def of(cls, block: Block, row_axis: str, page: _Page) -> "_Measured":
        columns = [page.wrapped(label, page.box[0], _LINES) for label in block.columns]
        most = max(2, page.box[1] // page.line)
        rows = [page.wrapped(label, _ROW_LABELS, most) for label in block.rows]
        widest = max(
            (page.font.getlength(line) for lines in [*rows, [row_axis]] for line in lines),
            default=0,
        )
        left = _MARGIN + (min(_ROW_LABELS, int(widest)) + _MARGIN if block.rows else 0)
        width = len(block.columns) * (page.box[0] + _GAP) - _GAP
        title = 0
        if block.title:
            title = len(page.wrapped(block.title, width, 2)) * page.line + _GAP
        head = max(map(len, columns)) * page.line + 4
        grid = len(block.cells) * (page.box[1] + _GAP)
        height = title + page.line + head + grid
        return cls(block, columns, rows, left, width, title, head, height)


class _Sheet:
    """The picture in the making."""

    def __init__(self, page: _Page, size: tuple[int, int]) -> None:
        import PIL.Image  # noqa: PLC0415 - see Task.images
        import PIL.ImageDraw  # noqa: PLC0415

        self._page = page
        self.image = PIL.Image.new("RGB", size, _GROUND)
        self._draw = PIL.ImageDraw.Draw(self.image)

    def text(
        self, at: tuple[int, int], lines: Sequence[str], ink: str, *, small: bool = False
    ) -> None:
        """Write lines below each other."""
        font = self._page.small if small else self._page.font
        step = self._page.line if not small else _SMALL + 4
        for n, line in enumerate(lines):
            self._draw.text((at[0], at[1] + n * step), line, fill=ink, font=font)

    def cell(self, at: tuple[int, int], cell: "Cell", picture: "Image | None") -> None:
        """Draw the picture of a cell, or what there is instead."""
        width, height = self._page.box
        if picture is not None:
            x = at[0] + (width - picture.width) // 2
            y = at[1] + (height - picture.height) // 2
            self.image.paste(picture, (x, y))
            return
        bad = cell.state in ("failed", "rejected", "lost")
        edge = (at[0], at[1], at[0] + width - 1, at[1] + height - 1)
        self._draw.rectangle(edge, fill=_BOX, outline=_BAD if bad else None)
        word = {"unsent": "not sent", "succeeded": "no picture"}.get(cell.state, cell.state)
        self.text((at[0] + 8, at[1] + 8), [word], _BAD if bad else _QUIET)
        room = (height - 16 - self._page.line) // (_SMALL + 4)
        if cell.why and room > 0:
            why = " ".join(cell.why.split())
            lines = self._page.wrapped(why, width - 16, room, small=True)
            self.text((at[0] + 8, at[1] + 8 + self._page.line), lines, _INK, small=True)


def _fetched(files: Sequence[Any]) -> "Image | None":
    import PIL.Image  # noqa: PLC0415 - see Task.images

    found = next((each for each in files if each.media_type.startswith("image/")), None)
    if found is None:
        return None
    picture = PIL.Image.open(io.BytesIO(found.read())).convert("RGB")
    picture.thumbnail((PICTURE, PICTURE))
    return picture


def _fitting(text: str, width: float, font: "FreeTypeFont | ImageFont") -> int:
    """Return how many characters of `text` fit into `width` pixels, one at least."""
    fits = len(text)
    while fits > 1 and font.getlength(text[:fits]) > width:
        fits -= 1
    return fits
