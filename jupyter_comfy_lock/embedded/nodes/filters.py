"""Nodes that filter, blend and quantize pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jupyter_comfy_lock.embedded.nodes.resize import resize, to_picture
from jupyter_comfy_lock.embedded.nodes.spec import (
    ImageBatch,
    Input,
    NodeContext,
    NodeResult,
    NodeSpec,
)

#: How much stronger `alpha` is than it looks.
_SHARPEN_GAIN = 10


def image_blur(
    context: NodeContext,
    image: ImageBatch,
    blur_radius: int,
    sigma: float,
) -> NodeResult:
    """Blur; `sigma` counts in radii, not in pixels."""
    return NodeResult((blurred(image, blur_radius, sigma),))


def image_sharpen(
    context: NodeContext,
    image: ImageBatch,
    sharpen_radius: int,
    sigma: float,
    alpha: float,
) -> NodeResult:
    """Add what a blur takes away."""
    gain = alpha * _SHARPEN_GAIN
    sharp = image + gain * (image - blurred(image, sharpen_radius, sigma))
    return NodeResult((np.clip(sharp, 0, 1),))


def blurred(image: ImageBatch, radius: int, sigma: float) -> ImageBatch:
    """Convolve with a Gaussian of `2 * radius + 1` pixels, edges mirrored."""
    position = np.linspace(-1, 1, 2 * radius + 1)
    kernel = np.exp(-(position**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (1, 2):
        margin = [(0, 0)] * 4
        margin[axis] = (radius, radius)
        padded = np.pad(image, margin, "reflect")
        size = image.shape[axis]
        image = sum(
            weight * np.take(padded, range(i, i + size), axis) for i, weight in enumerate(kernel)
        )
    return image


def image_blend(
    context: NodeContext,
    image1: ImageBatch,
    image2: ImageBatch,
    blend_factor: float,
    blend_mode: str,
) -> NodeResult:
    """Blend two pictures; the second is made as large as the first."""
    if image1.shape[1:3] != image2.shape[1:3]:
        height, width = image1.shape[1:3]
        image2 = resize(image2, width, height, "bicubic", crop=True)
    top = _BLEND[blend_mode](image1, image2)
    mixed = image1 * (1 - blend_factor) + top * blend_factor
    return NodeResult((np.clip(mixed, 0, 1).astype(np.float32),))


def _overlay(a: ImageBatch, b: ImageBatch) -> ImageBatch:
    return np.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))


def _soft_light(a: ImageBatch, b: ImageBatch) -> ImageBatch:
    """W3C's soft-light, with `a` as backdrop."""
    lifted = np.where(a <= 0.25, a * (4 + a * (16 * a - 12)), np.sqrt(np.maximum(a, 0)))
    return np.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (lifted - a))


_BLEND: Mapping[str, Callable[[ImageBatch, ImageBatch], ImageBatch]] = {
    "normal": lambda _, b: b,
    "multiply": lambda a, b: a * b,
    "screen": lambda a, b: a + b - a * b,
    "overlay": _overlay,
    "soft_light": _soft_light,
    "difference": lambda a, b: a - b,
}


def image_quantize(
    context: NodeContext,
    image: ImageBatch,
    colors: int,
    dither: str,
) -> NodeResult:
    """Reduce to a palette of `colors`, chosen for each picture."""
    return NodeResult((np.stack([_quantized(x, colors, dither) for x in image]),))


def _quantized(image: NDArray[np.float32], colors: int, dither: str) -> NDArray[np.float32]:
    picture = to_picture(image)
    palette = picture.quantize(colors=colors)
    method = Image.Dither.NONE
    if dither == "floyd-steinberg":
        method = Image.Dither.FLOYDSTEINBERG
    elif dither.startswith("bayer"):
        used = len(palette.getpalette() or []) // 3
        picture = _ordered_noise(picture, int(dither.removeprefix("bayer-")), 512 / used)
    reduced = picture.quantize(palette=palette, dither=method).convert("RGB")
    return np.asarray(reduced).astype(np.float32) / np.float32(255)


def _ordered_noise(picture: Image.Image, order: int, spread: float) -> Image.Image:
    """Add a Bayer matrix of edge `order`, centred on 0 and scaled to `spread` levels."""
    ranks = np.zeros((1, 1))
    while len(ranks) < order:
        ranks = np.block([[4 * ranks, 4 * ranks + 2], [4 * ranks + 3, 4 * ranks + 1]])
    noise = (ranks - (order**2 - 1) / 2) / order**2 * spread + 0.5
    pixels = np.asarray(picture).astype(np.float32)
    height, width = pixels.shape[:2]
    tiled = np.tile(noise, (-(-height // order), -(-width // order)))[:height, :width, None]
    return Image.fromarray(np.clip(pixels + tiled, 0, 255).astype(np.uint8))


_MODULE = "comfy_extras.nodes_post_processing"
_DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")


def _number(name: str, kind: str, values: tuple[float, float, float, float], **more: bool) -> Input:
    default, lowest, highest, step = values
    options = {"default": default, "min": lowest, "max": highest, "step": step, **more}
    return Input(name, kind, options)


NODES = (
    NodeSpec(
        "ImageBlur",
        image_blur,
        inputs=(
            Input("image", "IMAGE"),
            _number("blur_radius", "INT", (1, 1, 31, 1)),
            _number("sigma", "FLOAT", (1.0, 0.1, 10.0, 0.1)),
        ),
        outputs=("IMAGE",),
        display_name="Blur Image",
        category="image/filters",
        python_module=_MODULE,
        style=3,
    ),
    NodeSpec(
        "ImageSharpen",
        image_sharpen,
        inputs=(
            Input("image", "IMAGE"),
            _number("sharpen_radius", "INT", (1, 1, 31, 1), advanced=True),
            _number("sigma", "FLOAT", (1.0, 0.1, 10.0, 0.01), advanced=True),
            _number("alpha", "FLOAT", (1.0, 0.0, 5.0, 0.01), advanced=True),
        ),
        outputs=("IMAGE",),
        display_name="Sharpen Image",
        category="image/filters",
        python_module=_MODULE,
        style=3,
    ),
    NodeSpec(
        "ImageBlend",
        image_blend,
        inputs=(
            Input("image1", "IMAGE"),
            Input("image2", "IMAGE"),
            _number("blend_factor", "FLOAT", (0.5, 0.0, 1.0, 0.01)),
            Input("blend_mode", "COMBO", choices=tuple(_BLEND)),
        ),
        outputs=("IMAGE",),
        display_name="Blend Images",
        category="image/filters",
        python_module=_MODULE,
        style=3,
        about={"essentials_category": "Image Tools"},
    ),
    NodeSpec(
        "ImageQuantize",
        image_quantize,
        inputs=(
            Input("image", "IMAGE"),
            _number("colors", "INT", (256, 1, 256, 1)),
            Input("dither", "COMBO", choices=_DITHERS),
        ),
        outputs=("IMAGE",),
        display_name="Quantize Image",
        category="image/filters",
        python_module=_MODULE,
        style=3,
    ),
)
