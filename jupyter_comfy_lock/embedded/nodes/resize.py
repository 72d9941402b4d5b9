"""Resizing of picture batches with ComfyUI's methods."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jupyter_comfy_lock.embedded.nodes.spec import ImageBatch

METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")

#: The free parameter of the cubic kernel.
_CUBIC_A = -0.75


def resize(
    images: ImageBatch, width: int, height: int, method: str, *, crop: bool = False
) -> ImageBatch:
    """Return the batch at `width` x `height`; `crop` cuts the middle out to keep the aspect."""
    if crop:
        images = _middle(images, width / height)
    if method == "lanczos":
        return _lanczos(images, width, height)
    tall = _along(images, 1, height, method)
    return _along(tall, 2, width, method)


def _middle(images: ImageBatch, aspect: float) -> ImageBatch:
    height, width = images.shape[1:3]
    x = y = 0
    if width / height > aspect:
        x = round((width - width * (aspect / (width / height))) / 2)
    elif width / height < aspect:
        y = round((height - height * ((width / height) / aspect)) / 2)
    return images[:, y : height - y, x : width - x]


def _lanczos(images: ImageBatch, width: int, height: int) -> ImageBatch:
    resized = [
        np.asarray(to_picture(x).resize((width, height), Image.Resampling.LANCZOS)) for x in images
    ]
    return np.stack(resized).astype(np.float32) / np.float32(255)


def to_picture(image: NDArray[np.float32]) -> Image.Image:
    """Return one image of a batch as 8 bit per channel, fractions cut off."""
    return Image.fromarray(np.clip(image * 255.0, 0, 255).astype(np.uint8))


def _along(images: ImageBatch, axis: int, size: int, method: str) -> ImageBatch:
    """Resize one axis: each new line is a weighted sum of a few old ones."""
    old_size = images.shape[axis]
    if size == old_size:
        return images
    lines, weights = _taps(method, old_size, size)
    shape = [1] * images.ndim
    shape[axis] = size
    total = np.zeros((*images.shape[:axis], size, *images.shape[axis + 1 :]), np.float32)
    for tap in range(lines.shape[1]):
        weight = weights[:, tap].astype(np.float32).reshape(shape)
        total += np.take(images, lines[:, tap], axis) * weight
    return total


def _taps(method: str, old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which old lines make each new one, and their weights, as [new, taps]."""
    centre = (np.arange(new) + 0.5) * (old / new)
    if method == "nearest-exact":
        lines = np.floor(centre).astype(np.int64)[:, None]
        return np.clip(lines, 0, old - 1), np.ones((new, 1))
    if method == "area":
        start = np.arange(new) * old // new
        end = -(-(np.arange(1, new + 1) * old) // new)
        lines = start[:, None] + np.arange(int((end - start).max()))
        inside = lines < end[:, None]
        return np.minimum(lines, old - 1), inside / inside.sum(1, keepdims=True)
    if method == "bilinear":
        position = np.maximum(centre - 0.5, 0)
        first = np.floor(position).astype(np.int64)
        share = position - first
        lines, weights = first[:, None] + np.arange(2), np.stack([1 - share, share], 1)
    else:
        position = centre - 0.5
        first = np.floor(position).astype(np.int64)
        offsets = np.arange(-1, 3)
        lines = first[:, None] + offsets
        weights = _cubic(np.abs((position - first)[:, None] - offsets))
    return np.clip(lines, 0, old - 1), weights


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel."""
    near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance**2 + 1
    far = _CUBIC_A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
