"""What a person gives for the picture input of a node, as a file to upload."""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_comfy_lock.domain.errors import InvalidWorkflow

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that has to be on the ComfyServer before the prompt runs."""

    name: str
    content: bytes


def as_upload(value: Any) -> Upload | None:
    """Return the file for a picture (PIL), an array (NumPy) or a path; None for what is none.

    A text is none: it is the name of a file that the ComfyServer has.

    Raises:
        InvalidWorkflow: the file cannot be read, or the array is no picture.
    """
    if isinstance(value, os.PathLike):
        return _from_path(Path(value).expanduser())
    # PIL's pictures and NumPy's numbers have the array interface too.
    if hasattr(value, "__array_interface__") and hasattr(value, "ndim") and value.ndim:
        return _from_picture(_from_array(value))
    if hasattr(value, "getbands") and hasattr(value, "save"):
        return _from_picture(value)
    return None


def as_file(content: bytes, filename: str) -> Upload:
    """Return the file for bytes that were called `filename` where they come from."""
    return _named(content, Path(filename).suffix.lower())


def _from_path(path: Path) -> Upload:
    try:
        content = path.read_bytes()
    except OSError as error:
        msg = f"Cannot read {str(path)!r} (from {Path.cwd()}): {error.strerror}."
        raise InvalidWorkflow(msg, path=str(path)) from error
    return _named(content, path.suffix.lower())


def _from_picture(picture: "Image") -> Upload:
    stream = io.BytesIO()
    kept = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")
    (picture if picture.mode in kept else picture.convert("RGB")).save(stream, "PNG")
    return _named(stream.getvalue(), ".png")


def _from_array(array: Any) -> "Image":
    import numpy as np  # noqa: PLC0415 - whoever gives an array has paid for it
    import PIL.Image  # noqa: PLC0415 - see Task.images

    given = np.asarray(array)
    pixels = given
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]  # a batch of one, as ComfyUI's own IMAGE is
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        msg = (
            "An array is a picture if its shape is (height, width), (height, width, 3) or "
            f"(height, width, 4), not {given.shape}."
        )
        raise InvalidWorkflow(msg)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    elif np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all() or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 1:
            msg = (
                "An array of fractions is a picture if all are from 0 to 1, these are from "
                f"{pixels.min():g} to {pixels.max():g}."
            )
            raise InvalidWorkflow(msg)
        pixels = (pixels * 255).round().astype(np.uint8)
    elif pixels.dtype != np.uint8:
        msg = f"An array is a picture if it is of uint8 or of fractions, not of {pixels.dtype}."
        raise InvalidWorkflow(msg)
    return PIL.Image.fromarray(np.ascontiguousarray(pixels))


def _named(content: bytes, suffix: str) -> Upload:
    # By content: the same picture is the same file, and ComfyUI keeps one of it.
    return Upload(f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}", content)
