"""What is left of a view where widgets do not show: one small picture, or a line of text."""

import base64
import io
import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel.task import Task

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

#: Pixels of the longer side: what a page shows, and a notebook can bear.
LONGEST = 640
#: So many pictures of one task are shown, in a square.
MOST = 9
_GAP = 4


def final_picture(task: Task) -> dict[str, str]:
    """Return the pictures of a task that has ended as one, `{media type: base64}`; {} for none.

    PNG or JPEG, whichever is smaller: other formats show neither in nbconvert nor on GitHub.
    """
    pictures = []
    try:
        for file in task.files[:MOST] if task.json.get("files") else []:
            if file.media_type.startswith("image/"):
                pictures.append(_opened(file.read()))
    except (ComfyLockError, OSError) as error:
        log.debug("No picture of task %s is left in the notebook: %s", task.id, error)
        return {}
    return _encoded(_square(pictures)) if pictures else {}


def last_line(task: Task) -> str | None:
    """Return what to say of a task that ended without success; None of any other.

    It has no id and no seconds, so that a notebook run twice shows the same text twice.
    """
    json = task.json
    if not task.ended or json["state"] == "succeeded":
        return None
    error, why = task.error, task.reason
    if error is not None:
        why = f"{error.node_class} (node {error.node_id}): {error.exception_type}: {error.message}"
    elif why == json["state"]:
        why = None
    return " · ".join(part for part in (task.comfy_id, json["state"], why) if part)


def _opened(content: bytes) -> "Image":
    import PIL.Image  # noqa: PLC0415 - see Task.images

    picture = PIL.Image.open(io.BytesIO(content))
    picture.thumbnail((LONGEST, LONGEST))
    has_alpha = picture.has_transparency_data
    return picture.convert("RGBA" if has_alpha else "RGB")


def _square(pictures: Sequence["Image"]) -> "Image":
    """Return several pictures side by side, as one."""
    import PIL.Image  # noqa: PLC0415 - see Task.images

    if len(pictures) == 1:
        return pictures[0]
    columns = math.ceil(math.sqrt(len(pictures)))
    side = (LONGEST - _GAP * (columns - 1)) // columns
    for picture in pictures:
        picture.thumbnail((side, side))
    width, height = (max(p.size[axis] for p in pictures) + _GAP for axis in (0, 1))
    rows = math.ceil(len(pictures) / columns)
    whole = PIL.Image.new("RGBA", (columns * width - _GAP, rows * height - _GAP))
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    return whole


def _encoded(picture: "Image") -> dict[str, str]:
    made = {"image/png": _saved(picture, "PNG", optimize=True)}
    if not picture.has_transparency_data:
        made["image/jpeg"] = _saved(picture, "JPEG", quality=85)
    kind = min(made, key=lambda each: len(made[each]))
    return {kind: base64.b64encode(made[kind]).decode()}


def _saved(picture: "Image", kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()
