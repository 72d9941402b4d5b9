"""Binary WebSocket messages: a big-endian event number, then what belongs to it."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

#: Longest edge of a preview, in pixels.
PREVIEW_SIZE = 512

_FORMAT_NUMBER = {"JPEG": 1, "PNG": 2}


def text_message(node_id: str, text: str) -> bytes:
    """A line of text from a node."""
    sender = node_id.encode()
    return struct.pack(">II", TEXT, len(sender)) + sender + text.encode()


def preview_message(image: bytes, kind: str) -> bytes:
    """A picture that names no node; the last `executing` tells."""
    return struct.pack(">II", PREVIEW_IMAGE, _FORMAT_NUMBER[kind]) + image


def preview_message_with_metadata(image: bytes, kind: str, metadata: Mapping[str, Any]) -> bytes:
    """A picture that says which node and prompt it belongs to."""
    head = json.dumps({**metadata, "image_type": f"image/{kind.lower()}"}).encode()
    return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(head)) + head + image


def encode(image: Image.Image, kind: str, max_size: int | None = None) -> bytes:
    """Return the picture as JPEG or PNG bytes, no longer than `max_size` px on either edge."""
    if max_size is not None and max(image.size) > max_size:
        image = image.copy()
        image.thumbnail((max_size, max_size), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90, compress_level=1)
    return buffer.getvalue()
